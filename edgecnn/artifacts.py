"""What stages hand to each other: files with a hash and a lineage, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

from edgecnn.errors import OutputError
from edgecnn.spec import TensorSpec

__all__ = [
    "Lineage",
    "OnnxModel",
    "atomic_file",
    "cache_dir",
    "canonical_json",
    "sha256_file",
    "sha256_json",
    "write_bytes",
    "write_json",
]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One step of an artefact's history.

    Attributes:
        stage: the verb (``export``, ``simplify``, ``quantize``).
        tools: package name -> version that did the work.
        config: the stage's own configuration, JSON.
        inputs: role -> sha256 of what went in.
        notes: what happened that a reader should know ("onnxsim broke parity: kept the unsimplified model").
    """

    stage: str
    tools: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("tools", "config", "inputs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "stage": self.stage,
            "tools": dict(self.tools),
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX file on disk. Make one with :func:`edgecnn.onnxio.open_model` or a stage.

    Attributes:
        path: the ``.onnx`` file; external data, if any, lies beside it as ``<path>.data``.
        sha256: over the file and its external data.
        inputs, outputs: the graph's borders.
        opset: of the default domain.
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-cpu``.
        nodes: number of graph nodes.
        lineage: how it came about, oldest first.
    """

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    precision: str = "fp32"
    nodes: int = 0
    lineage: tuple[Lineage, ...] = ()


def cache_dir() -> Path:
    """Return the cache folder: ``EDGECNN_CACHE``, else ``$XDG_CACHE_HOME/edgecnn``, else ``~/.cache/edgecnn``. Not created here."""
    if own := os.environ.get("EDGECNN_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgecnn"


def canonical_json(data: Any) -> bytes:
    """Return the one byte string that equal JSON values share: sorted keys, no spaces, UTF-8."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(data: Any) -> str:
    """Return the sha256 of :func:`canonical_json`, 64 hex digits."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def sha256_file(*paths: Path) -> str:
    """Return the sha256 over the bytes of the files in order, 64 hex digits, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing; on success it replaces ``path``, on any failure it is removed.

    Raises:
        OutputError: the folder does not exist, is not writable, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all. Raises OutputError."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON to ``path``, whole or not at all. NaN and infinity are refused. Raises OutputError."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
