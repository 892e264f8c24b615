"""The graph made smaller without changing what it computes: every step is run against the graph before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.errors import BackendError, GraphError, SpecError
from edgecnn.onnxio import load_ir, release_memory, save_ir, scratch_file
from edgecnn.passes import SIMPLIFICATIONS, OnnxSim, Pass, run_passes
from edgecnn.progress import Progress, silent
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.spec import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Simplified", "SimplifyConfig", "simplify", "transform"]

Outputs = list[dict[str, NDArray[Any]]]

ROUNDS = 10
"""How often all passes run at most; networks need two or three rounds, the last of which changes nothing."""


@dataclass(frozen=True, kw_only=True)
class SimplifyConfig:
    """What to try.

    Attributes:
        onnxsim: whether onnxsim runs first.
        passes: names of :data:`edgecnn.passes.SIMPLIFICATIONS`, in the order in which they run.
        tolerance: how much a step may change an output, as a share of that output's largest magnitude. Folding changes the order
            of float32 operations, which deep networks amplify: below 1e-6 was measured on the zoo's networks.
    """

    onnxsim: bool = True
    passes: tuple[str, ...] = tuple(SIMPLIFICATIONS)
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "passes", tuple(self.passes))
        unknown = [name for name in self.passes if name not in SIMPLIFICATIONS]
        if unknown:
            raise SpecError(f"no simplification {', '.join(unknown)}; there are {', '.join(SIMPLIFICATIONS)}")
        if not 0 < self.tolerance < 1:
            raise SpecError(f"tolerance {self.tolerance} is a share of the output's magnitude: between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Simplified:
    """What came of it.

    Attributes:
        model: the simplified model.
        nodes_before, nodes_after: nodes of the graph.
        changes: step -> places that it changed, those that changed nothing included.
        notes: what was dropped or left out, and why.
    """

    model: OnnxModel
    nodes_before: int
    nodes_after: int
    changes: Mapping[str, int]
    notes: tuple[str, ...]


def simplify(
    model: OnnxModel, config: SimplifyConfig | None = None, *, to: Path, progress: Progress = silent
) -> Simplified:
    """Simplify a model: onnxsim once, then the passes until a whole round changes nothing.

    Each step that changed the graph runs on onnxruntime against the graph before it, on noise and on zeros, and on
    a batch of 2 where the batch is dynamic. A step that fails, or changes an output beyond the tolerance, is dropped, and a note says so.

    Args:
        model: a float model.
        config: what to try, and the tolerance.
        to: the file to write.
        progress: called with the steps of the first round.

    Raises:
        UserError: the model cannot be read. OutputError: the file cannot be written.
    """
    config = config or SimplifyConfig()
    release_memory()  # of what the export left
    work = _Work(load_ir(model.path), model, config.tolerance)
    passes = [SIMPLIFICATIONS[name]() for name in config.passes]
    steps: list[Pass] = [OnnxSim(), *passes] if config.onnxsim else passes
    for done, step in enumerate(steps):
        progress("simplify", done, len(steps))
        work.attempt(step)
    _to_fixed_point(work, passes)
    progress("simplify", len(steps), len(steps))
    lineage = Lineage(
        stage="simplify",
        tools=_versions("onnxsim", "onnx", "onnx-ir", "onnxruntime"),
        config={
            **asdict(config),
            "passes": list(config.passes),
            "changes": dict(work.changes),
            "nodes": {"before": model.nodes, "after": sum(1 for _ in work.graph.graph)},
        },
        inputs={"model": model.sha256},
        notes=tuple(work.notes),
    )
    made = save_ir(work.graph, to, precision=model.precision, lineage=(*model.lineage, lineage))
    return Simplified(
        model=made,
        nodes_before=model.nodes,
        nodes_after=made.nodes,
        changes=MappingProxyType(work.changes),
        notes=tuple(work.notes),
    )


def transform(model: OnnxModel, passes: Sequence[Pass], *, to: Path, precision: str = "") -> OnnxModel:
    """Apply passes once, in order; they may change the graph's border or its precision, so nothing is compared here.

    Args:
        model: what they apply to.
        passes: in order.
        to: the file to write.
        precision: of the result where the passes change it; "" keeps the model's.

    Raises:
        GraphError: a pass cannot work on this graph.
        UserError: the model cannot be read. OutputError: the file cannot be written.
    """
    graph = load_ir(model.path)
    changes = run_passes(graph, passes)
    if precision:
        graph.metadata_props["edgecnn.precision"] = precision
    lineage = Lineage(
        stage="transform",
        tools=_versions("onnx-ir"),
        config={"passes": [item.name for item in passes], "changes": changes},
        inputs={"model": model.sha256},
    )
    return save_ir(graph, to, precision=precision or model.precision, lineage=(*model.lineage, lineage))


class _Work:
    """A graph, and the steps that were tried on it.

    Attributes:
        graph: after every step that was kept.
        changes: step -> places that it changed.
        dropped: steps that failed or broke parity; they are not tried again.
        notes: for the reader.
    """

    def __init__(self, graph: ir.Model, model: OnnxModel, tolerance: float) -> None:
        """Take the graph as it was read from the model's file."""
        self.graph, self.model, self.tolerance = graph, model, tolerance
        self.changes: dict[str, int] = {}
        self.dropped: set[str] = set()
        self.notes: list[str] = []
        self.feeds = _feeds(model.inputs)
        self.expected: Outputs | None = None

    def attempt(self, step: Pass) -> int:
        """Try a step on a copy of the graph, whose weights are shared, and keep the copy if parity holds; return its changes."""
        if step.name in self.dropped:
            return 0
        candidate = self.graph.clone()
        try:
            count = run_passes(candidate, [step])[step.name]
            outputs = self._compare(candidate) if count else None
        except (GraphError, BackendError) as error:
            self.dropped.add(step.name)
            self.notes.append(f"{step.name} was dropped: {error}")
            return 0
        if outputs is not None:
            self.graph, self.expected = candidate, outputs
        self.changes[step.name] = self.changes.get(step.name, 0) + count
        return count

    def _compare(self, candidate: ir.Model) -> Outputs:
        """Return the candidate's outputs; raise GraphError where they are not those of the graph before it."""
        if self.expected is None:
            self.expected = self._run(self.model.path)
        with scratch_file(candidate) as file:
            outputs = self._run(file)
        difference = max(_difference(*pair) for pair in zip(self.expected, outputs, strict=True))
        if not difference <= self.tolerance:
            raise GraphError(f"it changed the outputs by {difference:.3g} of their magnitude, over {self.tolerance:g}")
        return outputs

    def _run(self, path: Path) -> Outputs:
        """Run a model as it is written, without onnxruntime's own rewriting."""
        with OrtSession(path, OrtOptions(optimize="disabled")) as session:
            return [session.run(feed) for feed in self.feeds]


def _to_fixed_point(work: _Work, passes: Sequence[Pass]) -> None:
    """Run passes, which have run once, until a whole round changes nothing."""
    for _ in range(ROUNDS - 1):
        if not sum([work.attempt(item) for item in passes]):
            return
    work.notes.append(f"the passes still found something to change after {ROUNDS} rounds")


def _feeds(inputs: Sequence[TensorSpec]) -> list[dict[str, NDArray[Any]]]:
    """Return noise and zeros for each input, and two samples of noise at once where the batch is dynamic."""
    random = np.random.default_rng(0)
    dynamic = any(isinstance(dim, str) for spec in inputs for dim in spec.shape)
    feeds = []
    for length, scale in ((1, 1.0), (1, 0.0), (2, 1.0)) if dynamic else ((1, 1.0), (1, 0.0)):
        feed = {}
        for spec in inputs:
            shape = [length if isinstance(dim, str) else dim for dim in spec.shape]
            feed[spec.name] = (scale * random.standard_normal(shape)).astype(spec.dtype)
        feeds.append(feed)
    return feeds


def _difference(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest absolute difference over the outputs, each as a share of its largest magnitude.

    Infinite where an output has another shape or type, or where only one side is finite.
    """
    worst = 0.0
    for name, old in before.items():
        new = after[name]
        finite = np.isfinite(old)
        if old.shape != new.shape or old.dtype != new.dtype or not np.array_equal(finite, np.isfinite(new)):
            return float("inf")
        reference = old[finite].astype(np.float64)
        magnitude = float(np.abs(reference).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(reference - new[finite]).max(initial=0.0)) / magnitude)
    return worst


def _versions(*distributions: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
