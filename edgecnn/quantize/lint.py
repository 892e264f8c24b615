"""What is wrong, or costs speed or accuracy, in a graph with Q/DQ: one of ours or anyone's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgecnn.errors import SpecError
from edgecnn.onnxio import load_ir
from edgecnn.quantize.structure import WEIGHTED, steers_deformation
from edgecnn.quantize.view import View

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Finding", "LintTarget", "lint"]

LintTarget = Literal["tensorrt", "cpu"]

ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "Mish", "Softplus", "Tanh", "Sigmoid"}
    | {"HardSigmoid", "HardSwish", "Swish"}
)
GATES = frozenset({"Sigmoid", "HardSigmoid"})
ARITHMETIC = frozenset({*WEIGHTED, "Add", "BatchNormalization"})
"""What an activation fuses into."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault.

    Attributes:
        kind: ``zero-point``, ``integer-type``, ``integer-bias``, ``weight-per-tensor``, ``split-activation``, ``split-silu``,
            ``both-addends``, ``one-addend``, ``quantized-gate``, ``float-island``, ``quantized-logits``, ``float-bias``,
            ``float-output``.
        node: where.
        text: what was found, and why it is a fault.
    """

    kind: str
    node: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


def lint(model: Path | ir.Model, *, target: LintTarget = "tensorrt") -> tuple[Finding, ...]:
    """Return the faults of a graph with explicit Q/DQ, in graph order; a float graph has none.

    Args:
        model: a file, or the graph.
        target: ``tensorrt`` refuses what TensorRT and TensorRT-RTX refuse, and Q/DQ that keeps them from fusing. ``cpu`` looks for
            what keeps onnxruntime from its integer kernels, which need Q/DQ behind every convolution, before SiLU too.

    Raises:
        SpecError: no such target. UserError: the file cannot be read.
    """
    if target not in get_args(LintTarget):
        raise SpecError(f"target {target!r} is not one of {', '.join(get_args(LintTarget))}")
    view = View(load_ir(model) if isinstance(model, Path) else model)
    checks = (*COMMON, *(TENSORRT if target == "tensorrt" else CPU))
    return tuple(
        Finding(kind=kind, node=str(node.name), text=text)
        for node in view.nodes
        for kind, check in checks
        for text in check(view, node)
    )


def _zero_point(view: View, node: ir.Node) -> Iterator[str]:
    """Look for zero points other than 0."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
        zero = view.array(node.inputs[2])
        if zero is not None and zero.any():
            yield f"zero point {zero.ravel()[zero.ravel() != 0][0]}: TensorRT takes symmetric quantization only"


def _integer_type(view: View, node: ir.Node) -> Iterator[str]:
    """Look for unsigned activations."""
    if node.op_type == "QuantizeLinear" and len(node.inputs) > 2:
        zero = view.array(node.inputs[2])
        if zero is not None and zero.dtype.name.startswith("uint"):
            yield f"quantizes to {zero.dtype.name}: TensorRT has signed INT8 only"


def _integer_bias(view: View, node: ir.Node) -> Iterator[str]:
    """Look for quantized biases."""
    if node.op_type in WEIGHTED and len(node.inputs) > 2 and view.is_dequantized(node.inputs[2]):
        yield "its bias stands behind a DequantizeLinear: TensorRT takes a float bias"


def _weight_per_tensor(view: View, node: ir.Node) -> Iterator[str]:
    """Look for weights with one scale."""
    if node.op_type not in WEIGHTED or len(node.inputs) < 2:
        return
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return
    scale, weight = view.array(producer.inputs[1]), producer.inputs[0]
    if (
        scale is not None
        and scale.size == 1
        and weight is not None
        and weight.shape is not None
        and weight.shape[0] != 1
    ):
        yield f"one scale for a weight of {list(weight.shape)}: per channel loses far less"


def _split_activation(view: View, node: ir.Node) -> Iterator[str]:
    """Look for Q/DQ between a layer and its activation."""
    if node.op_type in ACTIVATIONS and view.is_dequantized(node.inputs[0]):
        before = view.source(node.inputs[0]).producer()
        if before is not None and before.op_type in ARITHMETIC:
            yield f"Q/DQ stands between {before.name} ({before.op_type}) and its activation: they are no longer one kernel"


def _split_silu(view: View, node: ir.Node) -> Iterator[str]:
    """Look for Q/DQ inside x * sigmoid(x)."""
    if node.op_type != "Mul" or len(node.inputs) != 2:
        return
    for gate, other in (node.inputs, reversed(node.inputs)):
        squash = view.source(gate).producer()
        if squash is None or squash.op_type not in GATES or view.source(squash.inputs[0]) is not view.source(other):
            continue
        inside = [name for name, value in (("gate", gate), ("factor", other)) if view.is_dequantized(value)]
        if view.is_dequantized(squash.inputs[0]):
            inside.append(squash.op_type)
        if inside:
            yield f"Q/DQ inside SiLU, before its {' and '.join(inside)}: quantize behind the multiplication only"
        return


def _both_addends(view: View, node: ir.Node) -> Iterator[str]:
    """Look for additions that no convolution can take in."""
    if node.op_type == "Add" and all(view.is_dequantized(value) for value in node.inputs):
        yield "both addends are quantized: one of them should come straight from its convolution, which then does the addition"


def _quantized_gate(view: View, node: ir.Node) -> Iterator[str]:
    """Look for INT8 in squeeze-excite branches."""
    if view.is_quantized(node) and view.is_pooled(node.inputs[0]) and view.scales_a_map(node):
        yield "a layer of a squeeze-excite gate is INT8: it works on 1x1 maps, costs nothing in float and much accuracy in INT8"
    if node.op_type == "Mul":
        gates = [value for value in node.inputs if view.is_pooled(value)]
        if len(gates) == 1 and view.is_dequantized(gates[0]):
            yield "the gate of squeeze-excite is quantized: it scales whole maps, so that its rounding does not average out"


def _float_island(view: View, node: ir.Node) -> Iterator[str]:
    """Look for float layers with INT8 layers on both sides."""
    if node.op_type not in WEIGHTED or view.is_quantized(node) or view.is_pooled(node.inputs[0]):
        return
    if steers_deformation(node) or not (view.has_quantized_before(node) and view.has_quantized_behind(node)):
        return
    if node.op_type == "DeformConv":
        why = "no engine computes DeformConv in INT8"
    elif view.is_dequantized(node.inputs[1]):
        before = view.source(node.inputs[0]).producer()
        why = f"its input is not quantized behind {before.op_type if before is not None else 'the graph input'}"
    else:
        why = "its weight is float"
    yield f"{node.op_type} in float between INT8 layers: {why}; values leave INT8 and come back for it"


def _quantized_logits(view: View, node: ir.Node) -> Iterator[str]:
    """Look for an output that was rounded to 8 bits."""
    if node.op_type == "DequantizeLinear" and view.reaches_output(node) and not view.is_constant(node.inputs[0]):
        yield "the network's output is quantized: close logits become equal"


def _float_bias(view: View, node: ir.Node) -> Iterator[str]:
    """Look for biases that integer kernels do not take."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if view.is_quantized(node) and bias is not None and not view.is_dequantized(bias):
        yield "its bias is float: onnxruntime's integer kernel takes an int32 bias behind a DequantizeLinear"


def _float_output(view: View, node: ir.Node) -> Iterator[str]:
    """Look for layers whose output is not quantized."""
    if node.op_type != "Conv" or not view.is_quantized(node):
        return
    end = view.end(node, ACTIVATIONS & {"Relu", "Clip"})
    readers = [use.node.op_type for use in end.uses()]
    if readers and "QuantizeLinear" not in readers:
        yield f"its output is read by {readers[0]} in float: without a QuantizeLinear there onnxruntime computes it in float"


def _one_addend(view: View, node: ir.Node) -> Iterator[str]:
    """Look for additions that cannot be integer."""
    if node.op_type != "Add" or any(view.is_constant(value) for value in node.inputs):
        return
    if sum(view.is_dequantized(value) for value in node.inputs) == 1:
        yield "one addend only is quantized: onnxruntime adds in float"


Check = Callable[[View, "ir.Node"], Iterator[str]]

COMMON: tuple[tuple[str, Check], ...] = (
    ("weight-per-tensor", _weight_per_tensor),
    ("quantized-gate", _quantized_gate),
    ("float-island", _float_island),
    ("quantized-logits", _quantized_logits),
)
TENSORRT: tuple[tuple[str, Check], ...] = (
    ("zero-point", _zero_point),
    ("integer-type", _integer_type),
    ("integer-bias", _integer_bias),
    ("split-activation", _split_activation),
    ("split-silu", _split_silu),
    ("both-addends", _both_addends),
)
CPU: tuple[tuple[str, Check], ...] = (
    ("float-bias", _float_bias),
    ("float-output", _float_output),
    ("one-addend", _one_addend),
)
