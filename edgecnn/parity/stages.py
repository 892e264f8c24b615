"""Run the stages of a pipeline side by side and say which is the first to depart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import EdgecnnError, UserError
from edgecnn.parity.metrics import Accumulator, logits_of
from edgecnn.parity.report import Against, Comparison, ParityReport, SamplesUsed, StageResult
from edgecnn.parity.samples import Sample, SampleSet, feed_for
from edgecnn.parity.tolerance import DEFAULT_TOLERANCES, Tolerance, Tolerances, tolerances_for
from edgecnn.progress import Progress, silent
from edgecnn.runtime.session import Session

__all__ = ["Stage", "verify"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One form of the network.

    A session whose first input is uint8 takes pixels (its graph normalises inside); any other takes tensors.

    Attributes:
        name: ``pytorch``, ``onnx``, ``simplified``, ``int8``, ...
        precision: chooses the tolerances.
        session: runs it; its first output is compared.
        after: name of the stage that this one was made from; by default the one before it in the list.
        exact: it claims to change no arithmetic, so it is held to the tolerance for the same arithmetic instead of its
            precision's own.
        probabilities: its output went through a softmax; by default if the output is called ``probabilities``.
    """

    name: str
    precision: str
    session: Session
    after: str = ""
    exact: bool = False
    probabilities: bool | None = None

    @property
    def takes_pixels(self) -> bool:
        """Whether the graph takes uint8 (N, H, W, C)."""
        return self.session.inputs[0].dtype == "uint8"

    @property
    def gives_probabilities(self) -> bool:
        """Whether the output went through a softmax."""
        if self.probabilities is not None:
            return self.probabilities
        return self.session.outputs[0].name == "probabilities"

    @property
    def batch(self) -> int:
        """The static batch size, 0 if it is dynamic."""
        first = self.session.inputs[0].shape[0]
        return first if isinstance(first, int) else 0


def verify(
    stages: Sequence[Stage],
    sample_sets: Sequence[SampleSet],
    *,
    tolerances: Mapping[str, Tolerances] = DEFAULT_TOLERANCES,
    batch: int = 4,
    progress: Progress = silent,
) -> ParityReport:
    """Compare each stage with the first and with its predecessor, on every sample; memory does not grow with their number.

    A stage with a dynamic batch runs one sample at a time, and its first ``batch`` samples of each set once more as one batch,
    which must give the same. A stage that cannot run, gives NaN or infinity, or outputs of another shape, or could be given none
    of the samples, fails; nothing is raised for it.

    Args:
        stages: in the order of the pipeline; the first is the reference (PyTorch, or fp32 on a device) and gives logits.
        sample_sets: what to run on; the scale of outputs on ``images`` weighs errors on unusual inputs.
        tolerances: per precision.
        batch: size of the batched run; 1 leaves it out.
        progress: called once a sample.

    Raises:
        UserError: no stages or sets, two stages of one name, an unknown predecessor or precision, an empty set.
    """
    _check(stages, sample_sets, tolerances)
    runs = {stage.name: _Run(stage) for stage in stages}
    ordered = sorted(sample_sets, key=lambda used: used.kind != "images")
    scales: dict[str, float] = {}
    used = []
    for samples in ordered:
        pairs = [pair for stage in stages for pair in _pairs(stage, stages, tolerances)]
        count = _run_set(samples, runs, pairs, max(1, batch), progress)
        used.append(SamplesUsed(name=samples.name, kind=samples.kind, count=count, note=samples.note))
        for pair in pairs:
            comparison = pair.finish(samples, scales)
            if comparison is not None:
                runs[pair.stage.name].comparisons.append(comparison)
    return ParityReport(stages=tuple(runs[stage.name].result(stages) for stage in stages), samples=tuple(used))


class _Run:
    """A stage and what is found out about it."""

    def __init__(self, stage: Stage) -> None:
        """Start with nothing found."""
        self.stage = stage
        self.comparisons: list[Comparison] = []
        self.problems: dict[str, None] = {}
        self.skipped: dict[str, None] = {}
        self._tried = False

    def rows(self, chunk: Sequence[Sample], samples: SampleSet) -> list[Array | None]:
        """Return the output row of every sample, None where there is none; one at a time, or in static batches."""
        able = [index for index, sample in enumerate(chunk) if self._able(sample, samples)]
        result: list[Array | None] = [None] * len(chunk)
        size = self.stage.batch or self.stage.session.least_batch or 1
        for start in range(0, len(able), size):
            part = able[start : start + size]
            filled = [chunk[i] for i in part] + [chunk[part[-1]]] * (size - len(part))
            output = self._output(filled, samples)
            if output is not None:
                for row, index in enumerate(part):
                    result[index] = output[row : row + 1]
        return result

    def batched(self, chunk: Sequence[Sample], samples: SampleSet) -> list[list[Array | None]]:
        """Return the same rows from one run of all of them; nothing for a static batch or too few samples.

        An engine is tried at the top of its profile and at the size that it is made for: the rows of each; at the least, it ran before.
        """
        able = [index for index, sample in enumerate(chunk) if self._able(sample, samples)]
        if self.stage.batch or len(able) < 2:
            return []
        session = self.stage.session
        sizes = {session.largest_batch or len(able), session.best_batch} - {0, session.least_batch}
        found = [self._filled(size, able, chunk, samples) for size in sorted(sizes)]
        session.trim()
        return found

    def _filled(
        self, size: int, able: Sequence[int], chunk: Sequence[Sample], samples: SampleSet
    ) -> list[Array | None]:
        """Return the rows of one run of so many samples, the first ones again where there are fewer."""
        result: list[Array | None] = [None] * len(chunk)
        output = self._output([chunk[able[i % len(able)]] for i in range(size)], samples)
        if output is not None:
            for row, index in enumerate(able[:size]):
                result[index] = output[row : row + 1]
        return result

    def result(self, stages: Sequence[Stage]) -> StageResult:
        """Return what was found."""
        stage = self.stage
        if not self._tried:
            self.problems["was not compared: the graph takes pixels, and no sample has any"] = None
        return StageResult(
            name=stage.name,
            precision=stage.precision,
            backend=stage.session.backend,
            after=_predecessor(stage, stages).name if stage is not stages[0] else "",
            comparisons=tuple(self.comparisons),
            problems=tuple(self.problems),
            skipped=tuple(self.skipped),
        )

    def _able(self, sample: Sample, samples: SampleSet) -> bool:
        """Whether the stage can be given a sample."""
        if self.stage.takes_pixels and sample.pixels is None:
            what = f"{samples.name}: {sample.name}" if sample.name else samples.name
            self.skipped[f"{what} (the graph takes pixels, and none give this tensor)"] = None
            return False
        return True

    def _output(self, part: Sequence[Sample], samples: SampleSet) -> Array | None:
        """Run once and return the first output, or take note of why there is none."""
        session = self.stage.session
        name = session.outputs[0].name
        self._tried = True
        try:
            output = session.run(feed_for(session, part), [name])[name]
        except EdgecnnError as error:
            self.problems[f"cannot run {samples.name} (batch {len(part)}): {error}"] = None
            return None
        if output.ndim < 2 or len(output) != len(part):
            self.problems[f"gives outputs of shape {list(output.shape)} for a batch of {len(part)}"] = None
            return None
        if not np.isfinite(output).all():
            self.problems[f"NaN or Inf on {samples.name}"] = None
        return output


class _Pair:
    """A stage and a reference while samples pass."""

    def __init__(self, stage: Stage, reference: Stage, against: Against, tolerance: Tolerance | Tolerances) -> None:
        """Start empty; ``Tolerances`` are chosen from by the kind of samples."""
        self.stage, self.reference, self.against = stage, reference, against
        self._tolerance = tolerance
        self._accumulator: Accumulator | None = None
        self.mismatch = ""

    def tolerance(self, samples: SampleSet) -> Tolerance:
        """Return the policy for a set."""
        return self._tolerance.of(samples.kind) if isinstance(self._tolerance, Tolerances) else self._tolerance

    def add(self, reference: Array | None, candidate: Array | None, samples: SampleSet) -> None:
        """Take one row of each, if both are there."""
        if reference is None or candidate is None:
            return
        if reference.shape != candidate.shape:
            self.mismatch = (
                f"gives {list(candidate.shape[1:])} where {self.reference.name} gives {list(reference.shape[1:])}"
            )
            return
        if self._accumulator is None:
            self._accumulator = Accumulator(
                probabilities=self.stage.gives_probabilities, margin=self.tolerance(samples).margin
            )
        if self.reference.gives_probabilities:
            # The logarithm of a softmax is its logits but for a constant, which no softmax sees.
            reference = logits_of(reference)
            if not self.stage.gives_probabilities:
                candidate = candidate - candidate.mean()
        self._accumulator.add(reference, candidate)

    def finish(self, samples: SampleSet, scales: dict[str, float]) -> Comparison | None:
        """Judge; None if no sample reached both. ``scales`` remembers how large outputs are on images."""
        if self._accumulator is None:
            return None
        metrics = self._accumulator.result()
        key = f"{self.reference.name}\n{metrics.probabilities}"
        if samples.kind == "images" and metrics.samples > metrics.nonfinite:
            scales.setdefault(key, metrics.signal_rms)
        tolerance = self.tolerance(samples)
        return Comparison(
            reference=self.reference.name,
            against=self.against,
            samples=samples.name,
            kind=samples.kind,
            metrics=metrics,
            tolerance=tolerance,
            verdict=tolerance.judge(metrics, scales.get(key, 0.0)),
        )


def _run_set(
    samples: SampleSet, runs: Mapping[str, _Run], pairs: Sequence[_Pair], batch: int, progress: Progress
) -> int:
    """Run one set through every stage, a few samples at a time; return their number."""
    size = max(batch, *(run.stage.batch for run in runs.values()))
    count = 0
    for chunk in _chunks(samples, size):
        rows = {name: run.rows(chunk, samples) for name, run in runs.items()}
        batched = {name: run.batched(chunk[:batch], samples) for name, run in runs.items()} if not count else {}
        for pair in pairs:
            own = rows[pair.stage.name]
            compared = [(rows[pair.reference.name], own)]
            if pair.against == "batch":
                compared = [(own, other) for other in batched.get(pair.stage.name, [])]
            for reference, candidate in (both for sides in compared for both in zip(*sides, strict=False)):
                pair.add(reference, candidate, samples)
            if pair.mismatch:
                runs[pair.stage.name].problems[pair.mismatch] = None
        count += len(chunk)
        progress(f"verify on {samples.name}", count, 0)
    if not count:
        raise UserError(f"the sample set {samples.name!r} is empty")
    progress(f"verify on {samples.name}", count, count)
    return count


def _pairs(stage: Stage, stages: Sequence[Stage], tolerances: Mapping[str, Tolerances]) -> Iterator[_Pair]:
    """Yield what a stage is to be compared with."""
    own = tolerances_for(stage.precision, tolerances)
    yield _Pair(stage, stage, "batch", own.same)
    if stage is stages[0]:
        return
    first, before = stages[0], _predecessor(stage, stages)
    yield _Pair(stage, before, "predecessor", replace(own, images=own.same, noise=own.same) if stage.exact else own)
    if before is not first:
        yield _Pair(stage, first, "first", own)


def _predecessor(stage: Stage, stages: Sequence[Stage]) -> Stage:
    """Return the stage that this one was made from."""
    if stage.after:
        return next(other for other in stages if other.name == stage.after)
    position = next(index for index, other in enumerate(stages) if other is stage)
    return stages[max(0, position - 1)]


def _check(stages: Sequence[Stage], sample_sets: Sequence[SampleSet], tolerances: Mapping[str, Tolerances]) -> None:
    """Refuse what cannot be verified."""
    if not stages or not sample_sets:
        raise UserError("verify needs at least one stage and one set of samples")
    names: list[str] = []
    for stage in stages:
        if stage.name in names:
            raise UserError(f"two stages are called {stage.name!r}")
        if stage.after and stage.after not in names:
            raise UserError(f"stage {stage.name!r} comes after {stage.after!r}, which is not before it: {names}")
        tolerances_for(stage.precision, tolerances)
        names.append(stage.name)
    if len({samples.name for samples in sample_sets}) != len(sample_sets):
        raise UserError(f"two sample sets share a name: {[samples.name for samples in sample_sets]}")


def _chunks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Cut an iterable into lists."""
    iterator = iter(samples)
    while chunk := list(islice(iterator, size)):
        yield chunk
