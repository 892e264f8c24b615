"""Whether a plan fits is decided from the manifest, before TensorRT sees it."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifacts import EngineFacts, sha256_file
from edgecnn.errors import EngineMisfitError, UserError
from edgecnn.runtime.plan import check_device, check_package, check_weights, rebuild_line

HERE = f"{platform.system().lower()}-{platform.machine().lower()}"
FACTS = EngineFacts(
    flavour="tensorrt",
    version="10.3.0",
    cuda="12",
    driver_cuda="12.6",
    compute_capabilities=("8.7",),
    platform=HERE,
    precision="int8",
    profile={"input": ((1, 3, 8, 8),) * 3},
    options={"batch": "1:8:32"},
    model_sha256="0" * 64,
    timing_cache_sha256="",
    seconds=1.0,
    audit={"passed": True},
)
REBUILD = "edgecnn build BUNDLE --target tensorrt --variant int8 --batch 1:8:32"


def test_what_fits_passes() -> None:
    check_package(FACTS, "10.3.0", "x.plan")
    check_device(FACTS, "8.7", "x.plan")
    check_device(replace(FACTS, compute_capabilities=()), "8.7", "x.plan")
    assert rebuild_line(FACTS) == REBUILD
    assert rebuild_line(replace(FACTS, options={}), "net") == "edgecnn build net --target tensorrt --variant int8"


@pytest.mark.parametrize(
    ("version", "changes", "text"),
    [
        (
            "10.16.0",
            {},
            "x.plan needs TensorRT 10.3.0, and 10.16.0 is installed here: install that version, or run: " + REBUILD,
        ),
        (
            "10.3.0",
            {"platform": "linux-mips"},
            f"x.plan was built on linux-mips, and this is {HERE}; here, run: {REBUILD}",
        ),
    ],
)
def test_another_version_or_platform(version: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EngineMisfitError) as caught:
        check_package(replace(FACTS, **changes), version, "x.plan")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("version", "fits"), [("10.3.0", True), ("10.16.1", True), ("10.2.9", False), ("11.1.0", False)]
)
def test_a_version_compatible_plan_takes_later_ones(version: str, fits: bool) -> None:
    facts = replace(FACTS, options={"version_compatible": True})
    if fits:
        check_package(facts, version, "x.plan", host_code=True)
        with pytest.raises(UserError, match="allow_host_code=True"):
            check_package(facts, version, "x.plan")
    else:
        with pytest.raises(EngineMisfitError, match=r"needs TensorRT 10\.3\.0 or a later 10, and"):
            check_package(facts, version, "x.plan", host_code=True)


def test_a_stripped_plan_needs_the_graph_that_it_was_built_from(tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    graph.write_bytes(b"graph")
    stripped = replace(FACTS, options={"strip_weights": True}, model_sha256=sha256_file(graph))
    check_weights(stripped, graph, "x.plan")
    check_weights(FACTS, None, "x.plan")
    with pytest.raises(UserError, match=r"x\.plan has no weights .*weights=FILE.*load it from its bundle"):
        check_weights(stripped, None, "x.plan")
    (tmp_path / "net.onnx.data").write_bytes(b"of another graph")
    for wrong in (graph, tmp_path / "none.onnx"):
        with pytest.raises(UserError, match=r"is not the graph that x\.plan was built from"):
            check_weights(stripped, wrong, "x.plan")
    check_weights(replace(stripped, model_sha256=sha256_file(graph, tmp_path / "net.onnx.data")), graph, "x.plan")


@pytest.mark.parametrize(
    ("flavour", "built", "hardware", "found", "fits"),
    [
        ("tensorrt", ("8.7",), "this", "8.6", False),
        ("tensorrt", ("8.6",), "ampere+", "12.0", True),
        ("tensorrt", ("8.6",), "ampere+", "10.3", True),
        ("tensorrt", ("8.6",), "ampere+", "7.5", False),
        ("tensorrt-rtx", ("8.6", "12.0"), "this", "12.0", True),
        ("tensorrt-rtx", ("8.6", "12.0"), "this", "9.0", False),
    ],
)
def test_another_gpu(flavour: str, built: tuple[str, ...], hardware: str, found: str, fits: bool) -> None:
    facts = replace(FACTS, flavour=flavour, compute_capabilities=built, options={"hardware": hardware})
    if fits:
        check_device(facts, found, "x.plan")
        return
    with pytest.raises(EngineMisfitError) as caught:
        check_device(facts, found, "x.plan")
    gpu = f" --gpu {found}" if flavour == "tensorrt-rtx" else ""
    assert str(caught.value) == (
        f"x.plan needs a GPU of compute capability {', '.join(built)}, and this one has {found}; run: "
        f"edgecnn build BUNDLE --target {flavour} --variant int8{gpu}"
    )
