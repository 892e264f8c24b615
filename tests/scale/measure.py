"""Measure what one more worker brings and costs, and what memory is needed.

    python tests/scale/measure.py BUNDLE DATA [ROUNDS [LIMIT]]
    python tests/scale/measure.py --memory 5000 50000

Executors take turns, each in a fresh process with an empty cache, so that a noisy machine disturbs all alike; ratios are to one
worker in the same round.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from scale_data import children, write_pictures

RUNS = (("local", 1), ("local", 2), ("ray", 2), ("dask", 2))
VARIANT = "int8-cpu"


class Watch:
    """Looks at this process and those below it, twice a second.

    Attributes:
        megabytes: the most that all of them took at once; what they share is divided among those who share it.
        own, worker: the most resident memory of this process, and of any one below it, MB.
    """

    def __init__(self) -> None:
        self.megabytes = self.own = self.worker = 0.0
        self._cpu: dict[int, float] = {}
        self._over = threading.Event()
        threading.Thread(target=self._look_on, daemon=True).start()

    def stop(self) -> float:
        """Stop, and return the seconds of processor time."""
        self._over.set()
        self._look()
        return sum(self._cpu.values())

    def _look_on(self) -> None:
        while not self._over.wait(0.5):
            self._look()

    def _look(self) -> None:
        here = os.getpid()
        below = children(here)
        self.megabytes = max(
            self.megabytes, sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in {here, *below}) / 1024
        )
        self.own = max(self.own, _kilobytes(here, "status", "VmHWM:") / 1024)
        self.worker = max([self.worker, *(_kilobytes(pid, "status", "VmHWM:") / 1024 for pid in below)])
        for pid in {here, *below}:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            self._cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kilobytes(pid: int, file: str, name: str) -> int:
    """Return a line of what the kernel says of a process."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)


def one(kind: Any, workers: int, bundle: str, data: str, limit: int) -> dict[str, Any]:
    """Evaluate once, in this process."""
    from edgecnn.runtime import OrtOptions
    from edgecnn.scale.executor import ExecutorConfig
    from edgecnn.scale.run import evaluate_at_scale

    times: list[float] = []
    watch = Watch()
    started = time.monotonic()
    config = ExecutorConfig(kind=kind, workers=workers)
    result = evaluate_at_scale(
        bundle,
        data,
        config,
        variants=[VARIANT],
        options=OrtOptions(),
        limit=limit,
        progress=lambda *_: times.append(time.monotonic()),
    )
    wall = time.monotonic() - started
    cpu = watch.stop()
    shards = times[1:]  # the first report is of what was done before
    return {
        "wall": wall,
        "shards_per_s": (len(shards) - workers) / span if (span := shards[-1] - shards[workers - 1]) else math.nan,
        "first": shards[0] - started,
        "cpu": cpu,
        "megabytes": watch.megabytes,
        "result": result.to_json(),
    }


def fresh(kind: str, workers: int, bundle: str, data: str, limit: int) -> dict[str, Any]:
    """Evaluate once, in a process and with a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "EDGECNN_CACHE": cache, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, __file__, "--one", kind, str(workers), bundle, data, str(limit)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(bundle: str, data: str, rounds: int = 3, limit: int = 1 << 40) -> None:
    """Print a line for every executor."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {run: [] for run in RUNS}
    for _ in range(rounds):
        for run in RUNS:
            found[run].append(fresh(*run, bundle, data, limit))
            print(*run, {k: round(v, 2) for k, v in found[run][-1].items() if k != "result"}, file=sys.stderr)
    assert len({json.dumps(one["result"]) for ones in found.values() for one in ones}) == 1, "not the same bits"
    base = found[RUNS[0]]
    print(
        "| executor | workers | speed-up, whole command | speed-up, once running | processor time | first shard, s | MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for (kind, workers), ones in found.items():
        pairs = list(zip(base, ones, strict=True))
        cells = (
            statistics.median(b["wall"] / o["wall"] for b, o in pairs),
            statistics.median(o["shards_per_s"] / b["shards_per_s"] for b, o in pairs),
            statistics.median(o["cpu"] / b["cpu"] for b, o in pairs),
        )
        first, memory = (statistics.median(o[name] for o in ones) for name in ("first", "megabytes"))
        print(f"| {kind} | {workers} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {first:.1f} | {memory:.0f} |")


def memory(counts: list[int]) -> None:
    """Print a line for every number of pictures: hard links to 100 small ones, in five classes, on a tiny bundle."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
    from tiny_bundle import write_tiny

    print("| images | workers | MB of the command | MB of the largest worker |")
    print("|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = write_tiny(Path(scratch)).path
            pictures = [p for p in write_pictures(Path(scratch) / "few", 100).iterdir() if p.suffix == ".png"]
            for index in range(count):
                place = Path(scratch) / "many" / str(index % 5) / f"{index:08}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.hardlink_to(pictures[index % 100])
            for workers in (0, 2):
                command = [sys.executable, __file__, "--one-memory", str(workers), str(bundle), f"{scratch}/many"]
                environment = {**os.environ, "EDGECNN_CACHE": f"{scratch}/cache"}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                own, worker, images = json.loads(done.stdout)
                assert images == count
                print(f"| {count} | {workers or 'none'} | {own:.0f} | {worker:.0f} |", flush=True)


def one_memory(workers: int, bundle: str, data: str) -> tuple[float, float, int]:
    """Evaluate once, in this process; return its memory, a worker's, and the number of images."""
    from edgecnn.parity.evaluate import evaluate
    from edgecnn.runtime import OrtOptions
    from edgecnn.scale.executor import ExecutorConfig
    from edgecnn.scale.run import evaluate_at_scale

    watch = Watch()
    config = ExecutorConfig(workers=workers)
    options = OrtOptions(threads=1)
    found = (
        evaluate_at_scale(bundle, data, config, options=options) if workers else evaluate(bundle, data, options=options)
    )
    watch.stop()
    return watch.own, watch.worker, found.variants[0].images


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(one(sys.argv[2], int(sys.argv[3]), *sys.argv[4:6], int(sys.argv[6]))))
    elif sys.argv[1] == "--one-memory":
        print(json.dumps(one_memory(int(sys.argv[2]), sys.argv[3], sys.argv[4])))
    elif sys.argv[1] == "--memory":
        memory([int(count) for count in sys.argv[2:]])
    else:
        main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
