"""From pictures to class names in one call: what most applications need of a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from edgecnn.errors import BackendError, UserError
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.preprocess import ImageSource, decode, fit, normalize
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgecnn.runtime.choice import Options

__all__ = ["Classifier", "Prediction", "check_top", "run_pixels", "softmax"]


@dataclass(frozen=True)
class Prediction:
    """One guess.

    Attributes:
        index: of the class, from 0.
        label: its name, or its number as text when the bundle has no names.
        probability: softmax of the logits, 0 to 1.
    """

    index: int
    label: str
    probability: float

    def __str__(self) -> str:
        """Return the label and the probability."""
        return f"{self.label} {self.probability:.2f}"


class Classifier:
    """A bundle's classifier. Preprocessing, labels and softmax come from the bundle.

    Safe to call from several threads at once, as the sessions are.

    Example::

        with Classifier("efficientnet_lite0-int8") as classify:
            print(classify("cat.jpg")[0])  # a Prediction: index, label, probability

    Args:
        bundle: a bundle's folder, or an opened :class:`~edgecnn.runtime.bundle.Bundle`.
        variant, backend, options, allow_unverified: as of :func:`edgecnn.runtime.load`.
        session: run this instead of one of the bundle's variants (a :class:`~edgecnn.runtime.fake.FakeSession` in a test);
            it is closed with the classifier.
        batch_size: pictures to run at once, at most, when many are given and the graph's batch is dynamic.

    Attributes:
        bundle: the opened bundle. ``variant``: the name of the one that runs ("" with a session of your own).

    Raises:
        BundleError, UserError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        variant: str | None = None,
        backend: str | None = None,
        *,
        allow_unverified: bool = False,
        options: Options | None = None,
        session: Session | None = None,
        batch_size: int = 16,
    ) -> None:
        """Open the bundle and make the model ready."""
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, allow_unverified=allow_unverified)
        self.bundle = bundle
        self.labels = bundle.labels
        self.batch_size = batch_size
        self.variant = ""
        if session is None:
            choice = bundle.choose(variant, backend, options)
            self.variant = choice.variant
            session = bundle.session(choice.variant, choice.backend, allow_unverified=allow_unverified, options=options)
        self.session = session

    def __call__(self, images: ImageSource | Sequence[ImageSource], top: int = 5) -> Any:
        """Classify one picture or many.

        Args:
            images: one of :data:`~edgecnn.runtime.preprocess.ImageSource`, or a list, a tuple or a uint8 (N, H, W, C) array of them.
            top: how many classes to return, most probable first.

        Returns:
            A list of :class:`Prediction` for one picture, a list of such lists for many.

        Raises:
            DataError: a picture cannot be decoded.
            BackendError: the backend failed, or gave NaN.
        """
        many = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
        return self.predict_batch(images, top) if many else self.predict(images, top)

    def predict(self, image: ImageSource, top: int = 5) -> list[Prediction]:
        """Classify one picture. Raises as :meth:`__call__`."""
        return self.predict_batch([image], top)[0]

    def predict_batch(self, images: Sequence[ImageSource], top: int = 5) -> list[list[Prediction]]:
        """Classify many pictures. Raises as :meth:`__call__`."""
        check_top(top)
        return [self._best(row, int(top)) for row in self.probabilities(images)]

    def try_batch(
        self, images: Sequence[ImageSource], top: int | Sequence[int] = 5
    ) -> list[list[Prediction] | Exception]:
        """Classify many pictures in one run, so that a bad one fails alone.

        Args:
            images: one after the other; not cut to ``batch_size``.
            top: how many classes to return, for all or for each.

        Returns:
            For each picture its predictions, or what went wrong with it: a DataError where it cannot be decoded, a BackendError where
            the model gave NaN for it.

        Raises:
            BackendError: the backend failed, for all of them.
        """
        tops = list(top) if isinstance(top, Sequence) else [top] * len(images)
        for one in tops:
            check_top(one)
        found: list[list[Prediction] | Exception] = []
        pixels, places = [], []
        for place, image in enumerate(images):
            try:
                pixels.append(fit(decode(image), self.bundle.preprocess))
            except Exception as error:  # noqa: BLE001 -- it is the outcome of this picture, whatever it is
                found.append(error)
            else:
                found.append([])
                places.append(place)
        if not pixels:
            return found
        for place, row in zip(places, run_pixels(self.session, np.stack(pixels), self.bundle.preprocess), strict=True):
            found[place] = (
                self._best(self._scores(row), tops[place]) if np.isfinite(row).all() else BackendError(self._nan())
            )
        return found

    def warm_up(self, batch_sizes: Sequence[int] = (1,), runs: int = 2) -> float:
        """Run on made-up pictures, so that the first real one does not pay for what backends put off until they run.

        Args:
            batch_sizes: of the runs: those that the application will use.
            runs: of each.

        Returns:
            The seconds that it took.

        Raises:
            UserError: a size or number below 1.
            BackendError: the backend failed.
        """
        if runs < 1 or not batch_sizes or min(batch_sizes) < 1:
            raise UserError(f"warm_up needs batch sizes and runs of at least 1, found {list(batch_sizes)} and {runs}")
        preprocess = self.bundle.preprocess
        shape = (max(batch_sizes), *preprocess.size, preprocess.channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        started = perf_counter()
        for size in batch_sizes:
            for _ in range(runs):
                run_pixels(self.session, pixels[:size], preprocess)
        return perf_counter() - started

    def probabilities(self, images: Sequence[ImageSource]) -> NDArray[np.float64]:
        """Return the probabilities of all classes: float64 (N, classes). Raises as :meth:`__call__`."""
        preprocess = self.bundle.preprocess
        rows: list[Array] = []
        for start in range(0, len(images), self.batch_size):
            pixels = np.stack([fit(decode(image), preprocess) for image in images[start : start + self.batch_size]])
            rows.append(run_pixels(self.session, pixels, preprocess))
        if not rows:
            return np.zeros((0, self.bundle.spec.num_classes))
        scores = np.concatenate(rows).astype(np.float64)
        if not np.isfinite(scores).all():
            raise BackendError(self._nan())
        return self._scores(scores)

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> Self:
        """Return the classifier."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()

    def _scores(self, output: Array) -> NDArray[np.float64]:
        """Return what the graph gave as probabilities."""
        scores = output.astype(np.float64)
        return scores if self.bundle.manifest.embedded.softmax else softmax(scores)

    def _nan(self) -> str:
        """Say that the model gave something that is no number."""
        return f"the model gave NaN or infinity ({self.variant or self.session.backend})"

    def _best(self, probabilities: NDArray[np.float64], top: int) -> list[Prediction]:
        """Return the ``top`` most probable classes; ties in the order of the classes."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(int(index), self._label(int(index)), float(probabilities[index])) for index in order]

    def _label(self, index: int) -> str:
        """Return a class's name, or its number."""
        return self.labels[index] if index < len(self.labels) else str(index)


def check_top(top: object) -> None:
    """Refuse a number of classes that is not one. Raises UserError."""
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise UserError(f"top must be a whole number of at least 1, found {top!r}")


def softmax(logits: Array) -> NDArray[np.float64]:
    """Return the softmax over the last axis in float64, shifted by the maximum so that no logit overflows."""
    scores = np.asarray(logits, dtype=np.float64)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def run_pixels(session: Session, pixels: NDArray[np.uint8], preprocess: Preprocess) -> Array:
    """Run fitted pixels through a session, normalising them unless its graph does (a uint8 input).

    A static batch, or one below the least that an engine takes, is filled up with copies of the last picture, whose results are dropped.

    Args:
        session: one input, float32 (N, C, H, W) or uint8 (N, H, W, C); its first output is returned.
        pixels: uint8 (K, H, W, C) from :func:`edgecnn.runtime.preprocess.fit`.

    Returns:
        (K, classes), as the graph gives them.

    Raises:
        UserError, BackendError: as :meth:`~edgecnn.runtime.session.Session.run`.
        BackendError: the output is not (N, classes).
    """
    spec, output = session.inputs[0], session.outputs[0].name
    rows: list[Array] = []
    for chunk, count in _batches(pixels, session):
        array = chunk if spec.dtype == "uint8" else normalize(chunk, preprocess)
        result = session.run({spec.name: array}, [output])[output]
        if result.ndim != 2 or len(result) != len(chunk):
            raise BackendError(f"output {output!r} must be (batch, classes), found {list(result.shape)}")
        rows.append(result[:count])
    return np.concatenate(rows)


def _batches(pixels: NDArray[np.uint8], session: Session) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Cut pixels into what a session takes: all of them for a dynamic batch without limits, else filled-up chunks."""
    batch = session.inputs[0].shape[0]
    least, size = (session.least_batch, session.largest_batch) if isinstance(batch, str) else (batch, batch)
    if not size:
        yield pixels, len(pixels)
        return
    for start in range(0, len(pixels), size):
        chunk = pixels[start : start + size]
        missing = least - len(chunk)
        yield (np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) if missing > 0 else chunk), len(chunk)
