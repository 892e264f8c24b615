"""Pictures by the hundred, what is known of an evaluation and of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecnn.parity.evaluate import Evaluation
from edgecnn.runtime import OrtOptions

ONE = OrtOptions(threads=1)


def write_pictures(folder: Path, count: int, classes: int = 5) -> Path:
    """Write small pictures of coloured blocks with a labels.csv."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    lines = ["file,label"]
    for index in range(count):
        blocks = draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(folder / f"{index:05}.png")
        lines.append(f"{index:05}.png,{index % classes}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def bits(result: Evaluation) -> Any:
    """Return everything of a result but how long it took."""
    rows = [{k: v.hex() if isinstance(v, float) else v for k, v in row.items()} for row in result.to_json()["variants"]]
    return rows, result.unreadable, dict(result.skipped), result.labels


def finished(cache: Path) -> list[Path]:
    """Return the files of finished shards."""
    return sorted(cache.glob("evaluations/*/*-*.json"))


def stop_after(shards: int) -> Any:
    """Return a progress function that fails as Ctrl-C does, once so many shards are done."""

    def report(step: str, done: int, total: int) -> None:
        if done >= shards:
            raise KeyboardInterrupt

    return report


def children(parent: int) -> set[int]:
    """Return the processes below a process."""
    found, todo = set(), [parent]
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    while todo:
        above = todo.pop()
        new = {pid for pid, its in parents.items() if its == above}
        found |= new
        todo += new
    return found


def alive(pids: set[int]) -> set[int]:
    """Return the processes that still run (and are no zombies)."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.add(pid)
    return running


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def raise_it(error: Exception) -> None:
    """Raise an error, in a worker."""
    raise error
