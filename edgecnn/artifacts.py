"""What stages hand to each other: files with a hash and a lineage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from edgecnn.errors import OutputError
from edgecnn.spec import TensorSpec

__all__ = [
    "Engine",
    "EngineFacts",
    "EngineSpeed",
    "Lineage",
    "OnnxModel",
    "cache_dir",
    "cache_folder",
    "canonical_json",
    "sha256_file",
    "sha256_json",
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
        precision: ``fp32``, ``fp16``, ``int8``, ``int8-fp16`` or ``int8-cpu``.
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


@dataclass(frozen=True, kw_only=True)
class EngineSpeed:
    """How long an engine took, measured in turns with others on the GPU that built it.

    Attributes:
        milliseconds: of one run at the profile's best shape, with the copies from and to the host: the median.
        ratio: to the time of ``baseline``, another variant's engine, in the same rounds.
        gpu: its name and compute capability.
    """

    milliseconds: float
    ratio: float
    baseline: str
    gpu: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What decides whether a plan runs somewhere, and how it came about.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt-rtx``; ``version``: of it, which must be the same where the plan is loaded.
        cuda: that the flavour was made for; ``driver_cuda``: newest that the builder's driver takes; ``driver``: its version;
            both "" without a GPU.
        compute_capabilities: of the GPUs that it was built for (``8.7``).
        platform: operating system and processor (``linux-x86_64``).
        precision: of the graph.
        profile: input -> least, best and largest shape.
        options: the build's configuration, JSON.
        model_sha256: of the graph. ``timing_cache_sha256``: of the timing cache after the build, "" without one.
        seconds: that the build took.
        audit: which layers have which precision, JSON; ``passed`` says whether it is what was asked for.
        speed: if it was measured.
    """

    flavour: str
    version: str
    cuda: str
    driver_cuda: str
    compute_capabilities: tuple[str, ...]
    platform: str
    precision: str
    profile: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    options: Mapping[str, Any]
    model_sha256: str
    timing_cache_sha256: str
    seconds: float
    audit: Mapping[str, Any]
    speed: EngineSpeed | None = None
    driver: str = ""

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("profile", "options", "audit"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def passed(self) -> bool:
        """Whether the audit found the precision that was asked for."""
        return bool(self.audit.get("passed"))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "flavour": self.flavour,
            "version": self.version,
            "cuda": self.cuda,
            "driver_cuda": self.driver_cuda,
            "driver": self.driver,
            "compute_capabilities": list(self.compute_capabilities),
            "platform": self.platform,
            "precision": self.precision,
            "profile": {name: [list(shape) for shape in shapes] for name, shapes in self.profile.items()},
            "options": dict(self.options),
            "model_sha256": self.model_sha256,
            "timing_cache_sha256": self.timing_cache_sha256,
            "seconds": self.seconds,
            "audit": dict(self.audit),
            "speed": None if self.speed is None else self.speed.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A plan on disk, made by ``edgecnn.engine.build``: exactly what the builder gave, so that trtexec and C++ applications load it.

    Attributes:
        path: the file. ``sha256``, ``bytes``: of its content.
        facts: what it needs, and how it was built.
        lineage: the graph's history and the build.
    """

    path: Path
    sha256: str
    bytes: int
    facts: EngineFacts
    lineage: tuple[Lineage, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether its layers have the precision that was asked for."""
        return self.facts.passed

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: the facts and the history, without the path."""
        return {
            "sha256": self.sha256,
            "bytes": self.bytes,
            **self.facts.to_json(),
            "lineage": [step.to_json() for step in self.lineage],
        }


def cache_dir() -> Path:
    """Return the cache folder: ``EDGECNN_CACHE``, else ``$XDG_CACHE_HOME/edgecnn``, else ``~/.cache/edgecnn``. Not created here."""
    if own := os.environ.get("EDGECNN_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgecnn"


def cache_folder(folder: Path) -> Path:
    """Create a folder of the cache, unless it is there, and return it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}; EDGECNN_CACHE names another folder"
        ) from error
    return folder


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
