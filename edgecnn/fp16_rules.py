"""What stays FP32 in an FP16 graph, and why: one reason a node, from the graph's structure, its weights and measured peaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, GraphError, SpecError
from edgecnn.onnxio import load_ir, scratch_file
from edgecnn.optional import need
from edgecnn.progress import Progress
from edgecnn.runtime.ort import OrtOptions, OrtSession

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "FP16_MAX",
    "QDQ",
    "TOLERATED",
    "Peaks",
    "Slots",
    "dequantizes_weight",
    "is_float",
    "kept_nodes",
    "measure",
    "rounded_scale",
    "scale_error",
    "scale_fits",
    "slots_of",
]

Array = NDArray[Any]

FP16_MAX = 65504.0
FP16_LEAST = 2.0**-24
TOLERATED = 1e-3
"""Relative error, root of mean squares, up to which rounding a weight is accepted. Rounding in FP16's normal range makes 2e-4 to
3e-4; beyond 1e-3 the weight lies among the subnormals (below 6.1e-5), where precision is lost bit by bit."""
CLIP_TOLERATED = 0.05
"""The same for an activation's scale: a Q and its DQ share the rounded one, so that only the clipping range moves by this."""

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})
SUMS = MEANS | {"AveragePool", "ReduceSum"}
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "DeformConv"})


@dataclass(frozen=True)
class Slots:
    """Positions of a node's float inputs and outputs that may become FP16."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Peaks:
    """What the float model reaches on the samples.

    Attributes:
        tensors: largest magnitude of each float tensor that depends on the input.
        sums: node that averages or sums -> the largest sum of magnitudes that one of its outputs is made of.
    """

    tensors: Mapping[str, float]
    sums: Mapping[str, float]


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32."""
    return value is not None and value.dtype == need("onnx_ir").DataType.FLOAT


def constant_of(value: ir.Value | None) -> Array | None:
    """Return an initializer's values, None for anything else."""
    return None if value is None or value.const_value is None else np.asarray(value.const_value.numpy())


def slots_of(node: ir.Node, opset: int) -> Slots:
    """Return what ONNX's operator schema lets become FP16: each type variable of the node that allows it.

    An input of fixed type (the scales of Resize) stays, and so does an output whose type an attribute sets. Q/DQ have no slots:
    their types follow their neighbours.
    """
    onnx = need("onnx")
    if node.op_type in QDQ or node.domain not in ("", "ai.onnx"):
        return Slots()
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    allowed = {item.type_param_str for item in schema.type_constraints if "tensor(float16)" in item.allowed_type_strs}

    def variable(formal: Sequence[Any], index: int) -> str:
        return str(formal[min(index, len(formal) - 1)].type_str)  # the last one of them may be variadic

    inputs = {i: variable(schema.inputs, i) for i, value in enumerate(node.inputs) if is_float(value)}
    bound = allowed & set(inputs.values())
    outputs = {i for i, value in enumerate(node.outputs) if is_float(value) and variable(schema.outputs, i) in bound}
    return Slots(frozenset(i for i, name in inputs.items() if name in bound), frozenset(outputs))


def rounded_scale(scale: Array) -> Array:
    """Return a Q/DQ scale as float16; one that would become 0, which no runtime takes, becomes the smallest number."""
    return np.maximum(scale.astype(np.float16), np.float16(FP16_LEAST))


def weight_error(weight: Array) -> float:
    """Return the relative error of a constant in FP16, |rounded - exact| over |exact| as norms; infinite where it overflows."""
    exact = weight[np.isfinite(weight)].astype(np.float64)  # infinity is a number of FP16 too
    if np.abs(exact).max(initial=0) > FP16_MAX:
        return float("inf")
    return _relative(exact.astype(np.float16) - exact, exact)


def dequantizes_weight(node: ir.Node) -> bool:
    """Whether a DequantizeLinear reads a constant."""
    return node.op_type == "DequantizeLinear" and constant_of(node.inputs[0]) is not None


def scale_fits(node: ir.Node) -> bool:
    """Whether a Q or DQ can have its scale in FP16."""
    return scale_error(node) <= (TOLERATED if dequantizes_weight(node) else CLIP_TOLERATED)


def scale_error(node: ir.Node) -> float:
    """Return the relative error that a scale in FP16 makes: of the dequantized weights, else of the scale itself."""
    scale = constant_of(node.inputs[1])
    if scale is None:
        raise GraphError(f"{node.name}: its scale is not constant, which no TensorRT takes")
    integers = constant_of(node.inputs[0]) if dequantizes_weight(node) else None
    counts: Array = np.ones(1)
    if integers is not None:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        channels = np.moveaxis(integers, axis, 0).reshape(scale.size, -1) if scale.ndim else integers.reshape(1, -1)
        counts = np.sqrt((channels.astype(np.float64) ** 2).sum(axis=1))
        if np.abs(scale * np.abs(channels.astype(np.float64)).max(axis=1)).max() > FP16_MAX:
            return float("inf")
    exact = scale.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        rounded = rounded_scale(scale).astype(np.float64).reshape(-1)
    return _relative((rounded - exact) * counts, exact * counts)


def _relative(error: Array, exact: Array) -> float:
    """Return the ratio of two norms, 0 where both are."""
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / norm if norm else 0.0


def measure(path: Path, samples: Iterable[Mapping[str, Array]], *, threads: int = 0, progress: Progress) -> Peaks:
    """Run the model on the samples with a reduction behind every float tensor.

    The reductions are nodes of the graph, so that a tensor's memory is free again once it has been reduced: the whole takes
    little more memory than the model itself, however many samples and tensors there are.

    Raises:
        DataError: no samples, or the model makes NaN of one.
    """
    model = load_ir(path)
    need("onnx_ir.passes.common").ShapeInferencePass()(model)
    probe = _Probe(model)
    total = len(samples) if isinstance(samples, Sized) else 0
    count = 0
    with scratch_file(model) as file, OrtSession(file, OrtOptions(threads=threads)) as session:
        for feed in samples:
            probe.add(session.run(feed))
            count += 1
            progress("fp16", count, total)
    if not count:
        raise DataError("fp16: there are no samples to measure the ranges on")
    return Peaks(tensors=probe.tensors, sums=probe.sums)


class _Probe:
    """Adds the reductions to a graph and takes note of their results."""

    def __init__(self, model: ir.Model) -> None:
        """Replace the graph's outputs by one number a tensor."""
        self.ir, self.graph = need("onnx_ir"), model.graph
        nodes = list(model.graph)
        self.tensors: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.outputs: dict[str, tuple[dict[str, float], str, tuple[str, ...] | float]] = {}
        model.graph.outputs.clear()
        for value in model.graph.inputs:
            self._peak(value, self.tensors, str(value.name), 1.0)
        for node in nodes:
            if all(constant_of(value) is not None for value in node.inputs if value is not None):
                continue
            for value in node.outputs:
                if is_float(value):
                    self._peak(value, self.tensors, str(value.name), 1.0)
            if node.op_type in SUMS and is_float(node.inputs[0]):
                self._sum(node)

    def add(self, results: Mapping[str, Array]) -> None:
        """Take note of one sample. Raises DataError at NaN."""
        for output, (into, name, factor) in self.outputs.items():
            found = float(results[output])
            if isinstance(factor, float):
                found *= factor
            else:
                found *= float(results[factor[0]]) / float(results[factor[1]])
            if np.isnan(found):
                raise DataError(f"fp16: the float model makes NaN at {name}: check the samples and the model")
            into[name] = max(into.get(name, 0.0), found)

    def _sum(self, node: ir.Node) -> None:
        """Measure the sum of magnitudes: the node itself on magnitudes, times the number of elements it divides by."""
        inputs = [self._node("Abs", [node.inputs[0]]), *node.inputs[1:]]
        mean = self._node(node.op_type, inputs, dict(node.attributes))
        factor: tuple[str, ...] | float = 1.0
        if node.op_type in MEANS:
            sizes = [self._node("Size", [value]) for value in (node.inputs[0], node.outputs[0])]
            factor = tuple(self._output(value, self.ir.DataType.INT64) for value in sizes)
        elif node.op_type == "AveragePool":
            factor = float(prod(node.attributes["kernel_shape"].as_ints()))
        self._peak(mean, self.sums, str(node.name), factor)

    def _peak(self, value: ir.Value, into: dict[str, float], name: str, factor: tuple[str, ...] | float) -> None:
        """Make the largest magnitude of a tensor an output."""
        peak = self._node("ReduceMax", [self._node("Abs", [value])], {"keepdims": 0})
        self.outputs[self._output(peak, self.ir.DataType.FLOAT)] = (into, name, factor)

    def _output(self, value: ir.Value, dtype: Any) -> str:
        """Make a scalar a graph output and return its name."""
        value.name, value.shape, value.dtype = f"probe_{len(self.graph.outputs)}", self.ir.Shape([]), dtype
        self.graph.outputs.append(value)
        return value.name

    def _node(self, op: str, inputs: Sequence[Any], attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """Add a node at the end."""
        node = self.ir.node(op, inputs, attributes=attributes or {}, num_outputs=1)
        self.graph.append(node)
        return node.outputs[0]  # type: ignore[no-any-return]


def kept_nodes(
    model: ir.Model, slots: Mapping[str, Slots], patterns: Sequence[str], headroom: float, peaks: Peaks
) -> dict[str, str]:
    """Return node name -> the reason why it stays FP32, in graph order.

    Args:
        model: with types of all values.
        slots: of every node, by name.
        patterns: regular expressions over node names.
        headroom: factor between the measured peaks and the largest number of FP16.
        peaks: measured.

    Raises:
        SpecError: a pattern finds no node.
    """
    nodes = [node for node in model.graph if node.op_type not in QDQ]
    asked = _asked(nodes, patterns)
    steering = _steering(nodes)
    kept: dict[str, str] = {}
    for node in nodes:
        name = str(node.name)
        reason = (
            "kept FP32 as asked"
            if name in asked
            else _structure(node, slots[name], steering)
            or _overflow(node, headroom, peaks)
            or _weights(node, slots[name])
        )
        if reason:
            kept[name] = reason
    kept.update(_between(nodes, slots, kept))
    return {str(node.name): kept[str(node.name)] for node in nodes if node.name in kept}


def _asked(nodes: Sequence[ir.Node], patterns: Sequence[str]) -> set[str]:
    """Return the nodes that the user keeps FP32."""
    asked: set[str] = set()
    for pattern in patterns:
        found = {str(node.name) for node in nodes if re.search(pattern, str(node.name))}
        if not found:
            some = ", ".join(str(node.name) for node in nodes if node.op_type in WEIGHTED)[:200]
            raise SpecError(f"keep_float {pattern!r} finds no node; layers with weights are {some} ...")
        asked |= found
    return asked


def _structure(node: ir.Node, slots: Slots, steering: set[int]) -> str:
    """Return the reason that a node's operator is, or an empty string."""
    if node.op_type == "DeformConv":
        return "its offsets are coordinates: the 11 bits of FP16 would move them"
    if id(node) in steering:
        return "makes offsets or masks of a deformable convolution, which are coordinates"
    if node.op_type in ("Softmax", "LogSoftmax"):
        return "sums exponentials: in FP16 small probabilities are lost"
    if slots.inputs or slots.outputs or not any(is_float(value) for value in (*node.inputs, *node.outputs)):
        return ""
    return f"the operator {node.domain or 'ai.onnx'}::{node.op_type} has no FP16 form"


def _steering(nodes: Sequence[ir.Node]) -> set[int]:
    """Return the nodes whose outputs only become offsets or masks of DeformConv, up to the layer that computes them."""
    found: set[int] = set()
    for node in reversed(nodes):
        uses = [use for value in node.outputs for use in value.uses()]
        steers = [use.node.op_type == "DeformConv" and use.idx in (2, 4) for use in uses]
        follows = [id(use.node) in found and use.node.op_type not in WEIGHTED for use in uses]
        if uses and all(a or b for a, b in zip(steers, follows, strict=True)):
            found.add(id(node))
    return found


def _overflow(node: ir.Node, headroom: float, peaks: Peaks) -> str:
    """Return the reason that a measured peak is, or an empty string."""
    for role, values in (("input", node.inputs), ("output", node.outputs)):
        for value in values:
            peak = peaks.tensors.get(str(value.name), 0.0) if value is not None else 0.0
            if peak * headroom > FP16_MAX:
                return f"its {role} {value.name} reaches {peak:.3g}, times {headroom:g} beyond FP16's 65504"  # type: ignore[union-attr]
    total = peaks.sums.get(str(node.name), 0.0)
    if total * headroom > FP16_MAX:
        return f"it sums magnitudes up to {total:.3g}, times {headroom:g} beyond FP16's 65504"
    return ""


def _weights(node: ir.Node, slots: Slots) -> str:
    """Return the reason that a constant of the node is, or an empty string."""
    for index in sorted(slots.inputs):
        value = node.inputs[index]
        weight = constant_of(value)
        if weight is not None:
            error = weight_error(weight)
            bias = index == 2 and node.op_type in WEIGHTED  # a tiny one is lost in the sum anyway
            if np.isinf(error) or (error > TOLERATED and not bias):
                return _lossy(str(value.name), weight, error)  # type: ignore[union-attr]
        source = value.producer() if value is not None else None
        if source is not None and source.op_type == "DequantizeLinear" and not scale_fits(source):
            return f"the scale of {source.name} is off by {scale_error(source):.2g} in FP16: too small or too large"
    return ""


def _lossy(name: str, weight: Array, error: float) -> str:
    """Say what FP16 does to a constant."""
    if np.isinf(error):
        return f"its constant {name} reaches {np.abs(weight).max():.3g}, beyond FP16's 65504"
    flushed = int(((weight != 0) & (weight.astype(np.float16) == 0)).sum())
    return f"its constant {name} is off by {error:.2g} in FP16: {flushed} of {weight.size} values become 0"


def _between(nodes: Sequence[ir.Node], slots: Mapping[str, Slots], kept: Mapping[str, str]) -> dict[str, str]:
    """Return the nodes without weights that lie between FP32 nodes alone: FP16 there would only cost two casts.

    The largest such set: all candidates at first, less those that touch an FP16 node until none does.
    """
    inside = {str(n.name) for n in nodes if n.op_type not in WEIGHTED and slots[str(n.name)].outputs} - set(kept)

    def wide(node: ir.Node | None) -> bool:
        return node is not None and (node.name in kept or node.name in inside)

    def touches(node: ir.Node) -> bool:
        given = [value for value in node.inputs if is_float(value) and constant_of(value) is None]
        sources = [value.producer() for value in given if value is not None]
        sources = [source for source in sources if source is None or source.op_type not in QDQ]  # Q/DQ take either type
        readers = [use.node for value in node.outputs for use in value.uses() if use.node.op_type not in QDQ]
        return not (sources and all(map(wide, sources)) and all(map(wide, readers)))

    while leaving := {str(node.name) for node in nodes if node.name in inside and touches(node)}:
        inside -= leaving
    return dict.fromkeys(inside, "lies between FP32 nodes, Q/DQ and outputs alone: FP16 would only cost casts")
