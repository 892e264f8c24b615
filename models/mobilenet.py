"""MobileNetV2 and MobileNetV3 large and small, with the state-dict keys and numerics of torchvision's checkpoints.

Sandler et al. 2018 (arXiv:1801.04381), Howard et al. 2019 (arXiv:1905.02244).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from edgecnn.models.layers import MakeLayer, MakeNorm, SqueezeExcite, conv_bn_act, init_he, make_divisible

__all__ = [
    "Bottleneck",
    "InvertedResidual",
    "MobileNetV2",
    "MobileNetV3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise 3x3, linear 1x1 projection; shortcut where it fits.

    (N, inputs, H, W) to (N, outputs, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int) -> None:
        super().__init__()
        expanded = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(conv_bn_act(inputs, expanded, 1, act=nn.ReLU6))
        layers += [
            conv_bn_act(expanded, expanded, 3, stride=stride, groups=expanded, act=nn.ReLU6),
            nn.Conv2d(expanded, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + x if self.shortcut else y


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, 1x1 head, global average, one linear layer. (N, 3, H, W) to (N, num_classes)."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """Expansion, channels, blocks and first stride: table 2 of the paper."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        inputs, head = 32, 1280
        features: list[nn.Module] = [conv_bn_act(3, inputs, 3, stride=2, act=nn.ReLU6)]
        for expand, outputs, depth, first_stride in self.STAGES:
            for stride in [first_stride] + [1] * (depth - 1):
                features.append(InvertedResidual(inputs, outputs, stride=stride, expand=expand))
                inputs = outputs
        features.append(conv_bn_act(inputs, head, 1, act=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


@dataclass(frozen=True)
class Row:
    """A row of MobileNetV3's tables 1 and 2.

    Attributes:
        kernel_size: of the depthwise convolution.
        expanded: channels inside the block.
        outputs: channels.
        squeeze: whether the block has squeeze-excite.
        act: makes the block's activations.
        stride: of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    outputs: int
    squeeze: bool
    act: MakeLayer
    stride: int = 1


class Bottleneck(nn.Module):
    """MobileNetV3's block: :class:`InvertedResidual` with a choice of activation and squeeze-excite (hard sigmoid gate)."""

    def __init__(self, inputs: int, row: Row, *, norm: MakeNorm) -> None:
        super().__init__()
        width, act = row.expanded, row.act
        layers: list[nn.Module] = []
        if width != inputs:
            layers.append(conv_bn_act(inputs, width, 1, norm=norm, act=act))
        layers.append(conv_bn_act(width, width, row.kernel_size, stride=row.stride, groups=width, norm=norm, act=act))
        if row.squeeze:
            layers.append(SqueezeExcite(width, make_divisible(width // 4), act=nn.ReLU, gate=nn.Hardsigmoid))
        layers.append(conv_bn_act(width, row.outputs, 1, norm=norm, act=None))
        self.block = nn.Sequential(*layers)
        self.shortcut = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y + x if self.shortcut else y


class MobileNetV3(nn.Module):
    """Stem, bottlenecks, 1x1 convolution, global average, two linear layers. (N, 3, H, W) to (N, num_classes).

    Every BatchNorm has eps 1e-3 and momentum 0.01, as in the paper's code.

    Args:
        rows: the bottlenecks, in order.
        num_classes: of the last linear layer.
        head: channels between the two linear layers.
    """

    def __init__(self, rows: Sequence[Row], num_classes: int = 1000, *, head: int) -> None:
        super().__init__()
        norm: MakeNorm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
        inputs = 16
        features: list[nn.Module] = [conv_bn_act(3, inputs, 3, stride=2, norm=norm, act=nn.Hardswish)]
        for row in rows:
            features.append(Bottleneck(inputs, row, norm=norm))
            inputs = row.outputs
        pooled = 6 * inputs
        features.append(conv_bn_act(inputs, pooled, 1, norm=norm, act=nn.Hardswish))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(pooled, head), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(head, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def mobilenet_v2(num_classes: int = 1000) -> MobileNetV2:
    """MobileNetV2, width 1.0."""
    network = MobileNetV2(num_classes)
    init_he(network)
    return network


def mobilenet_v3_large(num_classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Large, width 1.0."""
    relu, swish = nn.ReLU, nn.Hardswish
    rows = (
        Row(3, 16, 16, False, relu),
        Row(3, 64, 24, False, relu, 2),
        Row(3, 72, 24, False, relu),
        Row(5, 72, 40, True, relu, 2),
        Row(5, 120, 40, True, relu),
        Row(5, 120, 40, True, relu),
        Row(3, 240, 80, False, swish, 2),
        Row(3, 200, 80, False, swish),
        Row(3, 184, 80, False, swish),
        Row(3, 184, 80, False, swish),
        Row(3, 480, 112, True, swish),
        Row(3, 672, 112, True, swish),
        Row(5, 672, 160, True, swish, 2),
        Row(5, 960, 160, True, swish),
        Row(5, 960, 160, True, swish),
    )
    network = MobileNetV3(rows, num_classes, head=1280)
    init_he(network)
    return network


def mobilenet_v3_small(num_classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Small, width 1.0."""
    relu, swish = nn.ReLU, nn.Hardswish
    rows = (
        Row(3, 16, 16, True, relu, 2),
        Row(3, 72, 24, False, relu, 2),
        Row(3, 88, 24, False, relu),
        Row(5, 96, 40, True, swish, 2),
        Row(5, 240, 40, True, swish),
        Row(5, 240, 40, True, swish),
        Row(5, 120, 48, True, swish),
        Row(5, 144, 48, True, swish),
        Row(5, 288, 96, True, swish, 2),
        Row(5, 576, 96, True, swish),
        Row(5, 576, 96, True, swish),
    )
    network = MobileNetV3(rows, num_classes, head=1024)
    init_he(network)
    return network
