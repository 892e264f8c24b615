"""A graph with Q/DQ as if they were not there: what lint asks about it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.quantize.structure import GLOBAL_POOLS, WEIGHTED

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["View"]

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class View:
    """Facts about one graph, read once.

    Attributes:
        nodes: in graph order.
    """

    def __init__(self, model: ir.Model) -> None:
        """Walk the graph forwards, then backwards."""
        self.nodes: tuple[ir.Node, ...] = tuple(model.graph)
        self.outputs = {id(value) for value in model.graph.outputs}
        self.pooled: set[int] = set()
        self.behind: set[int] = set()
        self.before: set[int] = set()
        for node in self.nodes:
            given = self.activations(node)
            pooled = node.op_type in GLOBAL_POOLS or (bool(given) and all(self.is_pooled(value) for value in given))
            quantized = self.is_quantized(node) or any(id(value) in self.behind for value in given)
            for value in node.outputs:
                if pooled:
                    self.pooled.add(id(value))
                if quantized:
                    self.behind.add(id(value))
        for node in reversed(self.nodes):
            if self.is_quantized(node) or any(id(value) in self.before for value in node.outputs):
                self.before.update(id(value) for value in self.activations(node))

    def activations(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs that depend on the network's input."""
        return [value for value in node.inputs if value is not None and not self.is_constant(value)]

    @staticmethod
    def is_constant(value: ir.Value | None) -> bool:
        """Whether a value is a constant, or a dequantized one."""
        while value is not None and value.const_value is None:
            producer = value.producer()
            if producer is None or producer.op_type not in (*QUANTIZERS, "Identity"):
                return producer is not None and producer.op_type == "Constant"
            value = producer.inputs[0]
        return value is not None

    @staticmethod
    def is_dequantized(value: ir.Value | None) -> bool:
        """Whether a value comes out of a DequantizeLinear."""
        producer = None if value is None else value.producer()
        return producer is not None and producer.op_type == "DequantizeLinear"

    @staticmethod
    def source(value: Any) -> ir.Value:
        """Return the value before its Q/DQ."""
        while (producer := value.producer()) is not None and producer.op_type in QUANTIZERS:
            value = producer.inputs[0]
        return value  # type: ignore[no-any-return]

    def is_quantized(self, node: ir.Node) -> bool:
        """Whether a layer reads INT8 activations and INT8 weights."""
        return (
            node.op_type in WEIGHTED
            and len(node.inputs) > 1
            and all(self.is_dequantized(value) for value in node.inputs[:2])
        )

    def is_pooled(self, value: ir.Value | None) -> bool:
        """Whether a value was averaged over its maps."""
        return id(value) in self.pooled

    def has_quantized_before(self, node: ir.Node) -> bool:
        """Whether an INT8 layer leads to the node."""
        return any(id(value) in self.behind for value in self.activations(node))

    def has_quantized_behind(self, node: ir.Node) -> bool:
        """Whether the node leads to an INT8 layer."""
        return any(id(value) in self.before for value in node.outputs)

    def scales_a_map(self, node: ir.Node) -> bool:
        """Whether a node on pooled maps leads to a multiplication of maps that are not pooled."""
        queue = list(node.outputs)
        while queue:
            for use in queue.pop().uses():
                if use.node.op_type == "Mul" and not all(self.is_pooled(value) for value in use.node.inputs):
                    return True
                queue.extend(value for value in use.node.outputs if self.is_pooled(value))
        return False

    def reaches_output(self, node: ir.Node) -> bool:
        """Whether a node's output is the network's, but for a softmax or a reshape."""
        return any(
            id(value) in self.outputs
            or any(
                use.node.op_type in ("Softmax", "Reshape", "Flatten", "Identity") and self.reaches_output(use.node)
                for use in value.uses()
            )
            for value in node.outputs
        )

    def end(self, node: ir.Node, activations: Collection[str]) -> ir.Value:
        """Return the node's output, behind its activation if that is its only reader."""
        value: ir.Value = node.outputs[0]
        uses = list(value.uses())
        return uses[0].node.outputs[0] if len(uses) == 1 and uses[0].node.op_type in activations else value

    @staticmethod
    def array(value: ir.Value | None) -> NDArray[Any] | None:
        """Return a constant's values; None where it is computed, or absent."""
        if value is None or value.const_value is None:
            return None
        return value.const_value.numpy()
