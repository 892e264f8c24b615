"""Chooses how channels between two convolutions are scaled: large enough for the tensor's one range, within what the weights behind bear.

The scaling is :class:`edgecnn.passes.equalize.EqualizeChannels`. Nagel et al. 2019 (arXiv:1906.04721) even weights of one scale a tensor.
Here each filter has its own scale, so that the first convolution bears any, and what is to gain is in the activations: the formula
weighs their rounding against that of the weights behind. It cannot know what channels reach on images that nobody showed it, so that
what it proposes is tried: on samples that were held out, the logits decide whether the network is scaled at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.calib.data import Samples
from edgecnn.calib.methods import Auto, Mse
from edgecnn.calib.split import Part, split
from edgecnn.errors import DataError, GraphError
from edgecnn.onnxio import expose, load_ir, read_metadata, release_memory, save_ir, scratch_file
from edgecnn.passes.equalize import EqualizeChannels, pairs
from edgecnn.progress import Progress, silent
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.correct.segments import batches
from edgecnn.runtime.ort import OrtOptions, OrtSession

__all__ = ["CANDIDATES", "EQUALIZED", "SCALES", "Equalization", "Equalized", "equalize", "float_twin", "is_equalized"]

Array = NDArray[Any]
EQUALIZED = "edgecnn.equalized"
"""Metadata of a graph whose channels were to be scaled: what was expected and measured, JSON."""

SCALES = "edgecnn.equalized_scales"
"""Metadata beside it: tensor of the graph before -> scales of its channels, JSON."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TINY = 1e-30


HELD_OUT, IMAGES, SEEN = 16, 64, 32
"""Samples that decide, that channels are looked at on, and that ranges are taken from while candidates are tried; each at most."""


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """A float model whose channels were scaled, where that helps.

    Attributes:
        gains: tensor between two convolutions -> what was expected of scaling it, dB of the second one's output; none where the network
            is better left alone.
        scores: candidate -> SQNR of the logits with INT8 on held-out samples, dB; ``none`` is the network as it was. None were measured
            where no convolutions can be scaled, or of a single sample.
    """

    model: OnnxModel
    gains: Mapping[str, float]
    scores: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"gains_db": dict(self.gains), "held_out_db": dict(self.scores)}

    def __str__(self) -> str:
        """Return what was done in words."""
        told = ", ".join(f"{name} {score:.1f}" for name, score in self.scores.items())
        if self.gains:
            return f"channels scaled between {len(self.gains)} pairs of convolutions (dB on held-out samples: {told})"
        if self.scores:
            return f"no channels scaled: held-out samples are no better for it ({told} dB)"
        return "no channels scaled: no convolutions that alone read each other's output, or a single calibration sample"


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """How scales are chosen.

    Attributes:
        limit: a channel is scaled by this much at most, relative to the others.
        headroom: what a channel may reach on other samples, against what it reached on these.
        least: dB below which a pair is left alone.
    """

    limit: float = 128.0
    headroom: float = 1.25
    least: float = 0.5

    def scales(self, weight: Array, peak: Array, power: Array) -> tuple[Array, float]:
        """Return (scales (C,), the gain that is expected of them, dB).

        Tried are ``(largest peak / peak) ** a * (weight / largest weight) ** b``, for several a and b; the least sum of the two
        roundings' energies wins, or ones. No channel's peak exceeds the largest one's.

        Args:
            weight: of the second convolution, (groups, inputs, outputs, taps), C = groups x inputs.
            peak: largest magnitude of each channel, (C,). ``power``: mean square, (C,).
        """
        reach = np.maximum(peak, max(float(peak.max()), TINY) / self.limit)
        lifted = np.minimum(reach * self.headroom, reach.max())
        heavy = np.abs(weight).max(axis=(2, 3)).reshape(-1)
        heavy = np.maximum(heavy, max(float(heavy.max()), TINY) / self.limit)
        best = np.ones(len(peak))
        plain = least = _noise(weight, reach, power, best)
        for a, b in product(SHARES, SHARES):
            tried = (lifted.max() / lifted) ** a * (heavy / heavy.max()) ** b
            tried = np.maximum(tried, tried.max() / self.limit)
            tried *= reach.max() / (tried * reach).max()
            noise = _noise(weight, reach, power, tried)
            if noise < least:
                best, least = tried, noise
        return best, float(10 * np.log10(plain / least)) if least > 0 else 0.0


CANDIDATES: Mapping[str, Equalization] = MappingProxyType(
    {"full": Equalization(), "mild": Equalization(limit=4.0, headroom=2.0)}
)
"""What :func:`equalize` tries."""


def equalize(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    *,
    to: Path,
    threads: int = 0,
    progress: Progress = silent,
) -> Equalized:
    """Write a float model that computes the same function, with more even channels if INT8 is better for it.

    Each of :data:`CANDIDATES` and the network as it is are quantized, with weights rounded to the nearest; the logits of an eighth of
    the samples, 16 at most, decide. ``int8-cpu`` leaves convolutions around a ReLU6 alone: onnxruntime would compute the first one of
    each pair in float.

    Args:
        model: float.
        samples: of the calibration.
        config: of the quantization to come.
        to: the file to write.
        threads: cores to use; 0 uses all.
        progress: told about samples.

    Raises:
        DataError: no sample could be read, or a tensor holds NaN or infinity. GraphError: quantized already, or nothing to quantize.
        UserError: the model cannot be read. OutputError: the file cannot be written.
    """
    from edgecnn.quantize.quantizer import quantize
    from edgecnn.quantize.sensitivity import logit_noise, logits_of

    rest, held_out = split(samples, HELD_OUT)
    judges = list(held_out)
    known = [pair for pair in pairs(load_ir(model.path).graph) if config.symmetric or pair.cap is None]
    if not judges or not known:
        return _written(model, {}, {}, samples, to)
    seen = _observed(model.path, rest, [pair.tensor for pair in known], IMAGES, threads, progress)
    method = Mse() if isinstance(config.method, Auto) else config.method
    own = replace(config, method=method, effort="fast", equalize=False)
    few = Part(samples, frozenset(sorted(rest.numbers)[:: max(1, len(rest) // SEEN)]))
    wanted = logits_of(model.path, judges, threads)
    proposals: dict[str, dict[str, tuple[Array, float]]] = {"none": {}}
    for name, candidate in CANDIDATES.items():
        picks = {pair.tensor: candidate.scales(pair.weight(), *seen[pair.tensor]) for pair in known}
        proposals[name] = {tensor: pick for tensor, pick in picks.items() if pick[1] >= candidate.least}
    scores: dict[str, float] = {}
    with TemporaryDirectory(prefix="edgecnn-") as folder:
        for done, (name, chosen) in enumerate(proposals.items()):
            progress("equalize", done, len(proposals))
            if chosen or name == "none":
                even = _written(model, chosen, {}, samples, Path(folder) / "even.onnx").model
                path = quantize(even, few, own, to=Path(folder) / "int8.onnx", threads=threads).model.path
                noise = logit_noise(wanted, logits_of(path, judges, threads))
                scores[name] = round(float(-10 * np.log10(max(noise, TINY))), 2)
    progress("equalize", len(proposals), len(proposals))
    return _written(model, proposals[max(scores, key=lambda name: scores[name])], scores, samples, to)


def _written(
    model: OnnxModel, chosen: Mapping[str, tuple[Array, float]], scores: Mapping[str, float], samples: Samples, to: Path
) -> Equalized:
    """Write the model with these channels scaled; without any, it is the same graph."""
    graph = load_ir(model.path)
    EqualizeChannels({tensor: scale for tensor, (scale, _) in chosen.items()}).apply(graph)
    graph.graph.sort()
    gains = {tensor: round(gain, 2) for tensor, (_, gain) in chosen.items()}
    made = Equalized(model=model, gains=gains, scores=dict(scores))
    scales = {tensor: scale.tolist() for tensor, (scale, _) in chosen.items()}
    graph.metadata_props.update({EQUALIZED: json.dumps(made.to_json()), SCALES: json.dumps(scales)})
    step = Lineage(
        stage="equalize", config=made.to_json(), inputs={"model": model.sha256, "data": samples.fingerprint()}
    )
    saved = save_ir(graph, to, precision=model.precision, lineage=(*model.lineage, step))
    release_memory()
    return replace(made, model=saved)


def is_equalized(model: OnnxModel) -> bool:
    """Whether :func:`equalize` made a model."""
    return EQUALIZED in read_metadata(model.path)


@contextmanager
def float_twin(exact: Path, quantized: Path) -> Iterator[Path]:
    """Yield a float graph whose tensors are those of a quantized one before rounding: ``exact``, or a copy with its channels scaled.

    Args:
        exact: the float graph before any channel was scaled. ``quantized``: made from it.

    Raises:
        GraphError: the quantized graph's metadata does not fit. UserError: a file cannot be read. OutputError: no room for the copy.
    """
    told = read_metadata(quantized).get(SCALES, "")
    try:
        scales = json.loads(told) if told else {}
        scaling = EqualizeChannels({str(tensor): np.asarray(scale, float) for tensor, scale in scales.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(f"{quantized.name}: its metadata {SCALES} is damaged ({error}): quantize it again") from error
    if not scales:
        yield exact
        return
    graph = load_ir(exact)
    scaling.apply(graph)
    graph.graph.sort()
    with scratch_file(graph) as path:
        del graph
        yield path


def _observed(
    model: Path, samples: Samples, tensors: Sequence[str], images: int, threads: int, progress: Progress
) -> dict[str, tuple[Array, Array]]:
    """Return (largest magnitude, mean square) of each tensor's channels, float64 (C,)."""
    if not tensors:
        return {}
    step = max(1, len(samples) // images)
    count, total = 0, len(range(0, len(samples), step))
    peaks: dict[str, Array] = {}
    powers: dict[str, Array] = {}
    with scratch_file(expose(model, tensors)) as file, OrtSession(file, OrtOptions(threads=threads)) as session:
        first = session.inputs[0].shape[0]
        for feed in batches(islice(samples, 0, step * images, step), first if isinstance(first, int) else 1):
            for name, array in session.run(feed, tensors).items():
                flat = array.reshape(*array.shape[:2], -1)
                peak, power = np.abs(flat).max(axis=(0, 2)), np.square(flat).mean(axis=(0, 2), dtype=np.float64)
                peaks[name] = np.maximum(peaks.get(name, 0), peak.astype(np.float64))
                powers[name] = powers.get(name, 0) + power
            count += 1
            progress("equalize", min(count, total), total)
    if not count:
        raise DataError(f"{samples.name}: no sample could be read")
    for name, peak in peaks.items():
        if not np.isfinite(peak).all():
            raise DataError(f"{name} holds NaN or infinity on {samples.name}: the network cannot be quantized")
    return {name: (peaks[name], powers[name] / count) for name in peaks}


def _noise(weight: Array, reach: Array, power: Array, scale: Array) -> float:
    """Return the energy of both roundings at the outputs; the activations' step is that of their largest peak, each filter's of its own."""
    groups, inputs, _, taps = weight.shape
    scaled = weight / scale.reshape(groups, inputs, 1, 1)
    activations = float(np.square((reach * scale).max()) * np.square(scaled).sum())
    steps = np.square(np.abs(scaled).max(axis=(1, 3))).sum(axis=1)
    met = (power * np.square(scale)).reshape(groups, inputs).sum(axis=1) * taps
    return activations + float((steps * met).sum())
