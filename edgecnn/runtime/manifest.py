"""A bundle's ``manifest.json`` as frozen data. What it holds may come from anyone: every misfit is a BundleError.

The format's version is :data:`SCHEMA`; its JSON Schema ships as ``manifest.schema.json`` beside this module. Keys that this
version does not know are ignored, so that additions need no new version; whatever changes a meaning does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self, TypeVar

from edgecnn._version import __version__
from edgecnn.artifacts import Lineage
from edgecnn.errors import BundleCorruptError, BundleError, BundleSchemaError, SpecError
from edgecnn.runtime.checks import Fields, bundle_path
from edgecnn.runtime.engines import EngineRecord
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "BackendSpeed",
    "Embedded",
    "FileRecord",
    "Labels",
    "Manifest",
    "Speed",
    "Variant",
    "Weights",
]

SCHEMA = 1
MANIFEST = "manifest.json"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file of the bundle must be: its sha256 (64 hex digits) and its length."""

    sha256: str
    bytes: int

    @classmethod
    def from_json(cls, data: Any, where: str = "file") -> Self:
        """Read a JSON object. Raises BundleSchemaError."""
        read = Fields(data, where)
        return cls(sha256=read.sha256("sha256"), bytes=read.integer("bytes", low=0))


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where the class names are, one a line, in the order of the logits."""

    file: str
    count: int
    sha256: str

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a JSON object. Raises BundleSchemaError, BundlePathError."""
        read = Fields(data, "labels")
        return cls(
            file=bundle_path(read.text("file")), count=read.integer("count", low=1), sha256=read.sha256("sha256")
        )


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the graphs do themselves: ``preprocess`` (they take uint8 NHWC pixels), ``softmax`` (they give probabilities)."""

    preprocess: bool = False
    softmax: bool = False

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a JSON object. Raises BundleSchemaError."""
        read = Fields(data, "embedded")
        return cls(preprocess=read.boolean("preprocess"), softmax=read.boolean("softmax"))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the numbers came from.

    Attributes:
        entry: of the zoo (``IMAGENET1K_V2``, ``package``), a file's name, or ``random``.
        source: url, package or file.
        sha256: of the checkpoint, "" when there is none.
        licence: of the weights.
        top1, top5: published accuracy, percent; None where none is.
        untrained: random numbers: predictions mean nothing.
        seed: of random weights.
    """

    entry: str = ""
    source: str = ""
    sha256: str = ""
    licence: str = ""
    top1: float | None = None
    top5: float | None = None
    untrained: bool = False
    seed: int | None = None

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a JSON object. Raises BundleSchemaError."""
        read = Fields(data, "weights")
        return cls(
            entry=read.text("entry", ""),
            source=read.text("source", ""),
            sha256=read.text("sha256", ""),
            licence=read.text("licence", ""),
            top1=read.number_or_none("top1"),
            top5=read.number_or_none("top5"),
            untrained=read.boolean("untrained"),
            seed=None if read.get("seed", None) is None else read.integer("seed"),
        )


@dataclass(frozen=True, kw_only=True)
class BackendSpeed:
    """A measurement on another backend, in the same run.

    Attributes:
        milliseconds: median latency of one image.
        ratio: to fp32's on the main backend (:attr:`Speed.backend`), so that backends can be compared.
        verified: whether the variant passed verification on this backend.
    """

    milliseconds: float
    ratio: float
    verified: bool

    @classmethod
    def from_json(cls, data: Any, where: str = "backend") -> Self:
        """Read a JSON object. Raises BundleSchemaError."""
        read = Fields(data, where)
        return cls(
            milliseconds=read.number("milliseconds", low=0),
            ratio=read.number("ratio", low=0),
            verified=read.boolean("verified"),
        )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A measurement at export.

    Attributes:
        milliseconds: median latency of one image.
        ratio: to the fp32 variant's, measured in the same run; below 1 is faster.
        backend, threads, machine: what it was measured on.
        backends: the same on other backends, by name.
    """

    milliseconds: float
    ratio: float
    backend: str = "onnxruntime"
    threads: int = 0
    machine: str = ""
    backends: Mapping[str, BackendSpeed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "backends", MappingProxyType(dict(self.backends)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return _plain(self) | {"backends": {name: _plain(other) for name, other in self.backends.items()}}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a JSON object. Raises BundleSchemaError."""
        read = Fields(data, "speed")
        others = read.mapping_or_none("backends") or {}
        return cls(
            milliseconds=read.number("milliseconds", low=0),
            ratio=read.number("ratio", low=0),
            backend=read.text("backend", "onnxruntime"),
            threads=read.integer("threads", 0, low=0),
            machine=read.text("machine", ""),
            backends={name: BackendSpeed.from_json(value, f"speed on {name[:40]!r}") for name, value in others.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One graph of the bundle.

    Attributes:
        file: its path in the bundle.
        precision: ``fp32``, ``fp16``, ``int8`` and ``int8-fp16`` (TensorRT-valid) or ``int8-cpu``.
        opset, nodes, inputs, outputs: of the graph.
        lineage: how it came about, oldest first.
        placement: a summary of what was quantized and why, for quantized graphs.
        verified: whether it passed verification against PyTorch when it was written.
        speed: measured at export, if it was.
    """

    file: str
    precision: str
    opset: int
    nodes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lineage: tuple[Lineage, ...] = ()
    placement: Mapping[str, Any] | None = None
    verified: bool = False
    speed: Speed | None = None

    def verified_on(self, backend: str) -> bool:
        """Whether it passed verification, and did not fail it on this backend (it may not have been tried there)."""
        other = self.speed.backends.get(backend) if self.speed else None
        return self.verified and (other is None or other.verified)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "file": self.file,
            "precision": self.precision,
            "opset": self.opset,
            "nodes": self.nodes,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "lineage": [step.to_json() for step in self.lineage],
            "placement": None if self.placement is None else dict(self.placement),
            "verified": self.verified,
            "speed": None if self.speed is None else self.speed.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "variant") -> Self:
        """Read a JSON object. Raises BundleSchemaError, BundlePathError."""
        read = Fields(data, where)
        speed = read.get("speed", None)
        return cls(
            file=bundle_path(read.text("file")),
            precision=read.text("precision"),
            opset=read.integer("opset", low=0),
            nodes=read.integer("nodes", low=0),
            inputs=_tensors(read, "inputs"),
            outputs=_tensors(read, "outputs"),
            lineage=_lineage(read),
            placement=read.mapping_or_none("placement"),
            verified=read.boolean("verified"),
            speed=None if speed is None else Speed.from_json(speed),
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself. An instance is consistent: it was checked when it was made.

    Attributes:
        model: the network; its ``preprocess`` is the bundle's.
        preprocess: from a decoded picture to the input.
        variants: name -> graph.
        engines: ``<variant>.<flavour>`` -> plan; bundles of before there were engines have none.
        labels: None when classes have no names.
        calibration: source, count, hash and method, for quantized bundles.
        parity: summary of the verification; ``parity.json`` has all of it.
        verified: whether every stage passed verification.
        notes: for the reader ("calibrated on the built-in photos: your own are better").
        lineage, tools: steps before the variants part, and versions.
        files: path -> hash and length of every file but the manifest.
        created: ISO 8601, UTC. ``edgecnn``: version that wrote it. ``schema``: of this format.
    """

    model: ModelSpec
    preprocess: Preprocess
    weights: Weights
    variants: Mapping[str, Variant]
    files: Mapping[str, FileRecord]
    engines: Mapping[str, EngineRecord] = field(default_factory=dict)
    labels: Labels | None = None
    embedded: Embedded = Embedded()
    calibration: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    verified: bool = False
    notes: tuple[str, ...] = ()
    lineage: tuple[Lineage, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    edgecnn: str = __version__
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Freeze the mappings and check that the parts fit each other."""
        for name in ("variants", "files", "engines", "parity", "tools"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if not self.variants:
            raise BundleSchemaError(f"{MANIFEST}: no variants")
        if MANIFEST in self.files:
            raise BundleSchemaError(f"{MANIFEST}: lists itself among its files")
        held = [part.file for group in (self.variants, self.engines) for part in group.values()]
        for path in (*held, *([self.labels.file] if self.labels else [])):
            if path not in self.files:
                raise BundleSchemaError(f"{MANIFEST}: {path} is used but not listed under files")
        self._check_labels()
        for name, variant in self.variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise BundleSchemaError(f"{MANIFEST}: {name[:80]!r} is not a name for a variant")
            self._check_input(name, variant)
        for name, engine in self.engines.items():
            if engine.variant not in self.variants or name != f"{engine.variant}.{engine.facts.flavour}":
                raise BundleSchemaError(
                    f"{MANIFEST}: engine {name[:80]!r} is not named after a variant and its flavour"
                )

    def _check_labels(self) -> None:
        """Check the class names against the network and the files."""
        if self.labels is None:
            return
        if self.labels.count != self.model.num_classes:
            raise BundleSchemaError(
                f"{MANIFEST}: {self.labels.count} labels for {self.model.num_classes} classes of {self.model.name}"
            )
        if self.labels.sha256 != self.files[self.labels.file].sha256:
            raise BundleSchemaError(f"{MANIFEST}: two hashes for {self.labels.file}")

    def _check_input(self, name: str, variant: Variant) -> None:
        """Check that what preprocessing makes is what the graph takes."""
        size, channels = self.preprocess.size, self.preprocess.channels
        wanted = (*size, channels) if self.embedded.preprocess else (channels, *size)
        dtype = "uint8" if self.embedded.preprocess else "float32"
        spec = variant.inputs[0]
        if len(variant.inputs) != 1 or len(spec.shape) != 4 or spec.dtype != dtype:
            raise BundleSchemaError(f"{MANIFEST}: variant {name} must take one {dtype} tensor of 4 dimensions")
        if any(isinstance(dim, int) and dim != want for dim, want in zip(spec.shape[1:], wanted, strict=True)):
            raise BundleSchemaError(
                f"{MANIFEST}: variant {name} takes {list(spec.shape)}, but the preprocessing makes {list(wanted)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "schema": self.schema,
            "edgecnn": self.edgecnn,
            "created": self.created,
            "model": self.model.to_json(),
            "weights": _plain(self.weights),
            "preprocess": self.preprocess.to_json(),
            "labels": None if self.labels is None else _plain(self.labels),
            "embedded": _plain(self.embedded),
            "variants": {name: variant.to_json() for name, variant in self.variants.items()},
            "engines": {name: engine.to_json() for name, engine in self.engines.items()},
            "calibration": None if self.calibration is None else dict(self.calibration),
            "parity": dict(self.parity),
            "verified": self.verified,
            "notes": list(self.notes),
            "lineage": [step.to_json() for step in self.lineage],
            "tools": dict(self.tools),
            "files": {path: _plain(record) for path, record in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what :meth:`to_json` wrote, trusting nothing.

        Raises:
            BundleSchemaError: a newer schema, or not a manifest.
            BundlePathError: a path that leaves the bundle.
        """
        read = Fields(data, MANIFEST)
        schema = read.integer("schema")
        if schema > SCHEMA:
            raise BundleSchemaError(
                f"{MANIFEST} has schema {min(schema, 10**9)}, written by edgecnn {str(read.get('edgecnn', '?'))[:20]!r}; "
                f"this edgecnn {__version__} reads up to {SCHEMA}: upgrade it, or export again"
            )
        if schema < 1:
            raise BundleSchemaError(f"{MANIFEST}: schema {schema} is not a version")
        labels = read.get("labels", None)
        variants = read.mapping("variants")
        files = read.mapping("files")
        return cls(
            schema=schema,
            edgecnn=read.text("edgecnn"),
            created=read.text("created", ""),
            model=_model(read.mapping("model")),
            preprocess=_spec("preprocess", Preprocess.from_json, read.mapping("preprocess")),
            weights=Weights.from_json(read.mapping("weights")),
            labels=None if labels is None else Labels.from_json(labels),
            embedded=Embedded.from_json(read.mapping("embedded")),
            variants={name: Variant.from_json(value, f"variant {name[:80]!r}") for name, value in variants.items()},
            engines={name: _engine(value, name) for name, value in (read.mapping_or_none("engines") or {}).items()},
            calibration=read.mapping_or_none("calibration"),
            parity=read.mapping("parity"),
            verified=read.boolean("verified"),
            notes=read.texts("notes"),
            lineage=_lineage(read),
            tools=read.text_mapping("tools"),
            files={
                bundle_path(path): FileRecord.from_json(value, f"file {path[:80]!r}") for path, value in files.items()
            },
        )

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read the bytes of a ``manifest.json``.

        Raises:
            BundleCorruptError: they are not JSON.
            BundleSchemaError, BundlePathError: as :meth:`from_json`.
        """
        try:
            data = json.loads(
                text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates
            )
        except BundleError:
            raise
        except (ValueError, RecursionError) as error:
            raise BundleCorruptError(f"{MANIFEST} is not whole JSON: {error or type(error).__name__}") from error
        return cls.from_json(data)


def _plain(record: Any) -> dict[str, Any]:
    """Return a flat dataclass as a dict."""
    return {item.name: getattr(record, item.name) for item in fields(record)}


def _spec(where: str, read: Callable[[Any], _T], data: Any) -> _T:
    """Call a ``from_json`` of :mod:`edgecnn.spec` on untrusted data."""
    try:
        return read(data)
    except (SpecError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise BundleSchemaError(f"{MANIFEST}: {where}: {error}") from error


def _model(data: Mapping[str, Any]) -> ModelSpec:
    """Read the model, whose dataclass leaves the types of plain fields to its callers."""
    read = Fields(data, "model")
    read.text("name")
    read.text("builder")
    for name in ("family", "default_weights", "labels"):
        read.text(name, "")
    read.integer("num_classes", low=1)
    return _spec("model", ModelSpec.from_json, data)


def _tensors(read: Fields, key: str) -> tuple[TensorSpec, ...]:
    """Read a non-empty list of tensors with text names."""
    items = read.sequence(key)
    if not items:
        raise BundleSchemaError(f"{MANIFEST}: {read.where}: {key} is empty")
    for item in items:
        Fields(item, f"{read.where} {key}").text("name")
    return tuple(_spec(f"{read.where} {key}", TensorSpec.from_json, item) for item in items)


def _engine(data: Any, name: str) -> EngineRecord:
    """Read an engine and its history."""
    where = f"engine {name[:80]!r}"
    return EngineRecord.from_json(data, where, _lineage(Fields(data, where)))


def _lineage(read: Fields) -> tuple[Lineage, ...]:
    """Read the steps of a history."""
    steps = []
    for item in read.sequence("lineage"):
        step = Fields(item, f"{read.where} lineage")
        steps.append(
            Lineage(
                stage=step.text("stage"),
                tools=step.text_mapping("tools"),
                config=step.mapping("config"),
                inputs=step.text_mapping("inputs"),
                notes=step.texts("notes"),
            )
        )
    return tuple(steps)


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise BundleCorruptError(f"{MANIFEST} is not JSON: it holds {name}")


def _finite(text: str) -> float:
    """Parse a number, refusing those that overflow."""
    value = float(text)
    if not math.isfinite(value):
        raise BundleSchemaError(f"{MANIFEST}: the number {text[:20]} is out of range")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse objects that say two things under one key."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BundleSchemaError(f"{MANIFEST}: a key occurs twice in one object")
    return result
