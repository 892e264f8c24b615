"""What stages are compared on: real images, Gaussian noise, and the edges of the input's range."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, UserError
from edgecnn.parity.tolerance import Kind
from edgecnn.runtime.preprocess import normalize
from edgecnn.runtime.session import Session
from edgecnn.spec import Preprocess, TensorSpec

__all__ = [
    "Sample",
    "SampleSet",
    "edge_inputs",
    "feed_for",
    "from_arrays",
    "from_pixels",
    "gaussian",
    "held_out",
    "real_images",
]

Array = NDArray[Any]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One input, batch 1.

    Attributes:
        feed: name -> array (1, ...).
        pixels: the same picture as uint8 (H, W, C) at network size, for graphs that normalise inside; None where no pixels give
            this tensor, so that such graphs skip the sample.
        name: what to call it ("one hot pixel").
    """

    feed: Mapping[str, Array]
    pixels: Pixels | None = None
    name: str = ""


@dataclass(frozen=True)
class SampleSet:
    """Samples that are judged alike. Iterating makes them anew each time, so that a set of any length takes no memory.

    Attributes:
        name: in the report.
        kind: ``images``, ``noise`` or ``edge``: which tolerance applies.
        source: makes an iterator over the samples; the same ones each time.
        note: what a reader should know ("calibration images: no others were given").
    """

    name: str
    kind: Kind
    source: Callable[[], Iterator[Sample]]
    note: str = ""

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples."""
        return self.source()


def feed_for(session: Session, samples: Sequence[Sample]) -> dict[str, Array]:
    """Return a session's input for samples: pixels (N, H, W, C) if it takes uint8, else their tensors as one batch.

    Raises:
        UserError: a sample has no pixels, or not the session's inputs.
    """
    first = session.inputs[0]
    if first.dtype == "uint8":
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        if len(pixels) < len(samples):
            raise UserError("the graph takes pixels, and a sample has none")
        return {first.name: np.stack(pixels)}
    names = [spec.name for spec in session.inputs]
    missing = [name for name in names if name not in samples[0].feed]
    if missing:
        raise UserError(f"the samples have no {missing[0]!r}; they have {sorted(samples[0].feed)}")
    return {name: np.concatenate([sample.feed[name] for sample in samples]) for name in names}


@runtime_checkable
class _WithPixels(Protocol):
    """A source that also has the pixels of its samples (``edgecnn.calib.data.Samples``)."""

    def pixels(self) -> Iterator[Pixels] | None:
        """Yield uint8 (H, W, C) in the order of the samples."""


def from_arrays(
    feeds: Iterable[Mapping[str, Array]], *, name: str = "given samples", kind: Kind = "images", note: str = ""
) -> SampleSet:
    """Make a set of feeds with any batch size; each is cut into batches of 1.

    Args:
        feeds: a re-iterable of {input name: array (N, ...)}. A one-shot iterator is refused, as it would be empty next time.
        name, kind, note: of the set.

    Raises:
        UserError: ``feeds`` can be read only once.
    """
    if iter(feeds) is feeds:
        raise UserError("samples are read more than once: pass a list, or an object whose __iter__ starts anew")

    def source() -> Iterator[Sample]:
        for feed in feeds:
            lengths = {len(array) for array in feed.values()}
            if len(lengths) != 1:
                raise UserError(f"arrays of one feed have different batch sizes: {sorted(lengths)}")
            for row in range(lengths.pop()):
                yield Sample({key: np.ascontiguousarray(array[row : row + 1]) for key, array in feed.items()})

    return SampleSet(name, kind, source, note)


def real_images(
    samples: Iterable[Mapping[str, Array]], *, name: str = "images", limit: int | None = None, note: str = ""
) -> SampleSet:
    """Make a set of a calibration source, with pixels where it has them.

    Args:
        samples: ``edgecnn.calib.data.Samples``, or any re-iterable of {input name: array (1, ...)}.
        name, note: of the set.
        limit: take the first so many.
    """

    def source() -> Iterator[Sample]:
        return islice(_pairs(samples), limit)

    return SampleSet(name, "images", source, note)


def held_out(
    samples: Iterable[Mapping[str, Array]],
    calibration: Iterable[Mapping[str, Array]],
    *,
    name: str = "images",
    limit: int | None = None,
) -> SampleSet:
    """Make a set of those samples that were not used for calibration, by content.

    Where nothing else was given, the calibration samples themselves are used and the set's note says so: a verdict on them is
    kinder than on images that the quantizer has not seen.

    Args:
        samples: what there is to verify on.
        calibration: what the ranges were taken from.
        name: of the set.
        limit: take the first so many.
    """
    seen = {_digest(feed) for feed in calibration}
    fresh = any(_digest(feed) not in seen for feed in samples)
    if not fresh:
        return real_images(samples, name=name, limit=limit, note="calibration images: no others were given")

    def source() -> Iterator[Sample]:
        return islice((sample for sample in _pairs(samples) if _digest(sample.feed) not in seen), limit)

    return SampleSet(name, "images", source, "none of them was used for calibration")


def from_pixels(
    pictures: Iterable[Pixels] | Sequence[Pixels],
    preprocess: Preprocess,
    *,
    name: str = "images",
    input_name: str = "input",
) -> SampleSet:
    """Make a set of pictures at network size: a re-iterable of uint8 (H, W, C)."""
    if iter(pictures) is pictures:
        raise UserError("pictures are read more than once: pass a list, or an object whose __iter__ starts anew")

    def source() -> Iterator[Sample]:
        for picture in pictures:
            yield Sample({input_name: normalize(picture, preprocess)}, picture)

    return SampleSet(name, "images", source)


def gaussian(
    spec: TensorSpec, preprocess: Preprocess | None = None, *, count: int = 8, seed: int = 0, name: str = "noise"
) -> SampleSet:
    """Make a set of standard normal noise.

    With ``preprocess`` the noise is rounded to what 8-bit pixels can express (and so clipped to their range), which lets graphs
    that take pixels see the same samples.

    Args:
        spec: of the network's input, float32 (N, C, H, W).
        preprocess: of the network, or None for plain tensors.
        count: samples.
        seed: of numpy's Philox stream; sample ``i`` does not depend on ``count``.
        name: of the set.
    """
    shape = _shape(spec)

    def source() -> Iterator[Sample]:
        for index in range(count):
            generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
            values = generator.standard_normal(shape, dtype=np.float32)
            yield _sample(spec.name, values, preprocess, f"noise {index}")

    return SampleSet(name, "noise", source)


def edge_inputs(
    spec: TensorSpec, preprocess: Preprocess | None = None, *, pixels: bool = False, name: str = "edge inputs"
) -> SampleSet:
    """Make the inputs that no photo is: all zeros, all ones, one hot pixel, and the ends of the range.

    The first two are tensors after normalisation, which pixels cannot express exactly: graphs that take pixels skip them, unless
    ``pixels`` asks for the nearest pictures, whose values every form of the network then gets. The others are pictures:
    black with one white pixel in the middle, all black, all white, and a checkerboard of both, which has the largest contrast
    that the input allows. Without ``preprocess`` black is -3 and white is 3, three standard deviations of normalised images.

    Args:
        spec: of the network's input, float32 (N, C, H, W).
        preprocess: of the network, or None for plain tensors.
        pixels: whether every sample is to have pixels; needs ``preprocess``.
        name: of the set.

    Raises:
        UserError: ``pixels`` without a preprocessing, or an input of another rank.
    """
    if pixels and preprocess is None:
        raise UserError("edge inputs as pixels need a preprocessing that says which tensors they give")
    shape = _shape(spec)
    height, width = shape[2], shape[3]
    hot = np.zeros(shape[1:], dtype=np.uint8)
    hot[:, height // 2, width // 2] = 255
    rows, columns = np.indices((height, width))
    board = np.broadcast_to(((rows + columns) % 2 * 255).astype(np.uint8), shape[1:])
    pictures = {
        "one hot pixel": hot,
        "all black": np.zeros(shape[1:], np.uint8),
        "all white": np.full(shape[1:], 255, np.uint8),
        "checkerboard": board,
    }

    def source() -> Iterator[Sample]:
        for label, value in (("all zeros", 0), ("all ones", 1)):
            yield _sample(spec.name, np.full(shape, value, np.float32), preprocess if pixels else None, label)
        for label, channels_first in pictures.items():
            if preprocess is None:
                values = (channels_first[None].astype(np.float32) / 255 - 0.5) * 6
                yield Sample({spec.name: values}, name=label)
            else:
                picture = np.ascontiguousarray(channels_first.transpose(1, 2, 0))
                yield Sample({spec.name: normalize(picture, preprocess)}, picture, label)

    return SampleSet(name, "edge", source)


def _sample(input_name: str, values: Array, preprocess: Preprocess | None, name: str) -> Sample:
    """Make a sample of a tensor, by way of the nearest pixels where there is a preprocessing."""
    if preprocess is None:
        return Sample({input_name: values}, name=name)
    mean = np.asarray(preprocess.mean, np.float32)[:, None, None]
    std = np.asarray(preprocess.std, np.float32)[:, None, None]
    levels = np.clip(np.rint((values[0] * std + mean) * 255), 0, 255).astype(np.uint8)
    picture = np.ascontiguousarray(levels.transpose(1, 2, 0))
    return Sample({input_name: normalize(picture, preprocess)}, picture, name)


def _shape(spec: TensorSpec) -> tuple[int, int, int, int]:
    """Return the shape of one sample."""
    if len(spec.shape) != 4 or any(isinstance(dim, str) for dim in spec.shape[1:]):
        raise UserError(f"samples can be made for an input (batch, channels, height, width), found {list(spec.shape)}")
    channels, height, width = (int(dim) for dim in spec.shape[1:])
    return 1, channels, height, width


def _pairs(samples: Iterable[Mapping[str, Array]]) -> Iterator[Sample]:
    """Pair each feed with its pixels, where the source has them."""
    pixels = samples.pixels() if isinstance(samples, _WithPixels) else None
    for feed in samples:
        picture = None
        if pixels is not None:
            picture = next(pixels, None)
            if picture is None:
                raise DataError("the source has fewer pictures than tensors: it changed while it was read")
        yield Sample(dict(feed), picture)


def _digest(feed: Mapping[str, Array]) -> bytes:
    """Return a hash of a feed's content."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feed):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.digest()
