"""The analysis of a bundle."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from edgecnn.analysis.layers import Place, places
from edgecnn.analysis.measure import Measurement, ratio_of
from edgecnn.analysis.result import Analysis, LayerNoise
from edgecnn.errors import DataError, UserError
from edgecnn.parity.device import bundle_samples, picture_set
from edgecnn.parity.metrics import ratio_db
from edgecnn.parity.samples import Sample, SampleSet
from edgecnn.parity.trace import Graph, read_graph
from edgecnn.progress import Progress, silent
from edgecnn.quantize.equalization import float_twin
from edgecnn.runtime.bundle import Bundle

__all__ = ["analyze"]

RESTORED = 5
"""How many of the worst INT8 layers are tried in float."""


def analyze(
    bundle: Bundle | Path | str,
    data: SampleSet | Path | str | None = None,
    *,
    variant: str = "",
    limit: int = 8,
    memory: int = 256 << 20,
    progress: Progress = silent,
) -> Analysis:
    """Measure what quantization does to every layer of a bundle's variant, without PyTorch.

    Works on bundles that failed verification too.

    Args:
        bundle: a folder, or an opened bundle.
        data: a folder of pictures, or samples, to use in place of the golden pictures.
        variant: a quantized one; by default ``int8``, or the first that there is.
        limit: images to use at most, spread evenly over a folder's.
        memory: bytes that the tensors of one pass may take. A pass runs every image through three graphs, and once more through
            the float graph for each of its layers.
        progress: told about layers and images.

    Raises:
        UserError: no fp32, no such variant, or one that is not quantized.
        DataError: no images, or a tensor of the float graph that holds NaN.
        BundleError: the bundle cannot be read. MissingDependencyError: onnx-ir or onnxruntime is not installed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=True)
    name = _chosen(bundle, variant)
    exact, quantized = bundle.model_path("fp32"), bundle.model_path(name)
    with float_twin(exact, quantized) as reference:
        graphs = read_graph(reference), read_graph(quantized)
        found = places(*graphs)
        if not any(place.noisy for place in found):
            raise UserError(
                f"{bundle.path}: nothing in variant {name} is quantized: its graph has no Q/DQ at any layer"
            )
        samples, source, notes = _samples(bundle, data, limit)
        output = _logits(graphs[0], softmax=bundle.manifest.embedded.softmax)
        measured = Measurement(graphs, found, output)
        measured.run(samples, memory, progress)
        decisions = _decisions(bundle.variants[name].placement or {})
        int8 = [tally for tally in measured.tallies if tally.place.noisy and _quantized(tally.place, decisions)]
        int8.sort(key=lambda tally: -tally.reached)
        measured.restore(int8[:RESTORED], samples, progress)
        total = sum(tally.reached for tally in measured.tallies)
        return Analysis(
            model=bundle.spec.name,
            variant=name,
            precision=bundle.variants[name].precision,
            images=len(samples),
            source=source,
            logits_db=ratio_of(measured.logits),
            added_db=ratio_db(measured.logits.signal, total),
            layers=tuple(_layers(measured, decisions, total)),
            notes=(*bundle.alarms(), *notes),
        )


def _chosen(bundle: Bundle, variant: str) -> str:
    """Return the variant to analyse."""
    quantized = [name for name, item in bundle.variants.items() if item.precision.startswith("int8")]
    if "fp32" not in bundle.variants:
        raise UserError(f"{bundle.path} has no fp32 variant to compare with; it has {', '.join(bundle.variants)}")
    if not quantized:
        raise UserError(
            f"{bundle.path} has no quantized variant, only {', '.join(bundle.variants)}: export with --int8"
        )
    if variant and variant not in bundle.variants:
        near = difflib.get_close_matches(variant, quantized, n=2) or quantized
        raise UserError(f"{bundle.path} has no variant {variant!r}. Did you mean {' or '.join(near)}?")
    if variant and variant not in quantized:
        raise UserError(f"variant {variant} of {bundle.path} is not quantized; quantized are {', '.join(quantized)}")
    return variant or ("int8" if "int8" in quantized else quantized[0])


def _samples(
    bundle: Bundle, data: SampleSet | Path | str | None, limit: int
) -> tuple[list[Sample], str, tuple[str, ...]]:
    """Return the images, what to call them, and notes."""
    if isinstance(data, SampleSet):
        chosen = data
    elif data is not None:
        chosen = picture_set(Path(data), bundle.preprocess, limit=limit)
        chosen = SampleSet(str(data), chosen.kind, chosen.source, chosen.note)
    else:
        chosen = bundle_samples(bundle)[0]
        if chosen.kind != "images":
            raise DataError(f"{bundle.path} has no golden images: give a folder of images with --data")
    samples = list(islice(chosen, limit))
    if not samples:
        raise DataError(f"no images in {chosen.name}")
    return samples, chosen.name, (chosen.note,) if chosen.note else ()


def _logits(graph: Graph, *, softmax: bool) -> str:
    """Return the tensor that holds the logits: what an embedded softmax reads, or the graph's output."""
    last = graph.nodes[graph.producer[graph.outputs[0]]]
    return last.inputs[0] if softmax and last.op == "Softmax" else graph.outputs[0]


def _layers(measured: Measurement, decisions: Mapping[str, Any], total: float) -> Iterator[LayerNoise]:
    """Turn sums into results."""
    graph, signal = measured.reference, measured.logits.signal
    for position, tally in enumerate(measured.tallies, 1):
        place = tally.place
        decision = decisions.get(place.node.name, {})
        shape = tally.whole.shape[1:]
        weight = _weight_of(place, graph)
        yield LayerNoise(
            position=position,
            node=place.node.name,
            op=place.node.op,
            module=place.node.module,
            quantized=_quantized(place, decisions),
            reason=str(decision.get("reason", "")),
            output=place.output,
            shape=shape,
            parameters=weight,
            macs=weight * math.prod(shape[1:]),
            weight_db=ratio_of(tally.weight) if place.weight else None,
            inputs=tuple(item.result() for item in tally.inputs),
            isolated_db=ratio_of(tally.own) if place.noisy else None,
            cumulative_db=ratio_of(tally.whole),
            logits_db=ratio_db(signal, tally.reached) if place.noisy else None,
            share=tally.reached / total if total else 0.0,
            restored_db=ratio_of(tally.restored) if tally.restored.shape else None,
        )


def _quantized(place: Place, decisions: Mapping[str, Any]) -> bool:
    """Return whether a layer computes in INT8: what the quantizer decided, or what the graph looks like."""
    return bool(decisions.get(place.node.name, {}).get("quantized", place.noisy))


def _weight_of(place: Place, graph: Graph) -> int:
    """Return how many weights a layer has; every one of them is multiplied once a position of its output."""
    if place.twin.op not in ("Conv", "Gemm", "MatMul", "DeformConv"):
        return 0
    name = next((name for name in place.twin.inputs[1:2] if name in graph.weights), "")
    return int(graph.weights[name]().size) if name else 0


def _decisions(placement: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what was decided, by node."""
    return {str(item.get("node")): item for item in placement.get("decisions", ()) if isinstance(item, Mapping)}
