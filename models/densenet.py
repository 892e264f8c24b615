"""DenseNet 121, 161, 169 and 201, with the state-dict keys and numerics of torchvision's checkpoints.

Huang et al. 2017 (arXiv:1608.06993), the BC variants: 1x1 bottlenecks of four growth rates, and transitions that halve.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from edgecnn.models.layers import init_he

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]

Layers = tuple[int, int, int, int]
"""Dense layers in each of the four blocks."""


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, BatchNorm, ReLU, 3x3 convolution: (N, inputs, H, W) to (N, growth, H, W)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed: Tensor = self.conv1(self.act1(self.norm1(x)))
        y: Tensor = self.conv2(self.act2(self.norm2(squeezed)))
        return y


class DenseBlock(nn.Module):
    """Layers that each see the block's input and all earlier layers' outputs; so does the block's output.

    Every concatenation starts from the parts, not from the previous concatenation. The values are the same, but each part
    then reaches a layer through one concatenation instead of through all of them, so a quantizer that rounds at
    concatenations rounds it once; and evaluation holds one concatenated map at a time, never the quadratic sum of them.
    """

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(inputs + i * growth, growth))
        self.outputs = inputs + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.children():
            # The first layer's input is the block's own: a concatenation of one part would be a copy.
            parts.append(layer(torch.cat(parts, 1) if len(parts) > 1 else x))
        return torch.cat(parts, 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, 2x2 average: (N, inputs, H, W) to (N, inputs / 2, H / 2, W / 2)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.conv(self.act(self.norm(x))))
        return y


class DenseNet(nn.Module):
    """Stem, four dense blocks with transitions between, global average, linear. (N, 3, H, W) to (N, num_classes).

    Args:
        layers: dense layers in each block.
        growth: channels that a dense layer adds.
        stem: channels of the 7x7 convolution.
        num_classes: of the linear layer.
    """

    def __init__(self, layers: Layers, *, growth: int = 32, stem: int = 64, num_classes: int = 1000) -> None:
        super().__init__()
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(stem),
            act0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = stem
        for i, count in enumerate(layers, start=1):
            block = DenseBlock(channels, growth, count)
            features[f"denseblock{i}"] = block
            channels = block.outputs
            if i < len(layers):
                features[f"transition{i}"] = Transition(channels)
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.act = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.act(self.features(x)))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def _build(layers: Layers, num_classes: int, *, growth: int = 32, stem: int = 64) -> DenseNet:
    network = DenseNet(layers, growth=growth, stem=stem, num_classes=num_classes)
    init_he(network)
    return network


def densenet121(num_classes: int = 1000) -> DenseNet:
    """DenseNet-121: growth 32, dense layers 6, 12, 24, 16."""
    return _build((6, 12, 24, 16), num_classes)


def densenet161(num_classes: int = 1000) -> DenseNet:
    """DenseNet-161: growth 48, dense layers 6, 12, 36, 24, a stem of 96 channels."""
    return _build((6, 12, 36, 24), num_classes, growth=48, stem=96)


def densenet169(num_classes: int = 1000) -> DenseNet:
    """DenseNet-169: growth 32, dense layers 6, 12, 32, 32."""
    return _build((6, 12, 32, 32), num_classes)


def densenet201(num_classes: int = 1000) -> DenseNet:
    """DenseNet-201: growth 32, dense layers 6, 12, 48, 32."""
    return _build((6, 12, 48, 32), num_classes)
