"""The outcome of verification as frozen data: JSON in and out, truthy when everything passed, and it names the first culprit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from edgecnn.errors import UserError
from edgecnn.parity.metrics import Metrics
from edgecnn.parity.tolerance import (
    DEFAULT_TOLERANCES,
    GrossErrorTolerance,
    Kind,
    LogitTolerance,
    Tolerance,
    Tolerances,
    Verdict,
    tolerances_for,
)
from edgecnn.writing import write_json

__all__ = [
    "DEFAULT_TOLERANCES",
    "SCHEMA",
    "Against",
    "Comparison",
    "GrossErrorTolerance",
    "LogitTolerance",
    "ParityReport",
    "SamplesUsed",
    "StageResult",
    "Tolerance",
    "Tolerances",
    "Verdict",
    "decibels",
    "tolerances_for",
]

SCHEMA = 1
"""Version of the JSON form."""

Against = Literal["first", "predecessor", "batch", "recorded"]
"""What a stage was compared with: the first stage, the one it was made from, itself with another batch size, or the outputs that
were recorded when the bundle was written."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One stage against one reference on one set of samples.

    Attributes:
        reference: name of the reference.
        against: what the reference is to the stage.
        samples, kind: the set's name and kind.
        metrics: what differs.
        tolerance: what may differ.
        verdict: the outcome.
    """

    reference: str
    against: Against
    samples: str
    kind: Kind
    metrics: Metrics
    tolerance: Tolerance
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether it kept to the tolerance."""
        return self.verdict.passed

    def __str__(self) -> str:
        """Return one line."""
        m = self.metrics
        where = f"against {self.reference}" if self.against != "batch" else "batch 1 against batch > 1"
        if not self.passed:
            would = self.verdict.would_pass
            hint = f" (would pass: {_limits(would)})" if would is not None else ""
            return f"{where} on {self.samples}: FAILED: {'; '.join(self.verdict.reasons)}{hint}"
        return f"{where} on {self.samples}: SQNR {decibels(m.sqnr_db)}, max abs {m.max_abs:.3g}, top-1 agreement {m.top1:.1f} %"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        would = self.verdict.would_pass
        return {
            "reference": self.reference,
            "against": self.against,
            "samples": self.samples,
            "kind": self.kind,
            "passed": self.passed,
            "reasons": list(self.verdict.reasons),
            "metrics": self.metrics.to_json(),
            "tolerance": self.tolerance.to_json(),
            "would_pass": None if would is None else would.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        would = data["would_pass"]
        return cls(
            reference=data["reference"],
            against=data["against"],
            samples=data["samples"],
            kind=data["kind"],
            metrics=Metrics.from_json(data["metrics"]),
            tolerance=Tolerance.from_json(data["tolerance"]),
            verdict=Verdict(
                passed=data["passed"],
                reasons=tuple(data["reasons"]),
                would_pass=None if would is None else Tolerance.from_json(would),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What one stage did.

    Attributes:
        name, precision, backend: of the stage.
        after: the stage it was made from, "" for the first.
        comparisons: all of them.
        problems: what cannot be put as a comparison: it could not run, its outputs have another shape, NaN in the reference.
        skipped: sets, or parts of sets, that it could not be given (a graph that takes pixels, and a tensor that no pixels give).
    """

    name: str
    precision: str
    backend: str = ""
    after: str = ""
    comparisons: tuple[Comparison, ...] = ()
    problems: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every comparison passed and there were no problems."""
        return not self.problems and all(c.passed for c in self.comparisons)

    @property
    def departs(self) -> bool:
        """Whether this stage itself went wrong: it does not agree with its predecessor, with itself, or with what was recorded."""
        return bool(self.problems) or any(not c.passed for c in self.comparisons if c.against != "first")

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that failed."""
        return tuple(c for c in self.comparisons if not c.passed)

    def find(self, against: Against, samples: str = "") -> Comparison | None:
        """Return the first comparison with a kind of reference, on a set of samples if one is named.

        The second stage's predecessor is the first stage, so its comparison is found as ``first`` too.
        """
        here = [c for c in self.comparisons if samples in ("", c.samples)]
        hit = next((c for c in here if c.against == against), None)
        if hit is None and against == "first":
            return next((c for c in here if c.against == "predecessor"), None)
        return hit

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "precision": self.precision,
            "backend": self.backend,
            "after": self.after,
            "passed": self.passed,
            "problems": list(self.problems),
            "skipped": list(self.skipped),
            "comparisons": [c.to_json() for c in self.comparisons],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            name=data["name"],
            precision=data["precision"],
            backend=data["backend"],
            after=data["after"],
            comparisons=tuple(Comparison.from_json(c) for c in data["comparisons"]),
            problems=tuple(data["problems"]),
            skipped=tuple(data["skipped"]),
        )


@dataclass(frozen=True, kw_only=True)
class SamplesUsed:
    """A set of samples as it was used."""

    name: str
    kind: Kind
    count: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"name": self.name, "kind": self.kind, "count": self.count, "note": self.note}


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """A whole verification; truthy when every stage passed.

    Attributes:
        stages: in the order of the pipeline.
        samples: what they ran on.
        notes: what a reader should know.
        reference: name of what all stages are compared with, by default the first stage.
        schema: version of the JSON form.
    """

    stages: tuple[StageResult, ...]
    samples: tuple[SamplesUsed, ...]
    notes: tuple[str, ...] = ()
    reference: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check that there is something to report on."""
        if not self.stages:
            raise UserError("a parity report needs at least one stage")
        if not self.reference:
            object.__setattr__(self, "reference", self.stages[0].name)

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(stage.passed for stage in self.stages)

    def __bool__(self) -> bool:
        """Return :attr:`passed`."""
        return self.passed

    @property
    def first_departure(self) -> StageResult | None:
        """The first stage that departs from its predecessor; where none does, the first that drifted too far from the reference.

        None when everything passed.
        """
        departing = next((stage for stage in self.stages if stage.departs), None)
        return departing or next((stage for stage in self.stages if not stage.passed), None)

    def stage(self, name: str) -> StageResult:
        """Return a stage. Raises UserError naming those there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"no stage {name!r}; there are {', '.join(s.name for s in self.stages)}")

    def lines(self) -> Iterator[str]:
        """Yield the report as plain text: the verdict first, then a block a stage."""
        culprit = self.first_departure
        if culprit is None:
            others = [stage.name for stage in self.stages if stage.name != self.reference]
            verb = "agree" if len(others) > 1 else "agrees"
            yield f"verified: {', '.join(others) or 'nothing else'} {verb} with {self.reference}"
        elif culprit.departs:
            what = f" from {culprit.after}" if culprit.after else ""
            yield f"NOT verified: {culprit.name} ({culprit.precision}) is the first stage that departs{what}"
        else:
            yield f"NOT verified: {culprit.name} drifted from {self.reference}, though no single stage departs"
        for stage in self.stages:
            where = ", ".join(filter(None, (stage.precision, stage.backend)))
            yield f"{stage.name} ({where}): {'passed' if stage.passed else 'FAILED'}"
            yield from (f"  {problem}" for problem in stage.problems)
            yield from (f"  {comparison}" for comparison in stage.comparisons)
            yield from (f"  skipped: {skipped}" for skipped in stage.skipped)
        yield from (f"note: {used.name}: {used.note}" for used in self.samples if used.note)
        yield from (f"note: {note}" for note in self.notes)

    def summary(self) -> dict[str, Any]:
        """Return the gist, JSON-ready: the verdict, and how far each stage is from the reference on real images.

        Where no images were given, the numbers are those of the first set. ``sqnr_db`` null means identical.
        """
        culprit = self.first_departure
        stages: dict[str, Any] = {}
        for stage in self.stages:
            found = [c for c in stage.comparisons if c.reference == self.reference and c.against != "batch"]
            best = next((c for c in found if c.kind == "images"), found[0] if found else None)
            stages[stage.name] = {"precision": stage.precision, "passed": stage.passed}
            if best is not None:
                numbers = best.metrics.to_json()
                kept = ("samples", "sqnr_db", "max_abs", "cosine", "top1", "top5", "kl")
                stages[stage.name] |= {"on": best.samples} | {name: numbers[name] for name in kept}
        return {
            "passed": self.passed,
            "reference": self.reference,
            "first_departure": None if culprit is None else culprit.name,
            "stages": stages,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        culprit = self.first_departure
        return {
            "schema": self.schema,
            "passed": self.passed,
            "reference": self.reference,
            "first_departure": None if culprit is None else culprit.name,
            "samples": [used.to_json() for used in self.samples],
            "stages": [stage.to_json() for stage in self.stages],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: it was written by a newer edgecnn, or is not a parity report.
        """
        schema = data.get("schema")
        if not isinstance(schema, int) or schema < 1:
            raise UserError("not a parity report: it has no schema version")
        if schema > SCHEMA:
            raise UserError(f"a parity report of schema {schema}; this edgecnn reads up to {SCHEMA}: upgrade it")
        try:
            return cls(
                stages=tuple(StageResult.from_json(stage) for stage in data["stages"]),
                samples=tuple(SamplesUsed(**used) for used in data["samples"]),
                notes=tuple(data["notes"]),
                reference=data["reference"],
                schema=schema,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not a parity report: {type(error).__name__}: {error}") from error

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all. Raises OutputError."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote. Raises UserError."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a readable parity report: {error}") from error
        if not isinstance(data, Mapping):
            raise UserError(f"{path} is not a parity report")
        return cls.from_json(data)


def decibels(value: float) -> str:
    """Return a ratio as text; an infinite one means identical."""
    return "inf dB" if value == float("inf") else f"{value:.1f} dB"


def _limits(tolerance: Tolerance) -> str:
    """Return a tolerance's limits as text."""
    data = tolerance.to_json()
    return ", ".join(f"{name}={value:g}" for name, value in data.items() if name != "type" and value is not None)
