"""The stage: place, calibrate, insert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.calib.data import Samples
from edgecnn.calib.ranges import Ranges, calibrate
from edgecnn.errors import GraphError
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.progress import Progress, silent
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.rules import Placement, plan

__all__ = ["QuantizeResult", "quantize"]


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """A quantized model, what was decided, and the ranges it came from."""

    model: OnnxModel
    placement: Placement
    ranges: Ranges


def quantize(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig | None = None,
    *,
    to: Path,
    cache: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> QuantizeResult:
    """Quantize a float model.

    Args:
        model: float32, opset 13 or newer (per-channel QuantizeLinear).
        samples: for the ranges.
        config: scheme, method, exceptions.
        to: the file to write.
        cache: folder of the content-keyed ranges; None calibrates anew.
        threads: of onnxruntime while calibrating.

    Raises:
        GraphError: quantized already, too old an opset, or nothing to quantize.
        DataError: unusable samples. SpecError: a keep_float pattern finds nothing.
    """
    from edgecnn.calib.collect import channel_means
    from edgecnn.quantize.qdq import insert

    config = config or QuantizeConfig()
    if model.opset < 13:
        raise GraphError(f"{model.path.name} has opset {model.opset}; per-channel INT8 needs 13: export it again")
    graph = load_ir(model.path)
    placement = plan(graph, config)
    ranges = calibrate(
        model,
        samples,
        placement.tensors,
        config.method,
        symmetric=config.symmetric,
        cache=cache,
        threads=threads,
        progress=progress,
    )
    means = {}
    if config.bias_correction:
        inputs = {value.name for value in graph.graph.inputs}
        nodes = {node.name: node for node in graph.graph}
        sources = {str(nodes[d.node].inputs[0].name) for d in placement.decisions if d.weight}  # type: ignore[union-attr]
        means = channel_means(model.path, samples, sorted(sources - inputs), threads=threads)
    insert(graph, placement, ranges.tensors, config, means)
    graph.graph.sort()
    graph.metadata_props["edgecnn.precision"] = config.scheme
    step = Lineage(
        stage="quantize",
        config=config.to_json(),
        inputs={"model": model.sha256, "data": ranges.hashes["data"], "ranges": ranges.hashes["key"]},
    )
    made = save_ir(graph, to, precision=config.scheme, lineage=(*model.lineage, step))
    return QuantizeResult(model=made, placement=placement, ranges=ranges)
