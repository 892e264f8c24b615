"""Deformable convolution: the operator, layers that learn their own offsets, and ResNets with them.

Dai et al. 2017 (arXiv:1703.06211, DCNv1: offsets) and Zhu et al. 2018 (arXiv:1811.11168, DCNv2: offsets and a mask, in all 3x3
convolutions of stages conv3 to conv5). The PyTorch operator is ``edgecnn::deform_conv2d(Tensor input, Tensor offset, Tensor
weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, Tensor? mask) -> Tensor``, the last three lists
(height, width); exporters translate ``torch.ops.edgecnn.deform_conv2d.default``.

A ``deform_resnet*`` has all keys of its plain twin and one ``conv_offset.{weight,bias}`` for each deformable convolution, so
the twin's checkpoint loads with only those missing. They start at zero, and an untrained network computes what its twin
does; built after the same ``torch.manual_seed``, the two have the same weights too.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from edgecnn.errors import SpecError
from edgecnn.models.deformable_op import deform_conv2d
from edgecnn.models.layers import init_he
from edgecnn.models.resnet import Blocks, BlockStyle, Bottleneck, ResNet

__all__ = [
    "DeformConv2d",
    "ModulatedDeformConv2d",
    "OffsetConv2d",
    "deform_conv2d",
    "deform_resnet50",
    "deform_resnet50_v1",
    "deform_resnet50_v2",
    "deform_resnet101",
    "deform_resnet101_v1",
    "deform_resnet101_v2",
]


class OffsetConv2d(nn.Module):
    """Convolution with bias that starts at zero and moves like another one. (N, C, H, W) to (N, outputs, H_out, W_out).

    Not an ``nn.Conv2d``, so that :func:`edgecnn.models.layers.init_he` leaves the zeros alone and draws no random numbers.
    """

    def __init__(self, outputs: int, *, like: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, like.in_channels, *like.kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class DeformConv2d(nn.Conv2d):
    """Deformable convolution whose offsets come from a convolution of the same input (DCNv1), "same" symmetric padding.

    (N, inputs, H, W) to (N, outputs, ceil(H/stride), ceil(W/stride)) for an odd kernel. Keys: ``weight``, ``bias`` if there is
    one, ``conv_offset.weight``, ``conv_offset.bias``. Starts as the plain convolution with its weight.

    Args:
        inputs, outputs: channels.
        kernel_size: odd.
        stride, dilation, groups: of the convolution; the offsets are convolved alike, in one group.
        bias: whether to add one.
        offset_groups: groups of channels with offsets of their own.
    """

    maps_per_tap: ClassVar[int] = 2

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        offset_groups: int = 1,
    ) -> None:
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(inputs, outputs, kernel_size, stride, padding, dilation, groups, bias)
        self.conv_offset = OffsetConv2d(self.maps_per_tap * offset_groups * kernel_size**2, like=self)

    def forward(self, x: Tensor) -> Tensor:
        return self.sample(x, self.conv_offset(x), None)

    def sample(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve at these offsets; shapes as :func:`deform_conv2d` takes them."""
        assert not isinstance(self.padding, str)
        return deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


class ModulatedDeformConv2d(DeformConv2d):
    """:class:`DeformConv2d` that also weighs each sample (DCNv2). ``conv_offset`` gives the offsets, then the mask's logits.

    The mask is ``2 * sigmoid(logit)``, between 0 and 2. The paper's ``sigmoid`` starts at 0.5, which halves every
    convolution that it is put into; twice that starts at exactly 1, so that the layer begins as the plain convolution and a plain
    checkpoint keeps its accuracy. For weights that were trained with ``sigmoid``, halve ``weight``.
    """

    maps_per_tap: ClassVar[int] = 3

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv_offset(x)
        offsets = maps.shape[1] // 3 * 2
        return self.sample(x, maps[:, :offsets], 2 * torch.sigmoid(maps[:, offsets:]))


VERSIONS: dict[int, type[DeformConv2d]] = {1: DeformConv2d, 2: ModulatedDeformConv2d}


def _build(blocks: Blocks, num_classes: int, version: int) -> ResNet:
    layer = VERSIONS.get(version)
    if layer is None:
        raise SpecError(f"deformable ResNet: version {version!r} is neither 1 (offsets) nor 2 (offsets and mask)")
    plain, deformable = BlockStyle(), BlockStyle(conv3x3=layer)
    network = ResNet(Bottleneck, blocks, num_classes, styles=(plain, deformable, deformable, deformable))
    init_he(network)
    return network


def deform_resnet50(num_classes: int = 1000, *, version: int = 2) -> ResNet:
    """ResNet-50 with deformable 3x3 convolutions in ``layer2`` to ``layer4``, of DCN ``version`` 1 or 2."""
    return _build((3, 4, 6, 3), num_classes, version)


def deform_resnet101(num_classes: int = 1000, *, version: int = 2) -> ResNet:
    """ResNet-101 with deformable 3x3 convolutions in ``layer2`` to ``layer4``, of DCN ``version`` 1 or 2."""
    return _build((3, 4, 23, 3), num_classes, version)


def deform_resnet50_v1(num_classes: int = 1000) -> ResNet:
    """ResNet-50 with DCNv1."""
    return deform_resnet50(num_classes, version=1)


def deform_resnet50_v2(num_classes: int = 1000) -> ResNet:
    """ResNet-50 with DCNv2."""
    return deform_resnet50(num_classes, version=2)


def deform_resnet101_v1(num_classes: int = 1000) -> ResNet:
    """ResNet-101 with DCNv1."""
    return deform_resnet101(num_classes, version=1)


def deform_resnet101_v2(num_classes: int = 1000) -> ResNet:
    """ResNet-101 with DCNv2."""
    return deform_resnet101(num_classes, version=2)
