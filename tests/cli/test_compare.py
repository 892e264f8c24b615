"""``edgecnn compare``: the table, the document, the files, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_tools import Cli


def test_the_zoo_as_a_document_and_files(cli: Cli, tmp_path: Path) -> None:
    places = [tmp_path / f"zoo.{kind}" for kind in ("png", "svg", "html")]
    options = [text for path in places for text in (f"--{path.suffix[1:]}", path)]
    result = cli("compare", "--zoo", "--models", "*net*_v[23]*", *options, "--json")
    assert result.code == 0
    document = result.document
    assert {point["name"] for point in document["points"]} >= {"mobilenet_v2", "efficientnet_v2_s"}
    assert document["device"] is None
    assert document["front"]["macs"][0] == "mobilenet_v3_small"
    assert all(path.stat().st_size > 1000 for path in places)


def test_the_zoo_for_a_reader(cli: Cli, tmp_path: Path) -> None:
    result = cli("compare", "--zoo", "--svg", tmp_path / "zoo.svg")
    assert result.code == 0
    assert "8 networks have no published accuracy" in result.err
    (line,) = [line.split() for line in result.out.splitlines() if line.split()[:1] == ["resnet50"]]
    assert line == ["resnet50", "3x224x224", "80.86", "4.09", "25.6"]
    (best,) = [line.split() for line in result.out.splitlines() if line.split()[:1] == ["efficientnet_b0"]]
    assert best[-1] == "operations"
    assert f"written: {tmp_path / 'zoo.svg'}" in result.out


def test_a_bundle_is_measured(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    result = cli(
        "compare",
        tiny,
        "--seconds",
        "0.1",
        "--threads",
        "1",
        "--backend",
        "onnxruntime",
        "--html",
        tmp_path / "page.html",
    )
    assert result.code == 0, result.err
    rows = [line for line in result.out.splitlines() if line.strip().startswith("bundle ")]
    assert len(rows) == 2
    assert "70.50 (fp32's)" in rows[0] + rows[1]
    assert "ratios are to bundle fp32, in turns with it" in result.out
    assert "warning: accuracy of quantized graphs" in result.err


def test_usage(cli: Cli, tiny: Path) -> None:
    assert "Give either bundles or --zoo." in cli("compare").failed(2)
    assert "Give either bundles or --zoo." in cli("compare", tiny, "--zoo").failed(2)
    assert "--latency goes with --zoo." in cli("compare", tiny, "--latency").failed(2)
    assert "--variant goes with bundles." in cli("compare", "--zoo", "--variant", "int8").failed(2)
    assert "--limit goes with --data." in cli("compare", tiny, "--limit", "3").failed(2)
    assert "--fresh goes with --latency." in cli("compare", "--zoo", "--fresh").failed(2)
    assert "at most 3600" in cli("compare", tiny, "--seconds", "1e9").failed(2)
    assert "at most 3600" in cli("compare", "--zoo", "--latency", "--seconds", "1e9").failed(2)
    assert "CPU kernels" in cli("compare", "--zoo", "--backend", "openvino").failed(2)


@pytest.mark.parametrize("option", ["--png", "--svg", "--html"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("edgecnn.comparison.compare_bundles", lambda *_: pytest.fail("it was measured"))
    assert "cannot write /proc/a" in cli("compare", tiny, option, "/proc/a").failed()


def test_errors_come_before_the_work(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    assert "it is a folder" in cli("compare", tiny, "--html", tmp_path).failed()
    assert "is not a folder" in cli("compare", tiny, "--svg", tmp_path / "no" / "a.svg").failed()
    assert "no bundle at" in cli("compare", tmp_path / "none").failed()
    assert "no model's name matches" in cli("compare", "--zoo", "--models", "nothing*").failed()
    assert (
        "no network has both an accuracy and a measured latency"
        in cli("compare", "--zoo", "--axis", "latency", "--svg", tmp_path / "a.svg").err
    )
    assert not (tmp_path / "a.svg").exists()
