"""VGG 11, 13, 16 and 19, plain and with BatchNorm, with the state-dict keys and numerics of torchvision's checkpoints.

Simonyan and Zisserman 2015 (arXiv:1409.1556), configurations A, B, D and E.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgecnn.models.layers import init_he

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the 3x3 convolutions in each of the five stages; a 2x2 max pooling ends a stage."""

Depths = tuple[int, int, int, int, int]
"""Convolutions in each stage."""

DEPTHS: dict[int, Depths] = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""By the number of weight layers, which counts the three linear ones too."""


class VGG(nn.Module):
    """Five stages of 3x3 convolutions and a classifier of three linear layers. (N, 3, H, W) to (N, num_classes).

    The classifier wants 7x7 maps, which an input of 224 x 224 gives; other inputs of 32 pixels or more are averaged to
    that size.

    Args:
        depths: convolutions in each stage.
        batch_norm: a BatchNorm after each convolution.
        num_classes: of the last linear layer.
        dropout: probability, after the first two linear layers, in training.
    """

    def __init__(self, depths: Depths, *, batch_norm: bool, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(*feature_layers(depths, batch_norm=batch_norm))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(WIDTHS[-1] * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)
        if maps.shape[2:] != (7, 7):  # the pooling would be the identity, and a node in every exported graph
            maps = self.avgpool(maps)
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


def feature_layers(depths: Depths, *, batch_norm: bool) -> Iterator[nn.Module]:
    """The convolutional part, layer by layer: the position in the list is the number in the state-dict key."""
    inputs = 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            yield nn.Conv2d(inputs, width, 3, padding=1)
            if batch_norm:
                yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            inputs = width
        yield nn.MaxPool2d(2, stride=2)


def _build(layers: int, *, batch_norm: bool, num_classes: int, dropout: float) -> VGG:
    network = VGG(DEPTHS[layers], batch_norm=batch_norm, num_classes=num_classes, dropout=dropout)
    init_he(network)
    return network


def vgg11(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-11 (configuration A)."""
    return _build(11, batch_norm=False, num_classes=num_classes, dropout=dropout)


def vgg13(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-13 (configuration B)."""
    return _build(13, batch_norm=False, num_classes=num_classes, dropout=dropout)


def vgg16(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-16 (configuration D)."""
    return _build(16, batch_norm=False, num_classes=num_classes, dropout=dropout)


def vgg19(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-19 (configuration E)."""
    return _build(19, batch_norm=False, num_classes=num_classes, dropout=dropout)


def vgg11_bn(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-11 with BatchNorm."""
    return _build(11, batch_norm=True, num_classes=num_classes, dropout=dropout)


def vgg13_bn(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-13 with BatchNorm."""
    return _build(13, batch_norm=True, num_classes=num_classes, dropout=dropout)


def vgg16_bn(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-16 with BatchNorm."""
    return _build(16, batch_norm=True, num_classes=num_classes, dropout=dropout)


def vgg19_bn(num_classes: int = 1000, dropout: float = 0.5) -> VGG:
    """VGG-19 with BatchNorm."""
    return _build(19, batch_norm=True, num_classes=num_classes, dropout=dropout)
