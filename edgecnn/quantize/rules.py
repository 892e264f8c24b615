"""Which nodes compute in INT8, and why: one decision for each node that does arithmetic."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecnn.errors import GraphError, SpecError
from edgecnn.passes.equalize import SUFFIX
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.sharing import shared_ranges
from edgecnn.quantize.structure import ACTIVATIONS, Structure, steers_deformation

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SILENT", "Decision", "Placement", "plan"]

SILENT = frozenset({"Reshape", "Flatten", "Identity", "Constant", "Transpose", "Shape", "Squeeze", "Unsqueeze"})
"""Operators without arithmetic: no decision is recorded."""

POOLS = ("MaxPool", "AveragePool")


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
        shared: groups of tensors that have one scale: what a max pool reads and gives, and with ``concat="shared"`` the inputs and
            the output of a concatenation. The scale covers the widest range of the ``measured`` ones among them.
        unmeasured: tensors that take the range of their group and need none of their own: a max pool only passes values on.
        weight_inputs: the activations that quantized weights meet, in graph order.
    """

    decisions: tuple[Decision, ...]
    tensors: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...]
    unmeasured: frozenset[str]
    weight_inputs: tuple[str, ...]

    @property
    def measured(self) -> tuple[str, ...]:
        """The tensors whose ranges are needed."""
        return tuple(name for name in self.tensors if name not in self.unmeasured)

    def to_json(self) -> dict[str, Any]:
        """Return counts, and every decision with its reason."""
        return {
            "quantized": sum(d.quantized for d in self.decisions),
            "float": sum(not d.quantized for d in self.decisions),
            "decisions": [decision.to_json() for decision in self.decisions],
        }


def plan(model: ir.Model, config: QuantizeConfig) -> Placement:
    """Decide for every node of a float graph.

    Raises:
        GraphError: the graph is quantized already, or has nothing to quantize.
        SpecError: a pattern of keep_float or quantize_only finds no node.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph):
        raise GraphError("this graph holds QuantizeLinear already: quantize the float model it was made from")
    structure = Structure(model)
    rules = _Rules(structure, config)
    decisions = tuple(rules.decide(node) for node in model.graph if node.op_type not in SILENT)
    if not any(decision.quantized for decision in decisions):
        raise GraphError("nothing to quantize: the graph has no convolution or Gemm with constant weights left to INT8")
    if config.symmetric:
        if config.concat == "shared":
            decisions = _integer_concats(structure, decisions, rules.kept)
        decisions = _integer_pools(structure, decisions, rules.kept)
    tensors = _tensors(structure, decisions)
    shared, unmeasured = shared_ranges(structure, decisions, tensors, concat=config.concat == "shared")
    sources = (structure.input_name(d.node, 0) for d in decisions if d.weight)
    return Placement(
        decisions=decisions,
        tensors=tensors,
        shared=shared,
        unmeasured=unmeasured,
        weight_inputs=tuple(dict.fromkeys(sources)),
    )


class _Rules:
    """Decides for one node at a time."""

    def __init__(self, structure: Structure, config: QuantizeConfig) -> None:
        """Find the nodes that the user keeps float."""
        self.structure, self.config = structure, config
        self.kept = dict.fromkeys(self._found("keep_float"), "kept float as asked")
        if config.quantize_only:
            others = set(structure.nodes) - self._found("quantize_only")
            self.kept |= dict.fromkeys(others, "not among the nodes to quantize")
        if not config.first_layer:
            self.kept |= dict.fromkeys(structure.first, "reads the image: kept float as asked")
        if not config.last_layer:
            self.kept |= dict.fromkeys(structure.last, "the classifier: kept float as asked")

    def _found(self, option: str) -> set[str]:
        """Return the nodes that an option's patterns find."""
        nodes = self.structure.nodes
        kept: set[str] = set()
        for pattern in getattr(self.config, option):
            found = {name for name in nodes if re.search(pattern, name)}
            if not found:
                some = ", ".join(name for name, node in nodes.items() if node.op_type == "Conv")[:200]
                raise SpecError(f"{option} {pattern!r} finds no node; convolutions are {some} ...")
            kept |= found
        return kept

    def decide(self, node: ir.Node) -> Decision:
        """Apply the rules to one node."""
        if node.name in self.kept:
            return _float(node, self.kept[node.name])
        if node.op_type in ("Conv", "Gemm"):
            return self._weighted(node)
        if node.op_type == "Add" and self.structure.is_residual(node):
            return self._residual(node)
        if node.op_type in (*POOLS, "Concat") and not self.config.symmetric:
            return self._integer_shape_op(node)
        if node.op_type in ACTIVATIONS:
            return _float(
                node, "runs in its producer's epilogue: nothing stands between a convolution and its activation"
            )
        return _float(node, FLOAT_REASONS.get(node.op_type, "no INT8 rule for this operator"))

    def _weighted(self, node: ir.Node) -> Decision:
        """Decide for a convolution or a fully connected layer."""
        weight = node.inputs[1]
        if weight is None or weight.const_value is None:
            return _float(node, "its weight is not constant")
        if node.op_type == "Conv" and self.structure.is_pooled(node.inputs[0]):
            return _float(node, "squeeze-excite branch: a gate of 1x1 maps costs nothing in float and much in INT8")
        if steers_deformation(node):
            return _float(node, "offsets and masks of a deformable convolution are coordinates: 8 bits move them")
        depthwise = self.structure.is_depthwise(node)
        if depthwise and not self.config.depthwise:
            return _float(node, "depthwise convolution: kept float as asked")
        what = "depthwise convolution" if depthwise else node.op_type
        if str(node.inputs[0].name).endswith(SUFFIX):  # type: ignore[union-attr]
            what += " behind scaled channels"
        if self.config.symmetric:
            return _int8(node, (0,), f"{what}: input per tensor, weight per channel, bias float", weight=True)
        last = id(self.structure.end(node)) in self.structure.outputs
        given = "uint8 input, float output" if last else "uint8 input and output"
        reason = f"{what}: {given}, int8 weight per channel, int32 bias"
        return _int8(node, (0,), reason, weight=True, output=True)

    def _residual(self, node: ir.Node) -> Decision:
        """Quantize the shortcut of a residual addition; on the CPU both inputs, so that the addition is integer."""
        if not self.config.symmetric:
            return _int8(node, (0, 1), "residual addition in the integer domain", output=True)
        shortcut = self.structure.shortcut(node)
        return _int8(node, (shortcut,), f"residual addition: only the shortcut (input {shortcut}) is quantized")

    def _integer_shape_op(self, node: ir.Node) -> Decision:
        """Keep pools and concats in the integer domain."""
        if any(self.structure.is_pooled(value) for value in node.inputs):
            return _float(node, "works on pooled 1x1 maps")
        return _int8(node, tuple(range(len(node.inputs))), f"{node.op_type} in the integer domain", output=True)


def _integer_concats(
    structure: Structure, decisions: tuple[Decision, ...], kept: Container[str]
) -> tuple[Decision, ...]:
    """Quantize the inputs of concatenations whose output is quantized, directly or behind a pool."""
    tensors = set(_tensors(structure, decisions))

    def change(decision: Decision) -> Decision:
        node = structure.nodes[decision.node]
        if decision.op != "Concat" or decision.node in kept or not structure.read_as(node.outputs[0], tensors):
            return decision
        return _int8(node, tuple(range(len(node.inputs))), "one scale for all inputs and the output: copied as INT8")

    # From the last one: a concatenation's inputs are outputs of earlier ones.
    changed = []
    for decision in reversed(decisions):
        changed.append(change(decision))
        tensors.update(structure.input_name(decision.node, index) for index in changed[-1].inputs)
    return tuple(reversed(changed))


def _integer_pools(structure: Structure, decisions: tuple[Decision, ...], kept: Container[str]) -> tuple[Decision, ...]:
    """Let pools between two quantized tensors read the quantized one.

    Otherwise their input would have to exist twice, in INT8 for its other readers and in float for the pool.
    """
    tensors = set(_tensors(structure, decisions))

    def change(decision: Decision) -> Decision:
        node = structure.nodes[decision.node]
        if decision.op not in POOLS or decision.node in kept:
            return decision
        if not {structure.input_name(decision.node, 0), str(node.outputs[0].name)} <= tensors:
            return decision
        return _int8(node, (0,), "its input and its output are INT8 for others: nothing is kept in float for it")

    return tuple(change(decision) for decision in decisions)


def _tensors(structure: Structure, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
    """Return the activations that the decisions quantize."""
    found: dict[str, None] = {}
    for decision in decisions:
        for index in decision.inputs:
            found[structure.input_name(decision.node, index)] = None
        if decision.output:
            end = structure.end(structure.nodes[decision.node])
            if id(end) not in structure.outputs:
                found[str(end.name)] = None
    return tuple(found)


def _float(node: ir.Node, reason: str) -> Decision:
    """Return a decision for float."""
    return Decision(node=str(node.name), op=node.op_type, inputs=(), weight=False, output=False, reason=reason)


def _int8(
    node: ir.Node, inputs: tuple[int, ...], reason: str, *, weight: bool = False, output: bool = False
) -> Decision:
    """Return a decision for INT8."""
    return Decision(node=str(node.name), op=node.op_type, inputs=inputs, weight=weight, output=output, reason=reason)


FLOAT_REASONS = {
    "MaxPool": "follows its producer: the convolutions behind it quantize its output",
    "Concat": "only moves values: the convolutions behind it quantize its output",
    "AveragePool": "averages in float: the convolutions behind it quantize its output",
    "ReduceMean": "the mean over a map is taken in float",
    "GlobalAveragePool": "the mean over a map is taken in float",
    "Sigmoid": "part of SiLU or of a gate: quantized after the multiplication only",
    "HardSigmoid": "part of hard-swish or of a gate: quantized after the multiplication only",
    "HardSwish": "an activation: quantized behind it only",
    "Mul": "SiLU or a gate: the convolutions behind it quantize its output",
    "BatchNormalization": "a normalisation that no convolution absorbs: quantized behind its activation only",
    "Min": "the cap of a ReLU6 whose channels were scaled: one a channel",
    "DeformConv": "no engine computes it in INT8",
    "Add": "adds a constant",
}
