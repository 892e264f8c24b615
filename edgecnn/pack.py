"""Writes a bundle: the folder whose reader is :mod:`edgecnn.runtime.bundle`."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.artifacts import Engine, Lineage, OnnxModel, sha256_file
from edgecnn.errors import SpecError, UserError
from edgecnn.onnxio import data_path, load_ir, save_ir
from edgecnn.runtime.bundle import GOLDEN, PARITY, RANGES, RESULTS, Bundle
from edgecnn.runtime.checks import bundle_path, regular_file
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.engines import EngineRecord, engine_file
from edgecnn.runtime.manifest import MANIFEST, Embedded, FileRecord, Labels, Manifest, Speed, Variant, Weights
from edgecnn.runtime.preprocess import fit, normalize
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import ModelSpec, Preprocess
from edgecnn.writing import check_replaceable, replace_directory, write_bytes, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "RESULTS",
    "BundleContents",
    "VariantContents",
    "add_engines",
    "add_results",
    "check_destination",
    "make_golden",
    "pack",
]

LABELS = "labels.txt"
GOLDEN_SIZE = (288, 352)
"""Height and width of golden images cut from larger ones: big enough that resizing is tested, small enough to ship."""


@dataclass(frozen=True, kw_only=True)
class VariantContents:
    """One graph to pack; its name in the bundle is its precision (``fp32``, ``int8-cpu``).

    Attributes:
        model: the file; external data beside it comes along.
        placement: a summary of what was quantized and why, JSON.
        verified: whether it passed verification.
        speed: if it was measured.
        engines: built from it, of different flavours.
    """

    model: OnnxModel
    placement: Mapping[str, Any] | None = None
    verified: bool = False
    speed: Speed | None = None
    engines: Sequence[Engine] = ()


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What goes into a bundle.

    Attributes:
        spec: the network; its preprocess becomes the bundle's.
        weights: where the numbers came from: a ``Weights``, or the JSON of the zoo's ``LoadedWeights``.
        variants: at least one graph.
        labels: class names in the order of the logits; empty when they have none.
        embedded: what the graphs do themselves.
        golden: arrays of :func:`make_golden`; empty leaves the self-test out.
        ranges: per quantized variant the JSON of its ranges; empty leaves the file out.
        parity: the whole verification, JSON; ``parity_summary`` goes into the manifest.
        verified: whether every stage passed.
        calibration: source, count, hash and method, JSON; None for float bundles.
        notes, lineage, tools: as of :class:`~edgecnn.runtime.manifest.Manifest`.
        created: ISO 8601; now by default.
    """

    spec: ModelSpec
    weights: Weights | Mapping[str, Any]
    variants: Sequence[VariantContents]
    labels: Sequence[str] = ()
    embedded: Embedded = field(default_factory=Embedded)
    golden: Mapping[str, Array] = field(default_factory=dict)
    ranges: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    parity_summary: Mapping[str, Any] = field(default_factory=dict)
    verified: bool = False
    calibration: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    lineage: Sequence[Lineage] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        for name in ("variants", "labels", "notes", "lineage"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [variant.model.precision for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise SpecError(f"a bundle needs variants of distinct precision, found {names}")
        if self.labels and len(self.labels) != self.spec.num_classes:
            raise SpecError(f"{len(self.labels)} labels for the {self.spec.num_classes} classes of {self.spec.name}")
        odd = [label for label in self.labels if "\n" in label or "\r" in label]
        if odd:
            raise SpecError(f"label {odd[0]!r} holds a line break; labels are stored one a line")


def pack(destination: Path, contents: BundleContents, *, force: bool = False) -> Bundle:
    """Write a bundle, whole or not at all, and open it.

    Files are written beside ``destination`` and moved into place in one step (see
    :func:`edgecnn.writing.replace_directory`); ``manifest.json`` is the last of them.

    Args:
        destination: the folder to write; missing parents are created.
        contents: what goes in.
        force: replace an existing bundle. A folder that is not a bundle, or holds files that are not the bundle's, is
            never replaced.

    Raises:
        OutputError: the destination exists, or cannot be written.
        UserError: a model file is gone or changed since it was described.
    """
    with replace_directory(destination, force=force, foreign=_foreign) as folder:
        variants = {item.model.precision: _put_variant(folder, item) for item in contents.variants}
        engines = [_put_engine(folder, item.model.precision, one) for item in contents.variants for one in item.engines]
        if contents.labels:
            write_bytes(folder / LABELS, ("\n".join(contents.labels) + "\n").encode())
        if contents.ranges:
            write_json(folder / RANGES, dict(contents.ranges))
        if contents.parity:
            write_json(folder / PARITY, dict(contents.parity))
        if contents.golden:
            write_bytes(folder / GOLDEN, _npz(contents.golden))
        write_json(folder / MANIFEST, _manifest(folder, contents, variants, engines).to_json())
    return Bundle.open(destination, allow_unverified=True)


def add_engines(bundle: Bundle, engines: Sequence[tuple[str, Engine]], *, notes: Sequence[str] = ()) -> Bundle:
    """Put engines into a bundle, whole or not at all, and open it; one of the same variant and flavour is replaced.

    Args:
        bundle: on disk, as it is now: what others put into it since it was opened stays. Its other files are copied as they are.
        engines: (variant, engine), built from that variant's graph.
        notes: for the manifest, ``<about what>: ...``; older ones about the same are replaced.

    Raises:
        OutputError: the bundle's folder cannot be written, or holds files that are not the bundle's.
        UserError: an unknown variant; an engine of another graph; a plan that is gone or changed.
        BundleError: the bundle is not whole any more.
    """
    bundle = Bundle.open(bundle.path, allow_unverified=True)
    manifest, path = bundle.manifest, bundle.path
    for variant, engine in engines:
        if engine.facts.model_sha256 != _model_sha256(bundle, variant):
            raise UserError(f"the engine at {engine.path} was built from another graph than {path}'s {variant}")
    with replace_directory(path, force=True, foreign=_foreign) as folder:
        replaced = {engine_file(variant, engine.facts.flavour) for variant, engine in engines}
        for name in manifest.files:
            if name not in replaced:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(regular_file(path, name)[0], folder / name)
        records = [_put_engine(folder, variant, engine) for variant, engine in engines]
        about = {note.partition(":")[0] for note in notes}
        changed = replace(
            manifest,
            notes=(*(note for note in manifest.notes if note.partition(":")[0] not in about), *notes),
            engines={**manifest.engines, **_by_name(records)},
            files={**manifest.files, **{record.file: _record(folder / record.file) for record in records}},
        )
        write_json(folder / MANIFEST, changed.to_json())
    return Bundle.open(path, allow_unverified=True)


def add_results(bundle: Bundle, results: Mapping[str, Mapping[str, Any]]) -> Bundle:
    """Put JSON documents into a bundle's ``results/``, whole or not at all, and open it; those of the same name are replaced.

    Args:
        bundle: on disk, as it is now: what others put into it since it was opened stays. Its other files are kept as they are.
        results: path below ``results/`` (``orin/verify.json``) -> document.

    Raises:
        OutputError: the bundle's folder cannot be written, or holds files that are not the bundle's.
        BundlePathError: a name that leads elsewhere.
        BundleError: the bundle is not whole any more.
    """
    bundle = Bundle.open(bundle.path, allow_unverified=True)
    manifest, path = bundle.manifest, bundle.path
    named = {bundle_path(f"{RESULTS}/{name}"): dict(document) for name, document in results.items()}
    with replace_directory(path, force=True, foreign=_foreign) as folder:
        for name in manifest.files:
            if name not in named:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(regular_file(path, name)[0], folder / name)
        for name, document in named.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(folder / name, document)
        files = {**manifest.files, **{name: _record(folder / name) for name in named}}
        write_json(folder / MANIFEST, replace(manifest, files=files).to_json())
    return Bundle.open(path, allow_unverified=True)


def check_destination(destination: Path, *, force: bool = False) -> None:
    """Refuse what :func:`pack` would refuse, before the long work is done. Raises OutputError."""
    check_replaceable(destination, destination, force, _foreign)


def make_golden(
    images: Sequence[NDArray[np.uint8]], preprocess: Preprocess, sessions: Mapping[str, Session]
) -> dict[str, Array]:
    """Make the arrays of ``golden.npz``, with which any runtime in any language can test itself on the device.

    Args:
        images: a few decoded pictures, uint8 (h, w, 3). If they differ in size, or are larger than :data:`GOLDEN_SIZE`, a
            part of that size is cut from each.
        preprocess: the bundle's.
        sessions: variant -> session; and ``pytorch`` -> the reference, if there is one.

    Returns:
        ``images`` uint8 (K, h, w, 3), ``tensors`` float32 (K, C, H, W), and ``logits.<name>`` float32 (K, classes) for each
        session, run one image at a time.

    Raises:
        UserError: no images, or a session refuses the input.
        BackendError: a session failed.
    """
    if not images:
        raise UserError("golden arrays need at least one image")
    stack = _same_size(images)
    pixels = np.stack([fit(image, preprocess) for image in stack])
    arrays: dict[str, Array] = {"images": stack, "tensors": normalize(pixels, preprocess)}
    for name, session in sessions.items():
        rows = [run_pixels(session, row[None], preprocess) for row in pixels]
        arrays[f"logits.{name}"] = np.concatenate(rows).astype(np.float32)
    return arrays


def _same_size(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack pictures, cut to one size where need be."""
    height, width = GOLDEN_SIZE
    if len({image.shape for image in images}) > 1 or any(
        image.shape[0] > 2 * height or image.shape[1] > 2 * width for image in images
    ):
        cut = Preprocess(size=GOLDEN_SIZE, resize=max(GOLDEN_SIZE), interpolation="bicubic")
        images = [fit(image, cut) for image in images]
    return np.stack(list(images))


def _put_variant(folder: Path, contents: VariantContents) -> Variant:
    """Copy a graph, and describe it."""
    model = contents.model
    target = folder / f"model.{model.precision}.onnx"
    files = [path for path in (model.path, data_path(model.path)) if path.exists()]
    if not model.path.is_file() or sha256_file(*files) != model.sha256:
        raise UserError(f"{model.path} is gone, or was changed since it was written")
    if len(files) > 1 and model.path.name != target.name:
        # The graph names its external data file: under another name it must be written anew.
        save_ir(load_ir(model.path), target, precision=model.precision)
    else:
        for source in files:
            shutil.copyfile(source, folder / source.name.replace(model.path.name, target.name, 1))
    return Variant(
        file=target.name,
        precision=model.precision,
        opset=model.opset,
        nodes=model.nodes,
        inputs=model.inputs,
        outputs=model.outputs,
        lineage=model.lineage,
        placement=contents.placement,
        verified=contents.verified,
        speed=contents.speed,
    )


def _put_engine(folder: Path, variant: str, engine: Engine) -> EngineRecord:
    """Copy a plan, and describe it."""
    if not engine.path.is_file() or sha256_file(engine.path) != engine.sha256:
        raise UserError(f"{engine.path} is gone, or was changed since it was written")
    target = engine_file(variant, engine.facts.flavour)
    shutil.copyfile(engine.path, folder / target)
    return EngineRecord(file=target, variant=variant, facts=engine.facts, lineage=engine.lineage)


def _by_name(records: Sequence[EngineRecord]) -> dict[str, EngineRecord]:
    """Return engines by their name in the manifest."""
    return {f"{record.variant}.{record.facts.flavour}": record for record in records}


def _model_sha256(bundle: Bundle, variant: str) -> str:
    """Return the sha256 of a variant's graph, over its external data too, as an OnnxModel's is."""
    path = bundle.model_path(variant)
    return sha256_file(*(one for one in (path, data_path(path)) if one.exists()))


def _record(path: Path) -> FileRecord:
    """Describe a file."""
    return FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)


def _manifest(
    folder: Path, contents: BundleContents, variants: Mapping[str, Variant], engines: Sequence[EngineRecord]
) -> Manifest:
    """Describe the folder as it is now."""
    files = {path.relative_to(folder).as_posix(): _record(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    labels = None
    if contents.labels:
        labels = Labels(file=LABELS, count=len(contents.labels), sha256=files[LABELS].sha256)
    weights = contents.weights
    return Manifest(
        model=contents.spec,
        preprocess=contents.spec.preprocess,
        weights=weights if isinstance(weights, Weights) else Weights.from_json(weights),
        variants=variants,
        engines=_by_name(engines),
        files=files,
        labels=labels,
        embedded=contents.embedded,
        calibration=contents.calibration,
        parity=contents.parity_summary,
        verified=contents.verified,
        notes=tuple(contents.notes),
        lineage=tuple(contents.lineage),
        tools=contents.tools,
        created=contents.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """Return the bytes of a compressed npz."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def _foreign(folder: Path) -> str:
    """Say why a folder is not a bundle, or what it holds that is not the bundle's; "" if it may be deleted."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
        known = {MANIFEST, *listed}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"it is not a bundle (no readable {MANIFEST}); remove it yourself if you mean to"
    extra = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
        if path.relative_to(folder).as_posix() not in known
    )
    if extra:
        return f"it holds {len(extra)} file(s) that are not the bundle's ({', '.join(extra[:3])}): move them away first"
    return ""
