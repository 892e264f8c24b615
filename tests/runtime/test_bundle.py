"""Reading bundles: whole ones, and every way in which one must be refused."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tampered import TAMPERED, Case
from tiny_bundle import CLASSES, LABELS, PREPROCESS, edit_manifest, graph_bytes, rehash, write_model, write_tiny

from edgecnn.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundleUnverifiedError,
    UserError,
)
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, OrtOptions, Speed, load
from edgecnn.runtime.choice import target_of
from edgecnn.runtime.manifest import Weights


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy to break."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_open(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert list(bundle.variants) == ["fp32", "int8-cpu"]
    assert bundle.labels == LABELS
    assert bundle.preprocess == PREPROCESS
    assert bundle.spec.name == "tiny"
    assert not bundle.untrained
    assert bundle.warnings() == ("calibrated on the built-in photos",)
    assert bundle.parity() == {"stages": [{"name": "onnx", "max_abs": 1e-6}]}
    assert "int8-cpu" in bundle.ranges()
    assert bundle.golden()["images"].dtype == np.uint8
    assert bundle.model_path("fp32").name == "model.fp32.onnx"
    assert Bundle.open(str(tiny), check="sizes").manifest == bundle.manifest


def test_load_runs(tiny: Path) -> None:
    with load(tiny, "fp32", "onnxruntime", options=OrtOptions(threads=1)) as session:
        assert session.run({"input": np.zeros((2, 3, 32, 32), np.float32)})["logits"].shape == (2, CLASSES)


def test_unknown_names(tiny: Path) -> None:
    with pytest.raises(UserError, match="no variant 'int4'; it has fp32, int8-cpu"):
        load(tiny, "int4")
    with pytest.raises(UserError, match="backend 'tensorflow' is not one of onnxruntime"):
        load(tiny, backend="tensorflow")
    with pytest.raises(UserError, match="neither 'full' nor 'sizes'"):
        Bundle.open(tiny, check="none")  # type: ignore[arg-type]


def test_missing(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match="not there"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleMissingError, match="a file, not a bundle"):
        Bundle.open(bundle / "model.fp32.onnx")
    (bundle / "model.fp32.onnx").unlink()
    with pytest.raises(BundleMissingError, match=r"model\.fp32\.onnx is missing"):
        Bundle.open(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleMissingError, match=r"not a bundle: it has no readable manifest\.json"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["model.int8-cpu.onnx", "labels.txt", "ranges.json", "parity.json", "golden.npz"])
def test_tampered_and_truncated(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    (bundle / name).write_bytes(changed)
    with pytest.raises(BundleCorruptError, match="was changed after it was written"):
        Bundle.open(bundle)
    Bundle.open(bundle, check="sizes")
    (bundle / name).write_bytes(content[:-1])
    for check in ("full", "sizes"):
        with pytest.raises(BundleCorruptError, match=f"has {len(content) - 1} bytes, and had {len(content)}"):
            Bundle.open(bundle, check=check)


@pytest.mark.parametrize("case", TAMPERED, ids=lambda case: case.title)
def test_refused(bundle: Path, case: Case) -> None:
    """The C++ reader is held to the same list (tests/native_cpp)."""
    case.damage(bundle)
    with pytest.raises(BundleError) as refused:
        opened = Bundle.open(bundle)
        assert opened.labels
        opened.golden()
    assert type(refused.value) is case.error
    assert re.search(case.text, str(refused.value))
    assert "\n" not in str(refused.value)


def test_the_bundle_itself_may_be_a_link(bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle)
    assert Bundle.open(bundle.parent / "link").labels == LABELS


def test_unverified(tmp_path: Path) -> None:
    write_tiny(tmp_path, verified=False)
    with pytest.raises(BundleUnverifiedError, match="allow_unverified=True"):
        load(tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle", allow_unverified=True)
    assert bundle.warnings()[0].startswith("UNVERIFIED")
    load(tmp_path / "bundle", allow_unverified=True).close()


def test_one_unverified_variant(tmp_path: Path) -> None:
    variants = [
        VariantContents(model=write_model(tmp_path, "fp32"), verified=True),
        VariantContents(model=write_model(tmp_path, "int8-cpu"), verified=False),
    ]
    bundle = write_tiny(tmp_path, variants=variants)
    assert bundle.default_variant() == "fp32"
    assert "variant int8-cpu is not verified" in bundle.warnings()
    with pytest.raises(BundleUnverifiedError, match="variant int8-cpu failed"):
        load(tmp_path / "bundle", "int8-cpu")
    load(tmp_path / "bundle", "int8-cpu", allow_unverified=True).close()


@pytest.mark.parametrize(
    ("variants", "expected"),
    [  # name -> (verified, ratio to fp32)
        ({"fp32": (True, None), "int8": (True, None), "int8-cpu": (True, None)}, "int8-cpu"),
        ({"fp32": (True, 1.0), "int8-cpu": (True, 0.34)}, "int8-cpu"),
        ({"fp32": (True, 1.0), "int8-cpu": (True, 1.2)}, "fp32"),
        ({"fp32": (True, None), "int8-cpu": (False, 0.3)}, "fp32"),
        ({"fp32": (True, None), "int8": (True, 0.3)}, "fp32"),
        ({"fp32": (True, None), "fp16": (True, 0.9)}, "fp32"),
        ({"int8": (True, None)}, "int8"),
        ({"fp32": (False, None), "int8-cpu": (False, None)}, "fp32"),
        ({"fp32": (False, None), "int8-cpu": (True, 1.3)}, "int8-cpu"),
    ],
)
def test_default_variant(tmp_path: Path, variants: dict[str, tuple[bool, float | None]], expected: str) -> None:
    packed = [
        VariantContents(
            model=write_model(tmp_path, name),
            verified=verified,
            speed=None if ratio is None else Speed(milliseconds=10 * ratio, ratio=ratio),
        )
        for name, (verified, ratio) in variants.items()
    ]
    bundle = write_tiny(tmp_path, variants=packed)
    assert bundle.default_variant() == expected
    slow = [name for name, (_, ratio) in variants.items() if ratio is not None and ratio > 1]
    assert [line.split()[1] for line in bundle.warnings() if "not faster" in line] == slow


def test_default_variant_on_a_gpu(tmp_path: Path) -> None:
    packed = [
        VariantContents(model=write_model(tmp_path, name), verified=True) for name in ("fp32", "fp16", "int8-cpu")
    ]
    bundle = write_tiny(tmp_path, variants=packed)
    assert bundle.default_variant(target_of(["CUDAExecutionProvider", "CPUExecutionProvider"])) == "fp16"
    assert bundle.default_variant(target_of(["CPUExecutionProvider"])) == "int8-cpu"


def test_untrained(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, weights=Weights(entry="random", untrained=True, seed=3))
    assert bundle.untrained
    assert bundle.warnings()[0].startswith("UNTRAINED")


def test_model_that_contradicts_the_manifest(bundle: Path) -> None:
    (bundle / "model.fp32.onnx").write_bytes(graph_bytes(uint8=True))
    rehash(bundle, "model.fp32.onnx")
    with pytest.raises(BundleCorruptError, match="other inputs than the manifest says"):
        load(bundle, "fp32")


def test_bad_optional_files(bundle: Path) -> None:
    for name, content, read in (
        ("parity.json", b"[1]", Bundle.parity),
        ("ranges.json", b"{", Bundle.ranges),
        ("golden.npz", b"PK\x03\x04 nothing", Bundle.golden),
    ):
        (bundle / name).write_bytes(content)
        rehash(bundle, name)
        with pytest.raises(BundleCorruptError, match=name):
            read(Bundle.open(bundle))
    edit_manifest(bundle, lambda data: data["files"].pop("golden.npz") and None)
    with pytest.raises(BundleMissingError, match=r"has no golden\.npz"):
        Bundle.open(bundle).golden()


def test_mutated_manifests_on_disk(bundle: Path) -> None:
    """A whole open: paths that pass the reader are looked up on the disk, and nothing foreign comes out."""
    draw = random.Random(3)
    original = json.loads((bundle / "manifest.json").read_text())
    odd = [None, 0, -1, "x", "..", "/", "a" * 255 + "/b", "sub/x", [], {}, 10**20, "labels.txt/x", "labels.txt"]
    for _ in range(300):
        data = json.loads(json.dumps(original))
        name = draw.choice(sorted(data["files"]))
        action = draw.randrange(4)
        if action == 0:
            data["files"][name] = draw.choice(odd)
        elif action == 1:
            data["files"][str(draw.choice(odd))] = data["files"].pop(name)
        elif action == 2:
            data["variants"]["fp32"]["file"] = draw.choice(odd)
        else:
            data["labels"]["file"] = draw.choice(odd)
        (bundle / "manifest.json").write_text(json.dumps(data))
        try:
            Bundle.open(bundle)
        except BundleError as error:
            assert "\n" not in str(error)


def test_unreadable_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "ranges.json":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleMissingError, match=r"ranges\.json cannot be read: Permission denied"):
        Bundle.open(bundle)
