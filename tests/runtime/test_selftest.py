"""The on-device self-test: passes where it should, and is moved by each of the things it guards."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import edit_manifest, photos, rehash, write_model, write_tiny

from edgecnn.errors import BundleCorruptError, BundleMissingError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, OrtOptions, selftest
from edgecnn.runtime.manifest import Embedded


def rewrite_golden(bundle: Path, **changes: Any) -> None:
    """Replace arrays of golden.npz; None removes one."""
    arrays = Bundle.open(bundle, allow_unverified=True).golden() | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    (bundle / "golden.npz").write_bytes(buffer.getvalue())
    rehash(bundle, "golden.npz")


def test_passes(tiny: Path) -> None:
    for variant in ("fp32", "int8-cpu"):
        result = selftest(tiny, variant)
        assert result
        assert result.passed
        assert result.images == result.top1 == 3
        assert result.tensor_error == 0
        assert result.logit_error < 1e-6
        assert result.backend == "onnxruntime"
        assert result.seconds > 0
        assert json.loads(json.dumps(result.to_json()))["passed"] is True
        assert "passed" in str(result)
    assert selftest(Bundle.open(tiny)).variant == "int8-cpu"
    assert selftest(tiny, "fp32", options=OrtOptions(threads=1, optimize="disabled"))


def test_unverified_bundles_can_be_tested(tmp_path: Path) -> None:
    write_tiny(tmp_path, verified=False)
    assert selftest(tmp_path / "bundle")


def test_embedded_preprocess(tmp_path: Path) -> None:
    variants = [VariantContents(model=write_model(tmp_path, "fp32", uint8=True), verified=True)]
    assert selftest(write_tiny(tmp_path, variants=variants, embedded=Embedded(preprocess=True)))


def test_other_weights_fail(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path).path
    (bundle / "model.fp32.onnx").write_bytes(write_model(tmp_path, "fp32", scale=1.01).path.read_bytes())
    rehash(bundle, "model.fp32.onnx")
    result = selftest(bundle, "fp32")
    assert not result
    assert result.logit_error > result.logit_tolerance
    assert result.tensor_error == 0
    assert "FAILED" in str(result)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.2, 0.2, 0.2]},
        {"colour": "BGR"},
        {"interpolation": "nearest"},
        {"resize": 40},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_preprocessing_fails(tmp_path: Path, change: dict[str, Any]) -> None:
    bundle = write_tiny(tmp_path).path
    edit_manifest(bundle, lambda data: data["preprocess"].update(change))
    result = selftest(bundle, "fp32")
    assert not result
    assert result.tensor_error > result.tensor_tolerance


def test_another_top1_fails(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path).path
    logits = Bundle.open(bundle).golden()["logits.fp32"].copy()
    logits[1] = logits[1, ::-1]
    rewrite_golden(bundle, **{"logits.fp32": logits})
    result = selftest(bundle, "fp32")
    assert not result
    assert result.top1 < 3


def test_nan_fails(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path).path
    rewrite_golden(bundle, **{"logits.fp32": np.full((3, 5), np.nan, np.float32)})
    result = selftest(bundle, "fp32")
    assert not result
    assert result.to_json()["logit_error"] is None


def test_bundles_without_usable_goldens(tmp_path: Path) -> None:
    write_tiny(tmp_path, name="without", golden={})
    with pytest.raises(BundleMissingError, match=r"has no golden\.npz"):
        selftest(tmp_path / "without")
    bundle = write_tiny(tmp_path).path
    for changes, match in (
        ({"logits.fp32": None}, r"has no logits\.fp32"),
        ({"logits.fp32": np.zeros((3, 4), np.float32)}, "the model gives"),
        ({"logits.fp32": np.zeros((2, 5), np.float32)}, "do not fit"),
        ({"logits.fp32": np.array(["x"] * 3)}, "do not fit"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, "do not fit"),
        ({"images": np.float32(1)}, "do not fit"),
        ({"tensors": np.zeros((3, 3, 8, 8), np.float32)}, "do not fit"),
    ):
        before = Bundle.open(bundle).golden()
        rewrite_golden(bundle, **changes)
        with pytest.raises(BundleCorruptError, match=match):
            selftest(bundle, "fp32")
        rewrite_golden(bundle, **before)
    assert selftest(bundle, "fp32").images == len(photos())
