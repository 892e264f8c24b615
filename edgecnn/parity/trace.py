"""Which tensors two forms of a network have in common, and how to read them: what bisecting stands on.

Tensors of two ONNX graphs match by name: a stage keeps the names of tensors whose meaning it keeps. What DequantizeLinear gives
stands for the tensor that was quantized, or for the weights that the node of the same name had. The output of a PyTorch
module matches the output of the last node of its scope.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import expose, load_ir, scratch_file
from edgecnn.parity.samples import Sample, feed_for
from edgecnn.runtime.ort import OrtOptions, OrtSession

if TYPE_CHECKING:
    from edgecnn.parity.torch_runner import TorchSession

__all__ = [
    "Entry",
    "Graph",
    "Node",
    "OnnxReader",
    "Reader",
    "TorchReader",
    "in_parts",
    "layers_of",
    "match_graphs",
    "match_modules",
    "read_graph",
]

Array = NDArray[Any]
T = TypeVar("T")
Role = Literal["layer", "quantization", "weights"]
_QUANTIZING = ("DequantizeLinear", "QuantizeLinear", "Cast")
_FLOATS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")
_UNKNOWN_SIZE = 1 << 20


@dataclass(frozen=True)
class Node:
    """A graph node: its name, operator, module path in the PyTorch network, and tensors."""

    name: str
    op: str
    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """An ONNX graph as bisecting needs it.

    Attributes:
        nodes: in topological order.
        producer: tensor -> index of its node.
        sizes: float tensor of a node -> elements for batch 1, estimated where the shape is unknown.
        inputs, outputs: the graph's borders.
        weights: initializer -> its values, made when called.
        constants: tensors that no input reaches: initializers and what nodes compute from them alone.
    """

    path: Path
    nodes: tuple[Node, ...]
    producer: Mapping[str, int]
    sizes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Callable[[], Array]]
    constants: frozenset[str]


@dataclass(frozen=True)
class Entry:
    """A tensor that both sides have.

    Attributes:
        tensor: its name in the candidate.
        reference: its name, or the module's path, in the reference.
        node: that produces it in the candidate.
        role: a layer's output, the same after quantization, or quantized weights.
        inputs: indices of the entries that it is computed from, through nodes that have no entry.
        between: names of those nodes, if the reference has none of that name.
        by_module: matched through a module's scope, which is less certain than a name.
    """

    tensor: str
    reference: str
    node: Node
    role: Role
    inputs: tuple[int, ...] = ()
    between: tuple[str, ...] = ()
    by_module: bool = False


class Reader(ABC):
    """Reads named tensors for one sample at a time."""

    @abstractmethod
    def read(self, sample: Sample) -> dict[str, Array]:
        """Return the tensors."""

    def close(self) -> None:  # noqa: B027 - nothing to release by default
        """Release the session."""


class OnnxReader(Reader):
    """Reads tensors of an ONNX file by making them outputs.

    The graph runs as it is written, without optimizations: they would fuse the tensors away, and a fault of a fused kernel is
    not a fault of a layer. A static batch is filled with copies of the sample, of which one is read.
    """

    def __init__(self, graph: Graph, tensors: Sequence[str]) -> None:
        """Load the model with more outputs."""
        self._weights = {name: graph.weights[name]() for name in tensors if name in graph.weights}
        self._names = [name for name in dict.fromkeys(tensors) if name not in self._weights]
        with ExitStack() as stack:
            file = stack.enter_context(scratch_file(expose(graph.path, self._names)))
            self._session = stack.enter_context(OrtSession(file, OrtOptions(optimize="disabled")))
            self._close = stack.pop_all().close
        batch = self._session.inputs[0].shape[0]
        self.copies = batch if isinstance(batch, int) else 1
        self._constants = graph.constants

    def feed(self, sample: Sample) -> dict[str, Array]:
        """Return the graph's input for a sample."""
        return feed_for(self._session, [sample] * self.copies)

    def read(self, sample: Sample) -> dict[str, Array]:
        """Run once."""
        found = self._session.run(self.feed(sample), self._names) if self._names else {}
        return {name: self.single(name, array) for name, array in found.items()} | self._weights

    def single(self, tensor: str, array: Array) -> Array:
        """Return one copy's part of a tensor."""
        return array if self.copies == 1 or tensor in self._constants else array[:1]

    def repeated(self, tensor: str, array: Array) -> Array:
        """Return a tensor of one sample for all copies."""
        return array if self.copies == 1 or tensor in self._constants else np.repeat(array, self.copies, axis=0)

    def close(self) -> None:
        """Release the session."""
        self._close()


class TorchReader(Reader):
    """Reads the outputs of modules."""

    def __init__(self, session: TorchSession, modules: Sequence[str]) -> None:
        """Hold the names."""
        self._session, self._modules = session, list(dict.fromkeys(modules))

    def read(self, sample: Sample) -> dict[str, Array]:
        """Run once."""
        return self._session.module_outputs(feed_for(self._session, [sample]), self._modules)


def read_graph(path: Path) -> Graph:
    """Read an ONNX file's structure. Raises UserError as :func:`edgecnn.onnxio.load_ir`."""
    model = load_ir(path)
    weights = {
        str(name): value.const_value.numpy
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    constants = set(weights)
    nodes: list[Node] = []
    sizes: dict[str, int] = {}
    for node in model.graph:
        inputs = tuple(str(value.name) for value in node.inputs if value is not None)
        outputs = tuple(str(value.name) for value in node.outputs if value.name)
        if all(name in constants for name in inputs):
            constants.update(outputs)
        for value in node.outputs:
            if value.name and (value.dtype is None or value.dtype.name in _FLOATS):
                sizes[str(value.name)] = _size(value.shape)
        module = node.metadata_props.get("edgecnn.module", "")
        nodes.append(Node(str(node.name), node.op_type, module, inputs, outputs))
    return Graph(
        path=path,
        nodes=tuple(nodes),
        producer={name: index for index, node in enumerate(nodes) for name in node.outputs},
        sizes=sizes,
        inputs=tuple(str(value.name) for value in model.graph.inputs),
        outputs=tuple(str(value.name) for value in model.graph.outputs),
        weights=weights,
        constants=frozenset(constants),
    )


def match_graphs(reference: Graph, candidate: Graph) -> tuple[Entry, ...]:
    """Return the tensors that two graphs share, in the candidate's order.

    The tensors must be floats in the candidate: an int8 tensor is seen through what is dequantized from it.
    """
    weights = _weights(reference, candidate)
    found: list[Entry] = []
    for node in candidate.nodes:
        for tensor in node.outputs:
            if tensor not in candidate.sizes:
                continue
            if tensor in candidate.constants:
                if tensor in weights:
                    found.append(Entry(tensor, weights[tensor], node, "weights"))
            elif tensor in reference.producer:
                found.append(Entry(tensor, tensor, node, "layer"))
            elif node.op == "DequantizeLinear" and (original := _original(node, candidate, reference)):
                found.append(Entry(tensor, original, node, "quantization"))
    readable = [entry for entry in found if entry.reference not in reference.constants or entry.role == "weights"]
    return _linked(readable, candidate, frozenset(node.name for node in reference.nodes))


def layers_of(graph: Graph) -> tuple[Entry, ...]:
    """Return the float tensors of a graph that its layers give, to be read from another form that has the same names: an engine.

    What Q/DQ and Cast give is left out: where it is read, it cannot be folded into the layers beside it.
    """
    found = [
        Entry(tensor, tensor, node, "layer")
        for node in graph.nodes
        if node.op not in _QUANTIZING
        for tensor in node.outputs
        if tensor in graph.sizes and tensor not in graph.constants
    ]
    return _linked(found, graph, frozenset(node.name for node in graph.nodes))


def _original(node: Node, candidate: Graph, reference: Graph) -> str:
    """Return the tensor of both graphs that was quantized to what a DequantizeLinear reads; "" if there is none."""
    known = {*reference.producer, *reference.inputs}
    while node.op in _QUANTIZING:
        tensor = node.inputs[0]
        if tensor in known:
            return tensor
        if tensor not in candidate.producer:
            break
        node = candidate.nodes[candidate.producer[tensor]]
    return ""


def _weights(reference: Graph, candidate: Graph) -> dict[str, str]:
    """Return the tensors that stand for a weight in the candidate: tensor -> initializer of the reference's node of that name.

    A weight is the second input of a node, as in Conv, Gemm and MatMul.
    """
    twins = {node.name: node for node in reference.nodes if node.name}
    pairs = [(node.inputs[1:2], twins[node.name].inputs[1:2]) for node in candidate.nodes if node.name in twins]
    return {own[0]: other[0] for own, other in pairs if own and other and other[0] in reference.weights}


def match_modules(session: TorchSession, sample: Sample, candidate: Graph) -> tuple[Entry, ...]:
    """Return the modules whose output a graph has, in the graph's order.

    A module's output is the output of the last node of its scope. A leaf module without nodes of its own was folded into the
    leaf before it (BatchNorm into a convolution) or does nothing (dropout in evaluation): the tensor then stands for the last
    such leaf of the same shape. A convolution whose node belongs to the BatchNorm behind it still has its name on the node, and
    no tensor.

    Args:
        session: the network.
        sample: to run once, for the order and shapes of the modules.
        candidate: the graph; its nodes carry their module's path.
    """
    last: dict[str, str] = {}
    order: dict[str, Node] = {}
    for node in candidate.nodes:
        tensors = [name for name in node.outputs if name in candidate.sizes and name not in candidate.constants]
        if not tensors or not node.module:
            continue
        order[tensors[0]] = node
        parts = node.module.split(".")
        for depth in range(1, len(parts) + 1):
            last[".".join(parts[:depth])] = tensors[0]
    shapes = session.module_shapes(feed_for(session, [sample]))
    leaves = session.leaves()
    named = {node.name.rpartition("/")[0] for node in candidate.nodes}
    chosen: dict[str, str] = {}
    previous = ""
    for module, shape in shapes.items():  # in the order in which they finished
        if module in last and (module in leaves or last[module] not in chosen):
            chosen[last[module]] = module
        elif module in leaves and module not in {*last, *named} and shapes.get(previous) == shape:
            chosen.update({tensor: module for tensor, owner in chosen.items() if owner == previous})
        if module in leaves:
            previous = module
    found = [
        Entry(tensor, chosen[tensor], node, "layer", by_module=True)
        for tensor, node in order.items()
        if tensor in chosen
    ]
    return _linked(found, candidate, frozenset(node.name for node in candidate.nodes))


def _linked(found: Sequence[Entry], graph: Graph, familiar: frozenset[str]) -> tuple[Entry, ...]:
    """Return the entries with the entries that each is computed from."""
    index = {entry.tensor: position for position, entry in enumerate(found)}
    result = []
    for entry in found:
        inputs: set[int] = set()
        between: dict[str, None] = {}
        if entry.node.name not in familiar and entry.role == "layer":
            between[entry.node.name] = None
        for tensor, node in _upstream(graph, entry.node, index):
            if tensor in index:
                inputs.add(index[tensor])
            elif node is not None and node.name not in familiar and tensor not in graph.constants:
                between[node.name] = None
        result.append(
            Entry(
                entry.tensor,
                entry.reference,
                entry.node,
                entry.role,
                tuple(sorted(inputs)),
                tuple(between),
                entry.by_module,
            )
        )
    return tuple(result)


def _upstream(graph: Graph, node: Node, stops: Mapping[str, int]) -> Iterator[tuple[str, Node | None]]:
    """Yield the tensors that a node is computed from with their producers, not going beyond ``stops``."""
    waiting, seen = list(node.inputs), set(node.inputs)
    while waiting:
        tensor = waiting.pop()
        position = graph.producer.get(tensor)
        producer = None if position is None else graph.nodes[position]
        yield tensor, producer
        if tensor in stops or producer is None:
            continue
        for name in producer.inputs:
            if name not in seen:
                seen.add(name)
                waiting.append(name)


def _size(shape: Any) -> int:
    """Return the elements of a tensor for batch 1."""
    if shape is None:
        return _UNKNOWN_SIZE
    return prod(dim if isinstance(dim, int) else 1 for dim in shape) or 1


def in_parts(items: Iterable[T], size: Callable[[T], int], memory: int) -> Iterator[list[T]]:
    """Cut items into lists whose sizes together fit into ``memory``; an item that is larger stands alone."""
    part: list[T] = []
    used = 0
    for item in items:
        own = size(item)
        if part and used + own > memory:
            yield part
            part, used = [], 0
        part.append(item)
        used += own
    if part:
        yield part


@dataclass
class Difference:
    """Running sums over samples of what one tensor differs by.

    Attributes:
        signal, noise: energies. ``largest``: absolute difference.
        nonfinite: samples where the candidate has a NaN or an infinity that the reference has not.
        shape: of the candidate's tensor.
        mismatch: the reference's shape where it is another.
    """

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    nonfinite: int = 0
    shape: tuple[int, ...] = ()
    mismatch: tuple[int, ...] = field(default=())

    def add(self, reference: Array, candidate: Array) -> None:
        """Take one sample."""
        self.shape = tuple(candidate.shape)
        if reference.shape != candidate.shape:
            self.mismatch = tuple(reference.shape)
            return
        difference = candidate.astype(np.float64) - reference
        if not np.isfinite(difference).all():
            self.nonfinite += 1
            return
        self.signal += float(np.square(reference, dtype=np.float64).sum())
        self.noise += float(np.square(difference).sum())
        self.largest = max(self.largest, float(np.abs(difference).max()))
