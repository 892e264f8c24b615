"""Small networks, each with one structure of the zoo. Weights and images depend on numpy alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import recipe
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.export import ExportConfig, export
from edgecnn.models.deformable import ModulatedDeformConv2d
from edgecnn.spec import ModelSpec, TensorSpec


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with its batch normalisation."""
    plain = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(plain, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """ResNet: max pool behind the stem, an identity shortcut, a projected one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.conv1, self.conv2 = conv(8, 8), conv(8, 8)
        self.conv3, self.conv4, self.down = conv(8, 16, stride=2), conv(16, 16), conv(8, 16, 1, stride=2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x).relu(), 3, 2, 1)
        x = (self.conv2(self.conv1(x).relu()) + x).relu()
        x = (self.conv4(self.conv3(x).relu()) + self.down(x)).relu()
        return self.fc(x.mean((2, 3)))


class Squeeze(nn.Module):
    """EfficientNet and SE-ResNet: depthwise convolution with SiLU, squeeze-excite gate, linear bottleneck, residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depthwise = conv(3, 8), conv(8, 16, 1), conv(16, 16, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.head = conv(16, 8, 1), conv(8, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.stem(x))
        y = functional.silu(self.depthwise(functional.silu(self.expand(x))))
        gate = functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))
        x = self.project(y * torch.sigmoid(self.excite(gate))) + x
        return self.fc(functional.silu(self.head(x)).mean((2, 3)))


class HardSwish(nn.Module):
    """MobileNetV3: hard-swish, a gate of hard-sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = conv(3, 8), conv(8, 8, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.project, self.fc = conv(8, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.stem(x))
        y = functional.hardswish(self.depthwise(x))
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu())
        x = x + self.project(y * functional.hardsigmoid(gate))
        return self.fc(functional.hardswish(x.mean((2, 3))))


class Inception(nn.Module):
    """GoogLeNet and Inception: branches with a max pool and an average pool, concatenations, a pool between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.one, self.reduce, self.three, self.pooled = conv(8, 8, 1), conv(8, 4, 1), conv(4, 8), conv(8, 8, 1)
        self.left, self.averaged, self.right = conv(24, 8, 1), conv(24, 8, 1), conv(24, 8)
        self.head, self.fc = conv(24, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        three = self.three(self.reduce(x).relu())
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        x = functional.max_pool2d(torch.cat([self.one(x).relu(), three.relu(), pooled.relu()], 1), 2)
        averaged = self.averaged(functional.avg_pool2d(x, 3, 1, 1))
        x = torch.cat([self.left(x).relu(), averaged.relu(), self.right(x).relu()], 1)
        return self.fc(self.head(x).relu().mean((2, 3)))


class Dense(nn.Module):
    """DenseNet: batch normalisation before the convolution, growing concatenations, a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.norm3, self.shrink = nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1, bias=False)
        self.norm4, self.conv4 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(self.norm1(x).relu())], 1)
        x = torch.cat([x, self.conv2(self.norm2(x).relu())], 1)
        x = functional.avg_pool2d(self.shrink(self.norm3(x).relu()), 2)
        return self.fc(self.conv4(self.norm4(x).relu()).relu().mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2 and EfficientNet-Lite: ReLU6, depthwise convolution, linear bottleneck, residual sum without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, stride=2)
        self.expand, self.depthwise, self.project = conv(8, 16, 1), conv(16, 16, groups=16), conv(16, 8, 1)
        self.head, self.fc = conv(8, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        y = functional.relu6(self.depthwise(functional.relu6(self.expand(x))))
        x = self.project(y) + x
        return self.fc(functional.relu6(self.head(x)).mean((2, 3)))


class Deformable(nn.Module):
    """A deformable convolution with mask between two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deform, self.norm = conv(3, 8), ModulatedDeformConv2d(8, 8), nn.BatchNorm2d(8)
        self.head, self.fc = conv(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.deform(self.stem(x).relu())).relu()
        return self.fc(self.head(x).relu().mean((2, 3)))


NETS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "squeeze": Squeeze,
    "hardswish": HardSwish,
    "inception": Inception,
    "dense": Dense,
    "inverted": Inverted,
    "deformable": Deformable,
}
SIZE = 16


@cache
def exported(name: str, folder: Path, *, batch: int | None = None) -> OnnxModel:
    """Export one of the networks with the recipe's weights."""
    network = NETS[name]()
    layout = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in recipe.synthetic_state(list(layout.items())).items()}
    network.load_state_dict(state)
    spec = ModelSpec(
        name=name,
        builder="structures:none",
        num_classes=10,
        inputs=(TensorSpec(name="input", shape=("batch", 3, SIZE, SIZE)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    )
    return export(network, spec, ExportConfig(batch=batch), to=folder / f"{name}{batch or ''}.onnx")


def images(count: int = 8) -> InMemory:
    """Return smooth random images."""
    generator = np.random.Generator(np.random.Philox(key=7))
    coarse = generator.standard_normal((count, 3, SIZE // 4, SIZE // 4)).repeat(4, axis=2).repeat(4, axis=3)
    return InMemory((coarse + 0.3 * generator.standard_normal(coarse.shape)).astype(np.float32))
