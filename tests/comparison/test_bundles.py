"""Bundles side by side: measured, with an accuracy that is their own or said to be fp32's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image
from tiny_bundle import CLASSES, edit_manifest, graph_bytes, photos, write_tiny

from edgecnn.comparison import BundleConfig, Comparison, compare_bundles
from edgecnn.comparison.bundles import size_of
from edgecnn.errors import BundleMissingError, UserError
from edgecnn.onnxio import weight_counts
from edgecnn.runtime import Bundle, OrtOptions

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
    assert found.axes == ("latency",)  # its file has no shapes, so nobody knows its operations


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
    assert size_of(bundle) == (convolution + linear + CLASSES, None)  # a file without shapes


def test_operations_are_counted_where_the_file_has_shapes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load_from_string(graph_bytes())), path)
    params, macs = weight_counts(path)
    assert params == 8 * 27 + CLASSES * 8 + CLASSES
    assert macs == 8 * 27 * 15 * 15 + CLASSES * 8  # stride 2 on 32 x 32 leaves 15 x 15


def test_a_zoo_name_with_other_classes_is_counted_all_the_same(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, "net").path
    edit_manifest(bundle, lambda data: data["model"].update(name="resnet18"))
    assert size_of(Bundle.open(bundle))[0] == 8 * 27 + CLASSES * 8 + CLASSES


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


def test_bad_input(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle has a variant 'int4'; there are fp32, int8-cpu"):
        compared(tiny, variants=("int4",))
    with pytest.raises(UserError, match="no bundle to compare"):
        compared()
    with pytest.raises(BundleMissingError):
        compared(tmp_path / "none")
    with pytest.raises(UserError, match="seconds of measuring"):
        BundleConfig(seconds=0)
