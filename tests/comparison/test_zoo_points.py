"""The zoo's networks as points: sizes of the table, accuracies with a source."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from edgecnn import zoo
from edgecnn.comparison.names import FAMILIES, short
from edgecnn.comparison.zoo import ZooConfig, compare_zoo, zoo_points
from edgecnn.errors import UserError

PUBLISHED = json.loads((files("edgecnn.comparison") / "published.json").read_text(encoding="utf-8"))


def test_every_network_is_there_with_the_tables_numbers() -> None:
    points = {point.name: point for point in compare_zoo().points}
    twins = {f"tf_efficientnet_lite{index}" for index in range(5)}  # with the same weights, the same network
    assert set(points) == {*zoo.names(), "alexnet"} - twins
    for row in zoo.table():
        if row["name"] in twins:
            continue
        found = points[row["name"]]
        assert (found.params, found.macs, list(found.size)) == (row["num_params"], row["macs"], row["input_size"])
        entry = next((item for item in row["weights"] if item["name"] == row["default_weights"]), None)
        if entry and entry["top1"] is not None:
            assert (found.top1, found.source) == (entry["top1"], entry["source"])


def test_what_the_table_does_not_state_belongs_to_the_default_weights() -> None:
    entries = {
        entry.file: entry
        for spec in map(zoo.find, zoo.names())
        for entry in spec.weights
        if entry.name == spec.default_weights
    }
    for file, stated in PUBLISHED["checkpoints"].items():
        assert entries[file].top1 is None
        assert entries[file].preprocess.size == (stated["size"], stated["size"])
        assert PUBLISHED["sources"][stated["source"]].startswith("https://")
    points = {point.name: point for point in compare_zoo().points}
    assert points["efficientnet_lite0"].top1 == 75.1
    assert points["seresnet50"].top1 == 80.012
    assert "results-imagenet.csv" in points["seresnet50"].source


def test_every_accuracy_has_a_source_and_the_rest_is_named() -> None:
    points, notes = zoo_points()
    for point in points:
        assert (point.top1 is not None) == bool(point.accuracy), point.name
        assert point.top1 is None or (50 < point.top1 < 95 and point.source.startswith("https://")), point.name
    assert notes == (
        f"{sum(point.top1 is None for point in points)} networks have no published accuracy, and are in the table alone",
    )


def test_alexnets_operations_are_those_of_its_layers() -> None:
    convolutions = (
        (55, 64, 3 * 11 * 11),
        (27, 192, 64 * 25),
        (13, 384, 192 * 9),
        (13, 256, 384 * 9),
        (13, 256, 256 * 9),
    )
    linear = ((4096, 256 * 36), (4096, 4096), (1000, 4096))
    (found,) = [point for point in compare_zoo().points if point.name == "alexnet"]
    assert found.macs == sum(side**2 * out * each for side, out, each in convolutions) + sum(a * b for a, b in linear)
    assert found.params == sum(out * each + out for _, out, each in convolutions) + sum(a * b + a for a, b in linear)


def test_a_glob_chooses() -> None:
    points, _ = zoo_points("mobilenet*")
    assert [point.name for point in points] == ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]
    with pytest.raises(UserError, match=r"no model's name matches 'resent\*': 'edgecnn models' lists them"):
        compare_zoo(ZooConfig(models="resent*"))


@pytest.mark.parametrize(("field", "value"), [("threads", -1), ("seconds", 0.0), ("seconds", float("nan"))])
def test_bad_values_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError):
        ZooConfig(**{field: value})  # type: ignore[arg-type]


def test_names_are_short_and_distinct() -> None:
    labels = [short(name) for name in zoo.names() if not name.startswith("tf_")]
    assert len(set(labels)) == len(labels)
    assert all(label != name for label, name in zip(labels, zoo.names(), strict=False))
    assert (short("wide_resnet50_2"), short("my_net")) == ("WRN-50-2", "my_net")
    assert {row["family"] for row in zoo.table()} | {"alexnet", "user"} == set(FAMILIES)
