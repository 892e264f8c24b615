"""Reading a bundle: the folder that ``edgecnn export`` writes and an application embeds."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from edgecnn.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundleUnverifiedError,
    EngineMisfitError,
    UserError,
)
from edgecnn.runtime.checks import regular_file
from edgecnn.runtime.choice import (
    BACKENDS,
    ENGINE_BACKENDS,
    Choice,
    Options,
    Target,
    choose,
    choose_engine,
    default_variant,
    slower,
)
from edgecnn.runtime.manifest import MANIFEST, Manifest, Variant
from edgecnn.runtime.openvino import OpenVinoOptions, OpenVinoSession
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.session import Array, Session
from edgecnn.runtime.tensorrt import TensorRtFlavour, TensorRtOptions, TensorRtSession
from edgecnn.spec import ModelSpec, Preprocess

__all__ = ["GOLDEN", "PARITY", "RANGES", "Bundle", "load"]

GOLDEN = "golden.npz"
PARITY = "parity.json"
RANGES = "ranges.json"
RESULTS = "results"
"""Folder of a bundle for what was measured of it, on which device; every file is listed and hashed as the others are."""

Check = Literal["full", "sizes"]

_LARGEST_MANIFEST = 64 << 20


class Bundle:
    """A bundle on disk that was checked when it was opened: make one with :meth:`open`.

    Attributes:
        path: the folder.
        manifest: everything it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Hold a folder and its manifest; :meth:`open` checks them."""
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path | str, *, allow_unverified: bool = False, check: Check = "full") -> Bundle:
        """Read a bundle and check its version, paths, lengths and (``check="full"``) every file's hash.

        Args:
            path: the folder.
            allow_unverified: open it although its verification failed.
            check: ``sizes`` leaves out the hashes: for an application that checked them once already.

        Raises:
            BundleMissingError: no bundle there, or a file of it is gone.
            BundleCorruptError: a file is truncated or changed.
            BundleSchemaError: written by a newer edgecnn, or not a manifest.
            BundlePathError: a path or a symbolic link that leaves the folder.
            BundleUnverifiedError: its verification failed, and ``allow_unverified`` is false.
        """
        if check not in ("full", "sizes"):
            raise UserError(f"check {check!r} is neither 'full' nor 'sizes'")
        root = Path(path)
        manifest = _read_manifest(root)
        for name, record in manifest.files.items():
            place, size = regular_file(root, name)
            if size != record.bytes:
                raise BundleCorruptError(f"{root}: {name} has {size} bytes, and had {record.bytes} when it was written")
            if check == "full" and _sha256(place) != record.sha256:
                raise BundleCorruptError(f"{root}: {name} was changed after it was written (its sha256 differs)")
        bundle = cls(root, manifest)
        if not manifest.verified and not allow_unverified:
            raise BundleUnverifiedError(
                f"{root} failed verification when it was written: see its {PARITY}, or `edgecnn verify {root}`; "
                "loading it all the same needs allow_unverified=True"
            )
        return bundle

    @property
    def spec(self) -> ModelSpec:
        """The network."""
        return self.manifest.model

    @property
    def preprocess(self) -> Preprocess:
        """From a decoded picture to the input."""
        return self.manifest.preprocess

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Name -> graph."""
        return self.manifest.variants

    @property
    def untrained(self) -> bool:
        """Whether the weights are random numbers, so that predictions mean nothing."""
        return self.manifest.weights.untrained

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty when the classes have no names. Raises BundleError."""
        record = self.manifest.labels
        if record is None:
            return ()
        try:
            names = tuple(self._read(record.file).decode().removesuffix("\n").split("\n"))
        except UnicodeDecodeError as error:
            raise BundleCorruptError(f"{self.path}: {record.file} is not UTF-8 text") from error
        if len(names) != record.count:
            raise BundleCorruptError(f"{self.path}: {record.file} has {len(names)} lines for {record.count} classes")
        return names

    def variant(self, name: str) -> Variant:
        """Return a variant. Raises UserError naming those there are."""
        if name not in self.variants:
            raise UserError(f"{self.path} has no variant {name!r}; it has {', '.join(self.variants)}")
        return self.variants[name]

    def model_path(self, variant: str) -> Path:
        """Return a variant's ONNX file. Raises UserError for an unknown variant."""
        return self.path / self.variant(variant).file

    def default_variant(self, target: Target = "cpu") -> str:
        """Return the variant to run on onnxruntime when none was asked for; see :func:`edgecnn.runtime.choice.default_variant`."""
        return default_variant(self.variants, target)

    def choose(self, variant: str | None = None, backend: str | None = None, options: Options | None = None) -> Choice:
        """Return the variant and backend that :meth:`session` runs; see :func:`edgecnn.runtime.choice.choose` and
        :func:`~edgecnn.runtime.choice.choose_engine`.

        Raises:
            UserError: an unknown variant or backend, options of another backend, or no engine for it.
        """
        if variant is not None:
            self.variant(variant)
        engine = choose_engine(self.variants, self.manifest.engines, variant, backend, options)
        return engine or choose(self.variants, variant, backend, options)

    def engine_variants(self, flavour: str) -> tuple[str, ...]:
        """Return the variants that have an engine of a flavour."""
        return tuple(name for name in self.variants if f"{name}.{flavour}" in self.manifest.engines)

    def alarms(self) -> tuple[str, ...]:
        """Return why the bundle's predictions must not be relied on, one line each; empty when there is no reason."""
        found = []
        if self.untrained:
            found.append("UNTRAINED: the weights are random numbers, so predictions mean nothing")
        if not self.manifest.verified:
            found.append(f"UNVERIFIED: verification failed when it was written (see {PARITY})")
        return tuple(found)

    def warnings(self) -> tuple[str, ...]:
        """Return what whoever uses the bundle should know, one line each: first :meth:`alarms`, then variants and notes."""
        found = list(self.alarms())
        for name, variant in self.variants.items():
            if self.manifest.verified and not variant.verified:
                found.append(f"variant {name} is not verified")
            found += [
                f"variant {name} took {ratio:.2f}x fp32's time on {backend} when it was measured: not faster there"
                for backend in BACKENDS
                if (ratio := slower(self.variants, name, backend))
            ]
        return (*found, *self.manifest.notes)

    def golden(self) -> dict[str, Array]:
        """Return the arrays of ``golden.npz``: ``images`` uint8 (K, h, w, 3), ``tensors`` float32, ``logits.<variant>``.

        Raises:
            BundleMissingError: the bundle has none.
            BundleCorruptError: it cannot be read.
        """
        content = self._read(GOLDEN)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                arrays: dict[str, Array] = {}
                for name in archive.namelist():
                    with archive.open(name) as stream:
                        arrays[name.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
                return arrays
        except Exception as error:  # numpy and zipfile raise a dozen types on a bad file
            raise BundleCorruptError(f"{self.path}: {GOLDEN} cannot be read: {type(error).__name__}") from error

    def parity(self) -> dict[str, object]:
        """Return the whole of ``parity.json``. Raises BundleMissingError, BundleCorruptError."""
        return self._json(PARITY)

    def ranges(self) -> dict[str, object]:
        """Return ``ranges.json``: per quantized variant the calibrated ranges. Raises BundleMissingError, BundleCorruptError."""
        return self._json(RANGES)

    def results(self) -> dict[str, dict[str, object]]:
        """Return what devices made of commands: ``<device>/<verb>.json`` -> document. Raises BundleMissingError, BundleCorruptError."""
        start = f"{RESULTS}/"
        names = [name for name in self.manifest.files if name.startswith(start) and name.endswith(".json")]
        return {name.removeprefix(start): self._json(name) for name in names}

    def session(
        self,
        variant: str | None = None,
        backend: str | None = None,
        *,
        allow_unverified: bool = False,
        options: Options | None = None,
    ) -> Session:
        """Make a variant ready to run; see :func:`load`."""
        choice = self.choose(variant, backend, options)
        chosen = self.variants[choice.variant]
        if not chosen.verified_on(choice.backend) and not allow_unverified:
            where = f" on {choice.backend}" if chosen.verified else ""
            raise BundleUnverifiedError(
                f"{self.path}: variant {choice.variant} failed verification{where} when it was written (see {PARITY}); "
                "loading it all the same needs allow_unverified=True"
            )
        file = chosen.file
        if choice.backend in ENGINE_BACKENDS:
            file = self.manifest.engines[f"{choice.variant}.{choice.backend}"].file
            session: Session = self._engine_session(choice, options)
        else:
            session = _start(self.path / file, choice.backend, options)
        for kind, found, wanted in (
            ("inputs", session.inputs, chosen.inputs),
            ("outputs", session.outputs, chosen.outputs),
        ):
            if [(s.name, s.dtype, len(s.shape)) for s in found] != [(s.name, s.dtype, len(s.shape)) for s in wanted]:
                session.close()
                raise BundleCorruptError(f"{self.path}: {file} has other {kind} than the manifest says")
        return session

    def _engine_session(self, choice: Choice, options: Options | None) -> TensorRtSession:
        """Load an engine, or what ``rebuild`` gives where it does not fit this device."""
        record = self.manifest.engines[f"{choice.variant}.{choice.backend}"]
        own = options if isinstance(options, TensorRtOptions) else TensorRtOptions(flavour=_flavour(choice.backend))
        try:
            return TensorRtSession(self.path / record.file, own, record.facts, weights=self.model_path(choice.variant))
        except EngineMisfitError as error:
            if own.rebuild is None:
                text = str(error).replace("edgecnn build BUNDLE", f"edgecnn build {self.path}")
                raise EngineMisfitError(
                    f"{text}; or load it with TensorRtOptions(rebuild=edgecnn.pipeline.engines.rebuilt)"
                ) from None
            path, facts = own.rebuild(self.path, choice.variant, own)
        return TensorRtSession(path, own, facts, weights=self.model_path(choice.variant))

    def _listed(self, name: str) -> None:
        """Check that an optional file belongs to the bundle, so that its hash was checked."""
        if name not in self.manifest.files:
            raise BundleMissingError(f"{self.path} has no {name}")

    def _read(self, name: str) -> bytes:
        """Read a listed file."""
        self._listed(name)
        place, _ = regular_file(self.path, name)
        try:
            return place.read_bytes()
        except OSError as error:
            raise BundleMissingError(f"{place} cannot be read: {error.strerror or error}") from error

    def _json(self, name: str) -> dict[str, object]:
        """Read a listed JSON file that holds an object."""
        try:
            data = json.loads(self._read(name))
        except (ValueError, RecursionError) as error:
            raise BundleCorruptError(f"{self.path}: {name} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise BundleCorruptError(f"{self.path}: {name} holds no JSON object")
        return data


def load(
    path: Path | str,
    variant: str | None = None,
    backend: str | None = None,
    *,
    allow_unverified: bool = False,
    options: Options | None = None,
) -> Session:
    """Open a bundle and make one of its variants ready to run.

    Args:
        path: the bundle's folder.
        variant: ``fp32``, ``fp16``, ``int8``, ``int8-fp16`` or ``int8-cpu``; by default what :meth:`Bundle.choose` chooses.
        backend: ``onnxruntime``, ``openvino``, or by default ``auto``: whichever runs the variant faster, by what was measured when
            the bundle was written; onnxruntime where nothing was. ``tensorrt`` and ``tensorrt-rtx`` run the variant's engine.
        allow_unverified: load a bundle or variant whose verification failed.
        options: :class:`~edgecnn.runtime.ort.OrtOptions`, :class:`~edgecnn.runtime.openvino.OpenVinoOptions` or
            :class:`~edgecnn.runtime.tensorrt.TensorRtOptions`, which choose their backend, or :class:`~edgecnn.runtime.choice.AutoOptions`.

    Raises:
        BundleError: as :meth:`Bundle.open`.
        UserError: an unknown variant or backend, options of another backend, or no engine of the variant.
        EngineMisfitError: the engine is of another version, GPU or platform; the message holds the command that rebuilds it.
        BackendError: the backend refuses the model.
        MissingDependencyError: the backend is not installed.
    """
    bundle = Bundle.open(path, allow_unverified=allow_unverified)
    return bundle.session(variant, backend, allow_unverified=allow_unverified, options=options)


def _flavour(backend: str) -> TensorRtFlavour:
    """Return an engine's backend as what it is."""
    return "tensorrt" if backend == "tensorrt" else "tensorrt-rtx"


def _start(model: Path, backend: str, options: Options | None) -> Session:
    """Make a session of a backend with its own options, or with what every backend can be told."""
    threads = options.threads if options else 0
    if backend == "openvino":
        own = options if isinstance(options, OpenVinoOptions) else OpenVinoOptions(threads=threads)
        return OpenVinoSession(model, own)
    return OrtSession(model, options if isinstance(options, OrtOptions) else OrtOptions(threads=threads))


def _read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json``; errors name the bundle."""
    if not root.is_dir():
        found = "a file, not a bundle's folder" if root.exists() else "not there"
        raise BundleMissingError(f"no bundle at {root}: {found}")
    try:
        place, size = regular_file(root, MANIFEST)
    except BundleMissingError:
        raise BundleMissingError(f"{root} is not a bundle: it has no readable {MANIFEST}") from None
    if size > _LARGEST_MANIFEST:
        raise BundleCorruptError(f"{root}: {MANIFEST} has {size} bytes: that is no manifest")
    try:
        text = place.read_bytes()
    except OSError as error:
        raise BundleMissingError(f"{place} cannot be read: {error.strerror or error}") from error
    try:
        return Manifest.parse(text)
    except BundleError as error:
        raise type(error)(f"{root}: {error}") from error


def _sha256(path: Path) -> str:
    """Return a file's sha256; a file that cannot be read is as good as missing."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleMissingError(f"{path} cannot be read: {error.strerror or error}") from error
