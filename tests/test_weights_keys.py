"""Key styles, on strings."""

from __future__ import annotations

import pytest

from edgecnn.errors import WeightsError
from edgecnn.weights_keys import is_packaged_lite, rename

PLAIN = ("conv1.weight", "bn1.weight", "fc.weight")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.module.", "net."])
def test_a_wrappers_prefix_is_removed(prefix: str) -> None:
    found = rename([prefix + key for key in PLAIN], PLAIN)
    assert found.names == {prefix + key: key for key in PLAIN}
    assert found.notes == (f"removed the prefix {prefix} from every key",)


def test_a_prefix_of_some_keys_only_or_of_the_network_itself_stays() -> None:
    mixed = ["module.conv1.weight", "fc.weight"]
    assert rename(mixed, PLAIN).names == {key: key for key in mixed}
    own = ["model.conv1.weight", "model.fc.weight"]
    assert rename(own, own).names == {key: key for key in own}
    assert rename(own, own).notes == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("features.denseblock1.denselayer1.norm.1.weight", "features.denseblock1.denselayer1.norm1.weight"),
        ("features.denseblock3.denselayer24.norm.2.running_var", "features.denseblock3.denselayer24.norm2.running_var"),
        ("features.denseblock1.denselayer1.conv.2.weight", "features.denseblock1.denselayer1.conv2.weight"),
        ("features.transition1.norm.weight", "features.transition1.norm.weight"),
        ("features.norm5.weight", "features.norm5.weight"),
    ],
)
def test_old_densenet_keys(old: str, new: str) -> None:
    anchor = "features.denseblock2.denselayer1.norm.1.bias"
    assert rename([old, anchor], [new]).names[old] == new


LITE = [
    "conv_stem.weight", "bn1.weight", "conv_head.weight", "bn2.weight", "classifier.weight",
    "blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.weight", "blocks.0.0.conv_pw.weight", "blocks.0.0.bn2.weight",
    *(
        f"blocks.{block}.{part}.weight"
        for block in ("1.0", "1.1", "2.0")
        for part in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    ),
]  # fmt: skip
PACKAGED = [
    "_conv_stem.weight", "_bn0.weight", "_conv_head.weight", "_bn1.weight", "_fc.weight",
    "_blocks.0._depthwise_conv.weight", "_blocks.0._bn1.weight", "_blocks.0._project_conv.weight", "_blocks.0._bn2.weight",
    *(
        f"_blocks.{block}._{part}.weight"
        for block in (1, 2, 3)
        for part in ("expand_conv", "bn0", "depthwise_conv", "bn1", "project_conv", "bn2")
    ),
]  # fmt: skip


def test_packaged_lite_keys_map_the_flat_block_index_to_stage_and_block() -> None:
    found = rename(PACKAGED, LITE)
    assert list(found.names.values()) == LITE
    assert "EfficientNet-Lite" in found.notes[0]
    wrapped = rename([f"module.{key}" for key in PACKAGED], LITE)
    assert list(wrapped.names.values()) == LITE
    assert is_packaged_lite(PACKAGED)
    assert is_packaged_lite(f"module.{key}" for key in PACKAGED)
    assert not is_packaged_lite(LITE)


def test_a_packaged_lite_of_another_depth_is_refused() -> None:
    with pytest.raises(WeightsError, match="of 4 blocks, the network has 3"):
        rename(PACKAGED, [key for key in LITE if not key.startswith("blocks.2")])


def test_two_keys_for_one_parameter_are_refused() -> None:
    both = ["f.denselayer1.norm.1.weight", "f.denselayer1.norm1.weight"]
    with pytest.raises(WeightsError, match="two of the checkpoint's keys"):
        rename(both, both[1:])


def test_unknown_keys_keep_their_names() -> None:
    assert rename(["backbone.x"], PLAIN).names == {"backbone.x": "backbone.x"}
