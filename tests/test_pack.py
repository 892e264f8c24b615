"""What is put into a bundle while others put something into it too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "runtime"))

from tiny_bundle import write_model, write_tiny

from edgecnn.artifacts import Engine, EngineFacts, sha256_file
from edgecnn.errors import BundleCorruptError, UserError
from edgecnn.pack import VariantContents, add_engines, add_results
from edgecnn.runtime import Bundle


def engine(bundle: Bundle, folder: Path, flavour: str) -> Engine:
    """Return an engine of the bundle's fp32, as far as a bundle looks at one."""
    path = folder / f"{flavour}.plan"
    path.write_bytes(flavour.encode())
    facts = EngineFacts(
        flavour=flavour, version="10.3.0", cuda="12", driver_cuda="12.6", compute_capabilities=("8.7",), platform="linux-aarch64",
        precision="fp32", profile={"input": ((1, 3, 32, 32),) * 3}, options={}, model_sha256=sha256_file(bundle.model_path("fp32")),
        timing_cache_sha256="", seconds=1.0, audit={"passed": True},
    )  # fmt: skip
    return Engine(path=path, sha256=sha256_file(path), bytes=path.stat().st_size, facts=facts)


def test_what_was_added_since_a_bundle_was_opened_stays(tmp_path: Path) -> None:
    """Two builds side by side take minutes, and each opened the bundle before the other one had ended."""
    first = write_tiny(tmp_path)
    second, third = (Bundle.open(first.path) for _ in range(2))
    add_engines(first, [("fp32", engine(first, tmp_path, "tensorrt"))])
    add_engines(second, [("fp32", engine(second, tmp_path, "tensorrt-rtx"))])
    found = add_results(third, {"orin/bench.json": {"ms": 1}}).manifest
    assert set(found.engines) == {"fp32.tensorrt", "fp32.tensorrt-rtx"}
    assert {"engine.fp32.tensorrt.plan", "engine.fp32.tensorrt-rtx.plan", "results/orin/bench.json"} <= set(found.files)


def test_an_engine_of_a_graph_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    opened = write_tiny(tmp_path)
    built = engine(opened, tmp_path, "tensorrt")
    other = VariantContents(model=write_model(tmp_path, bias=1.0), verified=True)
    write_tiny(tmp_path, variants=[other], force=True)
    with pytest.raises(UserError, match="was built from another graph"):
        add_engines(opened, [("fp32", built)])
    assert not Bundle.open(opened.path).manifest.engines


def test_a_bundle_that_is_not_whole_any_more_is_left_as_it_is(tmp_path: Path) -> None:
    opened = write_tiny(tmp_path)
    built = engine(opened, tmp_path, "tensorrt")
    (opened.path / "labels.txt").write_text("changed by hand\n")
    before = {path.name: path.read_bytes() for path in opened.path.iterdir()}
    with pytest.raises(BundleCorruptError, match=r"labels\.txt"):
        add_engines(opened, [("fp32", built)])
    assert {path.name: path.read_bytes() for path in opened.path.iterdir()} == before
