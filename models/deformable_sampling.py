"""How the deformable convolution samples: a table of pixels, and for every sample four of its rows with their weights.

A sample is a weighted sum of four rows, which is exactly an embedding bag: one fused kernel on every device. Samples lie as
(position, tap, channel), so that the convolution that follows is one matrix product without another copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from edgecnn.models.deformable_shapes import Geometry

__all__ = [
    "Sampler",
    "Samples",
    "by_position",
    "from_groups",
    "from_kernel_matrix",
    "kernel_matrix",
    "to_groups",
    "to_maps",
    "wide",
]


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: coordinates and sums of 16-bit floats need more bits than they have."""
    return dtype if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Where a chunk of positions looks.

    Attributes:
        rows: of the pixel table, the four corners: (positions, taps, offset groups, 4).
        fraction: of the coordinates, y and x, from the upper left corner: (positions, taps, offset groups, 2).
        mask: (positions, taps, offset groups, 1), or None.
    """

    rows: Tensor
    fraction: Tensor
    mask: Tensor | None

    @property
    def weights(self) -> Tensor:
        """Bilinear, of the four corners."""
        y, x = self.fraction.unbind(-1)
        up, left = 1 - y, 1 - x
        return torch.stack((up * left, up * x, y * left, y * x), -1)

    @property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the weights by y and by x."""
        y, x = self.fraction.unbind(-1)
        up, left = 1 - y, 1 - x
        return torch.stack((-left, -x, left, x), -1), torch.stack((-up, up, -y, y), -1)


class Sampler:
    """The pixel table of the images, and the samples of any chunk of positions in it.

    Args:
        geometry: of the convolution.
        image, offset, mask: its arguments.
    """

    def __init__(self, geometry: Geometry, image: Tensor, offset: Tensor, mask: Tensor | None) -> None:
        self.geometry = g = geometry
        dtype, width = wide(image.dtype), g.channels // g.offset_groups
        # The last row stays zero: corners outside read it, so that an infinity at the border cannot leak in as 0 * inf.
        self.table = torch.zeros(image.numel() // width + 1, width, dtype=dtype, device=image.device)
        self.pixels(self.table).copy_(image.permute(0, 2, 3, 1))
        shift = by_position(g, offset, 2)
        self.where = (shift.view(g.batch, g.pixels, *shift.shape[1:]) + self._grid()).view_as(shift)
        self.mask = None if mask is None else by_position(g, mask, 1)

    def pixels(self, table: Tensor) -> Tensor:
        """View a table (its zero row left out) as (batch, height, width, channels)."""
        return table[:-1].view(self.geometry.batch, *self.geometry.size, self.geometry.channels)

    def _grid(self) -> Tensor:
        """Where the taps look without offsets, as (output pixels of an image, taps, 1, y and x), in pixels."""
        g = self.geometry
        y, x = (
            torch.arange(g.out_size[i]).mul(g.stride[i]).sub(g.padding[i]).view(-1, 1)
            + torch.arange(g.kernel[i]) * g.dilation[i]
            for i in (0, 1)
        )
        full = (*g.out_size, *g.kernel)
        y, x = y[:, None, :, None].expand(full), x[None, :, None, :].expand(full)
        return torch.stack((y, x), -1).view(-1, g.taps, 1, 2).to(self.table)

    def samples(self, chunk: slice) -> Samples:
        """Find the four pixels around each sample and their bilinear weights.

        A sample outside ``-1 < y < height``, ``-1 < x < width`` is zero, also when its coordinate is infinite; one whose
        coordinate is not a number is not a number.
        """
        g, device, where = self.geometry, self.table.device, self.where[chunk]
        size = where.new_tensor(g.size)
        inside = ~((where <= -1) | (where >= size)).any(-1, keepdim=True)
        where = where.clamp(min=where.new_tensor(-1.0), max=size)  # infinities become finite, NaN stays
        low = where.floor()
        y = low[..., :1].long() + torch.tensor([0, 0, 1, 1], device=device)
        x = low[..., 1:].long() + torch.tensor([0, 1, 0, 1], device=device)
        inside = inside & (y >= 0) & (y < g.size[0]) & (x >= 0) & (x < g.size[1])
        image = (torch.arange(chunk.start, chunk.stop, device=device) // g.pixels).view(-1, 1, 1, 1)
        group = torch.arange(g.offset_groups, device=device).view(-1, 1)
        rows = ((image * g.size[0] + y) * g.size[1] + x) * g.offset_groups + group
        rows = rows.where(inside, self.table.shape[0] - 1)
        return Samples(rows=rows, fraction=where - low, mask=None if self.mask is None else self.mask[chunk])

    def columns(self, samples: Samples) -> Tensor:
        """Sample, for the matrix product: (convolution groups, positions, taps * channels of a group)."""
        weights = samples.weights if samples.mask is None else samples.weights * samples.mask
        values = embedding_bag(samples.rows.view(-1, 4), self.table, per_sample_weights=weights.view(-1, 4), mode="sum")
        return to_groups(self.geometry, values)


def by_position(geometry: Geometry, maps: Tensor, values: int) -> Tensor:
    """Turn offsets (``values`` 2) or a mask (1) into (positions, taps, offset groups, values) of the dtype to compute in."""
    split = maps.to(wide(maps.dtype)).reshape(
        geometry.batch, geometry.offset_groups, geometry.taps, values, geometry.pixels
    )
    return split.permute(0, 4, 2, 1, 3).reshape(geometry.positions, geometry.taps, geometry.offset_groups, values)


def to_maps(geometry: Geometry, found: Tensor) -> Tensor:
    """Undo :func:`by_position`, but for the dtype."""
    g = geometry
    values = found.shape[-1]
    split = found.view(g.batch, g.pixels, g.taps, g.offset_groups, values)
    return split.permute(0, 3, 2, 4, 1).reshape(g.batch, g.offset_groups * g.taps * values, *g.out_size)


def to_groups(geometry: Geometry, values: Tensor) -> Tensor:
    """Turn (positions, taps, channels), however flat, into (groups, positions, taps * channels of a group)."""
    g = geometry
    split = values.view(-1, g.taps, g.groups, g.channels // g.groups)
    return split.permute(2, 0, 1, 3).reshape(g.groups, split.shape[0], -1)


def from_groups(geometry: Geometry, columns: Tensor) -> Tensor:
    """Undo :func:`to_groups`: (positions * taps * offset groups, channels of an offset group)."""
    g = geometry
    split = columns.view(g.groups, -1, g.taps, g.channels // g.groups)
    return split.permute(1, 2, 0, 3).reshape(-1, g.channels // g.offset_groups)


def kernel_matrix(geometry: Geometry, weight: Tensor) -> Tensor:
    """The weight as (groups, taps * channels of a group, outputs of a group)."""
    g = geometry
    split = weight.to(wide(weight.dtype)).reshape(g.groups, g.outputs // g.groups, g.channels // g.groups, g.taps)
    return split.permute(0, 3, 2, 1).reshape(g.groups, -1, g.outputs // g.groups)


def from_kernel_matrix(geometry: Geometry, matrix: Tensor) -> Tensor:
    """Undo :func:`kernel_matrix`, but for the dtype."""
    g = geometry
    split = matrix.view(g.groups, g.taps, g.channels // g.groups, g.outputs // g.groups)
    return split.permute(0, 3, 2, 1).reshape(g.outputs, g.channels // g.groups, *g.kernel)
