"""A quantized layer in its graph: what it reads, and where its weight and bias are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.optional import need
from edgecnn.quantize.correct.layer import Layer
from edgecnn.quantize.qdq import integer_bias

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Target"]

Array = NDArray[Any]


class Target:
    """A node whose input and weight come out of DequantizeLinear.

    Attributes:
        source: the integer tensor that it reads. ``scale``: of that.
    """

    def __init__(self, node: ir.Node) -> None:
        """Read the input's scale and zero point."""
        self._node = node
        source, scale, zero = _pair(node.inputs[0]).inputs
        self.source = str(source.name)  # type: ignore[union-attr]
        self.scale = np.float32(_array(scale))
        self._zero = np.int16(_array(zero))

    def centred(self, integers: Array) -> Array:
        """Return int16 with zero at 0."""
        return integers.astype(np.int16) - self._zero

    def write(self, layer: Layer, integers: Array, scale: Array, bias: Array | None) -> None:
        """Replace the constants; a bias of None stays as it is, but for the scale that an integer one shares.

        Args:
            layer: of the float graph.
            integers: int8 (G, O, K). ``scale``: float32 (G, O). ``bias``: float32 (G, O).
        """
        flat = scale.reshape(-1)
        weight = _pair(self._node.inputs[1])
        _put(weight.inputs[0], layer.in_graph(integers))
        _put(weight.inputs[1], flat)
        value = self._node.inputs[2] if len(self._node.inputs) > 2 else None
        if value is None:
            return
        exact = layer.bias if bias is None else bias
        if value.const_value is not None:
            _put(value, exact.reshape(value.const_value.shape.numpy()).astype(np.float32))
            return
        pair = _pair(value)
        whole, unit = integer_bias(exact.reshape(-1), self.scale * flat)
        _put(pair.inputs[0], whole)
        _put(pair.inputs[1], unit)


def _pair(value: ir.Value | None) -> ir.Node:
    """Return the DequantizeLinear that a value comes from."""
    producer = None if value is None else value.producer()
    assert producer is not None
    assert producer.op_type == "DequantizeLinear"
    return producer


def _array(value: ir.Value | None) -> Array:
    """Return a constant's values."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _put(value: ir.Value | None, array: Array) -> None:
    """Give a constant new values."""
    assert value is not None
    value.const_value = need("onnx_ir").tensor(array, name=value.name)
