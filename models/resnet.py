"""ResNet, ResNeXt and Wide ResNet, with the state-dict keys and numerics of torchvision's checkpoints.

He et al. 2016 (arXiv:1512.03385), Xie et al. 2017 (arXiv:1611.05431), Zagoruyko and Komodakis 2016 (arXiv:1605.07146).
As in torchvision ("ResNet v1.5"), a bottleneck's stride sits on its 3x3 convolution, not on the first 1x1.

Relatives are built by composition: a :class:`BlockStyle` says what a stage's residual branches are made of, so that a
squeeze-excite network passes a gate and a deformable one another 3x3 convolution::

    plain, deformable = BlockStyle(), BlockStyle(conv3x3=my_conv3x3)
    ResNet(Bottleneck, (3, 4, 6, 3), styles=(plain, deformable, deformable, deformable))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from edgecnn.models.layers import init_he

__all__ = [
    "BasicBlock",
    "BlockStyle",
    "Bottleneck",
    "Conv3x3",
    "ResNet",
    "conv1x1",
    "conv3x3",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

Blocks = tuple[int, int, int, int]
"""Blocks in each of the four stages."""


class Conv3x3(Protocol):
    """Makes a 3x3 convolution without bias, padding 1: (N, inputs, H, W) to (N, outputs, ceil(H/stride), ceil(W/stride))."""

    def __call__(self, inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
        """Make the layer; its weight's key must be ``weight``."""
        ...


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    """The plain 3x3 convolution."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Module:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


@dataclass(frozen=True, kw_only=True)
class BlockStyle:
    """What the residual branches of a stage are made of.

    Attributes:
        groups: of the 3x3 convolution of a bottleneck (ResNeXt's cardinality).
        width_per_group: channels a group has in the first stage; 64 with one group is the plain ResNet.
        conv3x3: makes the 3x3 convolutions.
        gate: makes, for that many channels, what the branch ends in before the addition (key ``se``), or None.
    """

    groups: int = 1
    width_per_group: int = 64
    conv3x3: Conv3x3 = conv3x3
    gate: Callable[[int], nn.Module] | None = None


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The shortcut's 1x1 convolution and BatchNorm, or None where the identity fits (option B of the ResNet paper)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. (N, inputs, H, W) to (N, planes, H/stride, W/stride)."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, planes: int, *, stride: int, style: BlockStyle) -> None:
        super().__init__()
        if (style.groups, style.width_per_group) != (1, 64):
            raise ValueError(
                f"BasicBlock has neither groups nor another width, got {style.groups} x {style.width_per_group}"
            )
        self.conv1 = style.conv3x3(inputs, planes, stride=stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU()
        self.conv2 = style.conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = style.gate(planes) if style.gate is not None else None
        self.act2 = nn.ReLU()
        self.downsample = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act2(y + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut. (N, inputs, H, W) to (N, 4 * planes, H/stride, W/stride)."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, planes: int, *, stride: int, style: BlockStyle) -> None:
        super().__init__()
        width = planes * style.width_per_group // 64 * style.groups
        outputs = planes * self.expansion
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = style.conv3x3(width, width, stride=stride, groups=style.groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = style.gate(outputs) if style.gate is not None else None
        self.act3 = nn.ReLU()
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act3(y + shortcut)
        return out


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average, one linear layer. (N, 3, H, W) to (N, num_classes).

    The weights are PyTorch's defaults until :func:`edgecnn.models.layers.init_he` runs, which the builders do.

    Args:
        block: the residual block of all stages.
        blocks: how many of them each stage has.
        num_classes: of the linear layer.
        styles: one style for all stages, or one for each of the four.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Blocks,
        num_classes: int = 1000,
        *,
        styles: BlockStyle | Sequence[BlockStyle] = BlockStyle(),
    ) -> None:
        super().__init__()
        stages = [styles] * 4 if isinstance(styles, BlockStyle) else list(styles)
        if len(stages) != len(blocks):
            raise ValueError(f"styles must be one BlockStyle or {len(blocks)}, got {len(stages)}")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        expansion = block.expansion
        self.layer1 = stage(block, (64, 64), blocks[0], stride=1, style=stages[0])
        self.layer2 = stage(block, (64 * expansion, 128), blocks[1], stride=2, style=stages[1])
        self.layer3 = stage(block, (128 * expansion, 256), blocks[2], stride=2, style=stages[2])
        self.layer4 = stage(block, (256 * expansion, 512), blocks[3], stride=2, style=stages[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * expansion, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def stage(
    block: type[BasicBlock | Bottleneck], channels: tuple[int, int], count: int, *, stride: int, style: BlockStyle
) -> nn.Sequential:
    """``count`` blocks, the first with ``stride``; ``channels`` are the stage's inputs and its blocks' planes."""
    inputs, planes = channels
    first = block(inputs, planes, stride=stride, style=style)
    rest = [block(planes * block.expansion, planes, stride=1, style=style) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


def _build(
    block: type[BasicBlock | Bottleneck], blocks: Blocks, num_classes: int, style: BlockStyle | None = None
) -> ResNet:
    network = ResNet(block, blocks, num_classes, styles=style or BlockStyle())
    init_he(network)
    return network


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18: basic blocks 2, 2, 2, 2."""
    return _build(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int = 1000) -> ResNet:
    """ResNet-34: basic blocks 3, 4, 6, 3."""
    return _build(BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50: bottlenecks 3, 4, 6, 3."""
    return _build(Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 1000) -> ResNet:
    """ResNet-101: bottlenecks 3, 4, 23, 3."""
    return _build(Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(num_classes: int = 1000) -> ResNet:
    """ResNet-152: bottlenecks 3, 8, 36, 3."""
    return _build(Bottleneck, (3, 8, 36, 3), num_classes)


def resnext50_32x4d(num_classes: int = 1000) -> ResNet:
    """ResNeXt-50: ResNet-50 with 32 groups of 4 channels."""
    return _build(Bottleneck, (3, 4, 6, 3), num_classes, BlockStyle(groups=32, width_per_group=4))


def resnext101_32x8d(num_classes: int = 1000) -> ResNet:
    """ResNeXt-101: ResNet-101 with 32 groups of 8 channels."""
    return _build(Bottleneck, (3, 4, 23, 3), num_classes, BlockStyle(groups=32, width_per_group=8))


def resnext101_64x4d(num_classes: int = 1000) -> ResNet:
    """ResNeXt-101: ResNet-101 with 64 groups of 4 channels."""
    return _build(Bottleneck, (3, 4, 23, 3), num_classes, BlockStyle(groups=64, width_per_group=4))


def wide_resnet50_2(num_classes: int = 1000) -> ResNet:
    """Wide ResNet-50-2: ResNet-50 whose 3x3 convolutions have twice the channels."""
    return _build(Bottleneck, (3, 4, 6, 3), num_classes, BlockStyle(width_per_group=128))


def wide_resnet101_2(num_classes: int = 1000) -> ResNet:
    """Wide ResNet-101-2: ResNet-101 whose 3x3 convolutions have twice the channels."""
    return _build(Bottleneck, (3, 4, 23, 3), num_classes, BlockStyle(width_per_group=128))
