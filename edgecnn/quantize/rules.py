"""Which tensors get Q/DQ, and why: one decision for each node that does arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecnn.errors import GraphError, SpecError
from edgecnn.quantize.config import QuantizeConfig

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Decision", "Placement", "plan"]

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What a quantized range absorbs."""

GLOBAL_POOLS = frozenset({"ReduceMean", "GlobalAveragePool"})
SILENT = frozenset({"Reshape", "Flatten", "Identity", "Constant", "Transpose", "Shape", "Squeeze", "Unsqueeze"})
"""Operators without arithmetic: no decision is recorded."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one node.

    Attributes:
        node, op: its name and operator.
        inputs: positions of its inputs that get Q/DQ; empty when it stays float.
        weight: whether its weight (input 1) becomes int8 per channel.
        output: whether its output gets Q/DQ too (``int8-cpu``).
        reason: for the reader.
    """

    node: str
    op: str
    inputs: tuple[int, ...]
    weight: bool
    output: bool
    reason: str

    @property
    def quantized(self) -> bool:
        """Whether the node computes in INT8."""
        return bool(self.inputs)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"node": self.node, "op": self.op, "quantized": self.quantized, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """All decisions of a graph.

    Attributes:
        decisions: in graph order.
        tensors: activations that get Q/DQ, in graph order.
        same_range: tensor -> the tensor whose range it takes (a max pool only passes values on).
    """

    decisions: tuple[Decision, ...]
    tensors: tuple[str, ...]
    same_range: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return counts, and every decision with its reason."""
        return {
            "quantized": sum(d.quantized for d in self.decisions),
            "float": sum(not d.quantized for d in self.decisions),
            "decisions": [decision.to_json() for decision in self.decisions],
        }

    def to_text(self) -> str:
        """Return one line a decision, for goldens and people."""
        return "".join(
            f"{d.node}  {'int8 ' + str(list(d.inputs)) if d.quantized else 'float'}  {d.reason}\n"
            for d in self.decisions
        )


def plan(model: ir.Model, config: QuantizeConfig) -> Placement:
    """Decide for every node of a float graph.

    Raises:
        GraphError: the graph is quantized already, or has nothing to quantize.
        SpecError: a keep_float pattern finds no node.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph):
        raise GraphError("this graph holds QuantizeLinear already: quantize the float model it was made from")
    graph = _Graph(model, config)
    decisions = tuple(graph.decide(node) for node in model.graph if node.op_type not in SILENT)
    if not any(decision.weight for decision in decisions):
        raise GraphError("nothing to quantize: the graph has no convolution or Gemm with constant weights left to INT8")
    return Placement(
        decisions=decisions,
        tensors=graph.tensors(decisions),
        same_range=graph.same_range if not config.symmetric else {},
    )


class _Graph:
    """What the rules ask about a graph."""

    def __init__(self, model: ir.Model, config: QuantizeConfig) -> None:
        """Read the graph once."""
        self.model, self.config = model, config
        self.nodes = {str(node.name): node for node in model.graph}
        self.outputs = {id(value) for value in model.graph.outputs}
        self.depth: dict[int, int] = {}
        self.pooled: set[int] = set()
        self.same_range: dict[str, str] = {}
        for node in model.graph:
            given = [value for value in node.inputs if value is not None and value.const_value is None]
            depth = 1 + max((self.depth.get(id(value), 0) for value in given), default=0)
            pooled = node.op_type in GLOBAL_POOLS or (bool(given) and all(id(value) in self.pooled for value in given))
            for value in node.outputs:
                self.depth[id(value)] = depth
                if pooled:
                    self.pooled.add(id(value))
        self.kept = self._kept(config.keep_float)

    def _kept(self, patterns: tuple[str, ...]) -> set[str]:
        """Return the nodes that the user keeps float."""
        kept: set[str] = set()
        for pattern in patterns:
            found = {name for name in self.nodes if re.search(pattern, name)}
            if not found:
                some = ", ".join(name for name, node in self.nodes.items() if node.op_type == "Conv")[:200]
                raise SpecError(f"keep_float {pattern!r} finds no node; convolutions are {some} ...")
            kept |= found
        return kept

    def decide(self, node: ir.Node) -> Decision:
        """Apply the rules to one node."""
        if node.name in self.kept:
            return self._float(node, "kept float as asked")
        if node.op_type in ("Conv", "Gemm"):
            return self._weighted(node)
        if node.op_type == "Add" and self._is_residual(node):
            return self._residual(node)
        if node.op_type in ("MaxPool", "Concat", "AveragePool") and not self.config.symmetric:
            return self._integer_shape_op(node)
        if node.op_type == "MaxPool":
            return self._float(node, "follows its producer: the convolutions behind it quantize its output")
        if node.op_type in ACTIVATIONS:
            return self._float(
                node, "runs in its producer's epilogue: nothing stands between a convolution and its activation"
            )
        return self._float(node, FLOAT_REASONS.get(node.op_type, "no INT8 rule for this operator"))

    def tensors(self, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
        """Return the activations that the decisions quantize."""
        found: dict[str, None] = {}
        for decision in decisions:
            node = self.nodes[decision.node]
            for index in decision.inputs:
                value = node.inputs[index]
                assert value is not None
                found[str(value.name)] = None
            if decision.output:
                end = self._end(node)
                if id(end) not in self.outputs:
                    found[str(end.name)] = None
                    if node.op_type == "MaxPool":
                        self.same_range[str(end.name)] = str(node.inputs[0].name)  # type: ignore[union-attr]
        return tuple(found)

    def _weighted(self, node: ir.Node) -> Decision:
        """Decide for a convolution or a fully connected layer."""
        weight = node.inputs[1]
        if weight is None or weight.const_value is None:
            return self._float(node, "its weight is not constant")
        if node.op_type == "Conv" and id(node.inputs[0]) in self.pooled:
            return self._float(
                node, "squeeze-excite branch: a gate of 1x1 maps costs nothing in float and much in INT8"
            )
        if self._steers_deformation(node):
            return self._float(node, "offsets and masks of a deformable convolution are coordinates: 8 bits move them")
        what = "depthwise convolution" if self._is_depthwise(node) else node.op_type
        if self.config.symmetric:
            return self._int8(node, (0,), f"{what}: input per tensor, weight per channel, bias float")
        return self._int8(
            node, (0,), f"{what}: uint8 input and output, int8 weight per channel, int32 bias", output=True
        )

    def _residual(self, node: ir.Node) -> Decision:
        """Quantize the shortcut of a residual addition; on the CPU both inputs, so that the addition is integer."""
        if not self.config.symmetric:
            return self._int8(node, (0, 1), "residual addition in the integer domain", weight=False, output=True)
        depths = [self.depth.get(id(value), 0) for value in node.inputs]
        shortcut = 0 if depths[0] < depths[1] else 1
        return self._int8(
            node, (shortcut,), f"residual addition: only the shortcut (input {shortcut}) is quantized", weight=False
        )

    def _integer_shape_op(self, node: ir.Node) -> Decision:
        """Keep pools and concats in the integer domain."""
        if any(id(value) in self.pooled for value in node.inputs):
            return self._float(node, "works on pooled 1x1 maps")
        positions = tuple(range(len(node.inputs)))
        return self._int8(node, positions, f"{node.op_type} in the integer domain", weight=False, output=True)

    def _is_residual(self, node: ir.Node) -> bool:
        """Whether both addends are activations of feature maps."""
        return all(
            value is not None and value.const_value is None and id(value) not in self.pooled for value in node.inputs
        )

    def _is_depthwise(self, node: ir.Node) -> bool:
        """Whether each channel has its own filter."""
        weight = node.inputs[1]
        return node.op_type == "Conv" and weight is not None and weight.shape is not None and weight.shape[1] == 1

    def _steers_deformation(self, node: ir.Node) -> bool:
        """Whether a node's output reaches an offset or a mask of a deformable convolution without another convolution."""
        seen, queue = set(), list(node.outputs)
        while queue:
            value = queue.pop()
            for use in value.uses():
                if "Deform" in use.node.op_type and use.idx in (1, 2, 4) and use.node.inputs[use.idx] is value:
                    return True
                if id(use.node) not in seen and use.node.op_type not in ("Conv", "DeformConv", "Add", "Gemm"):
                    seen.add(id(use.node))
                    queue.extend(use.node.outputs)
        return False

    def _end(self, node: ir.Node) -> ir.Value:
        """Return the node's output, behind its activation if that is its only reader."""
        value: ir.Value = node.outputs[0]
        uses = list(value.uses())
        if len(uses) == 1 and uses[0].node.op_type in ACTIVATIONS and id(value) not in self.outputs:
            return uses[0].node.outputs[0]
        return value

    @staticmethod
    def _float(node: ir.Node, reason: str) -> Decision:
        """Return a decision for float."""
        return Decision(node=str(node.name), op=node.op_type, inputs=(), weight=False, output=False, reason=reason)

    @staticmethod
    def _int8(
        node: ir.Node, inputs: tuple[int, ...], reason: str, *, weight: bool = True, output: bool = False
    ) -> Decision:
        """Return a decision for INT8."""
        return Decision(
            node=str(node.name), op=node.op_type, inputs=inputs, weight=weight, output=output, reason=reason
        )


FLOAT_REASONS = {
    "Concat": "only moves values: the convolutions behind it quantize its output",
    "AveragePool": "averages in float: the convolutions behind it quantize its output",
    "ReduceMean": "the mean over a map is taken in float",
    "GlobalAveragePool": "the mean over a map is taken in float",
    "Sigmoid": "part of SiLU or of a gate: quantized after the multiplication only",
    "HardSigmoid": "part of hard-swish or of a gate: quantized after the multiplication only",
    "HardSwish": "an activation: quantized behind it only",
    "Mul": "SiLU or a gate: the convolutions behind it quantize its output",
    "BatchNormalization": "pre-activation normalisation: quantized behind its ReLU only",
    "DeformConv": "no engine computes it in INT8",
    "Add": "adds a constant",
}
