"""Evaluation in shards: the same bits however it runs, exact counts after a kill, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli
from scale_data import ONE, alive, bits, children, finished, stop_after, wait_for, write_pictures
from tiny_bundle import write_model, write_tiny

from edgecnn.errors import BackendError, DataError, MissingDependencyError, UserError
from edgecnn.pack import VariantContents
from edgecnn.parity.evaluate import Evaluation, evaluate
from edgecnn.runtime import OrtOptions
from edgecnn.scale import run
from edgecnn.scale.executor import ExecutorConfig
from edgecnn.scale.run import evaluate_at_scale

LOCAL = [ExecutorConfig(workers=1), ExecutorConfig(workers=2)]


@pytest.fixture(scope="module")
def expected(bundle: Path, data: Path) -> Evaluation:
    """Return what one process without shards finds."""
    return evaluate(bundle, data, options=ONE)


def at_scale(bundle: Path, data: Path, config: ExecutorConfig = LOCAL[1], **options: Any) -> Evaluation:
    return evaluate_at_scale(bundle, data, config, **{"options": OrtOptions(), **options})


@pytest.mark.parametrize("config", LOCAL, ids=["one worker", "two workers"])
def test_any_number_of_workers_gives_the_same_bits(
    bundle: Path, data: Path, expected: Evaluation, config: ExecutorConfig, cache: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    result = at_scale(bundle, data, config, progress=lambda *step: seen.append(step))
    assert bits(result) == bits(expected)
    assert (result.variants[1].images, result.unreadable) == (298, 2)
    assert [done for _, done, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert set(result.images_per_s) == {"fp32", "int8-cpu"}
    assert list(cache.glob("evaluations/*")) == [], "the result is delivered"


def test_an_interrupted_run_goes_on_with_the_same_bits(
    bundle: Path, data: Path, expected: Evaluation, cache: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], progress=stop_after(2))
    assert len(finished(cache)) == 4, "two shards of two variants"
    times = {file: file.stat().st_mtime_ns for file in finished(cache)}
    seen: list[int] = []

    def watch(step: str, done: int, total: int) -> None:
        assert {file: file.stat().st_mtime_ns for file in times} == times, "done again"
        seen.append(done)

    assert bits(at_scale(bundle, data, progress=watch)) == bits(expected)
    assert seen == [2, 3, 4, 5]


def test_killed_before_it_could_say_the_result_there_is_nothing_left_to_do(
    bundle: Path, data: Path, expected: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], progress=stop_after(5))
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert bits(at_scale(bundle, data, LOCAL[0])) == bits(expected)


def test_a_variant_more_does_what_it_lacks_and_no_more(
    bundle: Path, data: Path, expected: Evaluation, cache: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], variants=["int8-cpu"], progress=stop_after(3))
    before = {file: file.stat().st_mtime_ns for file in finished(cache)}
    assert len(before) == 3
    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], progress=stop_after(3))
    after = finished(cache)
    assert len(after) == 6
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert bits(at_scale(bundle, data, LOCAL[0])) == bits(expected)


def test_a_damaged_shard_is_done_again(bundle: Path, data: Path, expected: Evaluation, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], progress=stop_after(3))
    files = finished(cache)
    files[0].write_text("{")
    files[1].write_text(json.dumps({**json.loads(files[1].read_text()), "images": 3}))
    assert bits(at_scale(bundle, data, LOCAL[0])) == bits(expected)


@pytest.mark.parametrize("change", ["data", "options", "bundle"])
def test_what_was_done_of_something_else_does_not_count(bundle: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    folder, options = write_pictures(tmp_path / "data", 150), ONE
    with pytest.raises(KeyboardInterrupt):
        at_scale(tmp_path / "bundle", folder, LOCAL[0], options=options, progress=stop_after(1))
    if change == "data":
        shutil.copy(folder / "00100.png", folder / "00001.png")
    elif change == "options":
        options = OrtOptions(threads=2)
    else:
        manifest = tmp_path / "bundle" / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
    seen: list[int] = []
    result = at_scale(
        tmp_path / "bundle", folder, LOCAL[0], options=options, progress=lambda _, done, total: seen.append(done)
    )
    assert seen == [0, 1, 2, 3]
    assert bits(result) == bits(evaluate(tmp_path / "bundle", folder, options=options))


def test_memory_does_not_grow_with_the_number_of_pictures(bundle: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", 10)

    def peak(count: int) -> int:
        lines = ["file,label", *(f"{index % 10:05}.png,{index % 5}" for index in range(count))]
        (folder / "labels.csv").write_text("\n".join(lines))
        tracemalloc.start()
        assert at_scale(bundle, folder, LOCAL[0]).variants[1].images == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # what is made once
    bound = peak(200) + 30_000  # 1,200 paths in memory take several times that
    found = []
    while len(found) < 3 and not (
        found and found[-1] < bound
    ):  # what another thread of this process makes is counted too
        found.append(peak(1400 + len(found)))
    assert found[-1] < bound, found


def test_the_same_evaluation_runs_once_at_a_time(bundle: Path, data: Path) -> None:
    def again(step: str, done: int, total: int) -> None:
        with pytest.raises(UserError, match="the same evaluation is running in another process"):
            at_scale(bundle, data, LOCAL[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_scale(bundle, data, LOCAL[0], progress=again)


def test_errors_of_workers_arrive_as_they_are(bundle: Path, data: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path, "fp32"), write_model(tmp_path, "int8-cpu", bias=float("nan"))
    bad = write_tiny(tmp_path, variants=[VariantContents(model=m, verified=True) for m in model], golden={}).path
    with pytest.raises(BackendError, match="NaN or infinity: `edgecnn verify`"):
        at_scale(bad, data)
    assert at_scale(bad, data, variants=["fp32"]).variants[0].images == 298


def test_a_worker_with_other_versions_is_refused(
    bundle: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = run._version
    monkeypatch.setattr(run, "_version", lambda package: "0.0.1" if package == "numpy" else true(package))
    with pytest.raises(UserError, match=r"a worker on .* has numpy .*, and this command 0\.0\.1: install the same"):
        at_scale(bundle, data, LOCAL[1])
    assert finished(cache) == []


def test_too_many_corrupt_pictures_end_it(bundle: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", 200)
    for index in range(150, 171):
        (folder / f"{index:05}.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"21 of the first .* cannot be decoded, more than 10 % of all 200: .*00150.png"
    ):
        at_scale(bundle, folder)


def test_a_bad_configuration() -> None:
    with pytest.raises(UserError, match="executor 'slurm' is not one of local, ray, dask"):
        ExecutorConfig(kind="slurm")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="workers must be a whole number"):
        ExecutorConfig(workers=-1)
    with pytest.raises(UserError, match="needs an executor that has one: ray or dask"):
        ExecutorConfig(cluster="tcp://10.0.0.1:8786")


@pytest.mark.parametrize(("kind", "package"), [("local", "joblib"), ("ray", "ray"), ("dask", "distributed")])
def test_an_executor_that_is_not_installed(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}, .* pip install 'edgecnn\["):
        at_scale(bundle, data, ExecutorConfig(kind=kind, workers=2))


def test_evaluate_with_workers(cli: Cli, bundle: Path, data: Path) -> None:
    arguments = ("evaluate", bundle, "--data", data, "--backend", "onnxruntime", "--threads", "1", "--json")
    simple, many = cli(*arguments), cli(*arguments, "--workers", "2")
    assert (many.code, many.document) == (0, simple.document)
    assert many.err == simple.err
    assert many.err.count("warning: skipped") == 2
    assert "--cluster needs --executor" in cli(*arguments, "--cluster", "x:1").err


@pytest.fixture
def many_pictures(tmp_path: Path) -> Path:
    """Return pictures for a few seconds."""
    folder = write_pictures(tmp_path / "many", 64)
    lines = ["file,label", *(f"{index % 64:05}.png,{index % 5}" for index in range(64 * 60))]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def running(bundle: Path, many_pictures: Path, tmp_path: Path, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``edgecnn evaluate --workers 2`` in a session of its own, and wait until it has done a few shards."""
    command = [sys.executable, "-m", "edgecnn", "evaluate", str(bundle), "--data", str(many_pictures), "--workers", "2"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=os.environ.copy())
        try:
            wait_for(lambda: len(finished(cache)) >= 6 or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "output").read_text()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def test_killed_it_leaves_no_process_and_goes_on_with_exact_counts(
    running: subprocess.Popen[bytes], bundle: Path, many_pictures: Path, cache: Path
) -> None:
    workers = children(running.pid)
    assert len(workers) >= 2
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_for(lambda: not alive(workers), seconds=30)
    done = len(finished(cache))
    assert done >= 6
    seen: list[int] = []
    result = evaluate_at_scale(bundle, many_pictures, LOCAL[1], progress=lambda _, done, total: seen.append(done))
    assert seen[0] >= 1, "it began where the other one was killed"
    assert bits(result) == bits(evaluate(bundle, many_pictures, options=ONE))
    assert [score.images for score in result.variants] == [64 * 60] * 2


def test_interrupted_it_leaves_no_process_and_one_line(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    workers = children(running.pid)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert running.wait(timeout=60) == 130
    wait_for(lambda: not alive(workers), seconds=10)
    assert (tmp_path / "output").read_text().strip() == "error: interrupted"
