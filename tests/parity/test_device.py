"""Verifying a bundle where it runs: what passes, and on which stage a fault is put."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_bundles import doubled, save_pictures, write_bundle
from parity_nets import PREPROCESS, images
from tiny_bundle import edit_manifest, rehash

from edgecnn.errors import DataError, UserError
from edgecnn.parity.device import GOLDEN_SET, bisect_bundle, bundle_samples, picture_set, verify_bundle
from edgecnn.parity.report import ParityReport
from edgecnn.runtime import Bundle


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("honest"))


def edit_golden(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the golden arrays in place."""
    with np.load(bundle / "golden.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (bundle / "golden.npz").write_bytes(buffer.getvalue())
    rehash(bundle, "golden.npz")


def culprit(report: ParityReport) -> str:
    """Return the name of the first stage that departs."""
    assert report.first_departure is not None, "\n".join(report.lines())
    return report.first_departure.name


def test_an_honest_bundle_is_verified_against_what_was_recorded_and_against_fp32(honest: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    report = verify_bundle(honest.path, progress=lambda *step: seen.append(step))
    assert report, "\n".join(report.lines())
    assert [stage.name for stage in report.stages] == ["preprocess", "fp32", "fp16", "int8"]
    assert report.reference == "fp32"
    assert report.notes == ()
    int8 = report.stage("int8")
    assert [c.reference for c in int8.comparisons if c.against == "recorded"] == ["recorded int8", "recorded pytorch"]
    assert {c.samples for c in int8.comparisons} == {GOLDEN_SET, "noise", "edge inputs"}
    assert {c.reference for c in int8.comparisons} == {"recorded int8", "recorded pytorch", "fp32", "int8"}
    assert seen


def test_graphs_that_take_pixels_and_give_probabilities_are_given_every_sample(tmp_path: Path) -> None:
    report = verify_bundle(write_bundle(tmp_path, embedded=True))
    assert report, "\n".join(report.lines())
    for name in ("fp32", "fp16", "int8"):
        stage = report.stage(name)
        assert not stage.skipped
        assert all(c.metrics.probabilities for c in stage.comparisons)
        assert {c.samples for c in stage.comparisons} == {GOLDEN_SET, "noise", "edge inputs"}


@pytest.mark.parametrize("embedded", [False, True])
def test_swapped_mean_and_std_in_the_manifest_are_put_on_preprocessing(tmp_path: Path, embedded: bool) -> None:
    bundle = write_bundle(tmp_path, embedded=embedded, precisions=("fp32",)).path

    def swap(data: dict[str, Any]) -> None:
        for place in (data["preprocess"], data["model"]["preprocess"]):
            place["mean"], place["std"] = place["std"], place["mean"]

    edit_manifest(bundle, swap)
    report = verify_bundle(bundle)
    assert culprit(report) == "preprocess"
    (problem,) = report.stage("preprocess").problems
    assert "golden pictures give other tensors than recorded" in problem
    assert "mean, std" in problem
    assert report.stage("fp32").find("recorded") is not None


def test_another_size_of_tensors_is_put_on_preprocessing(honest: Bundle, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32",)).path
    edit_golden(bundle, lambda arrays: arrays.update(tensors=arrays["tensors"][:, :, :-1]))
    report = verify_bundle(bundle)
    assert culprit(report) == "preprocess"
    assert report.stage("preprocess").problems == ("gives [4, 3, 32, 32] where [4, 3, 31, 32] was recorded",)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [(("fp32", "dw.weight"), "fp32"), (("fp16", "dw.weight"), "fp16"), (("int8", "fc.weight"), "int8")],
)
def test_a_fault_in_one_variant_is_put_on_it(tmp_path: Path, fault: tuple[str, str], stage: str) -> None:
    """What was recorded of a variant has its fault too; what was recorded of PyTorch has not."""
    precision, array = fault
    report = verify_bundle(write_bundle(tmp_path, {precision: doubled(array)}))
    assert culprit(report) == stage
    failed = report.stage(stage).failures
    assert "recorded pytorch" in {c.reference for c in failed}
    assert f"recorded {stage}" not in {c.reference for c in failed}


def test_a_device_that_computes_otherwise_than_recorded_is_found(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32", "int8")).path
    edit_golden(bundle, lambda arrays: arrays.update({"logits.int8": arrays["logits.int8"][::-1]}))
    report = verify_bundle(bundle)
    assert culprit(report) == "int8"
    assert {c.reference for c in report.stage("int8").failures} == {"recorded int8"}
    edit_golden(bundle, lambda arrays: arrays.update({"logits.int8": arrays["logits.int8"][:, :5]}))
    report = verify_bundle(bundle)
    assert "against recorded int8: cannot compare outputs" in report.stage("int8").problems[0]


def test_without_golden_arrays_the_rest_is_verified_and_a_note_says_so(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32", "int8"), golden=False)
    report = verify_bundle(bundle, images(4))
    assert report
    assert [stage.name for stage in report.stages] == ["fp32", "int8"]
    assert "bundle has no golden arrays" in report.notes[0]
    assert [used.name for used in report.samples] == ["images", "noise", "edge inputs"]


@pytest.mark.parametrize("every", [False, True])
def test_a_variant_that_cannot_be_loaded_fails_and_the_others_are_verified(tmp_path: Path, every: bool) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32", "int8")).path
    for name in ("model.int8.onnx", *(["model.fp32.onnx"] if every else [])):
        (bundle / name).write_bytes(b"\x08\x0agarbage")
        rehash(bundle, name)
    report = verify_bundle(bundle)
    assert not report
    assert report.stage("int8").problems[0].startswith("cannot be loaded: onnxruntime cannot load model.int8.onnx")
    assert report.stage("fp32").passed is not every


def test_more_pictures_are_a_set_of_their_own(honest: Bundle, tmp_path: Path) -> None:
    save_pictures(tmp_path / "mine", 6)
    sets = bundle_samples(honest, tmp_path / "mine", limit=4)
    assert [used.name for used in sets] == [GOLDEN_SET, "mine", "noise", "edge inputs"]
    assert len(list(sets[1])) == 4


def test_pictures_that_cannot_be_decoded_are_left_out_and_counted(tmp_path: Path) -> None:
    save_pictures(tmp_path / "deep" / "down", 3)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    found = picture_set(tmp_path, PREPROCESS)
    assert found.note == "1 file(s) could not be decoded"
    assert len(list(found)) == 3


def test_a_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    save_pictures(tmp_path / "a", 4, seed=1)
    save_pictures(tmp_path / "b", 4, seed=2)
    every, some = list(picture_set(tmp_path, PREPROCESS)), list(picture_set(tmp_path, PREPROCESS, limit=2))
    for sample, index in zip(some, (0, 4), strict=True):
        np.testing.assert_array_equal(sample.feed["input"], every[index].feed["input"])


def test_a_folder_without_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"that can be decoded \(0 tried\)"):
        picture_set(tmp_path, PREPROCESS)
    with pytest.raises(DataError, match="no folder at"):
        picture_set(tmp_path / "absent", PREPROCESS)


def test_bisecting_a_bundle_names_the_layer_of_each_variant(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, {"int8": doubled("dw.weight")})
    found = bisect_bundle(bundle.path, limit=2)
    assert list(found) == ["fp16", "int8"]
    assert found["fp16"].first is None
    assert found["int8"].first is not None
    assert found["int8"].first.tensor == "dw.weight_dequantized"
    assert list(bisect_bundle(bundle, images(2), variants=["int8"])) == ["int8"]
    with pytest.raises(UserError, match="no variant 'int4'"):
        bisect_bundle(bundle, variants=["int4"])


def test_bisecting_needs_fp32(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no variant 'fp32'; it has int8"):
        bisect_bundle(write_bundle(tmp_path, precisions=("int8",)))
