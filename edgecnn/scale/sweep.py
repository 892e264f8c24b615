"""A matrix of bundles, variants and backends on one folder of pictures, into one table: what is in it and still true is not done again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import DataError, EdgecnnError, UserError
from edgecnn.parity.evaluate import Evaluation, chosen_variants
from edgecnn.parity.listing import Listing
from edgecnn.parity.runner import Plan, bundle_hash
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import BACKENDS, ENGINE_BACKENDS
from edgecnn.runtime.manifest import MANIFEST
from edgecnn.scale.executor import Executor, ExecutorConfig, start
from edgecnn.scale.run import Shards, one_thread, run_shards, settings, versions
from edgecnn.scale.table import COLUMNS, Row, check_table, key_of, put_rows, read_rows

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["SweepConfig", "SweepResult", "sweep"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is crossed with what.

    Attributes:
        backends: ``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt-rtx`` -> its options.
        variants: names; empty for all of each bundle, with TensorRT those that have an engine.
        limit: use so many pictures, spread evenly; None for all.
        allow_unverified: evaluate also what failed verification.
        calib: calibration images of the models that are exported first; see :class:`edgecnn.pipeline.PipelineConfig`.
        executor: where it runs.
    """

    backends: Mapping[str, Options]
    variants: tuple[str, ...] = ()
    limit: int | None = None
    allow_unverified: bool = False
    calib: str = "photos"
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.backends:
            raise UserError("a sweep needs at least one backend")
        if unknown := set(self.backends) - {*BACKENDS, *ENGINE_BACKENDS}:
            raise UserError(f"backend {min(unknown)!r} is not one of {', '.join((*BACKENDS, *ENGINE_BACKENDS))}")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep found. Truthy when no combination failed.

    Attributes:
        rows: of the table, those that were asked for, in the order of the matrix.
        kept: how many of them were in the table already.
    """

    rows: tuple[Row, ...]
    kept: int

    def __bool__(self) -> bool:
        """Whether every combination has a result."""
        return not any(row["error"] for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"rows": [dict(row) for row in self.rows], "kept": self.kept, "passed": bool(self)}


def sweep(
    targets: Sequence[str | Path], data: Path, table: Path, config: SweepConfig, *, progress: Progress = silent
) -> SweepResult:
    """Evaluate every variant of every bundle on every backend, and write a row for each as soon as it is known.

    A combination that fails has a row with its error, and the others go on; it is tried again by the next sweep. One whose row is there,
    for the same bundle, pictures, settings and versions, is not done again; one that was interrupted goes on where it stopped.

    Args:
        targets: folders of bundles, and models as :func:`edgecnn.zoo.find` takes them, which are first exported with INT8 (and FP16, if
            a variant needs it) into ``<table>-bundles/``, where the next sweep finds them.
        data: pictures for :func:`~edgecnn.parity.labelled.scan`.
        table: ``.csv`` or ``.parquet``; new, or of an earlier sweep, whose other rows stay.
        config: the rest.
        progress: told about exports, and called once a shard.

    Raises:
        UserError, OutputError, MissingDependencyError: the table cannot be written.
        DataError: there is no folder of that name.
        BackendError: the cluster cannot be reached.
    """
    check_table(table)
    if not data.is_dir():
        raise DataError(f"no folder at {data}")  # true of every row: none is written
    with ExitStack() as stack:
        job = _Job(data=data, table=table, config=config, progress=progress, stack=stack)
        rows = [row for target in targets for row in job.rows_of(target)]
    return SweepResult(rows=tuple(rows), kept=job.kept)


@dataclass(kw_only=True)
class _Job:
    """A sweep at work."""

    data: Path
    table: Path
    config: SweepConfig
    progress: Progress
    stack: ExitStack
    kept: int = 0

    @cached_property
    def executor(self) -> Executor:
        """The workers, which start when there is something to do. Raises as :func:`~edgecnn.scale.executor.start`."""
        return self.stack.enter_context(start(self.config.executor))

    def rows_of(self, target: str | Path) -> Iterator[Row]:
        """Yield the rows of one bundle or model."""
        config, path = self.config, Path(target)
        try:
            path = self._bundle_of(target)
            bundle = Bundle.open(path, allow_unverified=config.allow_unverified)
            pictures = Listing(self.data, bundle.spec.num_classes, bundle.labels, config.limit)
        except EdgecnnError as error:
            row = {**self.row(path, "", ""), "model": "" if path.is_dir() else str(target)}
            pairs = [(name, backend) for backend in config.backends for name in config.variants or ("",)]
            yield from self.put([{**row, "variant": n, "backend": b, "error": str(error)} for n, b in pairs])
            return
        with pictures:
            fingerprint = pictures.fingerprint()
            for backend, options in config.backends.items():
                group = _Group(self, bundle, backend, one_thread(options), pictures, fingerprint)
                yield from group.rows()

    def _bundle_of(self, target: str | Path) -> Path:
        """Return the folder of a bundle, exporting a model that has none yet. Raises as :func:`edgecnn.pipeline.run`."""
        if (Path(target) / MANIFEST).exists() or Path(target).is_dir():
            return Path(target)
        from edgecnn import zoo
        from edgecnn.pipeline import PipelineConfig
        from edgecnn.pipeline import run as export

        fp16 = any("fp16" in name for name in self.config.variants)
        spec = zoo.find(str(target))
        path = self.table.parent / f"{self.table.stem}-bundles" / f"{spec.name}-{'fp16-' if fp16 else ''}int8"
        if not path.exists():
            export(spec, PipelineConfig(int8=True, fp16=fp16, calib=self.config.calib), to=path, progress=self.progress)
        return path

    def row(self, path: Path, variant: str, backend: str) -> Row:
        """Return a row with its key and nothing else."""
        empty: Row = {name: "" if kind is str else None for name, kind in COLUMNS.items()}
        key = {"bundle": str(path), "variant": variant, "backend": backend, "data": str(self.data)}
        return empty | key | {"limit": self.config.limit}

    def put(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Write rows into the table."""
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [{**row, "finished": finished} for row in rows]
        put_rows(self.table, rows)
        return rows


@dataclass(frozen=True)
class _Group:
    """The variants of one bundle on one backend: decoded once, compared with the same fp32."""

    job: _Job
    bundle: Bundle
    backend: str
    options: Options
    pictures: Listing
    fingerprint: str

    def rows(self) -> Iterator[Row]:
        """Yield the rows: those that are in the table and still true, and those that are found now."""
        names, failed = self._names()
        rows = {name: self._row(name) for name in names}
        table = {key_of(row): row for row in read_rows(self.job.table)}
        kept = {name: found for name, row in rows.items() if (found := table.get(key_of(row))) and _holds(found, row)}
        self.job.kept += len(kept)
        todo = [name for name in names if name not in kept and name not in failed]
        done: dict[str, Row] = {}
        if todo:
            run = self.job.executor
            try:
                done = self._evaluate(todo, rows, run, failed)
            except EdgecnnError as error:
                failed.update(dict.fromkeys((name for name in todo if name not in failed), error))
        errors = [{**rows[name], "error": str(error)} for name, error in failed.items() if name not in kept]
        done |= {row["variant"]: row for row in (self.job.put(errors) if errors else ())}
        yield from (kept.get(name) or done[name] for name in names)

    def _names(self) -> tuple[list[str], dict[str, EdgecnnError]]:
        """Return the variants, and those that cannot run."""
        failed: dict[str, EdgecnnError] = {}
        try:
            names = list(dict.fromkeys(self.job.config.variants)) or chosen_variants(self.bundle, None, self.options)
        except EdgecnnError as error:
            return [""], {"": error}
        for name in names:
            try:
                self.bundle.choose(name, options=self.options)
            except EdgecnnError as error:
                failed[name] = error
        return names, failed

    def _row(self, name: str) -> Row:
        """Return a variant's row without its result."""
        manifest = self.bundle.manifest
        used = versions(self.backend) if name in self.bundle.variants else {}
        return self.job.row(self.bundle.path, name, self.backend) | {
            "model": manifest.model.name,
            "weights": manifest.weights.entry,
            "settings": _text(settings(self.options)),
            "versions": _text(used),
            "bundle_sha256": bundle_hash(self.bundle),
            "data_sha256": self.fingerprint,
        }

    def _evaluate(
        self, names: list[str], rows: Mapping[str, Row], run: Executor, failed: dict[str, EdgecnnError]
    ) -> dict[str, Row]:
        """Run variants, write their rows and return them; those that fail go into ``failed``. Raises what stops all of them."""
        plan = Plan.of(self.bundle, names, self.options, allow_unverified=self.job.config.allow_unverified)
        with Shards(plan, self.bundle, self.pictures, self.fingerprint) as shards:
            for one in run_shards(shards, run, self.job.progress):
                failed[one.name] = one.error
            if len(failed.keys() & names) == len(names):
                return {}
            found = self.job.put(_filled(rows, shards.result()))
            shards.clear()
        return {row["variant"]: row for row in found}


def _filled(rows: Mapping[str, Row], result: Evaluation) -> list[Row]:
    """Return the rows with their results."""
    return [
        rows[score.variant]
        | score.to_json()
        | {"unreadable": result.unreadable, "images_per_s": result.images_per_s.get(score.variant)}
        for score in result.variants
    ]


def _holds(found: Row, row: Row) -> bool:
    """Whether a row of the table is a result, and of the same things."""
    same = ("settings", "versions", "bundle_sha256", "data_sha256")
    return not found["error"] and all(found[name] == row[name] for name in same)


def _text(values: Mapping[str, str]) -> str:
    """Return a mapping as one cell."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
