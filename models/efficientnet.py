"""EfficientNet B0-B7 and V2 S/M/L, with the state-dict keys and numerics of torchvision's checkpoints.

Tan and Le 2019 (arXiv:1905.11946), Tan and Le 2021 (arXiv:2104.00298). The Lite networks, members of the family with a file
of their own, are found here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgecnn.models.efficientnet_blocks import BASELINE, SURVIVAL_LOSS, FusedMBConv, Stage
from edgecnn.models.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from edgecnn.models.layers import MakeNorm, conv_bn_act, init_he, make_divisible

__all__ = [
    "EfficientNet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
]

TF_NORM: MakeNorm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
"""TensorFlow's BatchNorm: the published B5-B7 weights were converted from it, those of B0-B4 were trained in PyTorch."""


class EfficientNet(nn.Module):
    """Stem, stages of blocks, 1x1 head, global average, one linear layer. (N, 3, H, W) to (N, num_classes).

    Args:
        stages: in order.
        num_classes: of the linear layer.
        stem: channels after the first convolution.
        head: channels before the average.
        dropout: before the linear layer, in training.
        norm: makes every normalisation layer.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        *,
        stem: int,
        head: int,
        dropout: float,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = [conv_bn_act(3, stem, 3, stride=2, norm=norm, act=nn.SiLU)]
        inputs, built, total = stem, 0, sum(stage.depth for stage in stages)
        for stage in stages:
            blocks: list[nn.Module] = []
            for stride in [stage.stride] + [1] * (stage.depth - 1):
                drop = SURVIVAL_LOSS * built / total
                block = stage.block(
                    inputs, stage.outputs, stage.kernel_size, stride=stride, expand=stage.expand, drop=drop, norm=norm
                )
                blocks.append(block)
                inputs, built = stage.outputs, built + 1
            features.append(nn.Sequential(*blocks))
        features.append(conv_bn_act(inputs, head, 1, norm=norm, act=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def _scaled(
    width: float, depth: float, num_classes: int, *, dropout: float, norm: MakeNorm = nn.BatchNorm2d
) -> EfficientNet:
    """B0 scaled in width and depth; the resolution is the caller's."""
    stages = [stage.scaled(width, depth) for stage in BASELINE]
    stem, head = make_divisible(32 * width), 4 * stages[-1].outputs
    network = EfficientNet(stages, num_classes, stem=stem, head=head, dropout=dropout, norm=norm)
    init_he(network)
    return network


def _v2(stages: Sequence[Stage], num_classes: int, *, dropout: float) -> EfficientNet:
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    network = EfficientNet(stages, num_classes, stem=stages[0].outputs, head=1280, dropout=dropout, norm=norm)
    init_he(network)
    return network


def efficientnet_b0(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B0: width 1.0, depth 1.0; torchvision evaluates it at 224 pixels."""
    return _scaled(1.0, 1.0, num_classes, dropout=0.2)


def efficientnet_b1(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B1: width 1.0, depth 1.1; torchvision evaluates it at 240 pixels."""
    return _scaled(1.0, 1.1, num_classes, dropout=0.2)


def efficientnet_b2(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B2: width 1.1, depth 1.2; torchvision evaluates it at 288 pixels."""
    return _scaled(1.1, 1.2, num_classes, dropout=0.3)


def efficientnet_b3(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B3: width 1.2, depth 1.4; torchvision evaluates it at 300 pixels."""
    return _scaled(1.2, 1.4, num_classes, dropout=0.3)


def efficientnet_b4(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B4: width 1.4, depth 1.8; torchvision evaluates it at 380 pixels."""
    return _scaled(1.4, 1.8, num_classes, dropout=0.4)


def efficientnet_b5(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B5: width 1.6, depth 2.2; torchvision evaluates it at 456 pixels."""
    return _scaled(1.6, 2.2, num_classes, dropout=0.4, norm=TF_NORM)


def efficientnet_b6(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B6: width 1.8, depth 2.6; torchvision evaluates it at 528 pixels."""
    return _scaled(1.8, 2.6, num_classes, dropout=0.5, norm=TF_NORM)


def efficientnet_b7(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B7: width 2.0, depth 3.1; torchvision evaluates it at 600 pixels."""
    return _scaled(2.0, 3.1, num_classes, dropout=0.5, norm=TF_NORM)


def efficientnet_v2_s(num_classes: int = 1000) -> EfficientNet:
    """EfficientNetV2-S; torchvision evaluates it at 384 pixels."""
    stages = (
        Stage(1, 3, 1, 24, 2, FusedMBConv),
        Stage(4, 3, 2, 48, 4, FusedMBConv),
        Stage(4, 3, 2, 64, 4, FusedMBConv),
        Stage(4, 3, 2, 128, 6),
        Stage(6, 3, 1, 160, 9),
        Stage(6, 3, 2, 256, 15),
    )
    return _v2(stages, num_classes, dropout=0.2)


def efficientnet_v2_m(num_classes: int = 1000) -> EfficientNet:
    """EfficientNetV2-M; torchvision evaluates it at 480 pixels."""
    stages = (
        Stage(1, 3, 1, 24, 3, FusedMBConv),
        Stage(4, 3, 2, 48, 5, FusedMBConv),
        Stage(4, 3, 2, 80, 5, FusedMBConv),
        Stage(4, 3, 2, 160, 7),
        Stage(6, 3, 1, 176, 14),
        Stage(6, 3, 2, 304, 18),
        Stage(6, 3, 1, 512, 5),
    )
    return _v2(stages, num_classes, dropout=0.3)


def efficientnet_v2_l(num_classes: int = 1000) -> EfficientNet:
    """EfficientNetV2-L; torchvision evaluates it at 480 pixels."""
    stages = (
        Stage(1, 3, 1, 32, 4, FusedMBConv),
        Stage(4, 3, 2, 64, 7, FusedMBConv),
        Stage(4, 3, 2, 96, 7, FusedMBConv),
        Stage(4, 3, 2, 192, 10),
        Stage(6, 3, 1, 224, 19),
        Stage(6, 3, 2, 384, 25),
        Stage(6, 3, 1, 640, 7),
    )
    return _v2(stages, num_classes, dropout=0.4)
