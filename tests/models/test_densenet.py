"""DenseNet against torchvision's goldens."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden

from edgecnn.models import densenet

BUILDERS = [name for name in densenet.__all__ if name != "DenseNet"]


@pytest.mark.parametrize("name", ["densenet121", pytest.param("densenet161", marks=pytest.mark.sweep)])
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", BUILDERS)
def test_compact_golden(name):
    check_compact(name)


def test_export_with_a_dynamic_batch():
    program = check_export("densenet121", 64)
    concatenations = [node for node in program.graph.nodes if "cat" in str(node.target)]
    # One for each layer but a block's first, and one for each block's output.
    assert len(concatenations) == sum((6, 12, 24, 16))
    assert max(len(node.args[0]) for node in concatenations) == 25


@pytest.mark.parametrize("name", BUILDERS)
def test_builder(name):
    check_family(getattr(densenet, name), 64)


def test_a_block_passes_its_input_and_every_layer_on():
    block = densenet.DenseBlock(8, 4, 3).eval()
    x = torch.randn(2, 8, 5, 5)
    y = block(x)
    assert y.shape == (2, 20, 5, 5)
    assert y[:, :8].equal(x)
    torch.testing.assert_close(y[:, 12:16], block.denselayer2(y[:, :12]))
