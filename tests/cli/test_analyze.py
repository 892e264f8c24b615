"""``edgecnn analyze``: the table, the document, the page, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_tools import Cli
from tiny_bundle import edit_manifest

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("report", "parity"))

from quantized_bundles import NODES, write_quantized

from edgecnn.runtime import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_quantized(tmp_path_factory.mktemp("analyze"), ["int8"])


def test_the_document_and_the_page(cli: Cli, bundle: Bundle, tmp_path: Path) -> None:
    result = cli("analyze", bundle.path, "--limit", "2", "--html", tmp_path / "page.html", "--json")
    assert (result.code, result.err) == (0, "")
    assert [item["node"] for item in result.document["layers"]] == NODES
    assert result.document["images"] == 2
    assert result.document["bundle"] == str(bundle.path)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_for_a_reader(cli: Cli, bundle: Bundle) -> None:
    result = cli("analyze", bundle.path, "--limit", "1", "--all")
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert sorted(row[1] for row in rows) == sorted(NODES)
    shares = [float(row[7]) for row in rows if row[7] != "-"]
    assert shares == sorted(shares, reverse=True)
    assert " dB on 1 image(s) (golden images)" in result.out
    assert "float would gain most: " in result.out


def test_the_worst_ten_are_shown(cli: Cli, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.cli.analyze.SHOWN", 2)
    result = cli("analyze", bundle.path, "--limit", "1")
    assert "2 of 6 layers, the worst first (--all shows every one)" in result.out


def test_an_unverified_bundle_is_analyzed_and_said_to_be_one(cli: Cli, tmp_path: Path) -> None:
    made = write_quantized(tmp_path, ["int8"])
    edit_manifest(made.path, lambda data: data.update(verified=False))
    result = cli("analyze", made.path, "--limit", "1")
    assert result.code == 0
    assert "warning: UNVERIFIED" in result.err


def test_errors_come_before_the_work(cli: Cli, bundle: Bundle, tiny: Path, tmp_path: Path) -> None:
    assert "it is a folder" in cli("analyze", bundle.path, "--html", tmp_path).failed()
    assert "is not a folder" in cli("analyze", bundle.path, "--html", tmp_path / "no" / "page.html").failed()
    assert "Did you mean int8?" in cli("analyze", bundle.path, "--variant", "int").failed()
    assert "no folder at" in cli("analyze", bundle.path, "--data", tmp_path / "no").failed()
    assert "nothing in variant int8-cpu is quantized" in cli("analyze", tiny).failed()
    assert "no bundle at" in cli("analyze", tmp_path / "no").failed()
