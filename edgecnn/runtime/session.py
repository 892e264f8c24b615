"""What every backend is to an application: a checked function from named arrays to named arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import UserError
from edgecnn.spec import TensorSpec

__all__ = ["Array", "Session", "check_count", "model_source"]

Array = NDArray[Any]


class Session(ABC):
    """A model ready to run. The checks are here, the work is in the backend's :meth:`_run`.

    Attributes:
        backend: ``onnxruntime``, ``torch``, ``fake``, ...
        inputs, outputs: what :meth:`run` takes and returns.
        least_batch, best_batch, largest_batch: of a dynamic batch, where the backend has limits and a size that it is made for; 0 is none.
    """

    backend: str
    least_batch: int = 0
    best_batch: int = 0
    largest_batch: int = 0
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once.

        Args:
            feed: an array for each input, of its dtype and shape; named dimensions may have any positive length.
            outputs: names to return, all by default.

        Raises:
            UserError: a missing or unknown name, a wrong dtype or shape, a closed session.
            BackendError: the backend failed.
        """
        if getattr(self, "_closed", False):
            raise UserError(f"this {self.backend} session is closed")
        for spec in self.inputs:
            if spec.name not in feed:
                raise UserError(f"input {spec.name!r} is missing; found {sorted(feed)}")
            self._check(spec, feed[spec.name])
        if len(feed) > len(self.inputs):
            extra = sorted(set(feed) - {spec.name for spec in self.inputs})
            raise UserError(f"unknown input(s) {extra}; this model takes {[spec.name for spec in self.inputs]}")
        names = tuple(spec.name for spec in self.outputs) if outputs is None else tuple(outputs)
        if outputs is not None and (unknown := sorted(set(names) - {spec.name for spec in self.outputs})):
            raise UserError(f"unknown output(s) {unknown}; this model gives {[spec.name for spec in self.outputs]}")
        return self._run(feed, names)

    def close(self) -> None:
        """Release what the session holds; it cannot run afterwards. Closing twice is fine."""
        self._closed = True

    def trim(self) -> None:  # noqa: B027 -- most backends have none to give back
        """Give back the memory that only batches of several samples need. It is got again when one comes."""

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()

    @abstractmethod
    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run once on a checked feed."""

    @staticmethod
    def _check(spec: TensorSpec, array: Array) -> None:
        """Check one array against its spec."""
        if not isinstance(array, np.ndarray):
            raise UserError(f"input {spec.name!r} must be a numpy array, found {type(array).__name__}")
        if array.dtype != spec.dtype:
            raise UserError(f"input {spec.name!r} must be {spec.dtype}, found {array.dtype}: convert it with .astype")
        fits = len(array.shape) == len(spec.shape) and all(
            isinstance(want, str) or want == found for want, found in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise UserError(f"input {spec.name!r} must have shape {list(spec.shape)}, found {list(array.shape)}")


def model_source(model: Path | str | bytes) -> str | bytes:
    """Return an ONNX model as backends take it, having ruled out what they explain badly.

    Raises:
        UserError: there is no such file, or it is empty.
    """
    if isinstance(model, bytes):
        if not model:
            raise UserError("the ONNX model is empty (0 bytes)")
        return model
    path = Path(model)
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): export it again")
    return str(path)


def check_count(backend: str, name: str, value: object) -> None:
    """Refuse an option that is not a whole number of at least 0. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{backend}: {name} must be a whole number of at least 0, found {value!r}")
