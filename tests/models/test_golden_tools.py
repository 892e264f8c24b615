"""The recipe against its published test vectors, and the checks against networks that are wrong on purpose."""

from __future__ import annotations

import re
import zlib

import golden_tools
import numpy as np
import pytest
from recipe import bytes_crc32, golden_input, is_damped, state_crc32, synthetic_state
from torch import nn

from edgecnn.models import specs

# key, shape, crc32 of the key, crc32 of the bytes, first values
VECTORS = [
    ("conv1.weight", (64, 3, 7, 7), "cb487135", "ba9b08ac", [0.012173878, 0.0690978616, 0.226845443]),
    ("bn1.weight", (64,), "c2d303cd", "30face23", [1.19319141, 1.01133025, 0.949016869]),
    ("bn1.bias", (64,), "fe71bf3d", "b43f823b", [-0.0680887029, -0.0941604152, -0.00528301578]),
    ("bn1.running_mean", (64,), "74fe08f3", "cdc38519", [0.0742127374, -0.00181600032, 0.119767733]),
    ("bn1.running_var", (64,), "b011d180", "9c7b458a", [0.993984759, 1.10668516, 0.886767983]),
    ("bn1.num_batches_tracked", (), "27c27674", "6522df69", [0.0]),
    ("layer1.0.bn2.weight", (64,), "a140508d", "c0673abe", [0.283412069, 0.219947353, 0.298878044]),
    ("features.2.1.block.2.1.weight", (24,), "ce7aa6ab", "eca64a26", [0.215076759, 0.296092629, 0.277049243]),
    ("fc.weight", (1000, 512), "be99fdfb", "49329bfb", [0.0267486386, 0.0209730379, 0.0529437028]),
    ("fc.bias", (1000,), "e658ff77", "f219b1d6", [-0.0429742597, -0.0529095121, -0.0688015446]),
]

INPUTS = {224: "52d23a07", 240: "de8049a2", 260: "ab03d4a6", 280: "07208f4d", 288: "002940a6", 299: "980fbfeb"}
INPUTS |= {300: "63a9a6e1", 380: "fd5e41a8", 384: "ddda3a91", 480: "1164761f", 600: "322caeed"}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
def test_recipe_gives_the_published_bytes(vector):
    key, _, key_crc32, crc32, first = vector
    array = synthetic_state([(key, shape) for key, shape, *_ in VECTORS])[key]
    assert f"{zlib.crc32(key.encode()):08x}" == key_crc32
    assert bytes_crc32(array) == crc32
    np.testing.assert_allclose(array.ravel()[:3], first, rtol=1e-6)


def test_recipe_gives_the_published_checksum_of_the_whole_state():
    state = synthetic_state([(key, shape) for key, shape, *_ in VECTORS])
    assert state_crc32(state) == "5567b2c5"
    assert state_crc32(dict(reversed(state.items()))) == "5567b2c5"


@pytest.mark.parametrize("size", INPUTS)
def test_recipe_gives_the_published_input(size):
    assert bytes_crc32(golden_input(size)) == INPUTS[size]


def test_a_norm_is_damped_only_where_it_ends_a_residual_branch():
    keys = {
        "layer1.0.bn2.weight",
        "layer1.0.bn3.weight",
        "layer1.1.bn2.weight",
        "blocks.1.0.bn2.weight",
        "blocks.1.1.bn2.weight",
    }
    keys |= {"features.2.1.block.2.1.weight", "features.2.1.block.3.1.weight", "features.2.0.block.3.1.weight"}
    damped = {"layer1.0.bn3.weight", "layer1.1.bn2.weight", "blocks.1.1.bn2.weight", "features.2.1.block.3.1.weight"}
    assert {key for key in keys if is_damped(key, keys)} == damped


def test_a_key_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match=r"no rule for layer\.gamma"):
        synthetic_state([("layer.gamma", (3,))])


def test_every_public_model_of_the_zoo_has_a_compact_golden():
    ours = {
        name for name, spec in specs().items() if spec.family != "deformable"
    }  # no public deformable classifier exists
    assert set(golden_tools._compact()) == ours


@pytest.mark.parametrize("mistake", ["eps", "stride", "activation"])
def test_a_porting_mistake_moves_the_logits(monkeypatch, mistake):
    def wrong(name):
        network = right(name)
        block = network.layer2[0]
        if mistake == "eps":
            block.bn1.eps = 1e-3
        elif mistake == "stride":
            block.downsample[0].stride, block.downsample[0].padding = (1, 1), (0, 0)
            block.downsample[1] = nn.Sequential(block.downsample[1], nn.MaxPool2d(2))
        else:
            block.act2 = nn.Hardswish()
        return network

    right = golden_tools.filled
    golden = golden_tools.compact_golden("resnet18")
    golden_tools._check_logits(right("resnet18"), golden)
    with pytest.raises(AssertionError, match=re.escape("Not equal to tolerance")):
        golden_tools._check_logits(wrong("resnet18"), golden)
