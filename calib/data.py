"""Where calibration samples come from: a folder of images, a file of tensors, an iterable, or the built-in photos."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import canonical_json
from edgecnn.errors import DataError
from edgecnn.optional import need
from edgecnn.runtime.preprocess import decode, fit, normalize
from edgecnn.spec import Preprocess

__all__ = ["SUFFIXES", "ArrayFile", "ImageFolder", "InMemory", "Photos", "Samples", "Together", "open_samples"]

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
"""What counts as an image in a folder."""

MOST_CORRUPT = 0.1
"""Share of unreadable images above which a folder is refused."""

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg")
"""Natural photographs that scikit-image ships inside its wheel."""

CROPS = 16
"""Crops of each photo, so 96 samples in all."""


class Samples(ABC):
    """Calibration samples: read again with each iteration, one at a time, in a fixed order.

    Attributes:
        name: for messages. ``skipped``: unreadable ones met so far.
    """

    name: str
    skipped: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are, unreadable ones included."""

    @abstractmethod
    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield ``{input: float32 (1, C, H, W)}``."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the sha256 of the content and the preprocessing, 64 hex digits."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of them, JSON."""

    def pictures(self) -> Iterator[Pixels] | None:
        """Yield decoded pictures, uint8 (h, w, 3); None where there are only tensors."""
        return None

    def pixels(self) -> Iterator[Pixels] | None:
        """Yield pictures at network size, uint8 (H, W, C); None where there are only tensors."""
        return None


class _Pictures(Samples):
    """Samples that are pictures."""

    def __init__(self, preprocess: Preprocess, input_name: str) -> None:
        """Hold how a picture becomes a tensor."""
        self.preprocess = preprocess
        self.input_name = input_name

    @abstractmethod
    def pictures(self) -> Iterator[Pixels]:
        """Yield decoded pictures."""

    def pixels(self) -> Iterator[Pixels]:
        """Yield pictures at network size."""
        for picture in self.pictures():
            yield fit(picture, self.preprocess)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield network inputs."""
        for pixels in self.pixels():
            yield {self.input_name: normalize(pixels, self.preprocess)}


class ImageFolder(_Pictures):
    """Images of a folder, flat or nested, in the order of their paths.

    Args:
        folder: hidden files and folders are left out.
        preprocess: how they become tensors.
        limit: at most so many, spread evenly over the sorted paths.
        paths: just these, in place of the folder's own.

    Raises:
        DataError: no such folder, or no image in it; on iteration, when over 10 % of the images cannot be read.
    """

    def __init__(
        self,
        folder: Path | str,
        preprocess: Preprocess,
        *,
        limit: int | None = None,
        input_name: str = "input",
        paths: Iterable[Path] = (),
    ) -> None:
        """List the images."""
        super().__init__(preprocess, input_name)
        self.folder = Path(folder)
        self.name = str(folder)
        self.every = tuple(paths) or _images_in(self.folder)
        self.paths = spread(self.every, limit)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def rest(self, limit: int | None = None) -> ImageFolder | None:
        """Return the images that ``limit`` left out, or None if there are none."""
        taken = set(self.paths)
        others = [path for path in self.every if path not in taken]
        if not others:
            return None
        return ImageFolder(self.folder, self.preprocess, input_name=self.input_name, paths=spread(tuple(others), limit))

    def pictures(self) -> Iterator[Pixels]:
        """Yield decoded pictures, leaving out unreadable ones."""
        self.skipped = 0
        corrupt: list[DataError] = []
        for number, path in enumerate(self.paths, start=1):
            try:
                yield decode(path)
            except DataError as error:
                corrupt.append(error)
                self.skipped += 1
            # Where nothing was readable yet, perhaps nothing is: that is another message.
            if self.skipped > MOST_CORRUPT * len(self.paths) and self.skipped < number:
                raise DataError(
                    f"{self.folder}: {self.skipped} of {len(self.paths)} images cannot be read, more than 10 %; "
                    f"the last: {corrupt[-1]}"
                ) from corrupt[-1]
        if corrupt and self.skipped == len(self.paths):
            raise DataError(f"{self.folder}: none of {len(self.paths)} images can be read; the first: {corrupt[0]}")

    def fingerprint(self) -> str:
        """Return the sha256 over the files' bytes and the preprocessing."""
        digest = hashlib.sha256(canonical_json(self.preprocess.to_json()))
        for path in self.paths:
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        return {"kind": "folder", "name": self.folder.name, "count": len(self), "skipped": self.skipped, "note": ""}


class Photos(_Pictures):
    """The built-in set: crops of scikit-image's natural photographs, the same on every machine."""

    def __init__(self, preprocess: Preprocess, *, limit: int | None = None, input_name: str = "input") -> None:
        """Find the photos."""
        super().__init__(preprocess, input_name)
        self.name = "photos"
        folder = Path(str(need("skimage.data").__file__)).parent
        self.paths = tuple(folder / name for name in PHOTOS)
        self.plan = spread(tuple((photo, crop) for crop in range(CROPS) for photo in range(len(PHOTOS))), limit)

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.plan)

    def pictures(self) -> Iterator[Pixels]:
        """Yield the crops: of 50 to 100 % of the shorter side, every other one mirrored."""
        decoded = [decode(path) for path in self.paths]
        for photo, crop in self.plan:
            picture = decoded[photo]
            generator = np.random.Generator(np.random.Philox(key=photo * CROPS + crop))
            height, width = picture.shape[:2]
            side = int(min(height, width) * generator.uniform(0.5, 1.0))
            top, left = (int(generator.integers(0, length - side + 1)) for length in (height, width))
            cut = picture[top : top + side, left : left + side]
            yield np.ascontiguousarray(cut[:, ::-1] if crop % 2 else cut)

    def fingerprint(self) -> str:
        """Return the sha256 over the photos' bytes, the crops and the preprocessing."""
        digest = hashlib.sha256(canonical_json([self.preprocess.to_json(), [list(pair) for pair in self.plan]]))
        for path in self.paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        note = "calibrated on crops of six built-in photos: images of your own application are better (--calib DIR)"
        return {"kind": "photos", "name": "scikit-image", "count": len(self), "skipped": 0, "note": note}


class Together(Samples):
    """Several sources, one after the other.

    Args:
        parts: at least one; all for one network.
    """

    def __init__(self, parts: Sequence[Samples]) -> None:
        """Name itself after them."""
        self.parts = tuple(parts)
        self.name = "+".join(part.name for part in parts)

    @property
    def skipped(self) -> int:
        """Unreadable ones of all parts."""
        return sum(part.skipped for part in self.parts)

    @skipped.setter
    def skipped(self, count: int) -> None:
        """Take over what an earlier pass found, which part's is not known any more."""
        for number, part in enumerate(self.parts):
            part.skipped = 0 if number else count

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield network inputs."""
        return chain.from_iterable(self.parts)

    def fingerprint(self) -> str:
        """Return the sha256 over those of the parts."""
        return hashlib.sha256(canonical_json([part.fingerprint() for part in self.parts])).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        told = [part.describe() for part in self.parts]
        note = "; ".join(note for one in told if (note := one["note"]))
        return {
            "kind": "together",
            "name": self.name,
            "count": len(self),
            "skipped": self.skipped,
            "note": note,
            "parts": told,
        }

    def pictures(self) -> Iterator[Pixels] | None:
        """Yield decoded pictures of the parts that have some."""
        found = [pictures for part in self.parts if (pictures := part.pictures()) is not None]
        return chain.from_iterable(found) if found else None

    def pixels(self) -> Iterator[Pixels] | None:
        """Yield pictures at network size, where all parts have them."""
        found = [pixels for part in self.parts if (pixels := part.pixels()) is not None]
        return chain.from_iterable(found) if len(found) == len(self.parts) else None


class InMemory(Samples):
    """Preprocessed tensors: arrays float32 (C, H, W) or (1, C, H, W), or dicts of them."""

    def __init__(self, arrays: Iterable[Any], *, input_name: str = "input", name: str = "arrays") -> None:
        """Take the arrays."""
        self.name = name
        self.items: list[dict[str, Array]] = []
        for item in arrays:
            feed = dict(item) if isinstance(item, Mapping) else {input_name: item}
            self.items.append({key: _tensor(value, name) for key, value in feed.items()})
        if not self.items:
            raise DataError(f"{name}: no samples")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield them."""
        yield from self.items

    def fingerprint(self) -> str:
        """Return the sha256 over names, shapes and bytes."""
        digest = hashlib.sha256()
        for item in self.items:
            for key in sorted(item):
                digest.update(canonical_json([key, list(item[key].shape)]))
                digest.update(np.ascontiguousarray(item[key]).tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        return {"kind": "tensors", "name": self.name, "count": len(self), "skipped": 0, "note": ""}


class ArrayFile(InMemory):
    """An ``.npy`` of float32 (N, C, H, W), or an ``.npz`` that holds one such array."""

    def __init__(self, path: Path | str, *, limit: int | None = None, input_name: str = "input") -> None:
        """Read the file."""
        path = Path(path)
        try:
            with path.open("rb") as stream:
                loaded = np.load(stream, allow_pickle=False)
                array = loaded if isinstance(loaded, np.ndarray) else loaded[_only(loaded.files, input_name, path)]
        except DataError:
            raise
        except Exception as error:  # numpy, zipfile and zlib raise a dozen types on a damaged file
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path} cannot be read as .npy or .npz: {reason}") from error
        if array.ndim != 4 or array.dtype != np.float32:
            raise DataError(f"{path} must hold float32 tensors (N, C, H, W), found {array.dtype} {list(array.shape)}")
        super().__init__(spread(tuple(array[:, None]), limit), input_name=input_name, name=path.name)


def open_samples(source: Any, preprocess: Preprocess, limit: int | None = None, input_name: str = "input") -> Samples:
    """Open a source by what it is: ``photos``, a folder, an .npz or .npy file, or an iterable of arrays.

    Raises:
        DataError: there is nothing usable at the source.
    """
    if source == "photos":
        return Photos(preprocess, limit=limit, input_name=input_name)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix.lower() in (".npz", ".npy"):
            return ArrayFile(path, limit=limit, input_name=input_name)
        return ImageFolder(path, preprocess, limit=limit, input_name=input_name)
    if not isinstance(source, Iterable):
        raise DataError(f"calibration source {source!r} is neither a path nor an iterable of arrays")
    return InMemory(spread(tuple(source), limit), input_name=input_name)


def spread(items: tuple[Any, ...], limit: int | None) -> tuple[Any, ...]:
    """Return at most ``limit`` of the items, evenly spread."""
    if limit is None or limit >= len(items):
        return items
    return tuple(items[index * len(items) // limit] for index in range(limit))


def _images_in(folder: Path) -> tuple[Path, ...]:
    """List a folder's images."""
    if not folder.is_dir():
        what = "a file, not a folder of images" if folder.exists() else "not there"
        raise DataError(f"{folder} is {what}")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return tuple(found)


def _tensor(value: Any, name: str) -> Array:
    """Return one sample as float32 (1, C, H, W)."""
    array = np.asarray(value)
    if array.ndim == 3:
        array = array[None]
    if array.dtype != np.float32 or array.ndim != 4 or array.shape[0] != 1:
        raise DataError(f"{name}: a sample must be float32 (C, H, W), found {array.dtype} {list(array.shape)}")
    if not np.isfinite(array).all():
        raise DataError(f"{name}: a sample holds NaN or infinity")
    return array


def _only(names: list[str], input_name: str, path: Path) -> str:
    """Return the array of an .npz to use."""
    if input_name in names:
        return input_name
    if len(names) == 1:
        return names[0]
    raise DataError(f"{path} holds {', '.join(names) or 'nothing'}: name the array {input_name!r}")
