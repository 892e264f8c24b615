"""Name the layer at which one form of a network departs from another.

Comparing every intermediate tensor does not answer that by itself: once a layer is wrong all later ones are, and in a quantized
graph every layer adds a little noise. What is asked is where the noise *enters*. Independent noises add in power, so a
layer's own noise is what its output has beyond what its inputs brought:

    own = N_out - N_in,    N = sum (ref - cand)**2 / sum ref**2

where N_in is the noise of its noisiest input plus that of its quantized weights. That estimate stands in the table. A layer is
accused only when ``N_out - 4 N_in`` alone exceeds what the precision explains: layers that subtract much from much amplify
relative noise, by 6 dB at times, and an innocent layer behind a noisy one must not be blamed. (Quantizing a tensor amplifies
nothing, so there the factor is 1.) And the departure must reach a tensor computed from it: a gate that saturates
anyway is no culprit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgecnn.artifacts import OnnxModel
from edgecnn.errors import UserError
from edgecnn.onnxio import read_metadata
from edgecnn.parity.metrics import ratio_db
from edgecnn.parity.report import decibels
from edgecnn.parity.samples import Sample
from edgecnn.parity.trace import (
    Difference,
    Entry,
    Graph,
    OnnxReader,
    Reader,
    TorchReader,
    match_graphs,
    match_modules,
    read_graph,
)
from edgecnn.progress import Progress, silent

if TYPE_CHECKING:
    from edgecnn.parity.torch_runner import TorchSession

__all__ = ["FLOORS", "BisectReport", "Layer", "bisect"]

FLOORS: Mapping[str, float] = MappingProxyType({"fp32": 90.0, "fp16": 30.0, "int8": 12.0, "int8-cpu": 12.0})
"""Least ratio of a layer's output to its own noise, dB, by the candidate's precision.

Float32 layers add noise at 110 dB and better, float16 ones at 50 to 70 dB. Quantizing one tensor to 8 bits with fitting ranges
leaves 25 to 45 dB, and hardly less than 15 dB where it has long tails."""

AMPLIFICATION = 4.0
"""Power by which a layer may amplify its inputs' noise without being accused."""

_PERSISTS_DB = 10.0
_ROOM = 1e-12


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One compared tensor.

    Attributes:
        tensor: its name in the candidate. ``reference``: its name, or module path, in the reference.
        module: dotted path in the PyTorch network. ``op``: operator of the node that gives it.
        role: ``layer`` (a node's output), ``quantization`` (a tensor after Q/DQ) or ``weights`` (quantized weights).
        shape: for one sample.
        sqnr_db: signal over noise at this tensor; ``input_sqnr_db``: over the noise that its inputs and weights bring.
        own_db: signal over this step's own noise, see the module's formula; infinite if its inputs explain all of it.
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
    input_sqnr_db: float
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
        note: what a reader should know.
    """

    reference: str
    candidate: str
    precision: str
    floor_db: float
    layers: tuple[Layer, ...]
    samples: int
    note: str = ""

    def __bool__(self) -> bool:
        """Whether no layer departs."""
        return self.first is None

    @property
    def first(self) -> Layer | None:
        """The first layer that departs, None if none does."""
        return next((layer for layer in self.layers if layer.departs), None)

    @property
    def noisiest(self) -> Layer | None:
        """The layer with the most noise of its own, relative to its output."""
        return min(self.layers, key=lambda layer: layer.own_db, default=None)

    def lines(self) -> Iterator[str]:
        """Yield the report as plain text: the finding, then a table."""
        first, noisiest = self.first, self.noisiest
        if first is not None:
            yield f"{self.candidate} first departs from {self.reference} at {first.name}: {first.reason}"
            if first.between:
                yield f"  nodes on the way that {self.reference} does not have: {', '.join(first.between[:6])}"
        elif noisiest is not None:
            own = decibels(noisiest.own_db)
            yield f"no layer of {self.candidate} departs from {self.reference}; the noisiest is {noisiest.name}, {own}"
        if self.note:
            yield self.note
        yield f"{'SQNR':>9} {'inputs':>9} {'own':>9}  tensor"
        for layer in self.layers:
            mark = "  <- departs" if layer.departs else ""
            numbers = " ".join(f"{decibels(v):>9}" for v in (layer.sqnr_db, layer.input_sqnr_db, layer.own_db))
            yield f"{numbers}  {layer.tensor}{mark}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "precision": self.precision,
            "floor_db": self.floor_db,
            "samples": self.samples,
            "first": None if self.first is None else self.first.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "note": self.note,
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
        memory: bytes that the compared tensors of one pass may take; the graph runs once a pass and sample.
        progress: called once a pass.

    Raises:
        UserError: there are no samples, or the two have no tensor in common.
        GraphError: a model with external data.
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
    differences = _compare(entries, reader, graph, chosen, memory, progress)
    floor = floor_db or FLOORS.get(precision, FLOORS["fp32"])
    layers = _judge(entries, differences, floor, graph)
    return BisectReport(
        reference=name,
        candidate=path.name,
        precision=precision,
        floor_db=floor,
        layers=layers,
        samples=len(chosen),
        note=_note(layers, floor),
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
) -> list[Difference]:
    """Run both sides, a part of the tensors at a time."""
    result = [Difference() for _ in entries]
    parts = list(_parts(entries, graph, memory))
    for done, part in enumerate(parts):
        progress("bisect", done, len(parts))
        one, two = reference([entries[i].reference for i in part]), OnnxReader(graph, [entries[i].tensor for i in part])
        try:
            for sample in samples:
                expected, found = one.read(sample), two.read(sample)
                for index in part:
                    entry = entries[index]
                    if entry.reference in expected:
                        result[index].add(expected[entry.reference], found[entry.tensor])
        finally:
            one.close()
            two.close()
    progress("bisect", len(parts), len(parts))
    return result


def _parts(entries: Sequence[Entry], graph: Graph, memory: int) -> Iterator[list[int]]:
    """Cut the entries into parts that fit into memory: a float32 tensor on either side, and the float64 difference."""
    part: list[int] = []
    used = 0
    for index, entry in enumerate(entries):
        size = 16 * graph.sizes[entry.tensor]
        if part and used + size > memory:
            yield part
            part, used = [], 0
        part.append(index)
        used += size
    if part:
        yield part


def _judge(
    entries: Sequence[Entry], differences: Sequence[Difference], floor: float, graph: Graph
) -> tuple[Layer, ...]:
    """Turn sums into layers and decide which of them depart."""
    ratios = [_ratio(entry, difference) for entry, difference in zip(entries, differences, strict=True)]
    consumers: dict[int, list[int]] = {}
    for index, entry in enumerate(entries):
        for source in entry.inputs:
            consumers.setdefault(source, []).append(index)
    layers = []
    for index, (entry, difference) in enumerate(zip(entries, differences, strict=True)):
        if ratios[index] is None:
            continue
        sqnr = ratios[index] or 0.0
        incoming = _incoming(index, entries, ratios)
        own = _own(sqnr, incoming, 1.0)
        accused = _own(sqnr, incoming, 1.0 if entry.role == "quantization" else AMPLIFICATION)
        after = [r for i in consumers.get(index, []) if (r := ratios[i]) is not None]
        persists = entry.tensor in graph.outputs or not after or min(after) < floor + _PERSISTS_DB
        departs = accused < floor and persists
        layers.append(
            Layer(
                tensor=entry.tensor,
                reference=entry.reference,
                module=entry.node.module,
                op=entry.node.op,
                role=entry.role,
                shape=difference.shape,
                sqnr_db=sqnr,
                input_sqnr_db=incoming,
                own_db=own,
                max_abs=difference.largest,
                departs=departs,
                reason=_reason(difference, sqnr, incoming, floor) if departs else "",
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


def _incoming(index: int, entries: Sequence[Entry], ratios: Sequence[float | None]) -> float:
    """Return the signal over the noise that an entry's inputs bring: the noisiest tensor's and the weights' add up."""
    worst = {"weights": math.inf, "layer": math.inf}
    for source in entries[index].inputs:
        ratio = ratios[source]
        if ratio is not None:
            kind = "weights" if entries[source].role == "weights" else "layer"
            worst[kind] = min(worst[kind], ratio)
    noise = sum(10 ** (-ratio / 10) for ratio in worst.values())
    return math.inf if noise <= 0 else -10 * math.log10(noise)


def _own(sqnr: float, incoming: float, amplification: float) -> float:
    """Return the ratio of the output to the noise that the inputs do not explain, dB."""
    own = 10 ** (-sqnr / 10) - amplification * 10 ** (-incoming / 10)
    return math.inf if own <= 0 else -10 * math.log10(own)


def _reason(difference: Difference, sqnr: float, incoming: float, floor: float) -> str:
    """Say why a tensor departs."""
    if difference.mismatch:
        return f"its shape is {list(difference.shape)}, and {list(difference.mismatch)} in the reference"
    if difference.nonfinite:
        return "it has NaN or infinity"
    came = "exact inputs" if math.isinf(incoming) else f"inputs at {decibels(incoming)}"
    return f"{decibels(sqnr)} from {came}, where this precision explains no less than {floor:g} dB"


def _note(layers: Sequence[Layer], floor: float) -> str:
    """Say what follows when no layer stands out although the output is bad."""
    if not layers or any(layer.departs for layer in layers) or layers[-1].sqnr_db >= floor:
        return ""
    return (
        f"the last tensor is at {decibels(layers[-1].sqnr_db)} although no layer stands out: the noise of many layers adds up, "
        "so look at the lowest values under 'own'"
    )
