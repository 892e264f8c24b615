"""The C++ reader against Python's: the same bundles are read alike, and refused with the error of the same name."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_tools import CppError, Probe
from tampered import TAMPERED, Case
from tiny_bundle import LABELS, edit_manifest, write_model, write_tiny

from edgecnn import __version__
from edgecnn.errors import BundleCorruptError, BundleError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle
from edgecnn.runtime.manifest import SCHEMA, Manifest, Weights

NIST = {  # FIPS 180-4's examples and NIST's SHA256ShortMsg and LongMsg vectors
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq":
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    bytes.fromhex("d3"): "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1",
    bytes.fromhex("5738c929c4f4ccb6"): "963bb88f27f512777aab6c8b1a02c70ec0ad651d428f870036e1917120fb48bf",
}  # fmt: skip


def read(probe: Probe, bundle: Path) -> Any:
    """Open a bundle in C++, and read labels and golden arrays."""
    return probe("open", bundle=bundle)


def read_in_python(path: Path) -> Bundle:
    """Do the same in Python."""
    bundle = Bundle.open(path)
    assert bundle.labels
    bundle.golden()
    return bundle


def test_version(probe: Probe) -> None:
    answer = probe("version")
    assert answer["version"] == __version__
    assert answer["schema"] == SCHEMA


@pytest.mark.parametrize("step", [1, 7, 63, 64, 65, 4096])
def test_sha256(probe: Probe, tmp_path: Path, step: int) -> None:
    contents = {**NIST, **{bytes([n % 251]) * n: "" for n in (54, 55, 56, 57, 63, 64, 65, 119, 120, 1000)}}
    for content, published in contents.items():
        if step == 1 and len(content) > 10_000:
            continue
        (tmp_path / "file").write_bytes(content)
        wanted = hashlib.sha256(content).hexdigest()
        assert published in ("", wanted)
        assert probe("sha256", file=tmp_path / "file", step=step) == wanted


def test_a_whole_bundle_is_read_alike(probe: Probe, tiny: Path) -> None:
    bundle, answer = Bundle.open(tiny), read(probe, tiny)
    assert answer["variants"] == list(bundle.variants)
    assert tuple(answer["labels"]) == bundle.labels == LABELS
    assert tuple(answer["warnings"]) == bundle.warnings()
    assert answer["model"] == "tiny"
    golden = bundle.golden()
    assert answer["golden"] == {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(array)).hexdigest(),
        }
        for name, array in golden.items()
    }


@pytest.mark.parametrize("case", TAMPERED, ids=lambda case: case.title)
def test_both_refuse(probe: Probe, bundle: Path, case: Case) -> None:
    case.damage(bundle)
    with pytest.raises(BundleError) as python:
        read_in_python(bundle)
    with pytest.raises(CppError) as cpp:
        read(probe, bundle)
    assert type(python.value) is case.error
    assert cpp.value.kind == case.error.__name__, cpp.value
    assert re.search(case.text, str(python.value))
    assert re.search(case.text, str(cpp.value))
    assert "\n" not in str(cpp.value)


def test_sizes_alone_are_checked_where_that_is_asked_for(probe: Probe, bundle: Path) -> None:
    path = bundle / "parity.json"
    path.write_bytes(path.read_bytes().replace(b"onnx", b"ONNX"))
    with pytest.raises(CppError, match="was changed"):
        probe("open", bundle=bundle)
    assert probe("open", bundle=bundle, sizes=True)["variants"]


def test_unverified_and_untrained(probe: Probe, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, verified=False, weights=Weights(entry="random", untrained=True, seed=3))
    with pytest.raises(CppError, match="allow_unverified") as refused:
        probe("open", bundle=bundle.path)
    assert refused.value.kind == "BundleUnverifiedError"
    answer = probe("open", bundle=bundle.path, allow_unverified=True)
    assert answer["untrained"]
    assert tuple(answer["alarms"]) == bundle.alarms()
    assert tuple(answer["warnings"]) == bundle.warnings()


def test_the_bundle_itself_may_be_a_link(probe: Probe, bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle)
    assert read(probe, bundle.parent / "link")["labels"] == list(LABELS)


def test_a_bundle_without_labels_or_golden_arrays(probe: Probe, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, labels=(), golden={})
    assert probe("open", bundle=bundle.path, golden=False)["labels"] == []


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] + [way for key, item in items for way in leaves(item, (*place, key))]


ODD = [None, True, 0, -1, 1.5, 10**20, "x", "", "..", "a/../b", [], {}, ["x"], [1], {"x": 1}, "tensorrt", "a" * 300]
# Python's dataclasses are lenient where C++'s reader is not: an iterable for a list, a number's text for a number, any type
# for what is not looked at. Those places are left out here.
LENIENT = re.compile(
    r"^(model,(arguments|weights|inputs|outputs|preprocess)|preprocess|variants,[^,]*,(inputs|outputs),\d+,shape$)"
)


def test_mutated_manifests_are_judged_alike(probe: Probe, tiny: Path, tmp_path: Path) -> None:
    draw = random.Random(11)
    original = json.loads((tiny / "manifest.json").read_text())
    ways = [way for way in leaves(original) if way and not LENIENT.search(",".join(map(str, way)))]
    texts = []
    for _ in range(1500):
        data = json.loads(json.dumps(original))
        for way in draw.sample(ways, draw.choice([1, 1, 2])):
            place: Any = data
            try:
                for key in way[:-1]:
                    place = place[key]
                if draw.random() < 0.3:
                    del place[way[-1]]
                else:
                    place[way[-1]] = draw.choice(ODD)
            except (LookupError, TypeError):
                continue  # the other change took it away
        texts.append(json.dumps(data))
    (tmp_path / "manifests").write_text("\n".join(texts) + "\n")
    found = probe("manifests", file=tmp_path / "manifests")
    assert len(found) == len(texts)
    for text, kind in zip(texts, found, strict=True):
        try:
            Manifest.parse(text.encode())
            wanted = ""
        except BundleError as error:
            wanted = type(error).__name__
        assert kind == wanted, text
    assert len(set(found)) > 2


def test_stricter_than_python_where_no_writer_writes_such(probe: Probe, bundle: Path) -> None:
    """A size that would take gigabytes is refused before anything is allocated."""
    edit_manifest(bundle, lambda data: data["preprocess"].update(size=[10**9, 10**9], resize=10**9))
    with pytest.raises(CppError, match="of at most 16384") as refused:
        read(probe, bundle)
    assert refused.value.kind == "BundleSchemaError"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_every_type(probe: Probe, tmp_path: Path, save: Any) -> None:
    arrays = {
        "f4": np.arange(12, dtype=np.float32).reshape(3, 4),
        "f2": np.arange(5, dtype=np.float16),
        "f8": np.arange(5, dtype=np.float64),
        "u1": np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4),
        "i1": np.arange(5, dtype=np.int8),
        "i4": np.arange(5, dtype=np.int32),
        "i8": np.array(7, dtype=np.int64),
        "b1": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
    }
    save(tmp_path / "arrays.npz", **arrays)
    found = probe("npz", file=tmp_path / "arrays.npz")
    assert found == {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
        for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.zeros(3, np.complex64), np.zeros(3, ">f4"), np.asfortranarray(np.ones((2, 3)))]
)
def test_arrays_that_no_bundle_has(probe: Probe, tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "arrays.npz", array=array)
    with pytest.raises(CppError) as refused:
        probe("npz", file=tmp_path / "arrays.npz")
    assert refused.value.kind == BundleCorruptError.__name__


def test_an_archive_that_inflates_without_end(probe: Probe, tmp_path: Path) -> None:
    """A small file that claims 900 MB costs no memory."""
    np.savez_compressed(tmp_path / "arrays.npz", array=np.zeros(1000, np.uint8))
    content = (tmp_path / "arrays.npz").read_bytes()
    at = content.rindex(b"PK\x01\x02")
    claims = content[: at + 24] + (900_000_000).to_bytes(4, "little") + content[at + 28 :]
    (tmp_path / "arrays.npz").write_bytes(claims)
    with pytest.raises(CppError, match="cannot be inflated"):
        probe("npz", file=tmp_path / "arrays.npz")


@pytest.mark.parametrize("verified", [True, False])
def test_a_variant_that_is_not_verified(probe: Probe, tmp_path: Path, verified: bool) -> None:
    variants = [
        VariantContents(model=write_model(tmp_path, "fp32"), verified=True),
        VariantContents(model=write_model(tmp_path, "int8-cpu"), verified=verified),
    ]
    bundle = write_tiny(tmp_path, variants=variants)
    assert tuple(probe("open", bundle=bundle.path)["warnings"]) == bundle.warnings()
    assert ("variant int8-cpu is not verified" in bundle.warnings()) is not verified
