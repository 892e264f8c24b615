"""The sizes of a deformable convolution: worked out from its arguments, checked, and cut into chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from edgecnn.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Geometry", "geometry_of"]

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of one deformable convolution, checked against each other.

    A position is one output pixel of one image, a tap one element of the kernel; ``kernel`` and the following pairs are
    (height, width).
    """

    batch: int
    channels: int
    size: Pair
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    offset_groups: int
    out_size: Pair

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        """Output pixels of one image."""
        return self.out_size[0] * self.out_size[1]

    @property
    def positions(self) -> int:
        """Output pixels of all images."""
        return self.batch * self.pixels

    def chunks(self, values: int) -> Iterator[slice]:
        """Yield ranges of positions that sample about ``values`` numbers each, or as much in finding where to sample.

        The latter takes 16 numbers a tap and offset group.
        """
        step = max(1, values // (self.taps * max(self.channels, 16 * self.offset_groups)))
        for start in range(0, self.positions, step):
            yield slice(start, min(start + step, self.positions))


def geometry_of(
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    steps: Sequence[Sequence[int]],
) -> Geometry:
    """Check the arguments of the operator; ``steps`` are stride, padding and dilation.

    Raises:
        SpecError: a dimension, size, dtype or device that does not fit; the message names the tensor and both values.
    """
    _check_kinds({"input": image, "offset": offset, "weight": weight, "bias": bias, "mask": mask})
    stride, padding, dilation = (
        _check_pair(name, values, least)
        for (name, least), values in zip((("stride", 1), ("padding", 0), ("dilation", 1)), steps, strict=True)
    )
    batch, channels, *size = image.shape
    outputs, group_channels, *kernel = weight.shape
    if 0 in (channels, outputs, group_channels, *kernel):
        _refuse("input and weight need channels and taps", f"input {_shape(image)} and weight {_shape(weight)}")
    if channels % group_channels or outputs % (channels // group_channels):
        expected = "the input's channels must be a multiple of weight.shape[1], and weight.shape[0] of their quotient, the groups"
        _refuse(expected, f"input {_shape(image)} and weight {_shape(weight)}")
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    if min(out) < 1:
        _refuse(
            f"the {kernel[0]}x{kernel[1]} kernel with dilation {dilation} must fit into the padded input",
            f"input {_shape(image)} with padding {padding}",
        )
    geometry = Geometry(
        batch=batch,
        channels=channels,
        size=(size[0], size[1]),
        outputs=outputs,
        kernel=(kernel[0], kernel[1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels // group_channels,
        offset_groups=max(1, offset.shape[1] // (2 * kernel[0] * kernel[1])),
        out_size=(out[0], out[1]),
    )
    _check_followers(geometry, offset, bias, mask)
    return geometry


def _check_kinds(tensors: dict[str, Tensor | None]) -> None:
    image = tensors["input"]
    assert image is not None
    if not image.is_floating_point():
        _refuse("input must be of a floating dtype", str(image.dtype))
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        dimensions = 1 if name == "bias" else 4
        if tensor.dim() != dimensions:
            _refuse(f"{name} must have {dimensions} dimension{'s' * (dimensions > 1)}", _shape(tensor))
        if (tensor.dtype, tensor.device) != (image.dtype, image.device):
            expected = f"{name} must have the input's dtype and device, {image.dtype} on {image.device}"
            _refuse(expected, f"{tensor.dtype} on {tensor.device}")


def _check_pair(name: str, values: Sequence[int], least: int) -> Pair:
    if len(values) != 2 or min(values) < least:
        _refuse(f"{name} must be an integer or (height, width) of at least {least}", str(tuple(values)))
    return values[0], values[1]


def _check_followers(geometry: Geometry, offset: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    taps, groups = geometry.taps, geometry.offset_groups
    if offset.shape[1] % (2 * taps) or offset.shape[1] == 0:
        _refuse(f"offset.shape[1] must be a multiple of 2 * {taps} kernel taps", _shape(offset))
    if geometry.channels % groups:
        expected = f"the input's {geometry.channels} channels must divide into the {groups} groups of offset.shape[1]"
        _refuse(expected, f"offset {_shape(offset)}")
    expected_shapes = {"offset": (offset, 2 * groups * taps), "mask": (mask, groups * taps)}
    for name, (tensor, maps) in expected_shapes.items():
        shape = (geometry.batch, maps, *geometry.out_size)
        if tensor is not None and tuple(tensor.shape) != shape:
            _refuse(f"{name} must have the shape {shape}", _shape(tensor))
    if bias is not None and bias.shape[0] != geometry.outputs:
        _refuse(f"bias must have the {geometry.outputs} elements of weight.shape[0]", _shape(bias))


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _refuse(expected: str, found: str) -> NoReturn:
    raise SpecError(f"deform_conv2d: {expected}, found {found}")
