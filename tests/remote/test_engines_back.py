"""What a device built and measured comes back whole: engines, their speeds, and the notes that say why one is the default."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from tiny_bundle import write_tiny

from edgecnn.artifacts import Engine, EngineFacts, EngineSpeed, sha256_file
from edgecnn.pack import add_engines
from edgecnn.remote.inventory import Device
from edgecnn.remote.job import Job
from edgecnn.remote.run import File, Prepared, _fetch_engines, _place
from edgecnn.remote.sync import path_tree
from edgecnn.runtime import Bundle

NOTE = "latency of tensorrt: INT8 is faster, so int8 is the default"


class FolderJob:
    """A job on a device that is a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []

    def files(self, places: list[str], *, keep: bool = False) -> dict[str, tuple[str, int]]:
        return {place: (sha256_file(self.root / place), (self.root / place).stat().st_size) for place in places}

    def fetch(self, place: str, sha: str, size: int, to: Path) -> None:
        self.fetched.append(Path(place).name)
        shutil.copyfile(self.root / place, to)


def engine(bundle: Bundle, folder: Path, content: bytes = b"plan", **changes: Any) -> Engine:
    """Return an engine of the bundle's fp32."""
    path = folder / "x.plan"
    path.write_bytes(content)
    facts = EngineFacts(
        flavour="tensorrt", version="10.3.0", cuda="12", driver_cuda="12.6", compute_capabilities=("8.7",), platform="linux-aarch64",
        precision="fp32", profile={"input": ((1, 3, 32, 32),) * 3}, options={}, model_sha256=sha256_file(bundle.model_path("fp32")),
        timing_cache_sha256="", seconds=1.0, audit={"passed": True}, **changes,
    )  # fmt: skip
    return Engine(path=path, sha256=sha256_file(path), bytes=len(content), facts=facts, lineage=())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle with an engine that nobody measured."""
    written = write_tiny(tmp_path, "net")
    return add_engines(written, [("fp32", engine(written, tmp_path))])


def test_an_engine_of_the_same_bytes_that_was_measured_comes_with_its_speed_and_note(
    bundle: Bundle, tmp_path: Path
) -> None:
    prepared = Prepared(
        verb="build",
        arguments=(File(path=bundle.path, role="bundle"),),
        trees={0: path_tree(bundle.path)},
        bundles={0: bundle},
    )
    far = tmp_path / "device" / _place(0, bundle.path.name)
    shutil.copytree(bundle.path, far)
    job, device = FolderJob(tmp_path / "device"), Device(name="orin", host="orin")
    assert _fetch_engines(cast("Job", job), 0, prepared, device, own_copy=False) == []
    assert job.fetched == []
    speed = EngineSpeed(milliseconds=1.5, ratio=0.6, baseline="fp16", gpu="Orin (8.7)")
    add_engines(Bundle.open(far), [("fp32", engine(bundle, tmp_path, speed=speed))], notes=[NOTE])
    assert _fetch_engines(cast("Job", job), 0, prepared, device, own_copy=False) == []
    assert job.fetched == ["manifest.json", "engine.fp32.tensorrt.plan"]
    after = Bundle.open(bundle.path)
    assert after.manifest.engines["fp32.tensorrt"].facts.speed == speed
    assert after.manifest.notes == (*bundle.manifest.notes, NOTE)
