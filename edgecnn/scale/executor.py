"""Where shards run: joblib's processes on this machine, or a cluster of Ray's or Dask's. The only module that imports these."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

from edgecnn.errors import BackendError, EdgecnnError, UserError
from edgecnn.optional import need

__all__ = ["Executor", "ExecutorConfig", "start"]

Kind = Literal["local", "ray", "dask"]

_AHEAD = 2
"""Shards that wait for each worker, so that none stands idle: what is read from the listing before it is due."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where shards run.

    Attributes:
        kind: ``local`` (joblib's processes), ``ray`` or ``dask``.
        workers: processes; 0 is one a core that this process may use.
        cluster: address of a running cluster of that kind; "" starts one of ``workers`` on this machine.
    """

    kind: Kind = "local"
    workers: int = 0
    cluster: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind not in get_args(Kind):
            raise UserError(f"executor {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 0:
            raise UserError(f"workers must be a whole number of at least 0, found {self.workers!r}")
        if self.cluster and self.kind == "local":
            raise UserError(f"cluster {self.cluster!r} needs an executor that has one: ray or dask")

    @property
    def count(self) -> int:
        """The number of workers."""
        return self.workers or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )


class Executor(Protocol):
    """Runs ``function(*task)`` for every task; yields results as they come. Tasks are taken from the iterable when a worker nears them."""

    def __call__(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results."""


@dataclass(frozen=True)
class _Backend:
    """What joblib is told: a backend's name, the number of tasks side by side, and whether workers are this process's children."""

    name: str
    jobs: int
    children: bool = False


@contextmanager
def start(config: ExecutorConfig) -> Iterator[Executor]:
    """Start the workers, and end them in any case.

    Raises:
        MissingDependencyError: joblib, ray or distributed is not installed.
        BackendError: the cluster cannot be reached, or a worker died. What workers raise of ours is raised as it is.
    """
    need("joblib")
    with ExitStack() as stack:
        try:
            backend = stack.enter_context(_BACKENDS[config.kind](config))
        except EdgecnnError:
            raise
        except Exception as error:
            where = f"the cluster at {config.cluster}" if config.cluster else "a cluster on this machine"
            raise BackendError(f"{config.kind} cannot use {where}: {_line(error)}") from error

        def run(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            return _results(config.kind, backend, function, tasks)

        yield run


def _results(
    kind: str, backend: _Backend, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
    """Yield results through joblib."""
    from joblib import Parallel, delayed, parallel_config

    parent, results = os.getpid() if backend.children else 0, None
    try:
        with parallel_config(backend=backend.name, n_jobs=backend.jobs):
            parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=_AHEAD * backend.jobs)
            results = parallel(delayed(_run)(parent, function, task) for task in tasks)
        for result in results:  # noqa: UP028 -- "yield from" would close the results, and they warn
            yield result
    except EdgecnnError as error:
        raise _cause(error) from None
    except Exception as error:
        raise BackendError(
            f"a worker of {kind} failed: {_line(error)}; the same command goes on where this one stopped"
        ) from error
    finally:
        if results is not None:
            _abandon(results)


def _run(parent: int, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    """Do one task, in a worker."""
    if parent not in (0, os.getpid()):
        _follow(parent)
    return function(*task)


def _abandon(results: Any) -> None:
    """Cancel what is still running. joblib warns of results that nobody takes, which is what is wanted here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):
            results.close()


@contextmanager
def _local(config: ExecutorConfig) -> Iterator[_Backend]:
    """Run in joblib's processes. One worker alone is this process."""
    many = config.count > 1
    try:
        yield _Backend("loky" if many else "sequential", config.count, children=many)
    finally:
        if many:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)


@cache
def _follow(parent: int) -> None:
    """Make a worker leave Ctrl-C to its parent, and end when that is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray(config: ExecutorConfig) -> Iterator[_Backend]:
    """Run on Ray: on the cluster at an address, on one that this program is connected to already, or on one that is started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports home unless told otherwise
    ray: Any = need("ray")
    need("ray.util.joblib.ray_backend")
    from joblib import register_parallel_backend
    from ray.util.joblib.ray_backend import RayBackend

    class Streaming(RayBackend):
        """Ray's backend, whose pool calls back at every result, as joblib's generators need; it inherits a "no" from another pool."""

        supports_return_generator = True

    register_parallel_backend("edgecnn-ray", Streaming)
    own = not ray.is_initialized()
    if own:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if config.cluster:
            ray.init(address=config.cluster, **quiet)
        else:
            # Only counts travel: the store of shared objects, else 30 % of the memory, stays at about Ray's least.
            ray.init(
                address="local", num_cpus=config.count, include_dashboard=False, object_store_memory=100 << 20, **quiet
            )
    try:
        yield _Backend("edgecnn-ray", config.workers or int(ray.cluster_resources()["CPU"]))
    finally:
        if own:
            ray.shutdown()


@contextmanager
def _dask(config: ExecutorConfig) -> Iterator[_Backend]:
    """Run on Dask: on the scheduler at an address, or on processes that are started here."""
    distributed: Any = need("distributed")
    with ExitStack() as stack:
        target: Any = config.cluster
        if not target:
            quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
            target = stack.enter_context(
                distributed.LocalCluster(n_workers=config.count, threads_per_worker=1, **quiet)
            )
        client = stack.enter_context(distributed.Client(target))
        yield _Backend("dask", config.workers or sum(client.ncores().values()))


_BACKENDS: dict[str, Callable[[ExecutorConfig], AbstractContextManager[_Backend]]] = {
    "local": _local,
    "ray": _ray,
    "dask": _dask,
}


def _cause(error: BaseException) -> BaseException:
    """Return what a worker raised: Ray wraps it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _line(error: BaseException) -> str:
    """Return an error as one line."""
    error = _cause(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
