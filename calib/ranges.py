"""The ranges artefact, kept in a cache whose key is the content of everything that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from edgecnn.artifacts import OnnxModel, sha256_json, write_json
from edgecnn.calib.collect import collect
from edgecnn.calib.data import Samples
from edgecnn.calib.methods import Method
from edgecnn.errors import DataError
from edgecnn.progress import Progress, silent

__all__ = ["Ranges", "calibrate"]

FORMAT = 1
"""Version of the file; part of the cache's key, so that a change of the arithmetic misses."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Ranges of tensors.

    Attributes:
        tensors: name -> (low, high).
        method: of :meth:`~edgecnn.calib.methods.Method.to_json`.
        symmetric: whether every range is (-peak, peak).
        hashes: sha256 of ``model``, ``data`` and ``key``, the content key of all that they depend on.
        reused: whether they came from the cache.
    """

    tensors: Mapping[str, tuple[float, float]]
    method: Mapping[str, Any]
    symmetric: bool
    hashes: Mapping[str, str]
    reused: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("tensors", "method", "hashes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "format": FORMAT,
            "method": dict(self.method),
            "symmetric": self.symmetric,
            "hashes": dict(self.hashes),
            "tensors": {name: list(pair) for name, pair in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, reused: bool = False) -> Self:
        """Read what :meth:`to_json` wrote. Raises DataError."""
        try:
            if data["format"] != FORMAT:
                raise DataError(f"ranges of format {data['format']}, this edgecnn reads {FORMAT}: calibrate again")
            tensors = {str(name): (float(low), float(high)) for name, (low, high) in data["tensors"].items()}
            return cls(
                tensors=tensors,
                method=data["method"],
                symmetric=bool(data["symmetric"]),
                hashes=data["hashes"],
                reused=reused,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a ranges file: {error}") from error


def calibrate(
    model: OnnxModel,
    samples: Samples,
    tensors: Sequence[str],
    method: Method,
    *,
    symmetric: bool,
    cache: Path | None,
    threads: int = 0,
    progress: Progress = silent,
) -> Ranges:
    """Return the ranges of ``tensors``, from the cache where nothing that they depend on has changed.

    The key is over the model's bytes, the samples' bytes with their preprocessing, the tensors, the method and the grid:
    a changed pixel, weight or mean misses. A damaged cache file counts as absent and is written anew.

    Raises:
        DataError: unusable samples. GraphError: the model has no such tensor.
    """
    data = samples.fingerprint()
    wanted = sorted(set(tensors))
    key = sha256_json([FORMAT, model.sha256, data, wanted, method.to_json(), symmetric])
    place = None if cache is None else cache / f"ranges-{key}.json"
    if place is not None and (found := _read(place)) is not None:
        return found
    histograms = collect(model.path, samples, wanted, threads=threads, progress=progress)
    ranges = Ranges(
        tensors={name: method.range_of(histogram, symmetric=symmetric) for name, histogram in histograms.items()},
        method=method.to_json(),
        symmetric=symmetric,
        hashes={"model": model.sha256, "data": data, "key": key},
    )
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, ranges.to_json())
    return ranges


def _read(place: Path) -> Ranges | None:
    """Read a cached file; None where it is absent or damaged."""
    try:
        return Ranges.from_json(json.loads(place.read_bytes()), reused=True)
    except (OSError, ValueError, DataError):
        return None
