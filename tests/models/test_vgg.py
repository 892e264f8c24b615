"""VGG against torchvision's goldens."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden

from edgecnn.models import vgg


@pytest.mark.parametrize(
    "name",
    ["vgg11", pytest.param("vgg16", marks=pytest.mark.sweep), pytest.param("vgg19_bn", marks=pytest.mark.sweep)],
)
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"])
def test_compact_golden(name):
    check_compact(name)


@pytest.mark.parametrize("size", [224, 64])
def test_export_with_a_dynamic_batch(size):
    program = check_export("vgg11", size)
    pools = [node for node in program.graph.nodes if "avg_pool" in str(node.target)]
    assert len(pools) == (0 if size == 224 else 1)


@pytest.mark.parametrize("name", [name for name in vgg.__all__ if name != "VGG"])
def test_builder(name):
    check_family(getattr(vgg, name), 64)


def test_dropout_argument():
    with torch.device("meta"):
        network = vgg.vgg11(dropout=0.25)
    assert [module.p for module in network.classifier if isinstance(module, torch.nn.Dropout)] == [0.25, 0.25]
