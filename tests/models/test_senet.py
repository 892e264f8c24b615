"""SE-ResNet and SE-ResNeXt against timm's goldens."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden

from edgecnn.models import senet
from edgecnn.models.layers import SqueezeExcite


@pytest.mark.parametrize("name", ["seresnet50", "seresnext50_32x4d"])
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", ["seresnet18", "seresnet34", "seresnet101", "seresnet152"])
def test_compact_golden(name):
    check_compact(name)


def test_export_with_a_dynamic_batch():
    check_export("seresnet18", 64)


@pytest.mark.parametrize("name", senet.__all__)
def test_builder(name):
    check_family(getattr(senet, name), 64)


def test_every_branch_ends_in_a_gate_of_a_sixteenth():
    with torch.device("meta"):
        network = senet.seresnet50()
    gates = [module for module in network.modules() if isinstance(module, SqueezeExcite)]
    assert len(gates) == 16
    assert all(gate.fc1.out_channels * 16 == gate.fc1.in_channels for gate in gates)
