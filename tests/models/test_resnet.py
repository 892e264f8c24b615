"""ResNet, ResNeXt and Wide ResNet against torchvision's goldens, and the hook for other 3x3 convolutions."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden
from torch import nn

from edgecnn.models import resnet
from edgecnn.models.resnet import BasicBlock, BlockStyle, Bottleneck, ResNet, conv3x3

BUILDERS = [name for name in resnet.__all__ if name.startswith(("resn", "wide"))]


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        pytest.param("resnet152", marks=pytest.mark.sweep),
        pytest.param("wide_resnet50_2", marks=pytest.mark.sweep),
    ],
)
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", BUILDERS)
def test_compact_golden(name):
    check_compact(name)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_export_with_a_dynamic_batch(name):
    check_export(name, 64)


@pytest.mark.parametrize("name", BUILDERS)
def test_builder(name):
    check_family(getattr(resnet, name), 64)


def test_untrained_weights_are_he_normal():
    torch.manual_seed(0)
    network = resnet.resnet50()
    for key in ("conv1", "layer1.0.conv2", "layer3.2.conv3", "layer4.0.downsample.0"):
        weight = network.get_submodule(key).weight
        assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * weight[0, 0].numel())) ** 0.5, rel=0.03), (
            key
        )
    assert all(module.weight.eq(1).all() for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_each_stage_takes_its_own_3x3_convolution():
    class Marked(nn.Conv2d):
        pass

    def marked(inputs, outputs, *, stride=1, groups=1):
        return Marked(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)

    plain, special = BlockStyle(), BlockStyle(conv3x3=marked)
    with torch.device("meta"):
        network = ResNet(Bottleneck, (3, 4, 6, 3), styles=(plain, special, plain, special))
        twin = resnet.resnet50()
    found = {name for name, module in network.named_modules() if isinstance(module, Marked)}
    assert found == {f"layer2.{i}.conv2" for i in range(4)} | {f"layer4.{i}.conv2" for i in range(3)}
    assert [(k, v.shape) for k, v in network.state_dict().items()] == [
        (k, v.shape) for k, v in twin.state_dict().items()
    ]


def test_basic_blocks_take_the_convolution_twice():
    calls = []

    def recorded(inputs, outputs, *, stride=1, groups=1):
        calls.append((inputs, outputs, stride, groups))
        return conv3x3(inputs, outputs, stride=stride, groups=groups)

    BasicBlock(64, 128, stride=2, style=BlockStyle(conv3x3=recorded))
    assert calls == [(64, 128, 2, 1), (128, 128, 1, 1)]


def test_a_gate_acts_on_the_branch_and_not_on_the_shortcut():
    class Closed(nn.Module):
        def forward(self, x):
            return x * 0

    block = Bottleneck(256, 64, stride=1, style=BlockStyle(gate=lambda channels: Closed())).eval()
    x = torch.randn(1, 256, 8, 8)
    assert block(x).equal(x.relu())


def test_wrong_styles_are_refused():
    with pytest.raises(ValueError, match="one BlockStyle or 4, got 3"):
        ResNet(Bottleneck, (1, 1, 1, 1), styles=[BlockStyle()] * 3)
    with pytest.raises(ValueError, match="neither groups nor another width, got 32 x 4"):
        ResNet(BasicBlock, (1, 1, 1, 1), styles=BlockStyle(groups=32, width_per_group=4))
