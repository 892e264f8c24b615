"""Inception v3 with its auxiliary classifier, with the state-dict keys and numerics of torchvision's checkpoint.

Szegedy et al. 2016 (arXiv:1512.00567). The modules are named after the paper's figures; the network's and the branches'
attribute names are the checkpoint's, which are those of the original TensorFlow network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecnn.models.layers import ConvBnReLU, imagenet_to_half_range, init_he

__all__ = ["InceptionOutputs", "InceptionV3", "inception_v3"]


class InceptionOutputs(NamedTuple):
    """What Inception v3 returns in training mode: two (N, num_classes) tensors."""

    logits: Tensor
    aux_logits: Tensor


class MixedSquare(nn.Module):
    """Figure 5 beside a kept 5x5 branch: 1x1, 5x5, two 3x3, average pooling. (N, inputs, H, W) to (N, 224 + pooled, H, W)."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBnReLU(inputs, 64, 1)
        self.branch5x5_1 = ConvBnReLU(inputs, 48, 1)
        self.branch5x5_2 = ConvBnReLU(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBnReLU(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvBnReLU(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBnReLU(96, 96, 3, padding=1)
        self.pool = _average3x3()
        self.branch_pool = ConvBnReLU(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        square5 = self.branch5x5_2(self.branch5x5_1(x))
        square3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), square5, square3, self.branch_pool(self.pool(x))], 1)


class ReduceSquare(nn.Module):
    """Figure 10: halves the map. (N, inputs, H, W) to (N, 480 + inputs, (H - 1) / 2, (W - 1) / 2)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBnReLU(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvBnReLU(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvBnReLU(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBnReLU(96, 96, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        square3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), square3, self.pool(x)], 1)


class MixedStrips(nn.Module):
    """Figure 6: 7x7 convolutions factored into 1x7 and 7x1. (N, inputs, H, W) to (N, 768, H, W)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBnReLU(inputs, 192, 1)
        self.branch7x7_1 = ConvBnReLU(inputs, width, 1)
        self.branch7x7_2 = _row(width, width, 7)
        self.branch7x7_3 = _column(width, 192, 7)
        self.branch7x7dbl_1 = ConvBnReLU(inputs, width, 1)
        self.branch7x7dbl_2 = _column(width, width, 7)
        self.branch7x7dbl_3 = _row(width, width, 7)
        self.branch7x7dbl_4 = _column(width, width, 7)
        self.branch7x7dbl_5 = _row(width, 192, 7)
        self.pool = _average3x3()
        self.branch_pool = ConvBnReLU(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(self.pool(x))], 1)


class ReduceStrips(nn.Module):
    """Halves the map before the last stage. (N, inputs, H, W) to (N, 512 + inputs, (H - 1) / 2, (W - 1) / 2)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBnReLU(inputs, 192, 1)
        self.branch3x3_2 = ConvBnReLU(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvBnReLU(inputs, 192, 1)
        self.branch7x7x3_2 = _row(192, 192, 7)
        self.branch7x7x3_3 = _column(192, 192, 7)
        self.branch7x7x3_4 = ConvBnReLU(192, 192, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        square3 = self.branch3x3_2(self.branch3x3_1(x))
        strips = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([square3, self.branch7x7x3_4(strips), self.pool(x)], 1)


class MixedFan(nn.Module):
    """Figure 7: 3x3 convolutions that fan out into 1x3 beside 3x1. (N, inputs, H, W) to (N, 2048, H, W)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBnReLU(inputs, 320, 1)
        self.branch3x3_1 = ConvBnReLU(inputs, 384, 1)
        self.branch3x3_2a = _row(384, 384, 3)
        self.branch3x3_2b = _column(384, 384, 3)
        self.branch3x3dbl_1 = ConvBnReLU(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvBnReLU(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _row(384, 384, 3)
        self.branch3x3dbl_3b = _column(384, 384, 3)
        self.pool = _average3x3()
        self.branch_pool = ConvBnReLU(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        fans = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        fans += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *fans, self.branch_pool(self.pool(x))], 1)


def _row(inputs: int, outputs: int, length: int) -> ConvBnReLU:
    return ConvBnReLU(inputs, outputs, (1, length), padding=(0, length // 2))


def _column(inputs: int, outputs: int, length: int) -> ConvBnReLU:
    return ConvBnReLU(inputs, outputs, (length, 1), padding=(length // 2, 0))


def _average3x3() -> nn.AvgPool2d:
    # The border's padding counts as zeros in the average, as in the checkpoint's own network.
    return nn.AvgPool2d(3, stride=1, padding=1)


class AuxiliaryHead(nn.Module):
    """A classifier on the 17 x 17 maps, (N, inputs, 17, 17) to (N, num_classes), which training adds to the loss."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.conv0 = ConvBnReLU(inputs, 128, 1)
        self.conv1 = ConvBnReLU(128, 768, 5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.conv1(self.conv0(self.pool(x))))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


class InceptionV3(nn.Module):
    """(N, 3, H, W) to (N, num_classes), or to :class:`InceptionOutputs` in training mode with the auxiliary head.

    Made for 299 x 299; inputs of 75 pixels or more work in evaluation mode, and the auxiliary head needs 299.

    Args:
        num_classes: of both heads.
        aux_logits: build the auxiliary head. It runs in training mode only.
        transform_input: take images normalised for ImageNet and renormalise them to mean and deviation 0.5.
        dropout: probability before the linear layer, in training.
    """

    def __init__(
        self, num_classes: int = 1000, *, aux_logits: bool = True, transform_input: bool = False, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.Conv2d_1a_3x3 = ConvBnReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBnReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBnReLU(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvBnReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBnReLU(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = MixedSquare(192, 32)
        self.Mixed_5c = MixedSquare(256, 64)
        self.Mixed_5d = MixedSquare(288, 64)
        self.Mixed_6a = ReduceSquare(288)
        self.Mixed_6b = MixedStrips(768, 128)
        self.Mixed_6c = MixedStrips(768, 160)
        self.Mixed_6d = MixedStrips(768, 160)
        self.Mixed_6e = MixedStrips(768, 192)
        self.AuxLogits = AuxiliaryHead(768, num_classes) if aux_logits else None
        self.Mixed_7a = ReduceStrips(768)
        self.Mixed_7b = MixedFan(1280)
        self.Mixed_7c = MixedFan(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        if self.transform_input:
            x = imagenet_to_half_range(x)
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        middle: Tensor = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.avgpool(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(middle))))
        logits: Tensor = self.fc(self.dropout(torch.flatten(x, 1)))
        if self.training and self.AuxLogits is not None:
            return InceptionOutputs(logits, self.AuxLogits(middle))
        return logits


def inception_v3(
    num_classes: int = 1000, aux_logits: bool = True, transform_input: bool = False, dropout: float = 0.5
) -> InceptionV3:
    """Inception v3; arguments as :class:`InceptionV3`'s."""
    network = InceptionV3(num_classes, aux_logits=aux_logits, transform_input=transform_input, dropout=dropout)
    init_he(network)
    return network
