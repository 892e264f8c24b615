"""Bundles side by side: measured, with an accuracy that is their own or said to be fp32's."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_bundle import CLASSES, edit_manifest, photos, write_model, write_tiny

from edgecnn import zoo
from edgecnn.artifacts import sha256_file
from edgecnn.comparison import BundleConfig, Comparison, Score, compare_bundles
from edgecnn.comparison.bundles import size_of
from edgecnn.comparison.published import stated_of
from edgecnn.errors import BackendError, BundleMissingError, UserError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, OrtOptions

PUBLISHED = json.loads((files("edgecnn.comparison") / "published.json").read_text(encoding="utf-8"))
QUICK: dict[str, Any] = {"seconds": 0.1, "options": OrtOptions(threads=1)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("compared"), "net").path


def compared(*paths: Path, **changes: Any) -> Comparison:
    return compare_bundles(paths, BundleConfig(**(QUICK | changes)))


def test_every_verified_variant_is_measured(tiny: Path) -> None:
    found = compared(tiny)
    assert [point.name for point in found.points] == ["net fp32", "net int8-cpu"]
    assert found.reference == "net fp32"
    for point in found.points:
        assert point.latency is not None
        assert point.latency.milliseconds > 0
        assert point.latency.backend == "onnxruntime"
    assert found.points[0].latency.ratio == 1  # type: ignore[union-attr]
    assert found.axes == ("macs", "latency")


def test_a_quantized_graph_is_not_said_to_have_fp32s_accuracy(tiny: Path) -> None:
    fp32, int8 = compared(tiny).points
    assert (fp32.top1, fp32.accuracy, fp32.own_accuracy) == (70.5, "published", True)
    assert (int8.top1, int8.accuracy, int8.own_accuracy) == (70.5, "published for fp32", False)
    assert any("--data measures their own" in note for note in compared(tiny).notes)


def test_accuracy_on_labelled_images_is_measured(tiny: Path, tmp_path: Path) -> None:
    for label, image in enumerate(photos(CLASSES)):
        folder = tmp_path / "data" / f"{label}"
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "photo.png")
    found = compared(tiny, data=tmp_path / "data")
    for point in found.points:
        assert point.accuracy == f"measured on {CLASSES} images"
        assert point.top1 in {100 * hits / CLASSES for hits in range(CLASSES + 1)}
        assert point.own_accuracy
    assert found.notes == ()


def test_parameters_and_operations_are_the_graphs(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    convolution, linear = 8 * 3 * 3 * 3, CLASSES * 8
    assert size_of(bundle) == (convolution + linear + CLASSES, convolution * 15 * 15 + linear)  # stride 2


def test_the_accuracy_of_a_published_checkpoint_is_found_by_its_hash(tmp_path: Path) -> None:
    (stated,) = (item for name, item in PUBLISHED["checkpoints"].items() if "lite0" in name)
    entry = next(entry for entry in zoo.find("efficientnet_lite0").weights if entry.name == "package")
    bundle = write_tiny(tmp_path, "net").path

    def change(data: dict[str, Any]) -> None:
        data["weights"].update(top1=None, sha256=entry.sha256)

    edit_manifest(bundle, change)
    assert compared(bundle).points[0].top1 is None  # 32 pixels: not the network that was published
    assert stated_of(entry.sha256, stated["size"]) == (stated["top1"], PUBLISHED["sources"]["tensorflow"])
    assert stated_of("", stated["size"]) is None
    assert any("no accuracy is published" in note for note in compared(bundle).notes)


def test_a_static_batch_counts_as_so_many_images(tmp_path: Path) -> None:
    models = [VariantContents(model=write_model(tmp_path, "fp32", batch=4), verified=True)]
    bundle = write_tiny(tmp_path, "four", models).path
    (tmp_path / "one").mkdir()
    one = write_tiny(tmp_path / "one", "one").path
    assert size_of(Bundle.open(bundle)) == size_of(Bundle.open(one))
    both = {point.name: point.latency for point in compared(one, bundle, variants=("fp32",)).points}
    four = both["four fp32"]
    assert four is not None
    assert four.ratio < 1  # a run of four takes longer than a run of one, but not four times as long


def test_a_zoo_name_with_other_classes_is_counted_all_the_same(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, "net").path
    edit_manifest(bundle, lambda data: data["model"].update(name="resnet18"))
    assert size_of(Bundle.open(bundle))[0] == 8 * 27 + CLASSES * 8 + CLASSES


def test_a_graph_that_does_not_run_here_has_no_count_of_operations(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise BackendError("operator edgecnn::DeformConv2d is not implemented here")

    monkeypatch.setattr("edgecnn.comparison.bundles.count_macs", refuse)
    assert size_of(Bundle.open(tiny)) == (8 * 27 + CLASSES * 8 + CLASSES, None)


def test_an_unverified_variant_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, "net").path
    edit_manifest(bundle, lambda data: data["variants"]["int8-cpu"].update(verified=False))
    found = compared(bundle)
    assert [point.name for point in found.points] == ["net fp32"]
    assert [(item.name, item.reason) for item in found.left_out] == [("net int8-cpu", "it failed verification")]
    assert len(compared(bundle, allow_unverified=True).points) == 2


def test_two_bundles_have_two_names(tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path, "other").path
    found = compared(tiny, other, tiny, variants=("fp32",))
    assert [point.name for point in found.points] == ["net fp32", "other fp32"]
    assert [point.label for point in found.points] == ["tiny fp32", "tiny fp32"]


def test_folders_of_one_name_are_told_apart_by_their_paths(tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path, tiny.name).path
    found = compared(tiny, other, variants=("fp32",))
    assert [point.name for point in found.points] == [f"{tiny} fp32", f"{other} fp32"]


def test_bad_input(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle has a variant 'int4'; there are fp32, int8-cpu"):
        compared(tiny, variants=("int4",))
    with pytest.raises(UserError, match="no bundle to compare"):
        compared()
    with pytest.raises(BundleMissingError):
        compared(tmp_path / "none")
    with pytest.raises(UserError, match="seconds of measuring"):
        BundleConfig(seconds=0)


def test_accuracy_that_was_measured_before_is_taken(tiny: Path) -> None:
    """Of the bundle as it is, on the backend that was timed, and on the most images; what is not known stays published, and is named."""
    own = sha256_file(tiny / "manifest.json")

    def score(
        top1: float, images: int, backend: str = "onnxruntime", variant: str = "int8-cpu", bundle: str = own
    ) -> Score:
        return Score(bundle=bundle, variant=variant, backend=backend, top1=top1, images=images, data="val")

    scores = (
        score(60, 100),
        score(61, 500),
        score(62, 900, "openvino"),
        score(63, 900, bundle="0" * 64),
        score(64, 1, variant="x"),
    )
    found = compared(tiny, scores=scores)
    fp32, int8 = found.points
    assert (int8.top1, int8.accuracy, int8.source) == (61, "measured on 500 images", "val, on onnxruntime")
    assert int8.own_accuracy
    assert (fp32.top1, fp32.accuracy) == (70.5, "published")
    assert found.notes == ("the accuracies that were given are not of net fp32 as it is now",)
    with pytest.raises(UserError, match="not both"):
        BundleConfig(data=tiny, scores=scores)
