"""The manifest: what is written is valid, and nothing that is read can surprise."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny_bundle import LABELS

from edgecnn.errors import BundleCorruptError, BundleError, BundlePathError, BundleSchemaError
from edgecnn.runtime.checks import bundle_path
from edgecnn.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def data(tiny: Path) -> dict[str, Any]:
    return json.loads((tiny / "manifest.json").read_text())


def copy(data: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(data))


def schema() -> dict[str, Any]:
    return json.loads((resources.files("edgecnn.runtime") / "manifest.schema.json").read_text())


def test_round_trip(data: dict[str, Any]) -> None:
    assert Manifest.from_json(data).to_json() == data
    assert Manifest.parse(json.dumps(data).encode()) == Manifest.from_json(data)


def test_written_manifest_matches_the_shipped_schema(data: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(data, schema())
    assert data["labels"]["count"] == len(LABELS)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["schema"], "1"),
        (["verified"], 1),
        (["variants"], {}),
        (["variants", "fp32", "file"], "../model.onnx"),
        (["variants", "fp32", "inputs", 0, "shape", 0], 0),
        (["variants", "fp32", "inputs"], []),
        (["files", "labels.txt", "sha256"], "abc"),
        (["files", "labels.txt", "bytes"], -1),
        (["preprocess", "order"], "crop"),
        (["preprocess", "std", 0], 0),
        (["weights", "untrained"], None),
        (["notes"], "text"),
        (["tools"], {"torch": 2}),
        (["embedded"], None),
        (["model", "num_classes"], 0),
        (["variants", "fp32", "speed"], {"milliseconds": 1, "ratio": 1, "backends": []}),
        (["variants", "fp32", "speed"], {"milliseconds": 1, "ratio": 1, "backends": {"openvino": None}}),
        (["variants", "fp32", "speed"], {"milliseconds": 1, "ratio": 1, "backends": {"openvino": {"ratio": 1}}}),
    ],
)
def test_schema_and_reader_refuse_the_same(data: dict[str, Any], where: list[Any], value: Any) -> None:
    changed = copy(data)
    place: Any = changed
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schema())
    with pytest.raises((BundleSchemaError, BundlePathError)):
        Manifest.from_json(changed)


def test_speeds_on_other_backends(data: dict[str, Any]) -> None:
    """They round-trip, and a bundle that was written before there were any reads as one without."""
    changed = copy(data)
    other = {"milliseconds": 0.3, "ratio": 0.1, "verified": True}
    speed = {"milliseconds": 3.0, "ratio": 1.0, "backend": "onnxruntime", "threads": 2, "machine": "x86_64"}
    changed["variants"]["fp32"]["speed"] = {**speed, "backends": {"openvino": other}}
    jsonschema.validate(changed, schema())
    manifest = Manifest.from_json(changed)
    assert manifest.to_json() == changed
    assert manifest.variants["fp32"].verified_on("openvino")
    other["verified"] = False
    assert not Manifest.from_json(changed).variants["fp32"].verified_on("openvino")
    changed["variants"]["fp32"]["speed"] = speed
    jsonschema.validate(changed, schema())
    assert not Manifest.from_json(changed).variants["fp32"].speed.backends  # type: ignore[union-attr]


ENGINE: dict[str, Any] = {
    "file": "engine.fp32.tensorrt-rtx.plan", "variant": "fp32", "flavour": "tensorrt-rtx", "version": "1.7.1.116",
    "cuda": "13", "driver_cuda": "", "driver": "580.65.06", "compute_capabilities": ["8.6"], "platform": "linux-x86_64",
    "precision": "fp32", "profile": {"input": [[1, 3, 32, 32], [8, 3, 32, 32], [32, 3, 32, 32]]}, "options": {"batch": "1:8:32"},
    "model_sha256": "0" * 64, "timing_cache_sha256": "", "seconds": 0.5, "audit": {"passed": True}, "lineage": [],
    "speed": {"milliseconds": 1.5, "ratio": 0.6, "baseline": "fp16", "gpu": "RTX (8.6)"},
}  # fmt: skip


def with_engine(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a manifest with an engine, whose file is listed."""
    changed = copy(data)
    changed["engines"] = {"fp32.tensorrt-rtx": copy(ENGINE) | changes}
    changed["files"][ENGINE["file"]] = {"sha256": "1" * 64, "bytes": 10}
    changed["files"] = dict(sorted(changed["files"].items()))
    return changed


def test_engines_round_trip_and_old_bundles_have_none(data: dict[str, Any]) -> None:
    changed = with_engine(data)
    jsonschema.validate(changed, schema())
    manifest = Manifest.from_json(changed)
    assert manifest.to_json() == changed
    assert manifest.engines["fp32.tensorrt-rtx"].facts.profile["input"][2] == (32, 3, 32, 32)
    assert manifest.engines["fp32.tensorrt-rtx"].facts.passed
    del changed["engines"]["fp32.tensorrt-rtx"]["speed"]  # as it was before engines were measured
    del changed["engines"]["fp32.tensorrt-rtx"]["driver"]  # and before the driver was asked
    jsonschema.validate(changed, schema())
    older = Manifest.from_json(changed).engines["fp32.tensorrt-rtx"].facts
    assert (older.speed, older.driver) == (None, "")
    old = copy(data)
    del old["engines"]
    jsonschema.validate(old, schema())
    assert not Manifest.from_json(old).engines


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"profile": {"input": [[1, 3], [1, 3]]}}, BundleSchemaError),
        ({"profile": {"input": [[0, 3], [1, 3], [1, 3]]}}, BundleSchemaError),
        ({"flavour": "../tensorrt"}, BundleSchemaError),
        ({"version": 10}, BundleSchemaError),
        ({"seconds": -1}, BundleSchemaError),
        ({"audit": None}, BundleSchemaError),
        ({"speed": {"milliseconds": 1, "ratio": -1, "baseline": "fp16", "gpu": ""}}, BundleSchemaError),
        ({"speed": {"milliseconds": 1, "ratio": 1, "baseline": "fp16"}}, BundleSchemaError),
        ({"file": "../engine.plan"}, BundlePathError),
    ],
)
def test_engines_that_schema_and_reader_refuse(
    data: dict[str, Any], changes: dict[str, Any], error: type[Exception]
) -> None:
    changed = with_engine(data, **changes)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schema())
    with pytest.raises(error):
        Manifest.from_json(changed)


@pytest.mark.parametrize("changes", [{"variant": "int8"}, {"flavour": "tensorrt"}, {"file": "not-listed.plan"}])
def test_engines_that_do_not_fit_the_bundle(data: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(BundleSchemaError, match=r"not named after|not listed"):
        Manifest.from_json(with_engine(data, **changes))


def test_newer_schema_is_named_before_anything_else_is_read() -> None:
    with pytest.raises(BundleSchemaError, match=r"schema 2, written by edgecnn '9\.0'.*upgrade"):
        Manifest.from_json({"schema": 2, "edgecnn": "9.0", "layout": "unheard of"})


def test_unknown_keys_are_ignored(data: dict[str, Any]) -> None:
    changed = copy(data)
    changed["remotes"] = {"later": 1}
    changed["variants"]["fp32"]["profile"] = []
    jsonschema.validate(changed, schema())
    assert Manifest.from_json(changed) == Manifest.from_json(data)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", BundleCorruptError),
        (b"{", BundleCorruptError),
        (b"\xff\xfe{}", BundleCorruptError),
        (b"[" * 200_000, BundleCorruptError),
        (b'{"schema": NaN}', BundleCorruptError),
        (b'{"schema": 1e999}', BundleSchemaError),
        (b'{"schema": ' + b"9" * 5000 + b"}", BundleCorruptError),
        (b'{"schema": ' + b"9" * 400 + b"}", BundleSchemaError),
        (b'{"schema": 1, "schema": 2}', BundleSchemaError),
        (b"[]", BundleSchemaError),
        (b"null", BundleSchemaError),
        (b"{}", BundleSchemaError),
        (b'{"schema": 0}', BundleSchemaError),
        (b'{"schema": true}', BundleSchemaError),
    ],
)
def test_what_is_not_a_manifest(text: bytes, error: type[BundleError]) -> None:
    with pytest.raises(error) as caught:
        Manifest.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_parts_that_contradict_each_other(data: dict[str, Any]) -> None:
    def refused(change: Any, match: str) -> None:
        changed = copy(data)
        change(changed)
        with pytest.raises(BundleSchemaError, match=match):
            Manifest.from_json(changed)

    refused(lambda d: d["files"].pop("model.fp32.onnx"), "not listed under files")
    refused(lambda d: d["files"].update({"manifest.json": d["files"]["labels.txt"]}), "lists itself")
    refused(lambda d: d["labels"].update(count=4), "4 labels for 5 classes")
    refused(lambda d: d["labels"].update(sha256="0" * 64), "two hashes")
    refused(lambda d: d["preprocess"].update(size=[24, 24]), "preprocessing makes")
    refused(lambda d: d["embedded"].update(preprocess=True), "uint8")
    refused(lambda d: d["variants"]["fp32"]["inputs"][0].update(dtype="float16"), "float32")


ESCAPING = [
    "",
    "/etc/passwd",
    "//x",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "C:/x",
    "C:x",
    "..\\x",
]
ESCAPING += ["a\\b", "\\\\host\\x", "a\0b", "a\nb", "a\x7f", "con?", "*", "\ud800", "x" * 256, "/".join(["ab"] * 400)]


@pytest.mark.parametrize("path", ESCAPING, ids=ascii)
def test_escaping_paths(path: str) -> None:
    with pytest.raises(BundlePathError) as caught:
        bundle_path(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["a", "model.int8-cpu.onnx", "sub/dir/x.bin", "..a", "a..", "é/日本", "model.onnx.data"]
)
def test_plain_paths(path: str) -> None:
    assert bundle_path(path) == path


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    10**30,
    10**400,
    1.5,
    -0.0,
    "",
    "x",
    "../x",
    "\ud800",
    "\0",
    [],
    [[]],
    [1],
    {},
]
ODD += [{"a": None}, {"": {}}, "int8", "0" * 64, ["batch", 3], [{}], [None], "float32"]


def mutate(value: Any, draw: random.Random) -> Any:
    """Return the JSON value with one place replaced, removed, duplicated or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        action = draw.random()
        if action < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if action < 0.2:
            return value | {str(draw.choice(ODD)): value[key]}
        return value | {key: mutate(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        action = draw.random()
        if action < 0.15:
            return value[:at] + value[at + 1 :]
        if action < 0.3:
            return [*value, value[at]]
        return [*value[:at], mutate(value[at], draw), *value[at + 1 :]]
    return draw.choice(ODD)


def test_mutated_manifests_raise_nothing_foreign(data: dict[str, Any]) -> None:
    draw = random.Random(0)
    refused = 0
    for _ in range(6000):
        changed = data
        for _ in range(draw.choice((1, 1, 2, 5))):
            changed = mutate(changed, draw)
        try:
            manifest = Manifest.from_json(changed)
        except BundleError as error:
            refused += 1
            assert len(str(error)) < 1000
        else:
            json.dumps(manifest.to_json(), allow_nan=False)
    assert refused > 3000


def test_mutated_bytes_raise_nothing_foreign(tiny: Path) -> None:
    draw = random.Random(1)
    text = (tiny / "manifest.json").read_bytes()
    for _ in range(1500):
        changed = bytearray(text)
        for _ in range(draw.choice((1, 3, 20))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        if draw.random() < 0.3:
            del changed[draw.randrange(len(changed)) :]
        try:
            Manifest.parse(bytes(changed))
        except BundleError as error:
            assert str(error)
