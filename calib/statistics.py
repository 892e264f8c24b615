"""What one pass over the samples shows of a network, kept in a cache whose key is the content of all that it depends on.

Every range method and every quantization scheme reads the same statistics, so that a second one costs no second pass.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import OnnxModel, cache_folder, canonical_json, sha256_json
from edgecnn.calib.collect import collect
from edgecnn.calib.data import Samples
from edgecnn.calib.histogram import BINS, Histogram
from edgecnn.calib.methods import Method
from edgecnn.calib.ranges import FORMAT as RANGES_FORMAT
from edgecnn.calib.ranges import Ranges
from edgecnn.errors import DataError
from edgecnn.progress import Progress, silent
from edgecnn.writing import atomic_file

__all__ = ["Statistics", "calibrate", "collect_statistics"]

FORMAT = 1
"""Version of the file and of how values are counted; part of the cache's key."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Histograms and channel means of a network's tensors.

    Attributes:
        histograms: tensor -> its values' histogram.
        means: tensor -> mean per channel (axis 1), float64 (C,).
        hashes: sha256 of ``model``, ``data`` and ``key``, the content key of both.
        skipped: samples that could not be read.
        reused: whether all of them came from the cache.
    """

    histograms: Mapping[str, Histogram]
    means: Mapping[str, NDArray[np.float64]]
    hashes: Mapping[str, str]
    skipped: int = 0
    reused: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("histograms", "means", "hashes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def ranges(self, tensors: Iterable[str], method: Method, *, symmetric: bool) -> Ranges:
        """Return the ranges of ``tensors`` by ``method``. Raises DataError where one was not counted."""
        wanted = sorted(set(tensors))
        _check_all(wanted, self.histograms, "histogram")
        key = sha256_json([RANGES_FORMAT, self.hashes["key"], wanted, method.to_json(), symmetric])
        return Ranges(
            tensors={name: method.range_of(self.histograms[name], symmetric=symmetric) for name in wanted},
            method=method.to_json(),
            symmetric=symmetric,
            hashes={**self.hashes, "key": key},
            reused=self.reused,
        )

    def means_of(self, tensors: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """Return the channel means of ``tensors``. Raises DataError where one was not averaged."""
        wanted = sorted(set(tensors))
        _check_all(wanted, self.means, "mean")
        return {name: self.means[name] for name in wanted}

    def save(self, path: Path) -> None:
        """Write an .npz without pickles, whole or not at all. Raises OutputError."""
        names, means = sorted(self.histograms), sorted(self.means)
        header = {
            "format": FORMAT,
            "hashes": dict(self.hashes),
            "skipped": self.skipped,
            "histograms": names,
            "means": {name: len(self.means[name]) for name in means},
        }
        found = [self.histograms[name] for name in names]
        with atomic_file(path) as stream:
            np.savez_compressed(
                stream,
                header=np.frombuffer(canonical_json(header), dtype=np.uint8),
                counts=np.array([item.counts for item in found], dtype=np.int64).reshape(-1, BINS),
                bounds=np.array([(item.reach, item.low, item.high) for item in found], dtype=np.float64).reshape(-1, 3),
                means=np.concatenate([np.zeros(0), *(self.means[name] for name in means)]),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote. Raises DataError where the file is absent, damaged or of another version."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes())
                counts, bounds, means = file["counts"], file["bounds"], file["means"]
            if header["format"] != FORMAT:
                raise DataError(f"{path} has format {header['format']}, this edgecnn reads {FORMAT}")
            lengths = header["means"]
            if not np.isfinite(bounds).all() or not np.isfinite(means).all() or sum(lengths.values()) != len(means):
                raise DataError(f"{path} is damaged: its numbers do not add up")
            parts = np.split(means, np.cumsum(list(lengths.values()))[:-1])
            rows = zip(header["histograms"], counts, bounds.tolist(), strict=True)
            return cls(
                histograms={name: Histogram.of(row, *bound) for name, row, bound in rows},
                means=dict(zip(lengths, parts, strict=False)),
                hashes=header["hashes"],
                skipped=int(header["skipped"]),
                reused=True,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error) as error:
            raise DataError(f"{path} holds no statistics: {error}") from error


def collect_statistics(
    model: OnnxModel,
    samples: Samples,
    tensors: Iterable[str],
    means: Iterable[str] = (),
    *,
    cache: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> Statistics:
    """Return histograms of ``tensors`` and channel means of ``means``, in one pass, or in none where the cache holds them.

    The cache's key is over the model's bytes, the samples' bytes and their preprocessing: a changed pixel, weight or mean
    misses. Of tensors that a file does not hold yet, and of those alone, statistics are collected and added to it. A damaged
    file counts as absent and is written anew.

    Args:
        model: float graph.
        samples: read once, or not at all.
        tensors, means: names.
        cache: folder; None collects anew and keeps nothing.
        threads: cores to use; 0 uses all.
        progress: told about samples.

    Raises:
        DataError: unusable samples, or a tensor holds NaN or infinity. GraphError: the model has no such tensor.
        OutputError: the cache cannot be written.
    """
    data = samples.fingerprint()
    key = sha256_json([FORMAT, model.sha256, data])
    place = None if cache is None else cache / f"statistics-{key}.npz"
    known = Statistics(histograms={}, means={}, hashes={"model": model.sha256, "data": data, "key": key})
    if place is not None:
        known = _read(place, known)
    counted = sorted(set(tensors) - set(known.histograms))
    averaged = sorted(set(means) - set(known.means))
    if not counted and not averaged:
        samples.skipped = known.skipped  # as if they had been read
        return known
    seen = collect(model.path, samples, counted, averaged, threads=threads, progress=progress)
    result = replace(
        known,
        histograms={**known.histograms, **seen.histograms},
        means={**known.means, **seen.means},
        skipped=samples.skipped,
        reused=False,
    )
    if place is not None:
        cache_folder(place.parent)
        result.save(place)
    return result


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
    """Return the ranges of ``tensors``: :func:`collect_statistics`, then :meth:`Statistics.ranges`.

    Raises:
        DataError: unusable samples. GraphError: the model has no such tensor.
    """
    statistics = collect_statistics(model, samples, tensors, cache=cache, threads=threads, progress=progress)
    return statistics.ranges(tensors, method, symmetric=symmetric)


def _check_all(wanted: Iterable[str], found: Mapping[str, Any], what: str) -> None:
    """Raise DataError for the first name that is not there."""
    for name in wanted:
        if name not in found:
            raise DataError(f"these statistics hold no {what} of tensor {name!r}: collect them for this placement")


def _read(place: Path, otherwise: Statistics) -> Statistics:
    """Read a cached file; ``otherwise`` where it is absent, damaged, or of something else."""
    try:
        found = Statistics.load(place)
    except DataError:
        return otherwise
    return found if found.hashes == otherwise.hashes else otherwise
