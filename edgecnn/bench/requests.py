"""What a request is: real pictures of the bundle through the session, or from pixels to classes as an application runs it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgecnn.bench.loops import Call
from edgecnn.errors import BundleMissingError, DataError, UserError
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.classifier import Classifier
from edgecnn.runtime.preprocess import fit, normalize
from edgecnn.runtime.session import Array, Session
from edgecnn.runtime.tensorrt import TensorRtSession
from edgecnn.spec import TensorSpec

__all__ = ["Inputs", "calls", "check_batch", "inputs_of", "take_apart"]

T = TypeVar("T")
_MOST = 8
_LEAST = 3
_LARGEST = 256_000_000
"""Bytes of inputs that are kept, at least one batch."""


@dataclass(frozen=True)
class Inputs:
    """Batches of pictures (uint8, height x width x 3, as decoded) and what the session takes of each; a note where none are real."""

    images: tuple[tuple[Array, ...], ...]
    feeds: tuple[Mapping[str, Array], ...]
    note: str = ""


def inputs_of(bundle: Bundle, spec: TensorSpec, batch: int) -> Inputs:
    """Make batches of the bundle's golden pictures, each beginning with another picture; random pixels where it has none.

    Args:
        bundle: where the pictures and the preprocessing are.
        spec: of the graph's input.
        batch: pictures in a batch.

    Raises:
        DataError: the pictures are of one colour, so that they would run through other code than real ones.
    """
    note = ""
    try:
        pictures = list(bundle.golden()["images"])
    except (BundleMissingError, KeyError):
        note = "the bundle has no golden pictures: random pixels were measured"
        size = (_MOST, *bundle.preprocess.size, 3)
        pictures = list(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    if not pictures or all(int(picture.min()) == int(picture.max()) for picture in pictures):
        raise DataError(f"{bundle.path}: the golden pictures are of one colour, which measures nothing: export again")
    pixels = [fit(picture, bundle.preprocess) for picture in pictures]
    images: list[tuple[Array, ...]] = []
    feeds: list[Mapping[str, Array]] = []
    used = 0
    for first in range(min(len(pictures), _MOST)):
        chosen = [(first + index) % len(pictures) for index in range(batch)]
        array: Array = np.stack([pixels[index] for index in chosen])
        array = array if spec.dtype == "uint8" else normalize(array, bundle.preprocess)
        used += array.nbytes
        if feeds and used > _LARGEST:
            break
        images.append(tuple(pictures[index] for index in chosen))
        feeds.append({spec.name: array})
    return Inputs(tuple(images), tuple(feeds), note)


def calls(bundle: Bundle, session: Session, inputs: Inputs, *, streams: int, end_to_end: bool) -> list[Call]:
    """Return a request for each stream; each goes through the batches in turn, and begins with another."""
    return [_call(bundle, session, inputs, first, end_to_end) for first in range(streams)]


def _call(bundle: Bundle, session: Session, inputs: Inputs, first: int, end_to_end: bool) -> Call:
    """Return one stream's request."""
    if end_to_end:
        images = itertools.cycle(_rotated(inputs.images, first))
        classify = Classifier(bundle, session=session, batch_size=len(inputs.images[0])).predict_batch
        return lambda: classify(next(images))
    feeds = itertools.cycle(_rotated(inputs.feeds, first))
    run = session.run
    return lambda: run(next(feeds))


def take_apart(bundle: Bundle, session: Session, inputs: Inputs, *, seconds: float) -> dict[str, list[int]]:
    """Run requests from pixels to classes one at a time, and time their stages, nanoseconds.

    Returns:
        ``preprocess``, ``compute``, ``postprocess``; ``copy`` too for engines, which then run a second time, waiting after every step.
        Backends on the CPU read their inputs where they are, so there is no copy.
    """
    watch = _Watch(session)
    classify = Classifier(bundle, session=watch, batch_size=len(inputs.images[0])).predict_batch
    times: dict[str, list[int]] = {"preprocess": [], "compute": [], "postprocess": []}
    until, clock = time.perf_counter() + seconds, time.perf_counter_ns
    batches = itertools.cycle(zip(inputs.images, inputs.feeds, strict=True))
    while len(times["compute"]) < _LEAST or time.perf_counter() < until:
        images, feed = next(batches)
        begun = clock()
        classify(images)
        ended = clock()
        times["preprocess"].append(watch.begun - begun)
        times["postprocess"].append(ended - watch.ended)
        if isinstance(session, TensorRtSession):
            copy, compute = session.run_apart(feed)
            times.setdefault("copy", []).append(copy)
        else:
            compute = watch.ended - watch.begun
        times["compute"].append(compute)
    return times


class _Watch(Session):
    """A session that notes when the one in it began and ended."""

    def __init__(self, inner: Session) -> None:
        """Stand for a session."""
        self.inner, self.backend = inner, inner.backend
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self.least_batch, self.largest_batch = inner.least_batch, inner.largest_batch
        self.begun = self.ended = 0

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the session in it."""
        self.begun = time.perf_counter_ns()
        found = self.inner.run(feed, outputs)
        self.ended = time.perf_counter_ns()
        return found

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Never called: :meth:`run` is the inner session's."""
        return self.inner.run(feed, outputs)


def check_batch(session: Session, batch: int) -> None:
    """Check that the session takes such a batch. Raises UserError."""
    first = session.inputs[0].shape[0]
    least, most = (session.least_batch, session.largest_batch) if isinstance(first, str) else (first, first)
    if batch < least or (most and batch > most):
        takes = f"a batch of {most}" if least == most else f"batches of {max(least, 1)} to {most or 'any size'}"
        raise UserError(f"batch {batch} was asked for, and {session.inputs[0].name!r} of this graph takes {takes}")


def _rotated(items: tuple[T, ...], first: int) -> tuple[T, ...]:
    """Return the items beginning with another."""
    place = first % len(items)
    return items[place:] + items[:place]
