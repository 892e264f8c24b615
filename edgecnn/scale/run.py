"""Evaluation in shards: in many processes or on a cluster, and where it stopped the next one goes on."""

from __future__ import annotations

import platform
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgecnn import errors
from edgecnn.errors import EdgecnnError, UserError
from edgecnn.parity.evaluate import SHARD, Evaluation, check_readable, chosen_variants, evaluation_of
from edgecnn.parity.labelled import Row
from edgecnn.parity.listing import Listing, Pictures
from edgecnn.parity.runner import Plan, Runner
from edgecnn.parity.tally import REFERENCE, Tally
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import AutoOptions
from edgecnn.runtime.openvino import OpenVinoOptions
from edgecnn.runtime.ort import OrtOptions
from edgecnn.scale.executor import Executor, ExecutorConfig, start
from edgecnn.scale.store import Store

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["Shard", "Shards", "evaluate_at_scale", "one_thread", "run_shards", "settings", "versions"]

_PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",),
             "tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx")}  # fmt: skip


def evaluate_at_scale(
    bundle: Bundle | Path | str,
    data: Path | str,
    executor: ExecutorConfig | None = None,
    *,
    variants: Sequence[str] | None = None,
    limit: int | None = None,
    allow_unverified: bool = False,
    options: Options | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Do what :func:`edgecnn.parity.evaluate.evaluate` does in many processes, going on where a run before this one stopped.

    The result is the same to the last bit whatever the number of workers, the order in which they finish, and the number of
    interruptions: pictures run one at a time on sessions of one thread, and what is added up is added exactly. What is finished is kept
    in the cache folder until the result is complete.

    Args:
        bundle: a folder, or an opened bundle. Workers on other machines read it at the same absolute path.
        data: a folder for :func:`~edgecnn.parity.labelled.scan`; the same holds for it.
        executor: where it runs; by default one worker a core of this machine.
        variants, limit, allow_unverified, options: as of :func:`~edgecnn.parity.evaluate.evaluate`; but ``threads=0`` is one thread.
        progress: called once a shard.

    Raises:
        DataError, UserError, BundleError, BackendError, MissingDependencyError: as :func:`~edgecnn.parity.evaluate.evaluate`.
        BackendError: a worker died.
        OutputError: the cache folder cannot be written.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=allow_unverified)
    names = chosen_variants(bundle, variants, options)
    plan = Plan.of(bundle, names, one_thread(options), allow_unverified=allow_unverified)
    with Listing(Path(data), bundle.spec.num_classes, bundle.labels, limit) as pictures, ExitStack() as stack:
        shards = stack.enter_context(Shards(plan, bundle, pictures, pictures.fingerprint()))
        if shards.done < shards.count:
            with start(executor or ExecutorConfig()) as run:
                for failed in run_shards(shards, run, progress):
                    raise failed.error
        result = shards.result()
        shards.clear()
    return result


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A task: variants to run on some pictures.

    Attributes:
        run: the same for all shards of a run, so that a worker keeps its sessions.
        plan: of the run. ``versions``: of the packages that decide its numbers, which a worker must have.
        names: the variants that lack this shard.
        first: position of the first picture. ``rows``: the pictures.
    """

    run: str
    plan: Plan
    versions: Mapping[str, str]
    names: tuple[str, ...]
    first: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker did of a shard: a tally of every variant, or the type's name and text of its error."""

    first: int
    done: Mapping[str, Tally]
    failed: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Failed:
    """A variant that cannot be evaluated."""

    name: str
    error: EdgecnnError


class Shards:
    """What is to be done of one plan over one listing, and what is done. A context manager.

    Args:
        plan: what is to run. ``bundle``: its own.
        pictures: on what. ``data``: their fingerprint.

    Raises:
        OutputError, UserError: as :class:`~edgecnn.scale.store.Store`.
    """

    def __init__(self, plan: Plan, bundle: Bundle, pictures: Pictures, data: str) -> None:
        """Look for what is done already."""
        self.plan = plan
        self.pictures = pictures
        self.failed: dict[str, EdgecnnError] = {}
        self._referenced = REFERENCE in bundle.variants
        self._stores: dict[str, Store] = {}
        self._versions: dict[str, str] = {}
        with ExitStack() as stack:
            for name in plan.names:
                key = _key(plan, bundle, name, data)
                self._versions |= key["versions"]
                self._stores[name] = stack.enter_context(Store(key))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        """Return the shards."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the stores."""
        self._stack.close()

    @property
    def count(self) -> int:
        """The number of shards."""
        return -(-len(self.pictures) // SHARD)

    @property
    def done(self) -> int:
        """The shards that every variant has done."""
        sets = [store.done for name, store in self._stores.items() if name not in self.failed]
        return len(set.intersection(*sets)) if sets else self.count

    def missing(self) -> Iterator[Shard]:
        """Yield what is left to do, reading the listing part by part."""
        plan = replace(self.plan, names=tuple(n for n, store in self._stores.items() if len(store.done) < self.count))
        run = secrets.token_hex(8)
        for first in range(0, len(self.pictures), SHARD):
            names = tuple(n for n in plan.names if first not in self._stores[n].done and n not in self.failed)
            if names:
                rows = tuple(self.pictures.rows(first, first + SHARD))
                yield Shard(run=run, plan=plan, versions=self._versions, names=names, first=first, rows=rows)

    def take(self, work: Work) -> list[Failed]:
        """Keep what a worker did; return the variants that failed for the first time.

        Raises:
            DataError: too many pictures cannot be decoded.
            OutputError: the cache folder cannot be written.
        """
        for name, tally in work.done.items():
            store = self._stores[name]
            store.put(work.first, work.first + tally.images + tally.unreadable, tally)
            check_readable(store.total, len(self.pictures), store.total.images + store.total.unreadable)
        new = [Failed(n, _error(*error)) for n, error in work.failed.items() if n not in self.failed]
        self.failed.update({one.name: one.error for one in new})
        return new

    def result(self) -> Evaluation:
        """Return the scores of the variants that did not fail. Raises DataError as :meth:`take`."""
        totals = {name: store.total for name, store in self._stores.items() if name not in self.failed}
        for total in totals.values():
            check_readable(total, len(self.pictures), len(self.pictures))
        return evaluation_of(totals, self._referenced, self.pictures.how)

    def clear(self) -> None:
        """Forget what is done: the result is delivered."""
        for store in self._stores.values():
            store.clear()


def run_shards(shards: Shards, run: Executor, progress: Progress = silent) -> Iterator[Failed]:
    """Do what is left to do, and yield the variants that failed, as soon as they do. Raises as :meth:`Shards.take`, and BackendError."""
    progress("evaluate", shards.done, shards.count)
    try:
        for work in run(_work, ((shard,) for shard in shards.missing())):
            yield from shards.take(work)
            progress("evaluate", shards.done, shards.count)
    finally:
        _forget()  # one worker alone is this process


def one_thread(options: Options | None) -> Options:
    """Return options whose sessions compute in one thread unless told otherwise, so that the number of workers changes no bit."""
    options = options or AutoOptions()
    if isinstance(options, AutoOptions | OrtOptions | OpenVinoOptions) and options.threads == 0:
        return replace(options, threads=1)
    return options


def settings(options: Options | None) -> dict[str, str]:
    """Return what options say, as JSON: all but how an engine is built anew, which is a function."""
    return {f.name: repr(getattr(options, f.name)) for f in fields(options) if f.name != "rebuild"} if options else {}


def versions(backend: str) -> dict[str, str]:
    """Return package -> version of what numbers depend on besides the graph."""
    packages = ("edgecnn", "numpy", "Pillow", *_PACKAGES[backend])
    return {package: found for package in packages if (found := _version(package))}


def _version(package: str) -> str:
    """Return an installed package's version, "" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


_here = threading.local()
"""A worker's runner, kept from shard to shard: with Dask, several workers are threads of one process."""


def _work(shard: Shard) -> Work:
    """Do a shard, in a worker."""
    try:
        if getattr(_here, "run", None) != shard.run:
            _forget()
            _check_versions(shard.versions)
            _here.runner, _here.run = Runner(shard.plan), shard.run
        done = _here.runner.run(shard.rows, shard.names, first=shard.first)
        failed = {name: _here.runner.failed[name] for name in shard.names if name in _here.runner.failed}
    except EdgecnnError as error:
        done, failed = {}, dict.fromkeys(shard.names, error)
    errors_ = {name: (type(error).__name__, str(error)) for name, error in failed.items()}
    return Work(first=shard.first, done=done, failed=errors_)


def _check_versions(wanted: Mapping[str, str]) -> None:
    """Refuse to work with other packages than the command's: the numbers would be a mixture. Raises UserError."""
    for package, version in wanted.items():
        if (found := _version(package)) != version:
            raise UserError(
                f"a worker on {platform.node()} has {package} {found or 'not at all'}, and this command {version}: "
                "install the same versions everywhere"
            )


def _forget() -> None:
    """Close a worker's runner."""
    if runner := getattr(_here, "runner", None):
        runner.close()
    _here.runner = _here.run = None


def _error(kind: str, text: str) -> EdgecnnError:
    """Return an error that travelled."""
    found = getattr(errors, kind, EdgecnnError)
    return found(text) if isinstance(found, type) and issubclass(found, EdgecnnError) else EdgecnnError(text)


def _key(plan: Plan, bundle: Bundle, name: str, data: str) -> dict[str, Any]:
    """Return what decides a variant's numbers: another value of any of it, and nothing that was done counts.

    Raises:
        UserError: as :meth:`~edgecnn.runtime.bundle.Bundle.choose`.
    """
    chosen = bundle.choose(name, options=plan.options).backend
    reference = None
    if REFERENCE in bundle.variants:
        options = plan.options if REFERENCE in plan.names else plan.reference_options(bundle)
        reference = bundle.choose(REFERENCE, options=options).backend
    return {
        "format": 1,
        "bundle": plan.manifest,
        "variant": name,
        "backend": chosen,
        "reference": reference,
        "options": settings(plan.options),
        "versions": {**versions(chosen), **(versions(reference) if reference else {})},
        "data": data,
        "shard": SHARD,
    }
