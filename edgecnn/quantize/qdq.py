"""Writes Q/DQ pairs into an onnx-ir graph, by decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import add_initializer
from edgecnn.optional import need
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.rules import Decision, Placement

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["activation_scale", "insert", "integer_bias", "quantize_weight"]

Array = NDArray[Any]


def activation_scale(low: float, high: float, *, symmetric: bool) -> tuple[np.float32, int]:
    """Return (scale, zero point) of an activation: int8 in -127..127 about 0, or uint8 that represents 0 exactly."""
    if symmetric:
        return np.float32(max(high, -low, 1e-8) / 127), 0
    scale = np.float32(max(high - low, 1e-8) / 255)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def quantize_weight(weight: Array, axis: int) -> tuple[Array, Array]:
    """Return (int8 weight, float32 scale per channel of ``axis``): symmetric, -127..127; an all-zero channel gets scale 1."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.abs(weight).max(axis=others)
    scale = np.where(peak > 0, peak / 127, 1.0).astype(np.float32)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8), scale


def integer_bias(bias: Array, scale: Array) -> tuple[Array, Array]:
    """Return (int32 bias, its float32 scale): in units of input scale times weight scale, as integer kernels accumulate."""
    scale = scale.astype(np.float32)
    limits = np.iinfo(np.int32)
    exact = np.rint(bias.astype(np.float64) / scale)
    return np.clip(exact, limits.min, limits.max).astype(np.int32), scale


def insert(
    model: ir.Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    config: QuantizeConfig,
    means: Mapping[str, Array],
) -> None:
    """Change the graph in place.

    Args:
        model: float graph.
        placement: of this graph.
        ranges: (low, high) of each of the placement's measured tensors.
        config: scheme.
        means: channel means of what quantized weights meet, for bias correction; empty leaves it out.
    """
    writer = _Writer(model, ranges, config, placement)
    nodes = {str(node.name): node for node in model.graph}
    for decision in placement.decisions:
        if decision.weight:
            writer.weight(nodes[decision.node], means)
    if config.symmetric:
        for decision in placement.decisions:
            writer.feed(nodes[decision.node], decision)
    else:
        writer.feed_all()
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():  # the float weights, which would triple the file
            del model.graph.initializers[name]


class _Writer:
    """Makes the nodes of one graph."""

    def __init__(
        self, model: ir.Model, ranges: Mapping[str, tuple[float, float]], config: QuantizeConfig, placement: Placement
    ) -> None:
        """Find every activation by name."""
        self.ir = need("onnx_ir")
        self.graph, self.symmetric = model.graph, config.symmetric
        self.values = {str(value.name): value for value in model.graph.inputs}
        for node in model.graph:
            self.values.update({str(value.name): value for value in node.outputs})
        self.tensors = placement.tensors
        widest = dict(ranges)
        for group in placement.shared:
            pairs = [ranges[name] for name in group if name in ranges]
            widest |= dict.fromkeys(group, (min(low for low, _ in pairs), max(high for _, high in pairs)))
        self.scales = {name: activation_scale(*widest[name], symmetric=self.symmetric) for name in self.tensors}
        self.dequantized: dict[str, ir.Value] = {}

    def feed(self, node: ir.Node, decision: Decision) -> None:
        """Let one node read dequantized activations, as TensorRT wants it: other readers keep the float ones."""
        for index in decision.inputs:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, self._pair(value))

    def feed_all(self) -> None:
        """Let every reader of a quantized tensor read the dequantized one, so that its producer is integer throughout."""
        for name in self.tensors:
            value = self.values[name]
            uses = list(value.uses())
            pair = self._pair(value)
            for use in uses:
                use.node.replace_input_with(use.idx, pair)

    def weight(self, node: ir.Node, means: Mapping[str, Array]) -> None:
        """Make a node's weight int8 and, for the CPU, its bias int32."""
        value, source = node.inputs[1], str(node.inputs[0].name)  # type: ignore[union-attr]
        assert value is not None
        assert value.const_value is not None
        weight = value.const_value.numpy().astype(np.float32)
        axis = 0 if node.op_type == "Conv" or _attribute(node, "transB") else 1
        integers, scale = quantize_weight(weight, axis)
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
        error = integers * scale.reshape(shape) - weight
        if source in means:
            self._correct_bias(node, error, means[source], axis)
        name = f"{node.name}.weight"
        inputs = [self._constant(f"{name}_quantized", integers), self._constant(f"{name}_scale", scale)]
        if not self.symmetric:  # zeros change nothing, but without them onnxruntime leaves a Gemm in float
            inputs.append(self._constant(f"{name}_zero_point", np.zeros(scale.shape, dtype=np.int8)))
        node.replace_input_with(1, self._node(node, "DequantizeLinear", inputs, f"{name}_dequantized", axis))
        if not self.symmetric and len(node.inputs) > 2 and node.inputs[2] is not None:
            self._integer_bias(node, self.scales[source][0] * scale)

    def _correct_bias(self, node: ir.Node, error: Array, mean: Array, axis: int) -> None:
        """Subtract the mean output error of weight rounding, E[(Wq - W) x], from the bias."""
        channels = error.shape[axis]
        if node.op_type == "Gemm":
            shift = np.moveaxis(error, axis, 0) @ mean
        else:
            taps = error.reshape(channels, error.shape[1], -1).sum(axis=2)
            groups = len(mean) // error.shape[1]
            inputs = mean.reshape(groups, error.shape[1])
            shift = (taps * inputs[np.arange(channels) * groups // channels]).sum(axis=1)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        old = 0.0 if bias is None or bias.const_value is None else bias.const_value.numpy()
        corrected = self._constant(f"{node.name}.bias_corrected", np.asarray(old - shift, dtype=np.float32))
        if len(node.inputs) > 2:
            node.replace_input_with(2, corrected)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, corrected)

    def _integer_bias(self, node: ir.Node, scale: Array) -> None:
        """Make the bias int32 in units of input scale times weight scale, as integer kernels accumulate."""
        bias = node.inputs[2]
        assert bias is not None
        assert bias.const_value is not None
        integers, scale = integer_bias(bias.const_value.numpy(), scale)
        name = f"{node.name}.bias"
        inputs = [self._constant(f"{name}_quantized", integers), self._constant(f"{name}_scale", scale)]
        node.replace_input_with(2, self._node(node, "DequantizeLinear", inputs, f"{name}_dequantized", 0))

    def _pair(self, value: ir.Value) -> ir.Value:
        """Return the dequantized twin of an activation, made once."""
        name = str(value.name)
        if name not in self.dequantized:
            scale, zero = self.scales[name]
            dtype = np.int8 if self.symmetric else np.uint8
            params = [
                self._constant(f"{name}_scale", np.asarray(scale, dtype=np.float32)),
                self._constant(f"{name}_zero_point", np.asarray(zero, dtype=dtype)),
            ]
            after = value.producer()
            quantized = self._node(after, "QuantizeLinear", [value, *params], f"{name}_quantized", None)
            pair = self._node(
                quantized.producer(), "DequantizeLinear", [quantized, *params], f"{name}_dequantized", None
            )
            self.dequantized[name] = pair
        return self.dequantized[name]

    def _node(self, near: ir.Node | None, op: str, inputs: list[ir.Value], name: str, axis: int | None) -> ir.Value:
        """Add a node: behind ``near`` for activations, before it for weights, first where the graph input is quantized."""
        attributes = {} if axis is None else {"axis": axis}
        node = self.ir.node(op, inputs, attributes=attributes, num_outputs=1, name=name)
        node.outputs[0].name = name
        if near is None:
            self.graph.insert_before(self.graph[0], node)
        elif axis is None:
            self.graph.insert_after(near, node)
        else:
            self.graph.insert_before(near, node)
        return node.outputs[0]  # type: ignore[no-any-return]

    def _constant(self, name: str, array: Array) -> ir.Value:
        """Add an initializer, or return the one of that name."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        return add_initializer(self.graph, name, array)


def _attribute(node: ir.Node, name: str) -> int:
    """Return an integer attribute, 0 where it is absent."""
    found = node.attributes.get(name)
    return 0 if found is None else int(found.value)
