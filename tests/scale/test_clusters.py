"""The same bits on real clusters of two workers: Ray's and Dask's, on this machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from scale_data import ONE, alive, bits, children, finished, raise_it, stop_after, wait_for

from edgecnn.errors import BackendError, DataError
from edgecnn.parity.evaluate import Evaluation, evaluate
from edgecnn.scale.executor import ExecutorConfig, start
from edgecnn.scale.run import evaluate_at_scale


@pytest.fixture(autouse=True)
def their_warnings() -> Iterator[None]:
    """Let both warn: of their own resources, and of what Python versions to come will not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Start Ray with two workers, once for all tests: a program that is connected already is used as it is."""
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find raise_it
        warnings.simplefilter("ignore")
        before = children(os.getpid())
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=2, include_dashboard=False, **quiet)
        own = children(os.getpid()) - before
        yield
        ray.shutdown()
        wait_for(lambda: not alive(own), seconds=30)


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[str]:
    """Start Dask with two workers; return its scheduler's address."""
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
            yield cluster.scheduler_address


@pytest.fixture(params=["ray", "dask"])
def config(request: pytest.FixtureRequest) -> ExecutorConfig:
    """Return how to run on a cluster that is there."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        return ExecutorConfig(kind="ray", workers=2)
    return ExecutorConfig(kind="dask", cluster=request.getfixturevalue("dask_cluster"))


@pytest.fixture(scope="module")
def expected(bundle: Path, data: Path) -> Evaluation:
    return evaluate(bundle, data, options=ONE)


def test_a_cluster_gives_the_same_bits_also_after_an_interruption(
    bundle: Path, data: Path, expected: Evaluation, config: ExecutorConfig, cache: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_at_scale(bundle, data, config, options=ONE, progress=stop_after(2))
    assert len(finished(cache)) >= 4
    seen: list[int] = []
    result = evaluate_at_scale(bundle, data, config, options=ONE, progress=lambda _, done, total: seen.append(done))
    assert bits(result) == bits(expected)
    assert seen[0] >= 2


def test_work_is_done_by_other_processes_and_taken_as_it_is_needed(config: ExecutorConfig) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[tuple[()]]:
        for number in range(40):
            taken.append(number)
            yield ()

    with start(config) as run:
        results = run(os.getpid, tasks())
        pids = {next(results)}
        assert len(taken) < 40, "the listing is read when it is due"
        pids |= set(results)
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert len(taken) == 40


def test_errors_on_a_cluster_arrive(config: ExecutorConfig) -> None:
    with start(config) as run, pytest.raises(DataError, match=r"^of ours$"):
        list(run(raise_it, [(DataError("of ours"),)]))
    with start(config) as run, pytest.raises(BackendError, match=r"failed: .*theirs.*; the same command goes on"):
        list(run(raise_it, [(RuntimeError("theirs"),)]))


def test_a_scheduler_that_is_not_there() -> None:
    pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(BackendError, match=r"dask cannot use the cluster at tcp://127.0.0.1:9"),
        start(ExecutorConfig(kind="dask", cluster="tcp://127.0.0.1:9")),
    ):
        pass
