"""The zoo table: complete, consistent, and true to the networks that it names."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from edgecnn import models
from edgecnn.errors import SpecError
from edgecnn.models.layers import count_macs, count_parameters
from edgecnn.spec import ModelSpec, WeightsEntry

NAMES = (
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet", "inception_v3",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "seresnext50_32x4d",
    *(f"efficientnet_b{index}" for index in range(8)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
    *(f"{tf}efficientnet_lite{index}" for tf in ("", "tf_") for index in range(5)),
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    *(f"deform_resnet{depth}_v{version}" for depth in (50, 101) for version in (1, 2)),
)  # fmt: skip
SPECS = models.specs()
ENTRIES = [
    pytest.param(spec, entry, id=f"{spec.name}-{entry.name}") for spec in SPECS.values() for entry in spec.weights
]
UNPUBLISHED = {"seresnet18", "seresnet34", "seresnet101", "seresnet152", *(n for n in NAMES if n.startswith("deform"))}


def build(spec: ModelSpec, **arguments: Any) -> torch.nn.Module:
    module, _, function = spec.builder.partition(":")
    with torch.device("meta"):
        network: torch.nn.Module = getattr(import_module(module), function)(**{**spec.arguments, **arguments})
    return network


def default_size(spec: ModelSpec) -> tuple[int, int]:
    entry = next((entry for entry in spec.weights if entry.name == spec.default_weights), None)
    return (entry or spec).preprocess.size


def test_every_promised_model_is_there() -> None:
    assert set(NAMES) <= set(SPECS)
    assert len(NAMES) == 57


@pytest.mark.parametrize("name", list(SPECS))
def test_the_builder_makes_a_network_of_the_stated_size(name: str) -> None:
    network = build(SPECS[name])
    assert count_parameters(network) == models.facts(name).params
    assert count_macs(network, (3, *default_size(SPECS[name]))) == models.facts(name).macs


@pytest.mark.parametrize(("spec", "entry"), ENTRIES)
def test_an_entry_can_be_fetched_and_checked(spec: ModelSpec, entry: WeightsEntry) -> None:
    if entry.url:
        assert entry.url.startswith("https://")
        assert entry.url.rpartition("/")[2] == entry.file
        assert re.fullmatch(r"[0-9a-f]{8}", entry.sha256)
        assert entry.file.endswith(f"-{entry.sha256}.pth")
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.file.endswith(f"-{entry.sha256[:8]}.pth")
    assert entry.licence
    assert entry.source
    assert entry.num_classes == spec.num_classes == 1000


@pytest.mark.parametrize(("spec", "entry"), ENTRIES)
def test_an_entrys_preprocessing_and_arguments_are_of_use(spec: ModelSpec, entry: WeightsEntry) -> None:
    assert entry.preprocess.resize >= max(entry.preprocess.size)
    assert all(0.4 < mean < 0.51 for mean in entry.preprocess.mean)
    assert all(0.2 < std < 0.51 for std in entry.preprocess.std)
    if entry.top1 is not None:
        assert entry.top5 is not None
        assert 60 < entry.top1 < entry.top5 < 100
    if entry.arguments:
        build(spec, **entry.arguments)


def test_defaults() -> None:
    for spec in SPECS.values():
        assert bool(spec.default_weights) == (spec.name not in UNPUBLISHED), spec.name
    assert {n: SPECS[n].default_weights for n in ("resnet50", "vgg16", "seresnet50", "seresnext50_32x4d")} == {
        "resnet50": "IMAGENET1K_V2",
        "vgg16": "IMAGENET1K_V1",
        "seresnet50": "a1_in1k",
        "seresnext50_32x4d": "racm_in1k",
    }
    for prefix in ("", "tf_"):
        lite = [SPECS[f"{prefix}efficientnet_lite{index}"].default_weights for index in range(5)]
        assert lite == ["package", "package", "package", "in1k", "in1k"]


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if len(spec.weights) > 1])
def test_the_default_is_the_best_of_those_whose_accuracy_is_known(name: str) -> None:
    spec = SPECS[name]
    known = {entry.name: entry.top1 for entry in spec.weights if entry.top1 is not None}
    if spec.default_weights in known:
        assert known[spec.default_weights] == max(known.values())


@pytest.mark.parametrize("name", [name for name in SPECS if name not in UNPUBLISHED])
def test_the_spec_shows_the_size_of_its_default_weights(name: str) -> None:
    spec = SPECS[name]
    if name in ("efficientnet_lite3", "efficientnet_lite4"):  # their only weights are of the other variant
        assert spec.preprocess.size < default_size(spec)
    else:
        assert spec.preprocess.size == default_size(spec)
    assert spec.inputs[0].shape == ("batch", 3, *spec.preprocess.size)
    assert spec.preprocess.size[0] == next(row.size for row in models.ROWS if row.name == name)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_converted_inceptions_renormalise_their_input(name: str) -> None:
    (entry,) = SPECS[name].weights
    assert entry.arguments == {"transform_input": True, "aux_logits": True}


@pytest.mark.parametrize(("index", "size", "top"), [(0, 224, 256), (1, 240, 272), (2, 260, 292)])
def test_the_packaged_lite_weights_have_tensorflows_preprocessing(index: int, size: int, top: int) -> None:
    for name in (f"efficientnet_lite{index}", f"tf_efficientnet_lite{index}"):
        (entry,) = (entry for entry in SPECS[name].weights if entry.package)
        assert entry.arguments == {"tf": True}
        assert (entry.preprocess.order, entry.preprocess.interpolation) == ("crop-resize", "bicubic")
        assert (entry.preprocess.size, entry.preprocess.resize) == ((size, size), top)
        white = (1 - entry.preprocess.mean[0]) / entry.preprocess.std[0]
        assert white == pytest.approx((255 - 127) / 128)


@pytest.mark.parametrize("name", list(SPECS))
def test_a_spec_survives_json(name: str) -> None:
    spec = SPECS[name]
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_the_labels_are_imagenets() -> None:
    names = models.labels("imagenet-1k")
    assert len(names) == len(set(names)) == 1000
    assert all(name == name.strip() for name in names)
    assert (names[0], names[285], names[999]) == ("tench", "Egyptian cat", "toilet tissue")
    with pytest.raises(SpecError, match="imagenet-1k"):
        models.labels("imagenet-21k")


FACTS = {"params": 1, "macs": 1, "default": "", "weights": []}


def test_a_duplicate_name_raises() -> None:
    row = models.Row("net", "vgg", 224, 256)
    assert list(models.collect([row], {"net": FACTS})) == ["net"]
    with pytest.raises(SpecError, match="two models named net"):
        models.collect([row, replace(row, family="resnet")], {"net": FACTS})


def test_facts_and_rows_belong_together() -> None:
    row = models.Row("net", "vgg", 224, 256)
    with pytest.raises(SpecError, match=r"model net: no facts"):
        models.collect([row], {})
    with pytest.raises(SpecError, match="not in the table: other"):
        models.collect([row], {"net": FACTS, "other": FACTS})
    entry = {"name": "A", "url": "https://example.org/a.pth"}
    with pytest.raises(SpecError, match="two weights entries share a name: A, A"):
        models.collect([row], {"net": {**FACTS, "weights": [entry, entry]}})
    with pytest.raises(SpecError, match="default weights 'B'"):
        models.collect([row], {"net": {**FACTS, "default": "B", "weights": [entry]}})
