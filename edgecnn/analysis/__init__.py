"""INT8 explained layer by layer: what quantization does to each layer, and what each layer does to the logits.

The numbers are signal-to-noise ratios of a tensor in the quantized graph to the same one in the float graph,
``10 log10(sum x**2 / sum (x - xq)**2)`` over all images, in four places. At a layer's *input* and its *weights*, each by itself. At
its *output*, computed by the quantized layer from the float graph's inputs (isolated: its own noise alone). At its output in the
whole quantized graph (cumulative). And at the *logits*, with the isolated noise of this layer alone added to the float graph:
what a layer costs is seen there, as later layers amplify the noise of one and swallow that of another.

Noises of layers add up nearly where layers were quantized each for itself. Where the quantizer lets a layer make up for the noise of
those before it, part of its own noise is meant for theirs, and looks worse alone than it is. So the worst layers are also *restored*:
one at a time computes in float on what the quantized graph gives it, and the logits say what that gains.
"""

from edgecnn.analysis.result import Analysis, InputRange, LayerNoise
from edgecnn.analysis.run import analyze

__all__ = ["Analysis", "InputRange", "LayerNoise", "analyze"]
