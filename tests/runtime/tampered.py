"""Bundles that must be refused: how to break a whole one, and the error that both readers, Python's and C++'s, answer with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_bundle import edit_manifest, rehash

from edgecnn.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundlePathError,
    BundleSchemaError,
    BundleUnverifiedError,
)

__all__ = ["TAMPERED", "Case"]


@dataclass(frozen=True)
class Case:
    """One way to break a bundle.

    Attributes:
        name: of the case.
        damage: called with the bundle's folder.
        error: what opening it, and then reading labels and golden arrays, raises.
        text: a regular expression of the message; "" where the two readers word it differently.
    """

    name: str
    damage: Callable[[Path], object]
    error: type[BundleError]
    text: str = ""

    @property
    def title(self) -> str:
        """Return the name as one short word of pytest."""
        return self.name.encode("unicode_escape").decode()[:40]


def _set(*keys: Any, to: Any) -> Callable[[Path], object]:
    """Set a value of the manifest."""

    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return lambda bundle: edit_manifest(bundle, change)


def _remove(*keys: Any) -> Callable[[Path], object]:
    """Remove a value of the manifest."""

    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return lambda bundle: edit_manifest(bundle, change)


def _write(name: str, content: bytes, *, hashed: bool = True) -> Callable[[Path], object]:
    """Replace a file, and by default its hash too."""

    def damage(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        if hashed:
            rehash(bundle, name)

    return damage


def _flip(name: str) -> Callable[[Path], object]:
    """Change one bit in the middle of a file."""

    def damage(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)

    return damage


def _cut(name: str, keep: int = -1) -> Callable[[Path], object]:
    """Cut a file off."""
    return lambda bundle: (bundle / name).write_bytes((bundle / name).read_bytes()[:keep])


def _text(change: Callable[[str], str]) -> Callable[[Path], object]:
    """Change the manifest's text."""

    def damage(bundle: Path) -> None:
        path = bundle / "manifest.json"
        path.write_text(change(path.read_text()))

    return damage


def _escape(place: str, path: str) -> Callable[[Path], object]:
    """Name a path that leads out of the bundle, to a file that is there."""

    def change(data: dict[str, Any]) -> None:
        if place == "labels":
            data["labels"]["file"] = path
        elif place == "variant":
            data["variants"]["fp32"]["file"] = path
        data["files"][path] = data["files"]["model.fp32.onnx"]

    def damage(bundle: Path) -> None:
        shutil.copy(bundle / "model.fp32.onnx", bundle.parent / "outside.onnx")
        edit_manifest(bundle, change)

    return damage


def _link(target: str) -> Callable[[Path], object]:
    """Put a symbolic link in a graph's place."""

    def damage(bundle: Path) -> None:
        graph = bundle / "model.fp32.onnx"
        graph.rename(bundle.parent / "outside.onnx")
        graph.symlink_to(bundle.parent / "outside.onnx" if target == "outside" else target)

    return damage


def _linked_folder(bundle: Path) -> None:
    """Put a graph behind a link to a folder."""
    outside = bundle.parent / "elsewhere"
    outside.mkdir()
    (bundle / "model.fp32.onnx").rename(outside / "m.onnx")
    (bundle / "sub").symlink_to(outside)

    def change(data: dict[str, Any]) -> None:
        data["files"]["sub/m.onnx"] = data["files"].pop("model.fp32.onnx")
        data["variants"]["fp32"]["file"] = "sub/m.onnx"

    edit_manifest(bundle, change)


def _manifest_as_link(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.rename(bundle.parent / "m.json")
    path.symlink_to(bundle.parent / "m.json")


def _manifest_as_pipe(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")  # opening it would wait for ever


def _folder_as_file(bundle: Path) -> None:
    (bundle / "ranges.json").unlink()
    (bundle / "ranges.json").mkdir()


def _engine(**changes: Any) -> Callable[[Path], object]:
    """List an engine of the fp32 variant."""

    def change(data: dict[str, Any]) -> None:
        data["engines"] = {
            "fp32.tensorrt": {
                "file": "parity.json", "variant": "fp32", "flavour": "tensorrt", "version": "10.3.0", "cuda": "12",
                "driver_cuda": "", "compute_capabilities": ["8.7"], "platform": "linux-aarch64", "precision": "fp32",
                "profile": {"input": [[1, 3, 32, 32]] * 3}, "options": {}, "model_sha256": "", "timing_cache_sha256": "",
                "seconds": 1.5, "audit": {}, "lineage": [],
            } | changes
        }  # fmt: skip

    return lambda bundle: edit_manifest(bundle, change)


HUGE = 10**20
NESTED = "[" * 100_000
SIZES = r"has \d+ bytes, and had \d+ when"
CHANGED = "was changed after it was written"

TAMPERED = (
    Case("no folder", lambda bundle: shutil.rmtree(bundle), BundleMissingError, "not there"),
    Case("no manifest", lambda bundle: (bundle / "manifest.json").unlink(), BundleMissingError, "no readable"),
    Case("no graph", lambda bundle: (bundle / "model.fp32.onnx").unlink(), BundleMissingError, r"onnx is missing"),
    *(Case(f"changed {name}", _flip(name), BundleCorruptError, CHANGED)
      for name in ("model.int8-cpu.onnx", "labels.txt", "ranges.json", "parity.json", "golden.npz")),
    *(Case(f"cut {name}", _cut(name), BundleCorruptError, SIZES)
      for name in ("model.int8-cpu.onnx", "labels.txt", "ranges.json", "parity.json", "golden.npz")),
    Case("a folder for a file", _folder_as_file, BundleCorruptError, "not a regular file"),
    Case("cut manifest", _cut("manifest.json", 700), BundleCorruptError, "not whole JSON"),
    Case("empty manifest", _cut("manifest.json", 0), BundleCorruptError, "not whole JSON"),
    Case("manifest not UTF-8", _write("manifest.json", b'{"schema": "\xff"}', hashed=False), BundleCorruptError),
    Case("manifest nested", _text(lambda _: NESTED), BundleCorruptError),
    Case("manifest a list", _text(lambda _: "[]"), BundleSchemaError, "expected a JSON object"),
    Case("NaN", _text(lambda text: text.replace('"schema": 1', '"schema": NaN')), BundleCorruptError),
    Case("infinite", _text(lambda text: text.replace('"schema": 1', '"schema": 1e999')), BundleSchemaError, "out of range"),
    Case("a key twice", _text(lambda text: text.replace('"schema": 1', '"schema": 1, "schema": 1')), BundleSchemaError,
         "twice"),
    Case("newer", _set("schema", to=2), BundleSchemaError, "schema 2, written by edgecnn"),
    Case("much newer", _set("schema", to=HUGE), BundleSchemaError, "written by edgecnn"),
    Case("schema 0", _set("schema", to=0), BundleSchemaError, "not a version"),
    Case("schema true", _set("schema", to=True), BundleSchemaError, "must be an integer"),
    Case("schema 1.0", _set("schema", to=1.0), BundleSchemaError, "must be an integer"),
    *(Case(f"{place} at {path}", _escape(place, path), BundlePathError)
      for place in ("variant", "labels", "files")
      for path in ("../outside.onnx", "/etc/hostname", "sub/../../outside.onnx", "..\\outside.onnx", "./x", "a//b", "c:x",
                   "a\nb", "", "x" * 256)),
    Case("a link out", _link("outside"), BundlePathError, "symbolic link"),
    Case("a link inside", _link("model.int8-cpu.onnx"), BundlePathError, "symbolic link"),
    Case("a linked folder", _linked_folder, BundlePathError, "lies behind, a symbolic link"),
    Case("manifest a link", _manifest_as_link, BundlePathError, "symbolic link"),
    Case("manifest a pipe", _manifest_as_pipe, BundleCorruptError, "not a regular file"),
    Case("unverified", _set("verified", to=False), BundleUnverifiedError, "failed verification when it was written"),
    Case("verified 1", _set("verified", to=1), BundleSchemaError, "must be true or false"),
    Case("no variants", _set("variants", to={}), BundleSchemaError, "no variants"),
    Case("variants a list", _set("variants", to=[]), BundleSchemaError, "must be an object"),
    Case("no variant's file", _remove("variants", "fp32", "file"), BundleSchemaError, "file is missing"),
    Case("unlisted file", _set("variants", "fp32", "file", to="other.onnx"), BundleSchemaError, "not listed under files"),
    Case("listed and absent", _set("files", "more.bin", to={"sha256": "0" * 64, "bytes": 1}), BundleMissingError),
    Case("behind a file", _set("files", "labels.txt/x", to={"sha256": "0" * 64, "bytes": 1}), BundleMissingError),
    Case("itself", _set("files", "manifest.json", to={"sha256": "0" * 64, "bytes": 1}), BundleSchemaError, "lists itself"),
    Case("huge length", _set("files", "labels.txt", "bytes", to=HUGE), BundleCorruptError),
    Case("negative length", _set("files", "labels.txt", "bytes", to=-1), BundleSchemaError, "at least 0"),
    Case("short hash", _set("files", "labels.txt", "sha256", to="abc"), BundleSchemaError, "64 lower-case"),
    Case("two hashes", _set("labels", "sha256", to="0" * 64), BundleSchemaError, "two hashes"),
    Case("labels for others", _set("labels", "count", to=4), BundleSchemaError, "4 labels for 5 classes"),
    Case("no classes", _set("model", "num_classes", to=0), BundleSchemaError),
    Case("no inputs", _set("variants", "fp32", "inputs", to=[]), BundleSchemaError, "inputs is empty"),
    Case("length 0", _set("variants", "fp32", "inputs", 0, "shape", 0, to=0), BundleSchemaError, "neither a positive"),
    Case("other size", _set("variants", "fp32", "inputs", 0, "shape", 2, to=64), BundleSchemaError, "preprocessing makes"),
    Case("other dtype", _set("variants", "fp32", "inputs", 0, "dtype", to="uint8"), BundleSchemaError, "must take one"),
    Case("unknown dtype", _set("variants", "fp32", "inputs", 0, "dtype", to="object"), BundleSchemaError),
    Case("unknown order", _set("preprocess", "order", to="crop"), BundleSchemaError),
    Case("unknown key", _set("preprocess", "gamma", to=2.2), BundleSchemaError),
    Case("std 0", _set("preprocess", "std", 0, to=0), BundleSchemaError, "must be positive"),
    Case("two means", _set("preprocess", "mean", to=[0.5, 0.5]), BundleSchemaError),
    Case("size 0", _set("preprocess", "size", to=[0, 32]), BundleSchemaError),
    Case("resize below size", _set("preprocess", "resize", to=8), BundleSchemaError),
    Case("builder", _set("model", "builder", to="tiny"), BundleSchemaError, "module:function"),
    Case("untrained null", _set("weights", "untrained", to=None), BundleSchemaError),
    Case("notes text", _set("notes", to="text"), BundleSchemaError, "must be a list"),
    Case("tools numbers", _set("tools", to={"torch": 2}), BundleSchemaError, "an object of strings"),
    Case("no lineage", _remove("lineage"), BundleSchemaError, "lineage is missing"),
    Case("no embedded", _set("embedded", to=None), BundleSchemaError),
    Case("speed", _set("variants", "fp32", "speed", to={"milliseconds": -1, "ratio": 1}), BundleSchemaError),
    Case("engine's name", _engine(flavour="tensorrt-rtx"), BundleSchemaError, "not named after"),
    Case("engine's flavour", _engine(flavour="../tensorrt"), BundleSchemaError, "not a name for a flavour"),
    Case("engine's profile", _engine(profile={"input": [[1, 3], [0, 3], [1, 3]]}), BundleSchemaError, "positive integers"),
    Case("engine's file", _engine(file="../plan"), BundlePathError, "leaves the bundle"),
    Case("two lines", _write("labels.txt", b"one\ntwo\n"), BundleCorruptError, "2 lines for 5 classes"),
    Case("labels not UTF-8", _write("labels.txt", b"\xff\xfe\n" * 5), BundleCorruptError, "not UTF-8"),
    Case("labels cut in a letter", _write("labels.txt", b"a\nb\nc\nd\n\xc3"), BundleCorruptError, "not UTF-8"),
    Case("labels with a surrogate", _write("labels.txt", b"a\nb\nc\nd\n\xed\xa0\x80"), BundleCorruptError, "not UTF-8"),
    Case("no zip", _write("golden.npz", b"PK\x03\x04 nothing"), BundleCorruptError, r"golden\.npz"),
    Case("empty golden", _write("golden.npz", b""), BundleCorruptError, r"golden\.npz"),
    Case("no golden", _remove("files", "golden.npz"), BundleMissingError, r"has no golden\.npz"),
)  # fmt: skip
"""A list for both readers; the manifest is JSON, so json.dumps writes what the cases set."""

assert len({case.name for case in TAMPERED}) == len(TAMPERED)
assert json.dumps(HUGE) == "100000000000000000000"
