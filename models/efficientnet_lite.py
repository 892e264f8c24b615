"""EfficientNet-Lite0-4, with the state-dict keys of timm's checkpoints and both numerics that the public weights come in.

Tan and Le 2019 (arXiv:1905.11946); the Lite changes: tensorflow/tpu, ``models/official/efficientnet/lite``. Lite drops
squeeze-excite, replaces SiLU by ReLU6, and keeps the stem, the head and the depth of the first and last stage whatever the
scaling: it was made to be quantized.

Weights trained in TensorFlow (``tf=True``) pad strided convolutions as TensorFlow's "SAME" does, the odd pixel at the bottom
and right, and use BatchNorm eps 1e-3; timm's own pad evenly and use 1e-5. The keys are the same, so loading one into the
other raises nothing and costs accuracy.

In training, the reference's regularisation: dropout, and stochastic depth up to 0.2 (timm's builders leave both at 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecnn.models.efficientnet_blocks import BASELINE, SURVIVAL_LOSS, Stage, StochasticDepth
from edgecnn.models.layers import init_he, make_divisible

__all__ = [
    "EfficientNetLite",
    "SameConv2d",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "same_padding",
]


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's "SAME" padding adds before and after a side: ``ceil(size / stride)`` outputs, odd pixel last."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding, worked out from the input's size when it runs.

    An export sees the size as a constant, and the exporter makes the padding part of the convolution: ONNX's ``Conv`` takes
    uneven pads, torch's does not.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel_size, stride = self.kernel_size, self.stride
        top, bottom = same_padding(x.shape[2], kernel_size[0], stride[0])
        left, right = same_padding(x.shape[3], kernel_size[1], stride[1])
        if (top, left) == (bottom, right):
            return nn.functional.conv2d(x, self.weight, None, stride, (top, left), groups=self.groups)
        x = nn.functional.pad(x, (left, right, top, bottom))
        return nn.functional.conv2d(x, self.weight, None, stride, groups=self.groups)


def even_conv(inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded by ``kernel_size // 2`` on all sides."""
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False)


@dataclass(frozen=True, kw_only=True)
class LiteStyle:
    """What tells timm's own Lite networks from those converted from TensorFlow.

    Attributes:
        eps: of every BatchNorm.
        conv: makes the convolutions with a kernel larger than 1x1.
    """

    eps: float = 1e-5
    conv: Callable[..., nn.Conv2d] = even_conv

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Make a BatchNorm."""
        return nn.BatchNorm2d(channels, eps=self.eps)


TIMM_STYLE = LiteStyle()
TENSORFLOW_STYLE = LiteStyle(eps=1e-3, conv=SameConv2d)


class LiteSeparable(nn.Module):
    """Lite's first block: depthwise convolution and 1x1 projection, no shortcut. (N, inputs, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, style: LiteStyle) -> None:
        super().__init__()
        self.conv_dw = style.conv(inputs, inputs, kernel_size, stride=1, groups=inputs)
        self.bn1 = style.norm(inputs)
        self.act1 = nn.ReLU6()
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = style.norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        y: Tensor = self.bn2(self.conv_pw(x))
        return y


class LiteBlock(nn.Module):
    """Lite's inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection; shortcut where it fits.

    (N, inputs, H, W) to (N, stage.outputs, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, inputs: int, stage: Stage, *, stride: int, drop: float, style: LiteStyle) -> None:
        super().__init__()
        expanded = make_divisible(inputs * stage.expand)
        self.conv_pw = nn.Conv2d(inputs, expanded, 1, bias=False)
        self.bn1 = style.norm(expanded)
        self.act1 = nn.ReLU6()
        self.conv_dw = style.conv(expanded, expanded, stage.kernel_size, stride=stride, groups=expanded)
        self.bn2 = style.norm(expanded)
        self.act2 = nn.ReLU6()
        self.conv_pwl = nn.Conv2d(expanded, stage.outputs, 1, bias=False)
        self.bn3 = style.norm(stage.outputs)
        self.stochastic_depth = StochasticDepth(drop)
        self.shortcut = stride == 1 and inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        y = self.act2(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return self.stochastic_depth(y) + x if self.shortcut else y


class EfficientNetLite(nn.Module):
    """Stem, stages of blocks, 1x1 head, global average, one linear layer. (N, 3, H, W) to (N, num_classes).

    The input's height and width must be fixed for an export of the ``tf`` style (see :class:`SameConv2d`).

    Args:
        stages: in order; the first is one :class:`LiteSeparable`, the others are :class:`LiteBlock`.
        num_classes: of the linear layer.
        dropout: before the linear layer, in training.
        style: padding and BatchNorm eps.
    """

    def __init__(self, stages: Sequence[Stage], num_classes: int, *, dropout: float, style: LiteStyle) -> None:
        super().__init__()
        stem, head = 32, 1280
        self.conv_stem = style.conv(3, stem, 3, stride=2)
        self.bn1 = style.norm(stem)
        self.act1 = nn.ReLU6()
        first, *others = stages
        groups = [nn.Sequential(LiteSeparable(stem, first.outputs, first.kernel_size, style=style))]
        inputs, built, total = first.outputs, 1, 1 + sum(stage.depth for stage in others)
        for stage in others:
            blocks: list[nn.Module] = []
            for stride in [stage.stride] + [1] * (stage.depth - 1):
                blocks.append(LiteBlock(inputs, stage, stride=stride, drop=SURVIVAL_LOSS * built / total, style=style))
                inputs, built = stage.outputs, built + 1
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.conv_head = nn.Conv2d(inputs, head, 1, bias=False)
        self.bn2 = style.norm(head)
        self.act2 = nn.ReLU6()
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_stem(x)))
        x = self.act2(self.bn2(self.conv_head(self.blocks(x))))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.global_pool(x), 1)))
        return logits


def _lite(width: float, depth: float, num_classes: int, *, dropout: float, tf: bool) -> EfficientNetLite:
    first, *middle, last = [stage.scaled(width, 1.0) for stage in BASELINE]
    stages = [first, *(stage.scaled(1.0, depth) for stage in middle), last]
    style = TENSORFLOW_STYLE if tf else TIMM_STYLE
    network = EfficientNetLite(stages, num_classes, dropout=dropout, style=style)
    init_he(network)
    return network


def efficientnet_lite0(num_classes: int = 1000, *, tf: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite0: width 1.0, depth 1.0; made for 224 pixels. ``tf``: the numerics of weights from TensorFlow."""
    return _lite(1.0, 1.0, num_classes, dropout=0.2, tf=tf)


def efficientnet_lite1(num_classes: int = 1000, *, tf: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite1: width 1.0, depth 1.1; made for 240 pixels. ``tf``: the numerics of weights from TensorFlow."""
    return _lite(1.0, 1.1, num_classes, dropout=0.2, tf=tf)


def efficientnet_lite2(num_classes: int = 1000, *, tf: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite2: width 1.1, depth 1.2; made for 260 pixels. ``tf``: the numerics of weights from TensorFlow."""
    return _lite(1.1, 1.2, num_classes, dropout=0.3, tf=tf)


def efficientnet_lite3(num_classes: int = 1000, *, tf: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite3: width 1.2, depth 1.4; made for 280 pixels (timm: 300). ``tf``: the numerics of weights from TensorFlow."""
    return _lite(1.2, 1.4, num_classes, dropout=0.3, tf=tf)


def efficientnet_lite4(num_classes: int = 1000, *, tf: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite4: width 1.4, depth 1.8; made for 300 pixels (timm: 380). ``tf``: the numerics of weights from TensorFlow."""
    return _lite(1.4, 1.8, num_classes, dropout=0.3, tf=tf)
