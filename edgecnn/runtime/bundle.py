"""Reading a bundle: the folder that ``edgecnn export`` writes and an application embeds."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgecnn.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundleUnverifiedError,
    UserError,
)
from edgecnn.runtime.checks import regular_file
from edgecnn.runtime.manifest import MANIFEST, Manifest, Variant
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import ModelSpec, Preprocess

if TYPE_CHECKING:
    from edgecnn.runtime.ort import OrtOptions

__all__ = ["GOLDEN", "PARITY", "RANGES", "Bundle", "load"]

GOLDEN = "golden.npz"
PARITY = "parity.json"
RANGES = "ranges.json"

Check = Literal["full", "sizes"]

_LARGEST_MANIFEST = 64 << 20
_PREFERENCE = {
    "cpu": ("int8-cpu", "fp32", "fp16", "int8", "int8-fp16"),
    "gpu": ("fp16", "fp32", "int8-fp16", "int8", "int8-cpu"),
}
_BACKENDS = ("onnxruntime",)


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

    def default_variant(self, target: Literal["cpu", "gpu"] = "cpu") -> str:
        """Return the variant to run when none was asked for.

        On a CPU that is ``int8-cpu`` if the bundle has it, it is verified, and it was not measured to be slower than fp32 when
        the bundle was written; else ``fp32``. The TensorRT-valid ``int8`` is never preferred there: onnxruntime's CPU
        kernels run it slower than fp32. On a GPU through onnxruntime it is ``fp16`` under the same conditions, else
        ``fp32``. A bundle without fp32 gives the first of these that it has, verified ones before others.
        """
        order = [name for name in _PREFERENCE[target] if name in self.variants]
        order += [name for name in self.variants if name not in order]
        verified = [name for name in order if self.variants[name].verified]
        usable = [name for name in verified if not self._slower(name)]
        last = ["fp32"] if "fp32" in self.variants else order
        return (usable or verified or last)[0]

    def _slower(self, name: str) -> bool:
        """Whether a variant was measured to be no faster than fp32."""
        speed = self.variants[name].speed
        return name != "fp32" and speed is not None and speed.ratio >= 1

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
            if variant.speed is not None and self._slower(name):
                found.append(
                    f"variant {name} was {variant.speed.ratio:.2f}x fp32's time when it was measured: not faster"
                )
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

    def session(
        self,
        variant: str | None = None,
        backend: str | None = None,
        *,
        allow_unverified: bool = False,
        options: OrtOptions | None = None,
    ) -> Session:
        """Make a variant ready to run; see :func:`load`."""
        from edgecnn.runtime.ort import OrtOptions, OrtSession

        if backend not in (None, *_BACKENDS):
            raise UserError(f"backend {backend!r} is not one of {', '.join(_BACKENDS)}")
        options = options or OrtOptions()
        name = variant or self.default_variant(target_of(options.provider_names))
        chosen = self.variant(name)
        if not chosen.verified and not allow_unverified:
            raise BundleUnverifiedError(
                f"{self.path}: variant {name} failed verification when it was written (see {PARITY}); "
                "loading it all the same needs allow_unverified=True"
            )
        session = OrtSession(self.path / chosen.file, options)
        for kind, found, wanted in (
            ("inputs", session.inputs, chosen.inputs),
            ("outputs", session.outputs, chosen.outputs),
        ):
            if [(s.name, s.dtype, len(s.shape)) for s in found] != [(s.name, s.dtype, len(s.shape)) for s in wanted]:
                session.close()
                raise BundleCorruptError(f"{self.path}: {chosen.file} has other {kind} than the manifest says")
        return session

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
    options: OrtOptions | None = None,
) -> Session:
    """Open a bundle and make one of its variants ready to run.

    Args:
        path: the bundle's folder.
        variant: ``fp32``, ``fp16``, ``int8``, ``int8-fp16`` or ``int8-cpu``; by default :meth:`Bundle.default_variant` of the machine.
        backend: ``onnxruntime``, also the default.
        allow_unverified: load a bundle or variant whose verification failed.
        options: of the backend: threads, providers.

    Raises:
        BundleError: as :meth:`Bundle.open`.
        UserError: an unknown variant or backend.
        BackendError: the backend refuses the model.
        MissingDependencyError: the backend is not installed.
    """
    bundle = Bundle.open(path, allow_unverified=allow_unverified)
    return bundle.session(variant, backend, allow_unverified=allow_unverified, options=options)


def target_of(providers: Iterable[str]) -> Literal["cpu", "gpu"]:
    """Return what kind of device the first execution provider stands for."""
    first = next(iter(providers), "")
    return "gpu" if any(word in first for word in ("CUDA", "Tensor", "ROCM", "MIGraphX", "Dml", "WebGpu")) else "cpu"


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
