"""The page of GPU results, from rows as the GPU's tests leave them; what a machine without one can prove of them."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine_nets
import page
import pytest
from device_jobs import JOBS, small_nets
from engine_machine import Machine
from zoo_jobs import PRECISIONS, Network, compared

from edgecnn import zoo
from edgecnn.onnxio import open_model
from edgecnn.parity.samples import gaussian
from edgecnn.runtime import OrtSession
from edgecnn.spec import TensorSpec

MADE = {"device": "H (9.0), driver for CUDA 13.0", "versions": "tensorrt 10.9", "commit": "abc1234"}


def variants(**changes: Any) -> dict[str, Any]:
    one = {"passed": True, "sqnr_db": 51.24, "top1": 100.0, "milliseconds": 1.5, "ratio": 0.5, "spread": 0.01}
    return {name: {**one, **changes} for name in PRECISIONS}


def test_the_page_is_what_the_kept_rows_give() -> None:
    kept = json.loads(page.KEPT.read_text()) if page.KEPT.exists() else {}
    assert page.PAGE.read_text() == page.page(kept), "run: python tests/gpu/page.py"


def test_without_rows_every_part_says_that_it_never_ran() -> None:
    assert page.page({}).count(page.NEVER) == len(page.TITLES)


def test_rows_replace_those_of_earlier_runs_and_the_others_stay(tmp_path: Path) -> None:
    for kind, name, row in (
        ("cuda", "resnet50", {"new": 1}),
        ("tensorrt-rtx-probe", "mobilenet_v3_small", {"refusal": ""}),
    ):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{name}.json").write_text(json.dumps(row))
    (tmp_path / "deform_conv2d.json").write_text('{"device": "H"}')
    kept = {"cuda": {"resnet50": {"new": 0}, "vgg11": {"new": 0}}}
    assert page.collected(tmp_path, kept) == {
        "cuda": {"resnet50": {"new": 1}, "vgg11": {"new": 0}},
        "kernel": {"deform_conv2d": {"device": "H"}},
        "tensorrt-rtx-probe": {"mobilenet_v3_small": {"refusal": ""}},
    }
    assert kept == {"cuda": {"resnet50": {"new": 0}, "vgg11": {"new": 0}}}


def test_tables_of_the_zoo() -> None:
    engine = {"convolutions": {"int8": 53, "fp32": 1}, "audit": "engine", "reformats": 7, "as_asked": True}
    rows = {
        "cuda": {"resnet50": {**MADE, "variants": variants(sqnr_db=None)}},
        "tensorrt": {
            "resnet50": {**MADE, "variants": variants(**engine)},
            "googlenet": {**MADE, "variants": variants(**{**engine, "as_asked": False})},
        },
        "tensorrt-rtx-probe": {"mobilenet_v3_small": {**MADE, "refusal": "no such architecture"}},
    }
    text = page.page(rows)
    assert text.count(page.NEVER) == 3  # the device's jobs, and the plugin's two
    assert "| resnet50 | 1.500 | 0.50 / identical |" in text
    lines = [line for line in text.splitlines() if "| 54 |" in line or "53 of 54 (engine) | 7 |" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| googlenet", "| resnet50"]  # the zoo's order
    assert [line.split(" | ")[-4] for line in lines] == ["NO", "yes"]
    assert lines[1].endswith("| H (9.0), driver for CUDA 13.0 | tensorrt 10.9 | abc1234 |")
    assert "H (9.0), driver for CUDA 13.0 (tensorrt 10.9): does not run: no such architecture." in text
    heads = {line.count("|") for line in text.splitlines() if line.startswith(("| model", "|---"))}
    assert heads == {11, 13}
    assert {line.count("|") for line in lines} == {13}


def test_tables_of_the_plugin() -> None:
    kernel = {"device": "H", "nvcc": "13.0", "conv3 batch 1 float32, ms": {"plugin": 0.1234, "grid_sample": 2.0}}
    kernel["conv4 batch 1 float32, ms"] = {"plugin": 0.2, "torchvision": 1.0}
    row = {**MADE, "model": "v1-float32", "max_abs": 1.234e-6, "of": 3.0}
    jobs = {"refit tensorrt": {**MADE, "model": "refit tensorrt"}}
    text = page.page({"kernel": {"deform_conv2d": kernel}, "plugin": {"v1-float32": row}, "device": jobs})
    assert "| refit tensorrt | H (9.0), driver for CUDA 13.0 | tensorrt 10.9 | abc1234 |" in text
    assert "H, nvcc 13.0." in text
    assert "| layer | plugin | grid_sample | torchvision |" in text
    assert "| conv3 batch 1 float32, ms | 0.123 | 2.000 | - |" in text
    assert "| v1-float32 | 1.2e-06 | 3 | H (9.0)" in text


@pytest.mark.parametrize("job", JOBS)
def test_what_is_asked_of_a_device_is_asked_of_fakes(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.pipeline.gate.SECONDS", 0.02)
    machine = Machine(monkeypatch, tmp_path / "cache")
    JOBS[job](small_nets(tmp_path), "tensorrt", tmp_path)
    gc.collect()
    assert machine.cuda.held == 0


def test_networks_are_compared_and_measured(tmp_path: Path) -> None:
    """With onnxruntime's CPU in the GPU's place: two sessions of one graph agree, and one of another graph does not."""
    (tmp_path / "net.onnx").write_bytes(engine_nets.network())
    model = open_model(tmp_path / "net.onnx")
    found = Network(dict.fromkeys(PRECISIONS, model), [gaussian(TensorSpec(name="input", shape=("batch", 3, 16, 16)))])
    (tmp_path / "other.onnx").write_bytes(engine_nets.network().replace(b"Relu", b"Sign"))
    with OrtSession(model.path) as one, OrtSession(tmp_path / "other.onnx") as other:
        rows = compared(found, one, {"fp32": one, "fp16": other}, seconds=0.01)
    assert (rows["fp32"]["passed"], rows["fp32"]["ratio"], rows["fp32"]["sqnr_db"]) == (True, 1, None)
    assert rows["fp16"]["passed"] is False
    assert rows["fp16"]["sqnr_db"] < 20
    assert rows["fp16"]["milliseconds"] > 0


@pytest.mark.parametrize("words", [[], ["-k", "resnet50"]])
def test_what_needs_a_gpu_is_collected(words: list[str]) -> None:
    """And nothing of it runs unasked."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "tests/gpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    models = zoo.names() if not words else [name for name in zoo.names() if "resnet50" in name]
    for test in ("test_the_cuda_provider_computes_what_the_cpu_does", "test_engines_compute_what_the_cpu_does"):
        assert sum(test in line for line in done.stdout.splitlines()) == len(models) * (1 + ("engines" in test))
    if not words:
        assert "test_goldens_inside_an_engine" in done.stdout
