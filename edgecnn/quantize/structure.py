"""What the placement rules ask about a graph: where a value comes from, and what it leads to."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ACTIVATIONS", "GLOBAL_POOLS", "WEIGHTED", "Structure", "steers_deformation"]

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What a quantized range absorbs."""

GLOBAL_POOLS = frozenset({"ReduceMean", "GlobalAveragePool"})

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose", "DeformConv"})
"""Layers with weights."""


class Structure:
    """Facts about one float graph, read once.

    Attributes:
        nodes: by name, in graph order.
        first, last: names of the weighted nodes that no other one feeds, and that feed no other one.
    """

    def __init__(self, model: ir.Model) -> None:
        """Walk the graph forwards for depths and pooled maps, backwards for the last layers."""
        self.nodes: dict[str, ir.Node] = {str(node.name): node for node in model.graph}
        self.outputs = {id(value) for value in model.graph.outputs}
        self.depth: dict[int, int] = {}
        self.pooled: set[int] = set()
        self.first: set[str] = set()
        self.last: set[str] = set()
        weighted: set[int] = set()
        for node in model.graph:
            given = [value for value in node.inputs if value is not None and value.const_value is None]
            depth = 1 + max((self.depth.get(id(value), 0) for value in given), default=0)
            pooled = node.op_type in GLOBAL_POOLS or (bool(given) and all(id(value) in self.pooled for value in given))
            behind = any(id(value) in weighted for value in given)
            if node.op_type in WEIGHTED and not behind:
                self.first.add(str(node.name))
            for value in node.outputs:
                self.depth[id(value)] = depth
                if pooled:
                    self.pooled.add(id(value))
                if behind or node.op_type in WEIGHTED:
                    weighted.add(id(value))
        leading: set[int] = set()
        for node in reversed(model.graph):
            leads = any(id(value) in leading for value in node.outputs)
            if node.op_type in WEIGHTED and not leads:
                self.last.add(str(node.name))
            if leads or node.op_type in WEIGHTED:
                leading.update(id(value) for value in node.inputs)

    def input_name(self, node: str, index: int) -> str:
        """Return the name of the tensor that a node reads at a position."""
        value = self.nodes[node].inputs[index]
        assert value is not None
        return str(value.name)

    def read_as(self, value: ir.Value, tensors: Collection[str]) -> list[str]:
        """Return those of ``tensors`` that are this value, or the outcome of max pools of it: a quantizer commutes with those."""
        found = [str(value.name)] if value.name in tensors else []
        for use in value.uses():
            if use.node.op_type == "MaxPool":
                found += self.read_as(use.node.outputs[0], tensors)
        return found

    def is_pooled(self, value: ir.Value | None) -> bool:
        """Whether a value was averaged over its maps."""
        return id(value) in self.pooled

    def is_residual(self, node: ir.Node) -> bool:
        """Whether an addition's two addends are activations of feature maps."""
        return all(
            value is not None and value.const_value is None and not self.is_pooled(value) for value in node.inputs
        )

    def shortcut(self, node: ir.Node) -> int:
        """Return the input of a residual addition that fewer nodes lead to."""
        depths = [self.depth.get(id(value), 0) for value in node.inputs]
        return 0 if depths[0] < depths[1] else 1

    @staticmethod
    def is_depthwise(node: ir.Node) -> bool:
        """Whether each channel has its own filter."""
        weight = node.inputs[1]
        if node.op_type != "Conv" or weight is None or weight.shape is None:
            return False
        groups = node.attributes.get("group")
        return weight.shape[1] == 1 and groups is not None and int(groups.value) > 1

    def end(self, node: ir.Node) -> ir.Value:
        """Return the node's output, behind its activation if that is its only reader."""
        value: ir.Value = node.outputs[0]
        uses = list(value.uses())
        if len(uses) == 1 and uses[0].node.op_type in ACTIVATIONS and id(value) not in self.outputs:
            return uses[0].node.outputs[0]
        return value


def steers_deformation(node: ir.Node) -> bool:
    """Whether a node's output reaches an offset or a mask of a deformable convolution without another convolution."""
    seen, queue = set(), list(node.outputs)
    while queue:
        value = queue.pop()
        for use in value.uses():
            if "Deform" in use.node.op_type and use.idx > 0:  # its weight and bias come from no convolution
                return True
            if id(use.node) not in seen and use.node.op_type not in WEIGHTED and use.node.op_type != "Add":
                seen.add(id(use.node))
                queue.extend(use.node.outputs)
    return False
