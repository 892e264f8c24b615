"""Runs the float and the quantized graph side by side and sums up what their tensors differ by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.analysis.layers import Place, Quantizer
from edgecnn.analysis.noise import NoiseProbe
from edgecnn.analysis.result import InputRange
from edgecnn.calib.histogram import Histogram
from edgecnn.parity.metrics import ratio_db
from edgecnn.parity.samples import Sample
from edgecnn.parity.steps import StepReader
from edgecnn.parity.trace import Difference, Graph, OnnxReader, in_parts
from edgecnn.progress import Progress

__all__ = ["Measurement", "Tally", "ratio_of"]

Array = NDArray[Any]
BINS = 64
"""Of an input's histogram."""


@dataclass
class _Input:
    """Sums over one quantized input."""

    quantizer: Quantizer
    signal: float = 0.0
    noise: float = 0.0
    clipped: int = 0
    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    values: Histogram = field(default_factory=Histogram)

    def add(self, array: Array) -> None:
        """Quantize one image's values and count."""
        spec = self.quantizer
        values = array.astype(np.float32, copy=False)
        self.values.add(values, spec.tensor)
        exact = np.rint(values / np.float32(spec.scale)) + np.float32(spec.zero_point)
        codes = np.clip(exact, spec.least, spec.most)
        self.clipped += int(np.count_nonzero(exact != codes))
        self.codes += np.bincount((codes.ravel() - spec.least).astype(np.intp), minlength=256)
        back = (codes - np.float32(spec.zero_point)) * np.float32(spec.scale)
        self.signal += _energy(values)
        self.noise += _energy(values - back)

    def result(self) -> InputRange:
        """Return what was counted."""
        spec, seen = self.quantizer, self.values
        sides = [(seen.low, spec.low), (seen.high, spec.high)]
        edges = min(seen.low, spec.low if spec.zero_point or seen.low < 0 else 0.0), max(seen.high, spec.high)
        return InputRange(
            tensor=spec.tensor,
            scale=spec.scale,
            zero_point=spec.zero_point,
            low=spec.low,
            high=spec.high,
            smallest=seen.low,
            largest=seen.high,
            sqnr_db=ratio_db(self.signal, self.noise),
            clipped=self.clipped / max(seen.total, 1),
            reach=max((value / limit for value, limit in sides if limit), default=0.0),
            codes=float(np.count_nonzero(self.codes)) / 256,
            histogram=_binned(seen, *edges),
            edges=edges,
        )


@dataclass
class Tally:
    """Sums over one layer.

    Attributes:
        own, whole: of its output, with float inputs and in the whole quantized graph. ``weight``: of its weights.
        reached: energy of its own noise at the logits.
        restored: of the quantized graph's logits with this layer in float.
    """

    place: Place
    inputs: tuple[_Input, ...]
    own: Difference = field(default_factory=Difference)
    whole: Difference = field(default_factory=Difference)
    weight: Difference = field(default_factory=Difference)
    reached: float = 0.0
    restored: Difference = field(default_factory=Difference)

    def add(
        self,
        expected: Mapping[str, Array],
        found: Mapping[str, Array],
        alone: Mapping[str, Array],
        *,
        with_weights: bool,
    ) -> None:
        """Take one sample's tensors: of the float graph, of the quantized one, and of its steps on float inputs."""
        name = self.place.output
        self.whole.add(expected[name], found[name])
        self.own.add(expected[name], alone[name])
        for item in self.inputs:
            item.add(expected[item.quantizer.tensor])
        if with_weights and self.place.weight is not None:
            rounded, exact = self.place.weight
            self.weight.add(expected[exact], found[rounded])


class Measurement:
    """Runs the graphs side by side, a part of the layers at a time.

    Attributes:
        tallies: one a layer. ``logits``: the difference of the two graphs' logits.
    """

    def __init__(self, graphs: tuple[Graph, Graph], found: Sequence[Place], output: str) -> None:
        """Start with empty sums."""
        self.reference, self.candidate = graphs
        self.output = output
        self.tallies = [Tally(place, tuple(_Input(q) for q in place.quantizers)) for place in found]
        self.logits = Difference()

    def run(self, samples: Sequence[Sample], memory: int, progress: Progress) -> None:
        """Add every sample to the sums of every layer, a part of the layers at a time."""
        parts = list(in_parts(self.tallies, self._size, memory))
        done, total = 0, len(self.tallies) * len(samples)
        for part in parts:
            for _ in self._part(part, samples, first=part is parts[0]):
                progress("analyze", done, total)
                done += 1
        progress("analyze", total, total)

    def restore(self, chosen: Sequence[Tally], samples: Sequence[Sample], progress: Progress) -> None:
        """Measure the logits of the quantized graph with one layer at a time in float, on what the quantized graph gives it."""
        outputs, sources = _names(chosen)
        given = [name for name in sources if name in self.reference.producer]
        with ExitStack() as stack:
            exact = stack.enter_context(closing(OnnxReader(self.reference, [self.output])))
            whole = stack.enter_context(closing(OnnxReader(self.candidate, _distinct(outputs, given, [self.output]))))
            steps = stack.enter_context(closing(StepReader(self.reference, outputs, exact)))
            probe = None
            for done, sample in enumerate(samples):
                progress("restore", done, len(samples))
                expected, found = exact.read(sample)[self.output], whole.read(sample)
                floats = steps.read(sample, {name: found[name].astype(np.float32) for name in given})
                probe = probe or stack.enter_context(self._probe(self.candidate, outputs, found))
                for tally in chosen:
                    name = tally.place.output
                    noise = floats[name] - found[name].astype(np.float32)
                    tally.restored.add(expected, probe.read(whole.feed(sample), {name: noise})[:1])
        progress("restore", len(samples), len(samples))

    def _part(self, part: Sequence[Tally], samples: Sequence[Sample], *, first: bool) -> Iterator[None]:
        """Measure some layers, yielding before each of them and each sample."""
        outputs, sources = _names(part)
        given = [name for name in sources if name in self.candidate.producer]
        weights = [tally.place.weight for tally in part if tally.place.weight is not None]
        ours, theirs = [pair[1] for pair in weights], [pair[0] for pair in weights]
        with ExitStack() as stack:
            exact, whole = (
                stack.enter_context(closing(OnnxReader(graph, _distinct(outputs, more, constants, [self.output]))))
                for graph, more, constants in ((self.reference, sources, ours), (self.candidate, given, theirs))
            )
            steps = stack.enter_context(closing(StepReader(self.candidate, outputs, whole)))
            probe = None
            for index, sample in enumerate(samples):
                expected, found = exact.read(sample), whole.read(sample)
                alone = steps.read(sample, {name: expected[name].astype(found[name].dtype) for name in given})
                probe = probe or stack.enter_context(self._probe(self.reference, outputs, expected))
                feed = exact.feed(sample)
                clean = probe.read(feed, {})
                if first:
                    self.logits.add(expected[self.output], found[self.output])
                for tally in part:
                    yield
                    tally.add(expected, found, alone, with_weights=index == 0)
                    if tally.place.noisy:
                        name = tally.place.output
                        noise = alone[name].astype(np.float32) - expected[name]
                        tally.reached += _energy((probe.read(feed, {name: noise}) - clean)[:1])

    def _size(self, tally: Tally) -> int:
        """Return the bytes that a layer takes.

        Of an output there are three float32 tensors and, for a moment, differences in float64; of an input two, and for a moment
        its codes; of weights two.
        """
        place, graph = tally.place, self.reference
        weights = graph.weights[place.weight[1]]().size if place.weight else 0
        inputs = sum(graph.sizes.get(name, 0) for name in place.sources)
        return 32 * graph.sizes.get(place.output, 0) + 28 * inputs + 8 * int(weights)

    def _probe(self, graph: Graph, outputs: Sequence[str], arrays: Mapping[str, Array]) -> NoiseProbe:
        """Return a graph that takes noise at some tensors, whose arrays are there to tell their ranks."""
        return NoiseProbe(graph.path, {name: arrays[name].ndim for name in outputs}, self.output)


def _names(tallies: Sequence[Tally]) -> tuple[list[str], list[str]]:
    """Return the outputs of layers, and the tensors that they are computed from."""
    return [tally.place.output for tally in tallies], _distinct(*(tally.place.sources for tally in tallies))


def _distinct(*names: Sequence[str]) -> list[str]:
    """Return names without repetitions."""
    return list(dict.fromkeys(name for group in names for name in group))


def _energy(values: Array) -> float:
    """Return the sum of squares."""
    return float(np.square(values, dtype=np.float64).sum())


def ratio_of(difference: Difference) -> float:
    """Return a tensor's SQNR; what is broken (another shape, NaN) counts as no signal at all."""
    if difference.mismatch or difference.nonfinite:
        return ratio_db(0, 1)
    return ratio_db(difference.signal, difference.noise)


def _binned(values: Histogram, low: float, high: float) -> tuple[int, ...]:
    """Return the counts in equal bins over a range that holds all values."""
    width = (high - low) / BINS or 1.0
    bins = np.clip(((values.centres - low) / width).astype(np.intp), 0, BINS - 1)
    return tuple(int(count) for count in np.bincount(bins, values.counts, minlength=BINS))
