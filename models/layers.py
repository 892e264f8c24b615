"""Building blocks that several families share, their untrained initialisation, and the counters of parameters and MACs.

State-dict keys are part of the contract: :func:`conv_bn_act` gives ``0.weight, 1.weight, ...`` (the MobileNet and
EfficientNet checkpoints), :class:`ConvBnReLU` gives ``conv.weight, bn.weight, ...`` (the Inception ones), and
:class:`SqueezeExcite` gives ``fc1`` and ``fc2`` (all of them).

Activations are never in place: a forward hook then sees what the layer computed, which parity bisecting relies on.
Every network can be built under ``torch.device("meta")`` and filled with ``load_state_dict(state, assign=True)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = [
    "ConvBnReLU",
    "SqueezeExcite",
    "conv_bn_act",
    "count_macs",
    "count_parameters",
    "imagenet_to_half_range",
    "init_he",
    "make_divisible",
]

MakeLayer = Callable[[], nn.Module]
"""Makes a layer without arguments, such as ``nn.ReLU``."""

MakeNorm = Callable[[int], nn.Module]
"""Makes a normalisation layer for that many channels, such as ``nn.BatchNorm2d``."""


def init_he(network: nn.Module) -> None:
    """Initialise an untrained network in place.

    Convolutions get He's normal initialisation, fan-out and ReLU: standard deviation ``sqrt(2 / fan_out)`` with
    ``fan_out = out_channels / groups * kernel_height * kernel_width`` (He et al. 2015, arXiv:1502.01852, eq. 14), zero bias.
    Dividing by the groups is what the derivation says: it counts the outputs that one input reaches. Without it a
    depthwise layer shrinks its input by ``sqrt(channels)``, and an untrained MobileNet's logits vanish in evaluation mode.
    BatchNorm starts at weight 1 and bias 0, linear layers at normal(0, 0.01) and zero bias (as VGG's and MobileNet's do).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] // module.groups * module.weight[0, 0].numel()
            nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def make_divisible(value: float, divisor: int = 8, floor: float = 0.9) -> int:
    """Round a channel count to a multiple of ``divisor``, at least ``divisor`` and never under ``floor * value``.

    The rule of the MobileNet family (Sandler et al. 2018, arXiv:1801.04381, in its published code). ``floor=0`` rounds to
    the nearest multiple alone, which is how timm sizes the squeeze of SE-ResNets.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= floor * value else rounded + divisor


def conv_bn_act(
    inputs: int,
    outputs: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: MakeNorm = nn.BatchNorm2d,
    act: MakeLayer | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias and "same" symmetric padding, normalisation, and the activation unless it is ``None``.

    The keys are ``0.weight`` (convolution) and ``1.*`` (normalisation).
    """
    padding = (kernel_size - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=padding, groups=groups, bias=False)
    layers = [conv, norm(outputs)]
    if act is not None:
        layers.append(act())
    return nn.Sequential(*layers)


class ConvBnReLU(nn.Module):
    """Convolution without bias, BatchNorm with eps 1e-3, ReLU: the unit of GoogLeNet and Inception (keys ``conv``, ``bn``)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018, arXiv:1709.01507): ``x * gate(fc2(act(fc1(mean(x)))))``, with 1x1 convolutions.

    Args:
        channels: of the input and output.
        squeezed: channels between ``fc1`` and ``fc2``.
        act: makes the activation after ``fc1``.
        gate: makes the activation after ``fc2``.
    """

    def __init__(self, channels: int, squeezed: int, *, act: MakeLayer = nn.ReLU, gate: MakeLayer = nn.Sigmoid) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.act(self.fc1(self.avgpool(x)))))
        return x * scale


def imagenet_to_half_range(x: Tensor) -> Tensor:
    """Turn images normalised with ImageNet's mean and deviation into ones normalised with mean 0.5 and deviation 0.5.

    The published GoogLeNet and Inception v3 weights were converted from TensorFlow and want the latter; this lets them
    share everyone else's preprocessing. ``x`` is (N, 3, H, W) of any float dtype; the constants take its dtype.
    """
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = torch.tensor([d / 0.5 for d in deviation], dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    shift = torch.tensor([(m - 0.5) / 0.5 for m in mean], dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return x * scale + shift


def count_parameters(network: nn.Module) -> int:
    """Number of scalars in the network's parameters (buffers such as running means are not parameters)."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-adds of one image through the convolutions and linear layers, without bias adds.

    A layer counts ``outputs * prod(weight.shape[1:])`` for its own weight of two or more dimensions, so deformable
    convolutions count like plain ones. Nothing is computed: shapes are propagated on the meta device, in evaluation
    mode (auxiliary heads do not run), and the network is left as it was.

    Args:
        network: takes one float tensor.
        input_shape: (C, H, W) of one image.
    """
    total = 0

    def counter(macs_per_output: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            nonlocal total
            total += output[0].numel() * macs_per_output

        return add

    weighted = [
        (m, w) for m in network.modules() if isinstance(w := getattr(m, "weight", None), nn.Parameter) and w.dim() > 1
    ]
    hooks = [layer.register_forward_hook(counter(weight[0].numel())) for layer, weight in weighted]
    was_training = [module for module in network.modules() if module.training]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    try:
        network.eval()
        meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        dtype = next((t.dtype for t in meta.values() if t.is_floating_point()), torch.float32)
        with torch.no_grad():
            functional_call(network, meta, torch.empty(1, *input_shape, dtype=dtype, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    return total
