"""Name the layer at which one form of a network departs from another.

Comparing every intermediate tensor does not answer that by itself: once a layer is wrong all later ones are, and in a quantized
graph every layer adds a little noise, which later layers pass on, amplify or remove. What is asked is where the noise *enters*.
So the candidate runs twice. As it is, which gives the noise at every tensor; and taken apart, each step from one compared tensor
to the next computing on the *reference's* tensors, though with its own weights. What a step gives then differs from the
reference by its own noise alone:

    own = 10 log10(sum ref**2 / sum (ref - step(ref's inputs))**2)

A layer is accused when its own noise exceeds what the precision explains and reaches a tensor computed from it: a gate that
saturates anyway is no culprit. Where no layer is accused and the output is bad all the same, the noise of many adds up, and the
report names those that bring the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.artifacts import OnnxModel
from edgecnn.errors import UserError
from edgecnn.onnxio import read_metadata
from edgecnn.parity.metrics import ratio_db
from edgecnn.parity.report import decibels
from edgecnn.parity.samples import Sample
from edgecnn.parity.steps import StepReader
from edgecnn.parity.trace import (
    Difference,
    Entry,
    Graph,
    OnnxReader,
    Reader,
    TorchReader,
    in_parts,
    layers_of,
    match_graphs,
    match_modules,
    read_graph,
)
from edgecnn.progress import Progress, silent

if TYPE_CHECKING:
    from edgecnn.parity.torch_runner import TorchSession

__all__ = ["FLOORS", "BisectReport", "Layer", "bisect", "bisect_form"]

FLOORS: Mapping[str, float] = MappingProxyType(
    {"fp32": 90.0, "fp16": 30.0, "int8": 12.0, "int8-fp16": 12.0, "int8-cpu": 12.0}
)
"""Least ratio of a layer's output to its own noise, dB, by the candidate's precision.

Float32 layers add noise at 110 dB and better, float16 ones at 50 to 70 dB. Quantizing one tensor to 8 bits with fitting ranges
leaves 25 to 45 dB, and hardly less than 15 dB where it has long tails."""

Array = NDArray[Any]
FORM_MEMORY = 1 << 30
"""Bytes that the tensors which are compared in one pass over a form may take; making an engine takes minutes."""
_PERSISTS_DB = 10.0
_ROOM = 1e-12
NOISIEST = 3
"""How many layers a report names where none departs."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One compared tensor.

    Attributes:
        tensor: its name in the candidate. ``reference``: its name, or module path, in the reference.
        module: dotted path in the PyTorch network. ``op``: operator of the node that gives it.
        role: ``layer`` (a node's output), ``quantization`` (a tensor after Q/DQ) or ``weights`` (quantized weights).
        shape: for one sample.
        sqnr_db: signal over noise at this tensor, its own and what it inherited.
        own_db: signal over this step's own noise, see the module's formula; infinite if it has none.
        max_abs: largest absolute difference.
        departs: whether its own noise exceeds what the precision explains, and persists.
        reason: why, or what else is odd.
        between: nodes on the way from its inputs that the reference does not have.
    """

    tensor: str
    reference: str
    module: str
    op: str
    role: str
    shape: tuple[int, ...]
    sqnr_db: float
    own_db: float
    max_abs: float
    departs: bool = False
    reason: str = ""
    between: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it: the module and the operator, and what of it."""
        where = f"{self.op} {self.module}" if self.module else f"{self.op} {self.tensor}"
        if self.role == "quantization":
            return f"the quantization of {self.reference!r}"
        if self.role == "weights":
            return f"the quantized weights {self.reference!r}"
        return where

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; an infinite ratio is null."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in data.items()}


@dataclass(frozen=True, kw_only=True)
class BisectReport:
    """What bisecting found; truthy when no layer departs.

    Attributes:
        reference, candidate: names of the two sides.
        precision, floor_db: of the candidate; the floor that layers were held to.
        layers: all compared tensors, in the order of computation.
        samples: how many inputs ran.
    """

    reference: str
    candidate: str
    precision: str
    floor_db: float
    layers: tuple[Layer, ...]
    samples: int

    def __bool__(self) -> bool:
        """Whether no layer departs."""
        return self.first is None

    @property
    def first(self) -> Layer | None:
        """The first layer that departs, None if none does."""
        return next((layer for layer in self.layers if layer.departs), None)

    @property
    def noisy(self) -> tuple[Layer, ...]:
        """The layers that have noise of their own, the noisiest first; weights are left out, being noise of the layer they feed."""
        found = [layer for layer in self.layers if layer.role != "weights" and math.isfinite(layer.own_db)]
        return tuple(sorted(found, key=lambda layer: layer.own_db))

    def lines(self) -> Iterator[str]:
        """Yield the report as plain text: the finding, then a table."""
        first = self.first
        if first is not None:
            yield f"{self.candidate} first departs from {self.reference} at {first.name}: {first.reason}"
            if first.between:
                yield f"  nodes on the way that {self.reference} does not have: {', '.join(first.between[:6])}"
        else:
            yield f"no layer of {self.candidate} departs from {self.reference}: {self._sum()}"
        yield f"{'SQNR':>9} {'own':>9}  tensor"
        for layer in self.layers:
            mark = "  <- departs" if layer.departs else ""
            yield f"{decibels(layer.sqnr_db):>9} {decibels(layer.own_db):>9}  {layer.tensor}{mark}"

    def _sum(self) -> str:
        """Say what the noise of layers that are as they should be comes to."""
        noisy = self.noisy
        if not noisy:
            return "every tensor is the same"
        last = self.layers[-1]
        most = ", ".join(f"{layer.name} {decibels(layer.own_db)}" for layer in noisy[:NOISIEST])
        return (
            f"noise adds up over the layers to {decibels(last.sqnr_db)} at {last.tensor!r}; of the {len(noisy)} that have some of "
            f"their own, the noisiest are {most}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "precision": self.precision,
            "floor_db": self.floor_db,
            "samples": self.samples,
            "first": None if self.first is None else self.first.to_json(),
            "noisiest": [layer.tensor for layer in self.noisy[:NOISIEST]],
            "layers": [layer.to_json() for layer in self.layers],
        }


def bisect(
    reference: Path | OnnxModel | TorchSession,
    candidate: Path | OnnxModel,
    samples: Iterable[Sample],
    *,
    precision: str = "",
    floor_db: float = 0.0,
    limit: int = 4,
    memory: int = 256 << 20,
    progress: Progress = silent,
) -> BisectReport:
    """Compare the intermediate tensors of two forms of a network and find the first layer that departs.

    Args:
        reference: the form that is right.
        candidate: the form in question.
        samples: inputs, re-iterable.
        precision: of the candidate; by default what its metadata says, or fp32.
        floor_db: in place of the precision's value in :data:`FLOORS`; 0 for that value.
        limit: how many samples to use.
        memory: bytes that the compared tensors of one pass may take; the graph runs twice a pass and sample.
        progress: called once a pass.

    Raises:
        UserError: there are no samples, or the two have no tensor in common.
        BackendError: a model that cannot run.
    """
    path = candidate.path if isinstance(candidate, OnnxModel) else candidate
    precision = precision or _precision(candidate)
    graph = read_graph(path)
    chosen = list(islice(samples, limit))
    if not chosen:
        raise UserError("bisecting needs at least one sample")
    if isinstance(reference, (Path, OnnxModel)):
        source = read_graph(reference.path if isinstance(reference, OnnxModel) else reference)
        entries = match_graphs(source, graph)
        name, reader = source.path.name, _onnx_reader(source)
    else:
        entries = match_modules(reference, chosen[0], graph)
        name, reader = "pytorch", _torch_reader(reference)
    if not entries:
        raise UserError(
            f"{path.name} has no tensor in common with {name}: bisecting needs forms of one exported network"
        )
    whole, own = _compare(entries, reader, graph, chosen, memory, progress)
    floor = floor_db or FLOORS.get(precision, FLOORS["fp32"])
    return BisectReport(
        reference=name,
        candidate=path.name,
        precision=precision,
        floor_db=floor,
        layers=_judge(entries, whole, own, floor, graph.outputs),
        samples=len(chosen),
    )


def bisect_form(
    name: str,
    form: Callable[[Sequence[str]], Reader],
    path: Path,
    samples: Iterable[Sample],
    *,
    precision: str,
    floor_db: float,
    limit: int = 4,
    progress: Progress = silent,
) -> BisectReport:
    """Find the first layer at which another form of a graph, such as an engine, departs from the graph on this CPU.

    Here every step of the *graph* computes on what the form gave before it, since a form runs as a whole.

    Args:
        name: of the form, for the report.
        form: from names of the graph's tensors to a reader of them.
        path: the ONNX file.
        samples: inputs, re-iterable. ``limit``: how many to use.
        precision: of the graph. ``floor_db``: least ratio of a layer's output to its own noise.
        progress: called once a pass, each of which makes the form anew for as many tensors as :data:`FORM_MEMORY` allows.

    Raises:
        UserError: there are no samples. BackendError: one of the two cannot run; and as ``form``.
    """
    graph, chosen = read_graph(path), list(islice(samples, limit))
    if not chosen:
        raise UserError("bisecting needs at least one sample")
    entries = layers_of(graph)
    whole, own = _compare(entries, form, graph, chosen, FORM_MEMORY, progress)
    return BisectReport(
        reference=f"{path.name} on the CPU",
        candidate=name,
        precision=precision,
        floor_db=floor_db,
        layers=_judge(entries, whole, own, floor_db, graph.outputs, "the same inputs"),
        samples=len(chosen),
    )


def _onnx_reader(graph: Graph) -> Callable[[Sequence[str]], Reader]:
    """Return a function from tensor names to a reader."""
    return lambda names: OnnxReader(graph, names)


def _torch_reader(session: TorchSession) -> Callable[[Sequence[str]], Reader]:
    """Return a function from module paths to a reader."""
    return lambda names: TorchReader(session, names)


def _precision(candidate: Path | OnnxModel) -> str:
    """Return what a model says that its precision is."""
    if isinstance(candidate, OnnxModel):
        return candidate.precision
    return str(read_metadata(candidate).get("edgecnn.precision", "fp32"))


def _compare(
    entries: Sequence[Entry],
    reference: Callable[[Sequence[str]], Reader],
    graph: Graph,
    samples: Sequence[Sample],
    memory: int,
    progress: Progress,
) -> tuple[list[Difference], list[Difference]]:
    """Run both sides, a part of the tensors at a time; return each tensor's difference, and that of its own step."""
    whole, own = [Difference() for _ in entries], [Difference() for _ in entries]
    parts = list(in_parts(range(len(entries)), lambda index: _size(entries[index], entries, graph), memory))
    for done, part in enumerate(parts):
        progress("bisect", done, len(parts))
        # Weights are not given: rounding them is the layer's own noise, for which its bias may have been corrected.
        inputs = {source for index in part for source in entries[index].inputs}
        sources = sorted(source for source in inputs if entries[source].role != "weights")
        every = [entries[index] for index in sorted({*part, *sources})]
        with ExitStack() as stack:
            exact = stack.enter_context(closing(reference([entry.reference for entry in every])))
            plain = stack.enter_context(closing(OnnxReader(graph, [entry.tensor for entry in every])))
            steps = stack.enter_context(closing(StepReader(graph, [entries[i].tensor for i in part], plain)))
            for sample in samples:
                expected, found = exact.read(sample), plain.read(sample)
                given = {entries[i].tensor: _given(entries[i], expected, found) for i in sources}
                alone = steps.read(sample, given)
                for index in part:
                    entry = entries[index]
                    if entry.reference in expected:
                        whole[index].add(expected[entry.reference], found[entry.tensor])
                        own[index].add(expected[entry.reference], alone[entry.tensor])
    progress("bisect", len(parts), len(parts))
    return whole, own


def _given(entry: Entry, expected: Mapping[str, Array], found: Mapping[str, Array]) -> Array:
    """Return the reference's tensor in the candidate's type; the candidate's own where the reference has none of that shape."""
    own = found[entry.tensor]
    other = expected.get(entry.reference, own)
    return other.astype(own.dtype) if other.shape == own.shape else own


def _size(entry: Entry, entries: Sequence[Entry], graph: Graph) -> int:
    """Return the bytes of an entry: it and what it is computed from are float32 on three sides, and its difference is float64."""
    return 20 * graph.sizes[entry.tensor] + 12 * sum(graph.sizes[entries[i].tensor] for i in entry.inputs)


def _judge(
    entries: Sequence[Entry],
    whole: Sequence[Difference],
    own: Sequence[Difference],
    floor: float,
    outputs: Sequence[str],
    inputs: str = "the reference's own inputs",
) -> tuple[Layer, ...]:
    """Turn sums into layers and decide which of them depart."""
    ratios = [_ratio(entry, difference) for entry, difference in zip(entries, whole, strict=True)]
    consumers: dict[int, list[int]] = {}
    for index, entry in enumerate(entries):
        for source in entry.inputs:
            consumers.setdefault(source, []).append(index)
    layers = []
    for index, (entry, step) in enumerate(zip(entries, own, strict=True)):
        sqnr, ratio = ratios[index], _ratio(entry, step)
        if sqnr is None or ratio is None:
            continue
        after = [r for i in consumers.get(index, []) if (r := ratios[i]) is not None]
        persists = entry.tensor in outputs or not after or min(after) < floor + _PERSISTS_DB
        departs = ratio < floor and persists
        layers.append(
            Layer(
                tensor=entry.tensor,
                reference=entry.reference,
                module=entry.node.module,
                op=entry.node.op,
                role=entry.role,
                shape=step.shape,
                sqnr_db=sqnr,
                own_db=ratio,
                max_abs=whole[index].largest,
                departs=departs,
                reason=_reason(step, ratio, floor, inputs) if departs else "",
                between=entry.between,
            )
        )
    return tuple(layers)


def _ratio(entry: Entry, difference: Difference) -> float | None:
    """Return a tensor's SQNR; a broken one counts as -200 dB, None means that the two cannot be compared."""
    if not difference.shape:
        return None
    if difference.mismatch:
        # A module that was matched to the wrong node has another number of elements; the same number is another layout.
        same = math.prod(difference.mismatch) == math.prod(difference.shape)
        return ratio_db(0, 1) if same or not entry.by_module else None
    if difference.nonfinite:
        return ratio_db(0, 1)
    # A tensor that is all zeros but for float dust has no ratio to speak of.
    return (
        math.inf
        if difference.noise <= _ROOM and difference.signal <= _ROOM
        else ratio_db(difference.signal, difference.noise)
    )


def _reason(step: Difference, own: float, floor: float, inputs: str) -> str:
    """Say why a tensor departs, having been compared on ``inputs``."""
    if step.mismatch:
        return f"its shape is {list(step.shape)}, and {list(step.mismatch)} in the reference"
    if step.nonfinite:
        return "it has NaN or infinity"
    return f"{decibels(own)} on {inputs}, where this precision explains no less than {floor:g} dB"
