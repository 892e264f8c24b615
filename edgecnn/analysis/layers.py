"""Which layers of a quantized graph there are to measure: their float inputs, quantizers, weights and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgecnn.parity.trace import Entry, Graph, Node, match_graphs
from edgecnn.quantize.rules import SILENT

__all__ = ["Place", "Quantizer", "places"]

ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish"})
"""What a layer's kernel computes too, where nothing else reads the layer's output."""

NO_LAYERS = SILENT | {"Cast"}
"""Operators without arithmetic."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
BITS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True)
class Quantizer:
    """What quantizes one tensor.

    Attributes:
        tensor: its name, in both graphs.
        scale, zero_point: code = round(value / scale) + zero point.
        least, most: codes of the type.
    """

    tensor: str
    scale: float
    zero_point: int
    least: int
    most: int

    @property
    def low(self) -> float:
        """The smallest value that a code stands for."""
        return (self.least - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The largest value that a code stands for."""
        return (self.most - self.zero_point) * self.scale


@dataclass(frozen=True)
class Place:
    """A layer, as it lies in both graphs.

    Attributes:
        node: in the quantized graph. ``twin``: in the float one.
        output: the tensor that it gives, behind an activation that belongs to it; of this name in both graphs.
        quantizers: of its inputs. ``sources``: its inputs as they were before quantization.
        weight: the quantized weights and the float ones, names of tensors; None for float weights, or none at all.
    """

    node: Node
    twin: Node
    output: str
    quantizers: tuple[Quantizer, ...]
    sources: tuple[str, ...]
    weight: tuple[str, str] | None

    @property
    def noisy(self) -> bool:
        """Whether anything that it reads is quantized."""
        return bool(self.quantizers) or self.weight is not None


def places(reference: Graph, candidate: Graph) -> tuple[Place, ...]:
    """Return the layers that a float graph and its quantized form have in common, in the order of computation."""
    entries = {entry.tensor: entry for entry in match_graphs(reference, candidate)}
    twins = {node.name: node for node in reference.nodes if node.name}
    readers, casts = _readers(reference), _casts(candidate)
    twin_of = {node.name: twins[node.name] for node in candidate.nodes if node.name in twins}
    inside: set[str] = set()
    found = []
    for node in candidate.nodes:
        tensor = node.outputs[0] if node.outputs else ""
        tensor = tensor if tensor in entries else casts.get(tensor, tensor)
        skipped = node.op in NO_LAYERS or node.op in QUANTIZERS or node.name in inside
        if skipped or node.name not in twin_of or tensor not in entries or tensor in candidate.constants:
            continue
        follower = _activation(tensor, readers, reference, candidate)
        if follower is not None:
            inside.add(follower.name)
            tensor = follower.outputs[0]
        if tensor in entries:
            found.append(_place(node, twin_of[node.name], tensor, entries, (reference, candidate)))
    return tuple(found)


def _readers(graph: Graph) -> dict[str, list[Node]]:
    """Return the nodes that read each tensor."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found


def _casts(graph: Graph) -> dict[str, str]:
    """Return what casts make of tensors: a layer in float16 at the end of the graph gives its output through one."""
    return {node.inputs[0]: node.outputs[0] for node in graph.nodes if node.op == "Cast"}


def _activation(tensor: str, readers: Mapping[str, list[Node]], reference: Graph, candidate: Graph) -> Node | None:
    """Return the activation that alone reads a tensor, in both graphs without Q/DQ between."""
    found = readers.get(tensor, [])
    if len(found) != 1 or found[0].op not in ACTIVATIONS or tensor in reference.outputs:
        return None
    output = found[0].outputs[0]
    position = candidate.producer.get(output)
    if position is None or candidate.nodes[position].inputs[0] != tensor:
        return None
    return candidate.nodes[position]


def _place(node: Node, twin: Node, output: str, entries: Mapping[str, Entry], graphs: tuple[Graph, Graph]) -> Place:
    """Describe one layer."""
    reference, candidate = graphs
    quantizers: list[Quantizer] = []
    sources: dict[str, None] = {}
    weight = None
    for entry, name in _inputs(node, entries, candidate):
        if entry is None:
            if name in reference.inputs:
                sources[name] = None
        elif entry.role == "weights":
            weight = (entry.tensor, entry.reference) if entry.node.op in QUANTIZERS else weight
        else:
            sources[entry.reference] = None
            if entry.role == "quantization":
                quantizers.append(_quantizer(entry, candidate))
    return Place(node, twin, output, tuple(quantizers), tuple(sources), weight)


def _inputs(node: Node, entries: Mapping[str, Entry], graph: Graph) -> Iterator[tuple[Entry | None, str]]:
    """Yield what a node reads, looking through casts: the tensor that both graphs know, and its name."""
    for name in node.inputs:
        while name not in entries and name in graph.producer and graph.nodes[graph.producer[name]].op == "Cast":
            name = graph.nodes[graph.producer[name]].inputs[0]  # noqa: PLW2901 -- the walk replaces it
        yield entries.get(name), name


def _quantizer(entry: Entry, graph: Graph) -> Quantizer:
    """Read the constants of the DequantizeLinear that gives a tensor."""
    _, scale, *rest = entry.node.inputs
    zero: NDArray[Any] | None = graph.weights[rest[0]]() if rest else None
    least, most = BITS["uint8" if zero is None else str(zero.dtype)]
    point = 0 if zero is None else int(zero.reshape(-1)[0])
    return Quantizer(entry.reference, float(graph.weights[scale]().reshape(-1)[0]), point, least, most)
