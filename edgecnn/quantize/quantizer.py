"""The stage: place, calibrate, insert."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgecnn.artifacts import Lineage, OnnxModel, cache_folder, sha256_json
from edgecnn.calib.data import Samples
from edgecnn.calib.methods import Auto
from edgecnn.calib.ranges import Ranges
from edgecnn.calib.split import split
from edgecnn.calib.statistics import Statistics, collect_statistics
from edgecnn.errors import GraphError, SpecError, UserError
from edgecnn.onnxio import detach, load_ir, release_memory, save_ir
from edgecnn.progress import Progress, silent
from edgecnn.quantize.choose import Choice, choose
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.equalization import Equalized, equalize, is_equalized
from edgecnn.quantize.rules import Placement, plan

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeResult", "quantize", "statistics_for"]

CORRECTED = 1
"""Version of the arithmetic of weight correction; part of the key of corrected graphs."""


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """A quantized model, what was decided, the ranges it came from, and how their method was chosen, where it was.

    Attributes:
        equalized: how channels were scaled first, and that model, whose file is gone; None where that was not to be done here.
    """

    model: OnnxModel
    placement: Placement
    ranges: Ranges
    choice: Choice | None = None
    equalized: Equalized | None = None


def statistics_for(
    model: OnnxModel,
    samples: Samples,
    configs: Iterable[QuantizeConfig],
    *,
    cache: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> Statistics:
    """Collect what several quantizations of one model need, in one pass over the samples.

    Args:
        model: as of :func:`quantize`.
        samples: for the ranges; where a method is still to be chosen, those that are not held out for it.
        configs: of the quantizations to come.
        cache: folder of content-keyed statistics; None collects anew.
        threads: cores to use; 0 uses all.
        progress: told about samples.

    Raises:
        GraphError: quantized already, or nothing to quantize.
        DataError: unusable samples. SpecError: a keep_float pattern finds nothing.
    """
    configs = list(configs)
    release_memory()  # of graphs before this one
    tensors, means = _needed(model, configs)
    for config in configs:
        if isinstance(config.method, Auto):
            samples = split(samples, config.method.images)[0]
            break
    release_memory()  # of the one that was just looked at
    return collect_statistics(model, samples, tensors, means, cache=cache, threads=threads, progress=progress)


def _needed(model: OnnxModel, configs: Iterable[QuantizeConfig]) -> tuple[set[str], set[str]]:
    """Return the tensors to count and those to average; the graph is gone when they are."""
    graph = load_ir(model.path)
    tensors: set[str] = set()
    means: set[str] = set()
    for config in configs:
        placement = plan(graph, config)
        tensors.update(placement.measured)
        if config.bias_correction:
            means.update(placement.weight_inputs)
    return tensors, means


def _check(model: OnnxModel, statistics: Statistics | None) -> None:
    """Raise GraphError for too old an opset, SpecError for statistics of another model."""
    if model.opset < 13:
        raise GraphError(f"{model.path.name} has opset {model.opset}; per-channel INT8 needs 13: export it again")
    if statistics is not None and statistics.hashes["model"] != model.sha256:
        raise SpecError(f"these statistics are of another model than {model.path.name}: collect them for this one")


def _corrected(
    graph: ir.Model,
    model: OnnxModel,
    placement: Placement,
    samples: Samples,
    config: QuantizeConfig,
    kept: Path | None,
    threads: int,
    progress: Progress,
) -> ir.Model:
    """Return the quantized graph with its weights corrected: what was kept of the same work before, or ``graph``, changed in place."""
    from edgecnn.quantize.correct import Correction

    if kept is not None:
        with suppress(UserError):
            found = load_ir(kept)
            if [node.name for node in found.graph] == [node.name for node in graph.graph]:
                return found
    layers = [decision.node for decision in placement.decisions if decision.weight]
    Correction.of(config.effort).apply(
        graph, model.path, layers, samples, biases=config.bias_correction, threads=threads, progress=progress
    )
    if kept is not None:
        cache_folder(kept.parent)
        save_ir(graph, kept)
    return graph


def quantize(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig | None = None,
    *,
    to: Path,
    statistics: Statistics | None = None,
    cache: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> QuantizeResult:
    """Quantize a float model.

    Args:
        model: float32, opset 13 or newer (per-channel QuantizeLinear); with ``config.equalize``, it is equalized first, unless
            :func:`edgecnn.quantize.equalize` made it.
        samples: for the ranges, which ``statistics`` replace, and for weight correction, unless ``config.effort`` is ``fast``.
        config: scheme, method, placement, exceptions.
        to: the file to write.
        statistics: of :func:`statistics_for`, so that several quantizations share one pass; None collects them.
        cache: folder of statistics and of corrected graphs, keyed by content; None collects and corrects anew.
        threads: cores to use; 0 uses all.
        progress: told about samples, then about layers.

    Raises:
        GraphError: quantized already, too old an opset, or nothing to quantize.
        DataError: unusable samples, or statistics of another placement.
        SpecError: a keep_float pattern finds nothing, or statistics of another model.
    """
    from edgecnn.quantize.qdq import insert

    config = config or QuantizeConfig()
    _check(model, statistics)
    if config.equalize and not is_equalized(model):
        return _equalized(model, samples, config, to, statistics, cache, threads, progress)
    if statistics is None:
        statistics = statistics_for(model, samples, [config], cache=cache, threads=threads, progress=progress)
    choice: Choice | None = None
    if isinstance(method := config.method, Auto):
        choice = choose(model, samples, config, statistics, threads=threads, progress=progress)
        config, method = choice.applied(config), choice.method
    graph = load_ir(model.path)
    placement = plan(graph, config)
    ranges = statistics.ranges(placement.measured, method, symmetric=config.symmetric)
    means = statistics.means_of(placement.weight_inputs) if config.bias_correction else {}
    insert(graph, placement, ranges.tensors, config, means)
    detach(graph)
    graph.graph.sort()
    if config.effort != "fast" and placement.weight_inputs:
        key = sha256_json([CORRECTED, ranges.hashes["key"], samples.fingerprint(), config.to_json()])
        kept = None if cache is None else cache / f"corrected-{key}.onnx"
        graph = _corrected(graph, model, placement, samples, config, kept, threads, progress)
    graph.metadata_props["edgecnn.precision"] = config.scheme
    step = Lineage(
        stage="quantize",
        config=config.to_json(),
        inputs={"model": model.sha256, "data": ranges.hashes["data"], "ranges": ranges.hashes["key"]},
    )
    saved = save_ir(graph, to, precision=config.scheme, lineage=(*model.lineage, step))
    return QuantizeResult(model=saved, placement=placement, ranges=ranges, choice=choice)


def _equalized(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    to: Path,
    statistics: Statistics | None,
    cache: Path | None,
    threads: int,
    progress: Progress,
) -> QuantizeResult:
    """Equalize, then quantize. Raises SpecError for statistics, which are not of the equalized network."""
    if statistics is not None:
        raise SpecError("these statistics are of the network before its channels are scaled: equalize() it first")
    with TemporaryDirectory(prefix="edgecnn-") as folder:
        even = equalize(model, samples, config, to=Path(folder) / "even.onnx", threads=threads, progress=progress)
        made = quantize(even.model, samples, config, to=to, cache=cache, threads=threads, progress=progress)
    return replace(made, equalized=even)
