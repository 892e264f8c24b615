"""``edgecnn report``: the page, the document, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from cli_tools import Cli
from tiny_bundle import edit_manifest, write_tiny


def test_the_page(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    result = cli("report", tiny, "-o", place)
    assert result.code == 0
    assert f"written: {place}" in result.out
    assert "<!doctype html>" in place.read_text(encoding="utf-8")


def test_the_document(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    result = cli("report", tiny, "-o", tmp_path / "report.html", "--measure", "--seconds", "0.1", "--json")
    assert result.code == 0
    assert result.document["verified"] is True
    assert result.document["bench"]["kind"] == "edgecnn-bench"
    assert result.document["evaluation"] is None


def test_an_unverified_bundle_has_a_page_and_an_alarm(cli: Cli, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path).path
    edit_manifest(bundle, lambda data: data.update(verified=False))
    result = cli("report", bundle, "-o", tmp_path / "report.html")
    assert result.code == 0
    assert "warning: UNVERIFIED" in result.err
    assert "UNVERIFIED" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_usage_and_errors(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    assert "Missing option '-o'" in cli("report", tiny).failed(2)
    assert "--variant goes with --analyze." in cli("report", tiny, "-o", place, "--variant", "int8").failed(2)
    assert "--limit goes with --data." in cli("report", tiny, "-o", place, "--limit", "3").failed(2)
    assert "not both" in cli("report", tiny, "-o", place, "--measure", "--bench", place).failed(2)
    assert "no bundle at" in cli("report", tmp_path / "none", "-o", place).failed()
    assert "it is a folder" in cli("report", tiny, "-o", tmp_path).failed()
    assert "at most 3600" in cli("report", tiny, "-o", place, "--measure", "--seconds", "1e9").failed(2)
    assert "cannot write /proc/a.html" in cli("report", tiny, "-o", "/proc/a.html").failed()
    assert "cannot read" in cli("report", tiny, "-o", place, "--bench", tmp_path / "none.json").failed()
    assert not place.exists()
