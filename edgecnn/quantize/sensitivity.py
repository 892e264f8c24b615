"""How much of the logits' noise each quantized layer makes by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import OnnxModel
from edgecnn.errors import DataError
from edgecnn.onnxio import load_ir
from edgecnn.progress import Progress, silent
from edgecnn.quantize.known import Known
from edgecnn.quantize.rules import plan
from edgecnn.runtime.ort import OrtOptions, OrtSession

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.calib.data import Samples
    from edgecnn.calib.statistics import Statistics
    from edgecnn.quantize.config import QuantizeConfig

__all__ = ["Sensitivity", "cheapest_first", "exactly", "logit_noise", "logits_of", "sensitivities"]

Array = NDArray[Any]
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What quantizing one layer alone does to the logits.

    Attributes:
        node: name of the convolution, Gemm or addition. ``op``: its operator.
        noise: energy of the logits' error over that of the logits, with everything else in float.
        macs: multiplications of one image that return to float with the layer; 0 for an addition.
    """

    node: str
    op: str
    noise: float
    macs: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


def sensitivities(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    statistics: Statistics,
    *,
    cache: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> tuple[Sensitivity, ...]:
    """Quantize each layer alone and measure what it does to the logits, in graph order.

    The noises of layers add up nearly (each is small and has nothing to do with the others), so they say what returning a layer to
    float would gain. The weights are rounded to the nearest: a correction of the whole network has no meaning for one layer.

    Args:
        model: float.
        samples: a few; the calibration's own will do, as ranges are not chosen by them here.
        config: of the quantization.
        statistics: of :func:`edgecnn.quantize.statistics_for`.
        cache: folder of results, kept layer by layer by content: a search that was cut goes on where it was.
        threads: cores to use; 0 uses all.
        progress: told about layers.

    Raises:
        DataError: no sample can be read. GraphError: quantized already, or nothing to quantize.
    """
    graph = load_ir(model.path)
    decided = [decision for decision in plan(graph, config).decisions if decision.quantized]
    macs = {str(node.name): _macs(node) for node in graph.graph}
    del graph
    key = [FORMAT, statistics.hashes["key"], config.to_json(), samples.fingerprint()]
    known = Known(cache, "sensitivity", key, float)
    names = [decision.node for decision in decided]
    with TemporaryDirectory(prefix="edgecnn-") as folder:
        runner = _Runner(model, samples, config, statistics, Path(folder), threads)
        for done, name in enumerate(names):
            progress("sensitivity", done, len(names))
            if name not in known.values:
                known.add(name, runner.noise_of(name))
    progress("sensitivity", len(names), len(names))
    return tuple(
        Sensitivity(node=item.node, op=item.op, noise=known.values[item.node], macs=macs[item.node]) for item in decided
    )


def cheapest_first(found: Sequence[Sensitivity]) -> tuple[str, ...]:
    """Return the layers in the order in which they should return to float: most noise for its share of the work first.

    A layer's cost is its share of the multiplications plus one hundredth, the price of the conversions around it.
    """
    whole = sum(item.macs for item in found) or 1
    ordered = sorted(found, key=lambda item: (-item.noise / (item.macs / whole + 0.01), item.node))
    return tuple(item.node for item in ordered)


def logits_of(model: Path, feeds: Iterable[Mapping[str, Array]], threads: int = 0) -> Array:
    """Return a model's first output for every sample, (N, classes); a static batch is filled with copies of the sample.

    Raises:
        DataError: there is no sample.
    """
    with OrtSession(model, OrtOptions(threads=threads)) as session:
        name, batch = session.outputs[0].name, session.inputs[0].shape[0]
        copies = batch if isinstance(batch, int) else 1
        filled = ({key: np.repeat(array, copies, axis=0) for key, array in feed.items()} for feed in feeds)
        rows = [session.run(feed)[name][:1] for feed in filled]
    if not rows:
        raise DataError("there is no sample to compare the logits of")
    return np.concatenate(rows)


def logit_noise(wanted: Array, found: Array) -> float:
    """Return the energy of the logits' error over that of the logits that were wanted; infinity where the error is not finite."""
    exact = wanted.astype(np.float64)
    noise = float(np.square(found - exact).sum() / (np.square(exact).sum() or 1.0))
    return noise if np.isfinite(noise) else np.inf


def exactly(nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns that find these nodes and no others."""
    return tuple(f"^{re.escape(name)}$" for name in nodes)


class _Runner:
    """Quantizes one layer at a time and runs the samples."""

    def __init__(
        self,
        model: OnnxModel,
        samples: Samples,
        config: QuantizeConfig,
        statistics: Statistics,
        folder: Path,
        threads: int,
    ) -> None:
        """Run the float model."""
        self.model, self.samples, self.statistics, self.folder = model, samples, statistics, folder
        self.threads = threads
        self.config = replace(config, effort="fast")
        self.reference = logits_of(model.path, samples, threads).astype(np.float64)

    def noise_of(self, name: str) -> float:
        """Return the relative energy of the logits' error with this layer alone in INT8."""
        from edgecnn.quantize.quantizer import quantize

        config = replace(self.config, quantize_only=exactly([name]))
        to = self.folder / "one.onnx"
        quantize(self.model, self.samples, config, to=to, statistics=self.statistics)
        found = logits_of(to, self.samples, self.threads)
        return logit_noise(self.reference, found)


def _macs(node: ir.Node) -> int:
    """Return a layer's multiplications for one image, 0 where it has no weight or its shape is not known."""
    weight = node.inputs[1] if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 1 else None
    shape = node.outputs[0].shape
    if weight is None or weight.const_value is None or shape is None:
        return 0
    positions = prod(dim for dim in list(shape)[2:] if isinstance(dim, int))
    return int(weight.const_value.size) * positions
