"""One pass over the samples: a histogram of every wanted tensor, and channel means where they are wanted too."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.calib.data import Samples
from edgecnn.calib.histogram import Histogram
from edgecnn.errors import DataError
from edgecnn.onnxio import expose, release_memory, scratch_file
from edgecnn.progress import Progress, silent
from edgecnn.runtime.ort import OrtOptions, OrtSession

__all__ = ["COUNTED", "Collected", "collect"]

Array = NDArray[Any]
Feed = dict[str, Array]
A = TypeVar("A")
B = TypeVar("B")

COUNTED = 1 << 14
"""Values of a tensor that are counted of one sample, about: of a larger tensor every n-th, other ones with each sample.

Counting all of them takes several times as long as the network itself. The extremes are always those of all values.
"""

WORKERS = 4
"""Samples in work at once, at most: each holds the network's activations."""


@dataclass
class Collected:
    """What a pass has seen.

    Attributes:
        histograms: of every wanted tensor.
        means: sums while collecting, then means per channel (axis 1), float64 (C,).
        count: samples seen.
    """

    histograms: dict[str, Histogram]
    means: dict[str, NDArray[np.float64]]
    count: int = 0

    def merge(self, other: Collected) -> None:
        """Add what was seen of further samples."""
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for name, total in other.means.items():
            self.means[name] = self.means[name] + total if name in self.means else total
        self.count += other.count


def collect(
    model: Path,
    samples: Samples,
    tensors: Sequence[str],
    means: Sequence[str] = (),
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> Collected:
    """Run the model once over the samples; memory does not grow with their number.

    Samples run side by side, one to a core, while the next one is read. The result does not depend on the number of threads.

    Args:
        model: float graph.
        samples: read once.
        tensors: to count the values of.
        means: to average per channel.
        threads: cores to use; 0 uses all.
        progress: told about samples.

    Raises:
        DataError: no sample could be read, or a tensor holds NaN or infinity.
        GraphError: the model has no such tensor.
    """
    cores = threads or _cores()
    workers = min(cores, WORKERS)
    wanted = list(dict.fromkeys([*tensors, *means]))
    result = Collected({name: Histogram() for name in tensors}, {})
    options = OrtOptions(threads=cores // workers, reuse=False)
    with scratch_file(expose(model, wanted)) as file, OrtSession(file, options) as session:
        inputs = {spec.name for spec in session.inputs}
        exposed = [name for name in wanted if name not in inputs]
        first = session.inputs[0].shape[0]
        size = first if isinstance(first, int) else 1

        def observe(work: tuple[int, list[Feed]]) -> Collected:
            index, feeds = work
            padded = feeds + feeds[-1:] * (size - len(feeds))
            feed = {name: np.concatenate([one[name] for one in padded]) for name in inputs} if size > 1 else padded[0]
            values = feed | session.run(feed, exposed)
            return _observed({name: values[name][: len(feeds)] for name in wanted}, tensors, means, index)

        for seen in _in_order(observe, enumerate(_batches(samples, size)), workers):
            result.merge(seen)
            progress("calibrate", result.count, len(samples))
    release_memory()  # what the session had, before the next graph is read
    if not result.count:
        raise DataError(f"{samples.name}: no sample could be read")
    result.means = {name: total / result.count for name, total in result.means.items()}
    return result


def _observed(values: Mapping[str, Array], tensors: Sequence[str], means: Sequence[str], index: int) -> Collected:
    """Return what one run shows; ``index`` moves the values that are picked."""
    picked = {name: _thinned(value, index) for name, value in values.items()}
    histograms = {name: Histogram() for name in tensors}
    for name, histogram in histograms.items():
        histogram.add(picked[name], name, thinned_from=values[name])
    sums = {name: picked[name].mean(axis=2, dtype=np.float64).sum(axis=0) for name in means}
    return Collected(histograms, sums, len(next(iter(values.values()), ())))


def _thinned(value: Array, index: int) -> Array:
    """Return a tensor (N, C, ...) as (N, C, positions), with about :data:`COUNTED` values of each sample, from every channel."""
    flat = value.reshape(*value.shape[:2], -1)
    # Odd, so that it does not fall into step with the width of a map, which is mostly even.
    step = min(flat[0].size // COUNTED | 1, flat.shape[2])
    return flat[:, :, index % step :: step]


def _batches(samples: Iterable[Feed], size: int) -> Iterator[list[Feed]]:
    """Yield samples in lists of ``size``, the last one shorter."""
    batch: list[Feed] = []
    for feed in samples:
        batch.append(feed)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Yield ``function(item)`` in the items' order; at most one item more than there are workers is held."""
    with ThreadPoolExecutor(workers, thread_name_prefix="calibrate") as pool:
        pending: deque[Future[B]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
