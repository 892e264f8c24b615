"""DeformConv for runtimes that lack it: GridSample and a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import GraphError
from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._build import Builder, remove_unused

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["DeformGridSample"]

Array = NDArray[Any]
Pair = Sequence[int]


class DeformGridSample(Pass):
    """Replaces each DeformConv: GridSample fetches what the kernel's taps see, a 1x1 convolution sums it up.

    GridSample is asked for a plane of (taps, output pixels) and so returns the im2col matrix (N, C * taps, H_out,
    W_out), which is held whole: kernel area times the input's size for stride 1. Both operators interpolate bilinearly
    between pixel centres and take each of the four neighbours for zero where it lies outside the image.
    """

    name = "deform_gridsample"
    requires = "opset 19; DeformConv in 2-D and float32, with a constant weight, of inputs with static height and width"
    ensures = "no DeformConv is left"

    def apply(self, model: ir.Model) -> int:
        """Replace every DeformConv and return how many there were. Raises GraphError; see :class:`Pass`."""
        nodes = [node for node in model.graph if node.op_type == "DeformConv" and node.domain == ""]
        if any(_static_dims(value) is None for node in nodes for value in (node.inputs[0], node.inputs[2])):
            need("onnx_ir.passes.common").ShapeInferencePass()(model)
        for node in nodes:
            _replace(model.graph, node)
        return len(nodes)


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    """The sizes of one DeformConv; pairs are (height, width).

    ``before`` is the padding at the top and the left: that at the bottom and the right shows in ``out_size`` alone.
    """

    channels: int
    size: Pair
    out_size: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    offset_groups: int

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """Output pixels."""
        return self.out_size[0] * self.out_size[1]

    @property
    def unit(self) -> Array:
        """One pixel in GridSample's units, in which the image reaches from -1 to 1: (2, 1), y before x."""
        return np.asarray(2 / np.asarray(self.size)[:, None])

    @property
    def base(self) -> Array:
        """Where taps look without offsets, in GridSample's units: (taps, 2, positions), y before x."""
        taps, outputs = (np.indices(plane).reshape(2, -1) for plane in (self.kernel, self.out_size))
        stride, dilation, before = (np.asarray(pair)[:, None] for pair in (self.stride, self.dilation, self.before))
        pixels = (taps * dilation - before).T[:, :, None] + outputs * stride
        # With align_corners=0 the first pixel's centre is half a pixel inside, and a size of 1 is no special case.
        return np.asarray((pixels + 0.5) * self.unit - 1)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    """Put GridSample and a convolution in the place of one DeformConv."""
    weight = _weight(node)
    g = _geometry(node, weight)
    image, _, offset, bias, mask = (*node.inputs, None, None)[:5]
    build = Builder(graph, str(node.name), dict(node.metadata_props))
    if g.offset_groups > 1:
        image = build.reshape("by_group", image, -1, g.channels // g.offset_groups, *g.size)
    # The mode is left out: bilinear is the default, but its name changed with opset 20, and TensorRT takes names that
    # it does not know for "nearest" (onnx-tensorrt 10.1-GA, onnxOpImporters.cpp, GridSample).
    samples = build.node(
        "sample", "GridSample", [image, _grid(build, g, offset)], padding_mode="zeros", align_corners=0
    )
    if mask is not None:
        samples = build.node("weigh", "Mul", [samples, build.reshape("mask", mask, -1, 1, g.taps, g.positions)])
    columns = build.reshape("columns", samples, -1, g.channels * g.taps, *g.out_size)
    inputs = [columns, build.constant("weight", weight.reshape(len(weight), -1, 1, 1))]
    if bias is not None:
        inputs.append(bias)
    result = build.node("sum", "Conv", inputs, group=node.attributes.get_int("group", 1))
    replaced = node.inputs[1]
    need("onnx_ir").convenience.replace_nodes_and_values(graph, node, [node], build.nodes, node.outputs, [result])
    remove_unused(graph, replaced)


def _grid(build: Builder, g: _Geometry, offset: ir.Value | None) -> ir.Value:
    """Turn offsets in pixels into a grid.

    (N, offset groups * taps * 2, H_out, W_out), y before x, to (N * offset groups, taps, H_out * W_out, 2), x before y.
    """
    grid = build.reshape("offsets", offset, -1, g.taps, 2, g.positions)
    grid = build.node("scale", "Mul", [grid, build.constant("unit", g.unit.astype(np.float32))])
    grid = build.node("shift", "Add", [grid, build.constant("base", g.base.astype(np.float32))])
    grid = build.node("pair", "Transpose", [grid], perm=[0, 1, 3, 2])
    return build.node("swap", "Gather", [grid, build.constant("x_before_y", np.asarray([1, 0]))], axis=3)


def _weight(node: ir.Node) -> Array:
    """Return the weight. Raises GraphError where it is no float32 constant."""
    value = node.inputs[1]
    constant = None if value is None else value.const_value
    if constant is None or constant.dtype != need("onnx_ir").DataType.FLOAT:
        found = "one that is computed" if constant is None else constant.dtype.name
        raise GraphError(
            f"{node.name}: deform_gridsample needs a constant float32 weight, found {found}: keep deformable "
            "convolutions in float32, whose precision the sampling coordinates need"
        )
    return constant.numpy()


def _geometry(node: ir.Node, weight: Array) -> _Geometry:
    """Read a node's sizes. Raises GraphError where they are not static."""
    planes = []
    for value in (node.inputs[0], node.inputs[2]):
        dims = _static_dims(value)
        if dims is None:
            raise GraphError(
                f"{node.name}: deform_gridsample needs 4 dimensions, all but the batch fixed, found {value}: export "
                "the network with a fixed image size"
            )
        planes.append(dims)
    (channels, *size), (_, *out_size) = planes
    return _Geometry(
        channels=channels,
        size=size,
        out_size=out_size,
        kernel=weight.shape[2:],
        stride=node.attributes.get_ints("strides", (1, 1)),
        dilation=node.attributes.get_ints("dilations", (1, 1)),
        before=node.attributes.get_ints("pads", (0, 0))[:2],
        offset_groups=node.attributes.get_int("offset_group", 1),
    )


def _static_dims(value: ir.Value | None) -> list[int] | None:
    """Return a 4-D tensor's channels, height and width, or None where they are not known."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    dims = [dim for dim in value.shape[1:] if isinstance(dim, int)]
    return dims if len(dims) == 3 else None
