"""A layer with weights as matrices: its weight, its bias, and patches of its input, by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.quantize.structure import ACTIVATIONS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Layer", "read_layer"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution, whatever its groups, or a fully connected layer.

    Attributes:
        name: of its node.
        source: the tensor that it reads.
        weight: float32 (G, O, K): G groups of O outputs, each over K inputs (channels times taps); G = 1 but for groups.
        bias: float32 (G, O), zeros where there is none.
        shape: of the weight in the graph, channels first.
        transposed: whether the graph holds the weight inputs first (Gemm without transB).
        low, high: what the activation behind it clips to, infinite where there is none; ``high`` may differ by channel, (G, O, 1).
        strides, dilations: (y, x). ``pads``: (top, left, bottom, right).
    """

    name: str
    source: str
    weight: Array
    bias: Array
    shape: tuple[int, ...]
    transposed: bool = False
    low: float = -np.inf
    high: float | Array = np.inf
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def patches(self, array: Array, count: int, seed: int) -> Array:
        """Return what the weights meet at ``count`` output positions of each sample, or at all of them: (G, K, positions).

        Args:
            array: the input, (N, C, H, W) or (N, K), of any type in which padding is 0.
            count: positions of each sample.
            seed: of which.
        """
        groups, _, inputs = self.weight.shape
        if array.ndim == 2:
            return np.ascontiguousarray(array.T)[None]
        (height, width), (rows, columns) = self._output(array.shape), array.shape[2:]
        picked = np.arange(height * width)
        if count < len(picked):
            picked = np.random.Generator(np.random.Philox(key=seed)).choice(len(picked), count, replace=False)
        taps_y, taps_x = np.divmod(np.arange(self.shape[2] * self.shape[3]), self.shape[3])
        ys = (picked // width * self.strides[0] - self.pads[0]) + (taps_y * self.dilations[0])[:, None]
        xs = (picked % width * self.strides[1] - self.pads[1]) + (taps_x * self.dilations[1])[:, None]
        outside = (ys < 0) | (ys >= rows) | (xs < 0) | (xs >= columns)
        found = array.reshape(*array.shape[:2], -1)[
            :, :, np.where(outside, 0, ys * columns + xs)
        ]  # (N, C, taps, positions)
        found[:, :, outside] = 0
        return found.transpose(1, 2, 0, 3).reshape(groups, inputs, -1)

    def _output(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the height and width of the output."""
        spans = [(size - 1) * step + 1 for size, step in zip(self.shape[2:], self.dilations, strict=True)]
        sizes = [shape[2 + axis] + self.pads[axis] + self.pads[2 + axis] - spans[axis] for axis in (0, 1)]
        return sizes[0] // self.strides[0] + 1, sizes[1] // self.strides[1] + 1

    def in_graph(self, matrix: Array) -> Array:
        """Return a (G, O, K) weight as the graph holds it."""
        array = matrix.reshape(self.shape)
        return np.ascontiguousarray(array.T) if self.transposed else array


def read_layer(node: ir.Node) -> Layer | None:
    """Read a layer of the float graph; None where it is not a plain 2-d convolution or a plain Gemm."""
    weight = node.inputs[1].const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None and given.const_value is None:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    low, high = _bounds(node)
    if isinstance(high, np.ndarray):
        high = high.reshape(attributes.get("group", 1), -1, 1)
    geometry: dict[str, Any] = {"low": low, "high": high}
    groups = 1
    if node.op_type == "Gemm":
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or attributes.get("transA", 0):
            return None
        geometry["transposed"] = not attributes.get("transB", 0)
        weight = weight.T if geometry["transposed"] else weight
    elif weight.ndim != 4 or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    else:
        groups = attributes.get("group", 1)
        for name in ("strides", "dilations", "pads"):
            if name in attributes:
                geometry[name] = tuple(attributes[name])
    matrix = np.ascontiguousarray(weight).reshape(groups, weight.shape[0] // groups, -1)
    bias = np.zeros(weight.shape[0], np.float32) if given is None else given.const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
    return Layer(
        name=str(node.name),
        source=str(node.inputs[0].name),  # type: ignore[union-attr]
        weight=matrix,
        bias=np.broadcast_to(bias.reshape(-1), weight.shape[:1]).reshape(matrix.shape[:2]),
        shape=weight.shape,
        **geometry,
    )


def _bounds(node: ir.Node) -> tuple[float, float | Array]:
    """Return what the ReLU, with a cap a channel or without, or the Clip that alone reads a node's output clips to."""
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type not in ACTIVATIONS:
        return -np.inf, np.inf
    if readers[0].op_type == "Relu":
        behind = [use.node for use in readers[0].outputs[0].uses()]
        caps = behind[0].inputs[1] if len(behind) == 1 and behind[0].op_type == "Min" else None
        return 0.0, np.inf if caps is None or caps.const_value is None else caps.const_value.numpy().reshape(-1)
    limits = [-np.inf, np.inf]
    for index, value in enumerate(readers[0].inputs[1:]):
        if value is not None and value.const_value is not None:
            limits[index] = float(value.const_value.numpy())
    return limits[0], limits[1]
