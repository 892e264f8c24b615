"""``edgecnn bench`` as a command."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cli_tools import Cli
from tiny_bundle import write_tiny

from edgecnn.bench import BenchResult, read_result

QUICK = ("--duration", "100ms", "--warmup", "0.2s", "--threads", "1", "--no-roofline")


@pytest.fixture
def bench(cli: Cli) -> Cli:
    """Return a function that runs ``edgecnn bench`` in this process."""
    return partial(cli, "bench")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle's folder."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path


def test_the_document_is_a_result(bench: Cli, tiny: Path, tmp_path: Path) -> None:
    result = bench(tiny, "--json", *QUICK)
    assert result.code == 0, result.err
    path = tmp_path / "bench.json"
    path.write_text(result.out)
    read = read_result(path)
    assert (read.runs[0].label, read.runs[0].bundle) == ("int8-cpu@onnxruntime", str(tiny))
    assert read.runs[0].telemetry is not None
    assert read.config["duration"] == 0.1


def test_the_table_the_stages_and_the_file(bench: Cli, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "bench.csv"
    result = bench(tiny, "--variant", "all", "--backend", "onnxruntime", "--batch", "1,2", "--csv", place, *QUICK)
    assert result.code == 0, result.err
    for text in ("p99.9", "images/s", "fp32@onnxruntime batch 2", "int8-cpu@onnxruntime batch 1", "preprocess"):
        assert text in result.out
    rows = list(csv.DictReader(place.read_text().splitlines()))
    assert [(row["variant"], row["batch"]) for row in rows] == [
        ("fp32", "1"), ("fp32", "2"), ("int8-cpu", "1"), ("int8-cpu", "2"),
    ]  # fmt: skip
    assert all(float(row["p50_ms"]) > 0 and float(row["preprocess_p50_ms"]) > 0 for row in rows)
    assert rows[0]["load_rate"] == ""


def test_a_load(bench: Cli, tiny: Path) -> None:
    result = bench(tiny, "--rate", "poisson:50", "--deadline", "1s", "--streams", "2", *QUICK)
    assert result.code == 0, result.err
    assert "0 of 5 missed the deadline of 1000.0 ms at 50 a second (poisson)" in result.out
    document = bench(tiny, "--rate", "40", "--json", *QUICK).document
    assert document["runs"][0]["load"]["deadline_ms"] == 25.0


@pytest.mark.parametrize(
    ("sides", "labels"),
    [
        (("fp32", "int8-cpu@onnxruntime"), ["fp32@onnxruntime", "int8-cpu@onnxruntime"]),
        (("fp32@openvino", "bundle:fp32@onnxruntime"), ["fp32@openvino", "fp32@onnxruntime"]),
    ],
)
def test_a_comparison(bench: Cli, tiny: Path, sides: tuple[str, str], labels: list[str]) -> None:
    result = bench(tiny, "--compare", *sides, "--json", *QUICK)
    assert result.code == 0, result.err
    read = BenchResult.from_json(result.document)
    assert [run.label for run in read.runs] == labels
    assert read.comparisons[0].text
    assert read.comparisons[0].confidence == 0.95


def test_two_bundles_compared_by_name(bench: Cli, tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path, "other").path
    result = bench(tiny, other, "--compare", str(tiny), "other:fp32", *QUICK)
    assert result.code == 0, result.err
    assert "bundle:int8-cpu@onnxruntime" in result.out
    assert "other:fp32@onnxruntime" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--duration", "soon"), 2, "is no time"),
        (("--duration", "0s"), 2, "is no time"),
        (("--batch", "1,x"), 2, "not a list of whole numbers"),
        (("--batch", "0"), 2, "batch must be whole numbers of at least 1"),
        (("--rate", "often"), 2, "is no rate"),
        (("--deadline", "5ms"), 2, "give a rate too"),
        (("--backend", "caffe"), 2, "'caffe' is not one of"),
        (("--backend", "tensorrt"), 1, "the bundle has no engine for tensorrt"),
        (("--backend", "tensorrt", "--threads", "2"), 2, "threads are for CPUs"),
        (("--backend", "tensorrt,tensorrt-rtx", "--threads", "1,2"), 2, "threads are for CPUs"),
        (("--compare", "fp32", "int8-cpu@tensorrt", "--threads", "2"), 2, "threads are for CPUs"),
        (("--variant", "int4"), 1, "no variant 'int4'"),
        (("--compare", "fp32", "nowhere:fp32"), 2, "names none of the bundles"),
        (("--compare", "fp32", "int8-cpu", "--variant", "fp32"), 2, "leave out --variant"),
        (("--compare", "fp32", "int8-cpu", "--rate", "30"), 2, "back to back"),
        (("--backend", "onnxruntime", "--cuda-graph"), 2, "are for engines"),
        (("--provider", "cuda", "--plugin", "libx.so"), 2, "are for engines"),
        (("--provider", "cuda", "--backend", "openvino"), 2, "provider cuda is onnxruntime's"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(bench: Cli, tiny: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert message in bench(tiny, "--warmup", "0.1s", *arguments).failed(code)


def test_options_that_suit_one_backend_alone_leave_the_others_out(bench: Cli, tiny: Path) -> None:
    result = bench(tiny, *QUICK, "--backend", "onnxruntime,tensorrt", "--threads", "1")
    assert result.code == 0, result.err
    assert "warning: skipped bundle:tensorrt: threads are for CPUs" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--csv", "/nowhere/at/all.csv"), "/nowhere/at is not a folder"),
        (("--csv", "/proc/table.csv"), "cannot write /proc/table.csv"),
        (("--html", "."), "it is a folder; give the name of a file in it"),
        (("--html", "/proc/page.html"), "cannot write /proc/page.html"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    bench: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("edgecnn.bench.bench", lambda *_, **__: pytest.fail("it was measured"))
    assert message in bench(tiny, *arguments).failed()


def test_no_bundle_there(bench: Cli, tmp_path: Path) -> None:
    assert "no bundle at" in bench(tmp_path / "none").failed()
    error = json.loads(bench(tmp_path / "none", "--json").out)["error"]
    assert error["type"] == "BundleMissingError"


def test_the_remote_side_needs_the_runtime_alone(tiny: Path, blocked: Callable[[str], str]) -> None:
    out = blocked(
        f"from edgecnn.cli.__main__ import run\nraise SystemExit(run(['bench', {str(tiny)!r}, '--json', *{QUICK!r}]))"
    )
    assert json.loads(out)["runs"][0]["variant"] == "int8-cpu"


@pytest.fixture
def blocked() -> Callable[[str], str]:
    """Return a function that runs code where only a device's packages can be imported, and returns its output."""
    import subprocess
    import sys

    def run(code: str) -> str:
        names = (
            "torch",
            "onnx",
            "onnx_ir",
            "onnxscript",
            "onnxsim",
            "openvino",
            "skimage",
            "scipy",
            "safetensors",
            "pynvml",
        )
        block = f"import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"
        done = subprocess.run(
            [sys.executable, "-c", block + code], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
