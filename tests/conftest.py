"""What several folders of tests share, because it takes minutes to make."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Before anything loads OpenMP: threads of two processes that wait for one another on the same core, each burning its time slice,
    # make a double-precision convolution with thousands of groups take minutes instead of half a second.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

FIRST = ("test_readme", "native_cpp")
"""What takes minutes: begun first, so that no worker is left with it alone in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, since they share what it sets up, and those of C++ too, which build it once."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = "native_cpp" if item.path.parent.name == "native_cpp" else item.path.stem
        groups.setdefault(name if name in FIRST else str(item.path), []).append(item)
    for name, members in groups.items():
        for item in members:
            item.add_marker(pytest.mark.xdist_group(name))
    ordered = sorted(groups.items(), key=lambda group: group[0] not in FIRST)
    items[:] = [item for _, members in ordered for item in members]


@pytest.fixture(autouse=True, scope="module")
def _collect_quickly() -> None:
    """Keep the garbage collector from walking through PyTorch each time that edgecnn collects a graph, which is often with small ones."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Do the main job once, and return the bundle and the command's document; the bundle is to be read and never changed.

    It calibrates on fewer images than by default, since rounding weights on them takes minutes.
    """
    out = tmp_path_factory.mktemp("main") / "efficientnet_lite0-int8"
    arguments = ("export", "efficientnet_lite0", "--int8", "--target", "cpu", "--calib-images", "32", "-o", str(out))
    command = [sys.executable, "-m", "edgecnn", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)
