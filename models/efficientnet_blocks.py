"""What the EfficientNets are made of: blocks, the rows of the papers' tables, and the baseline that every V1 scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgecnn.models.layers import MakeNorm, SqueezeExcite, conv_bn_act, make_divisible

__all__ = ["BASELINE", "SURVIVAL_LOSS", "FusedMBConv", "MBConv", "Stage", "StochasticDepth"]

SURVIVAL_LOSS = 0.2
"""Probability with which the deepest residual branch is dropped in training; shallower ones less, in proportion."""


class StochasticDepth(nn.Module):
    """Drop a residual branch in training (Huang et al. 2016, arXiv:1603.09382): the identity in evaluation mode.

    Each image's branch becomes zero with probability ``drop``; the others are divided by ``1 - drop``, so that the
    expectation stays.
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0.0:
            return x
        kept = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.drop)
        return x * (kept / (1.0 - self.drop))


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-excite, 1x1 projection; shortcut where it fits.

    (N, inputs, H, W) to (N, outputs, ceil(H/stride), ceil(W/stride)). The squeezed width is a quarter of ``inputs``, not
    of the expanded channels, as in the paper's code.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, *, stride: int, expand: int, drop: float, norm: MakeNorm
    ) -> None:
        super().__init__()
        expanded = make_divisible(inputs * expand)
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv_bn_act(inputs, expanded, 1, norm=norm, act=nn.SiLU))
        layers += [
            conv_bn_act(expanded, expanded, kernel_size, stride=stride, groups=expanded, norm=norm, act=nn.SiLU),
            SqueezeExcite(expanded, max(1, inputs // 4), act=nn.SiLU),
            conv_bn_act(expanded, outputs, 1, norm=norm, act=None),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return self.stochastic_depth(y) + x if self.shortcut else y


class FusedMBConv(nn.Module):
    """EfficientNetV2's early block: one dense convolution does the work of :class:`MBConv`'s expansion and depthwise one.

    Without expansion the projection falls away too, and the convolution keeps its activation.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, *, stride: int, expand: int, drop: float, norm: MakeNorm
    ) -> None:
        super().__init__()
        expanded = make_divisible(inputs * expand)
        if expanded == inputs:
            layers = [conv_bn_act(inputs, outputs, kernel_size, stride=stride, norm=norm, act=nn.SiLU)]
        else:
            layers = [
                conv_bn_act(inputs, expanded, kernel_size, stride=stride, norm=norm, act=nn.SiLU),
                conv_bn_act(expanded, outputs, 1, norm=norm, act=None),
            ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return self.stochastic_depth(y) + x if self.shortcut else y


@dataclass(frozen=True)
class Stage:
    """A row of the papers' architecture tables.

    Attributes:
        expand: ratio of a block's inner channels to its inputs.
        kernel_size: of the spatial convolution.
        stride: of the first block; the others have 1.
        outputs: channels.
        depth: number of blocks.
        block: what they are.
    """

    expand: int
    kernel_size: int
    stride: int
    outputs: int
    depth: int
    block: type[MBConv | FusedMBConv] = MBConv

    def scaled(self, width: float, depth: float) -> Stage:
        """Return this stage with channels and depth multiplied, rounded as the paper's code does."""
        return replace(self, outputs=make_divisible(self.outputs * width), depth=math.ceil(self.depth * depth))


BASELINE = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
"""EfficientNet-B0 and Lite0; the others scale it."""
