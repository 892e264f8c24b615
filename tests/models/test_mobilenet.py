"""MobileNetV2 and V3 against torchvision's goldens."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden
from torch import nn

from edgecnn.models import mobilenet

BUILDERS = [name for name in mobilenet.__all__ if name.startswith("mobilenet_")]


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large"])
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", BUILDERS)
def test_compact_golden(name):
    check_compact(name)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_export_with_a_dynamic_batch(name):
    check_export(name, 64)


@pytest.mark.parametrize("name", BUILDERS)
def test_builder(name):
    check_family(getattr(mobilenet, name), 64)


@pytest.mark.parametrize("name", BUILDERS)
def test_untrained_network_is_he_initialised_and_its_logits_depend_on_the_image(name):
    torch.manual_seed(0)
    network = getattr(mobilenet, name)().eval()
    depthwise = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 400]
    for weight in depthwise:
        assert weight.std().item() == pytest.approx((2 / weight[0, 0].numel()) ** 0.5, rel=0.1)
    with torch.no_grad():
        first, second = network(torch.randn(2, 3, 64, 64))
    assert (first - second).norm() > 0.01 * first.norm()


def test_shortcuts_stand_where_the_shape_stays():
    with torch.device("meta"):
        v2, large = mobilenet.mobilenet_v2(), mobilenet.mobilenet_v3_large()
    shortcuts = [b.shortcut for b in v2.features if isinstance(b, mobilenet.InvertedResidual)]
    assert "".join("01"[s] for s in shortcuts) == "00101101110110110"
    shortcuts = [b.shortcut for b in large.features if isinstance(b, mobilenet.Bottleneck)]
    assert "".join("01"[s] for s in shortcuts) == "101011011101011"
