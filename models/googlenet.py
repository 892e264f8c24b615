"""GoogLeNet with both auxiliary classifiers, with the state-dict keys and numerics of torchvision's checkpoint.

Szegedy et al. 2015 (arXiv:1409.4842), with BatchNorm after every convolution. As in the TensorFlow network that the
published weights come from, the inception modules' third branch has a 3x3 kernel where the paper has 5x5, the fourth
pooling is 2x2, and an auxiliary head averages to 4x4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecnn.models.layers import ConvBnReLU, imagenet_to_half_range, init_he

__all__ = ["GoogLeNet", "GoogLeNetOutputs", "googlenet"]


class GoogLeNetOutputs(NamedTuple):
    """What GoogLeNet returns in training mode: three (N, num_classes) tensors, the deeper auxiliary head second."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class Inception(nn.Module):
    """Four parallel branches, concatenated: 1x1; 1x1 then 3x3; 1x1 then 3x3; 3x3 max pooling then 1x1.

    Args:
        inputs: channels.
        branch1: channels of the 1x1 convolution.
        branch2: channels of the reduction and of the 3x3 convolution.
        branch3: the same for the third branch.
        branch4: channels of the convolution after the pooling.
    """

    def __init__(
        self, inputs: int, branch1: int, branch2: tuple[int, int], branch3: tuple[int, int], branch4: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvBnReLU(inputs, branch1, 1)
        self.branch2 = _reduced_conv3x3(inputs, *branch2)
        self.branch3 = _reduced_conv3x3(inputs, *branch3)
        pool = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, ConvBnReLU(inputs, branch4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def _reduced_conv3x3(inputs: int, reduced: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvBnReLU(inputs, reduced, 1), ConvBnReLU(reduced, outputs, 3, padding=1))


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate map, (N, inputs, H, W) to (N, num_classes), which training adds to the loss."""

    def __init__(self, inputs: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.conv = ConvBnReLU(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.conv(self.avgpool(x)), 1)
        logits: Tensor = self.fc2(self.dropout(self.relu(self.fc1(x))))
        return logits


class GoogLeNet(nn.Module):
    """(N, 3, H, W) to (N, num_classes), or to :class:`GoogLeNetOutputs` in training mode with auxiliary heads.

    Args:
        num_classes: of all three heads.
        aux_logits: build the auxiliary heads. They run in training mode only.
        transform_input: take images normalised for ImageNet and renormalise them to mean and deviation 0.5.
        dropout: probability before the main linear layer, in training.
        dropout_aux: probability in the auxiliary heads, in training.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.conv1 = ConvBnReLU(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBnReLU(64, 64, 1)
        self.conv3 = ConvBnReLU(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = AuxiliaryHead(512, num_classes, dropout_aux) if aux_logits else None
        self.aux2 = AuxiliaryHead(528, num_classes, dropout_aux) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        if self.transform_input:
            x = imagenet_to_half_range(x)
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        middle1: Tensor = self.inception4a(x)
        middle2: Tensor = self.inception4d(self.inception4c(self.inception4b(middle1)))
        x = self.maxpool4(self.inception4e(middle2))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(x, 1)))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutputs(logits, self.aux2(middle2), self.aux1(middle1))
        return logits


def googlenet(
    num_classes: int = 1000,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.2,
    dropout_aux: float = 0.7,
) -> GoogLeNet:
    """GoogLeNet (Inception v1) with BatchNorm; arguments as :class:`GoogLeNet`'s."""
    network = GoogLeNet(
        num_classes,
        aux_logits=aux_logits,
        transform_input=transform_input,
        dropout=dropout,
        dropout_aux=dropout_aux,
    )
    init_he(network)
    return network
