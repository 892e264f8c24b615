"""SE-ResNet and SE-ResNeXt, with the state-dict keys and numerics of timm's checkpoints.

Hu et al. 2018 (arXiv:1709.01507): every residual branch ends in squeeze-excite. timm's ``seresnet*`` puts it on the plain
ResNet (stride on the 3x3 convolution, 7x7 stem) and rounds the squeezed channels, a sixteenth, to a multiple of 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn.models.layers import SqueezeExcite, init_he, make_divisible
from edgecnn.models.resnet import BasicBlock, Blocks, BlockStyle, Bottleneck, ResNet

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "seresnet18",
    "seresnet34",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "seresnext50_32x4d",
]


def squeeze_excite(channels: int) -> nn.Module:
    """The gate of every residual branch."""
    return SqueezeExcite(channels, make_divisible(channels / 16, floor=0.0))


def _build(
    block: type[BasicBlock | Bottleneck], blocks: Blocks, num_classes: int, style: BlockStyle | None = None
) -> ResNet:
    network = ResNet(block, blocks, num_classes, styles=style or BlockStyle(gate=squeeze_excite))
    init_he(network)
    return network


def seresnet18(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-18: basic blocks 2, 2, 2, 2."""
    return _build(BasicBlock, (2, 2, 2, 2), num_classes)


def seresnet34(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-34: basic blocks 3, 4, 6, 3."""
    return _build(BasicBlock, (3, 4, 6, 3), num_classes)


def seresnet50(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-50: bottlenecks 3, 4, 6, 3."""
    return _build(Bottleneck, (3, 4, 6, 3), num_classes)


def seresnet101(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-101: bottlenecks 3, 4, 23, 3."""
    return _build(Bottleneck, (3, 4, 23, 3), num_classes)


def seresnet152(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-152: bottlenecks 3, 8, 36, 3."""
    return _build(Bottleneck, (3, 8, 36, 3), num_classes)


def seresnext50_32x4d(num_classes: int = 1000) -> ResNet:
    """SE-ResNeXt-50: SE-ResNet-50 with 32 groups of 4 channels."""
    return _build(Bottleneck, (3, 4, 6, 3), num_classes, BlockStyle(groups=32, width_per_group=4, gate=squeeze_excite))
