"""Deformable convolution as the PyTorch operator ``edgecnn::deform_conv2d``: forward, backward, shapes.

The operator's schema is a contract with the exporter and the TensorRT plugin; ``stride``, ``padding`` and ``dilation`` are
``[height, width]``::

    edgecnn::deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias,
                           int[] stride, int[] padding, int[] dilation, Tensor? mask) -> Tensor

Dai et al. 2017 (arXiv:1703.06211) and, with a mask, Zhu et al. 2018 (arXiv:1811.11168). Semantics, layouts included, are those
of ``torchvision.ops.deform_conv2d``.

Positions, the output pixels of all images, are independent of each other and go through in chunks: the im2col matrix, which
is kernel area times the input, never exists. The backward keeps the inputs alone and samples again. float16 and bfloat16 are
computed in float32. See :mod:`edgecnn.models.deformable_sampling` for the sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgecnn.models.deformable_sampling import Sampler, Samples, from_groups, from_kernel_matrix, kernel_matrix, to_maps
from edgecnn.models.deformable_shapes import geometry_of

__all__ = ["deform_conv2d"]

CHUNK = {"cpu": 1 << 21}
"""Sampled values in flight, by device. 8 MiB of float32 on a CPU, where more gained nothing (measured, 2 cores)."""

CHUNK_ELSEWHERE = 1 << 25
"""128 MiB of float32: a GPU wants few large kernels."""

SCHEMA = (
    "(Tensor input, Tensor offset, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, Tensor? mask)"
    " -> Tensor"
)
BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor input, Tensor offset, Tensor weight, int[] stride, int[] padding, int[] dilation, Tensor? mask)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("edgecnn::deform_conv2d", mutates_args=(), schema=SCHEMA)
def _forward(
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> Tensor:
    g = geometry_of(image, offset, weight, bias, mask, (stride, padding, dilation))
    sampler, kernel = Sampler(g, image, offset, mask), kernel_matrix(g, weight)
    out = sampler.table.new_empty(g.positions, g.groups, g.outputs // g.groups)
    for chunk in g.chunks(CHUNK.get(image.device.type, CHUNK_ELSEWHERE)):
        out[chunk] = torch.bmm(sampler.columns(sampler.samples(chunk)), kernel).transpose(0, 1)
    out = out.view(g.batch, *g.out_size, g.outputs)
    if bias is not None:
        out += bias
    return out.permute(0, 3, 1, 2).to(image.dtype, memory_format=torch.contiguous_format)


@_forward.register_fake
def _shape_of_forward(
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> Tensor:
    g = geometry_of(image, offset, weight, bias, mask, (stride, padding, dilation))
    return image.new_empty(g.batch, g.outputs, *g.out_size)


@torch.library.custom_op("edgecnn::deform_conv2d_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def _backward(
    grad: Tensor,
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by input, offset, weight, bias, and mask (empty when there is none). Not differentiable again."""
    g = geometry_of(image, offset, weight, None, mask, (stride, padding, dilation))
    sampler, kernel = Sampler(g, image, offset, mask), kernel_matrix(g, weight)
    by_table, by_kernel = torch.zeros_like(sampler.table), torch.zeros_like(kernel)
    by_where = torch.zeros_like(sampler.where)
    by_mask = torch.zeros_like(sampler.where[..., :1])
    outer = grad.to(kernel.dtype).permute(0, 2, 3, 1).reshape(g.positions, g.groups, g.outputs // g.groups)
    outer = outer.transpose(0, 1)
    for chunk in g.chunks(CHUNK.get(image.device.type, CHUNK_ELSEWHERE)):
        samples, outer_chunk = sampler.samples(chunk), outer[:, chunk]
        by_kernel.baddbmm_(sampler.columns(samples).transpose(1, 2), outer_chunk)
        by_value = from_groups(g, torch.bmm(outer_chunk, kernel.transpose(1, 2)))
        by_weight = _scatter(sampler.table, samples, by_value, into=by_table)
        if samples.mask is not None:
            by_mask[chunk] = (by_weight * samples.weights).sum(-1, keepdim=True)
            by_weight = by_weight * samples.mask
        by_where[chunk] = torch.stack([(by_weight * slope).sum(-1) for slope in samples.slopes], -1)
    found = (
        sampler.pixels(by_table).permute(0, 3, 1, 2),
        to_maps(g, by_where),
        from_kernel_matrix(g, by_kernel),
        outer.sum(1).flatten(),
        to_maps(g, by_mask) if mask is not None else grad.new_empty(0),
    )
    first, *others = (gradient.to(grad.dtype, memory_format=torch.contiguous_format) for gradient in found)
    return first, others[0], others[1], others[2], others[3]


def _scatter(table: Tensor, samples: Samples, by_value: Tensor, *, into: Tensor) -> Tensor:
    """Add the gradient of the samples to that of the table; return that of the bilinear weights, without the mask."""
    weights = samples.weights if samples.mask is None else samples.weights * samples.mask
    found = []
    for corner, weight in zip(samples.rows.unbind(-1), weights.unbind(-1), strict=True):
        rows = corner.reshape(-1)
        found.append((table.index_select(0, rows) * by_value).sum(-1).view_as(weight))
        into.index_add_(0, rows, by_value * weight.reshape(-1, 1))
    return torch.stack(found, -1)


@_backward.register_fake
def _shapes_of_backward(
    grad: Tensor,
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = geometry_of(image, offset, weight, None, mask, (stride, padding, dilation))
    return (
        grad.new_empty(image.shape),
        grad.new_empty(offset.shape),
        grad.new_empty(weight.shape),
        grad.new_empty(g.outputs),
        grad.new_empty(mask.shape if mask is not None else 0),
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it by name
    image, offset, weight, bias, *ctx.steps, mask = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(image, offset, weight, mask)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, mask = ctx.saved_tensors
    image, offset, weight, bias, by_mask = torch.ops.edgecnn.deform_conv2d_backward(grad, *tensors, *ctx.steps, mask)
    has_bias, has_mask = ctx.has_bias, mask is not None
    return image, offset, weight, bias if has_bias else None, None, None, None, by_mask if has_mask else None


_forward.register_autograd(_gradients, setup_context=_keep_inputs)
for _device in ("cpu", "cuda"):
    _forward.register_autocast(_device, torch.float32)


def deform_conv2d(
    input: Tensor,  # noqa: A002 - torchvision's name
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution, with the arguments and semantics of ``torchvision.ops.deform_conv2d``.

    Tap ``t = i * kw + j`` of offset group ``G`` looks at output pixel (r, c) where ``y = r * stride - padding + i * dilation +
    offset[:, 2 * (G * kh * kw + t), r, c]``, x likewise with the next offset; it sees the bilinear value there, with pixels
    outside the image counted as zero, times ``mask[:, G * kh * kw + t, r, c]``. Channels divide evenly into the offset groups.
    Groups and offset groups follow from the shapes. Differentiable (once) by all tensors.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32 or float64; the others have its dtype and device. N may be 0.
        offset: (N, 2 * offset_groups * kh * kw, H_out, W_out), pixels, y before x.
        weight: (C_out, C / groups, kh, kw).
        bias: (C_out,).
        stride, padding, dilation: one integer, or (height, width).
        mask: (N, offset_groups * kh * kw, H_out, W_out), or None for the first version of the operator.

    Returns:
        (N, C_out, H_out, W_out) of the input's dtype. Under autocast the operator runs in float32.

    Raises:
        SpecError: an argument that does not fit the others; the message names it, what was expected and what was found.
    """
    steps = [[value, value] if isinstance(value, int) else list(value) for value in (stride, padding, dilation)]
    out: Tensor = torch.ops.edgecnn.deform_conv2d(input, offset, weight, bias, *steps, mask)
    return out
