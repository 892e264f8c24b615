"""One pass over the samples: a histogram of every wanted tensor, and channel means where they are wanted too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.calib.data import Samples
from edgecnn.calib.histogram import Histogram
from edgecnn.errors import DataError
from edgecnn.onnxio import expose
from edgecnn.progress import Progress, silent
from edgecnn.runtime.ort import OrtOptions, OrtSession

__all__ = ["channel_means", "collect"]


def collect(
    model: Path,
    samples: Samples,
    tensors: Sequence[str],
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> dict[str, Histogram]:
    """Run the model once a sample and count the values of ``tensors``; memory does not grow with the samples.

    Raises:
        DataError: no sample could be read, or a tensor holds NaN or infinity.
        GraphError: the model has no such tensor.
    """
    histograms = {name: Histogram() for name in tensors}
    count = 0
    for feed, outputs in _run(model, samples, tensors, threads):
        for name, histogram in histograms.items():
            histogram.add(feed[name] if name in feed else outputs[name], name)
        count += 1
        progress("calibrate", count, len(samples))
    if not count:
        raise DataError(f"{samples.name}: no sample could be read")
    return histograms


def channel_means(
    model: Path, samples: Iterable[Mapping[str, NDArray[Any]]], tensors: Sequence[str], *, threads: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each tensor per channel (axis 1) over the samples, float64 (C,)."""
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for _, outputs in _run(model, samples, tensors, threads):
        for name in tensors:
            value = outputs[name]
            mean = value.mean(axis=tuple(axis for axis in range(value.ndim) if axis != 1), dtype=np.float64)
            sums[name] = sums[name] + mean if name in sums else mean
        count += 1
    return {name: total / count for name, total in sums.items()}


def _run(model: Path, samples: Iterable[Mapping[str, NDArray[Any]]], tensors: Sequence[str], threads: int) -> Any:
    """Yield (feed, outputs) of each sample with the tensors exposed."""
    with OrtSession(expose(model, tensors), OrtOptions(threads=threads)) as session:
        inputs = {spec.name for spec in session.inputs}
        wanted = [name for name in tensors if name not in inputs]
        for feed in samples:
            yield feed, session.run(feed, wanted)
