"""What ``doctor`` says of OpenVINO."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecnn import doctor


def look(monkeypatch: pytest.MonkeyPatch, version: str, flags: frozenset[str]) -> doctor.Report:
    """Diagnose a machine with an OpenVINO ("" for none) and a processor with these flags."""
    installed = {"openvino": version, "onnxruntime": "1.32.0"}
    here = replace(doctor.machine(), arch="x86_64", cpu_flags=flags, nvidia="")
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, ""))
    monkeypatch.setattr(doctor, "machine", lambda: here)
    return doctor.diagnose()


def test_absent_openvino_is_shown_with_its_line_and_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    report = look(monkeypatch, "", frozenset({"avx512_vnni", "amx_bf16"}))
    (row,) = [package.to_json() for package in report.packages if package.distribution == "openvino"]
    assert (row["version"], row["install"]) == (None, "pip install 'edgecnn[openvino]'")
    assert not [finding for finding in report.findings if "penvino" in finding.what.lower()]


@pytest.mark.parametrize(
    ("flags", "bfloat16"),
    [({"avx512_vnni", "amx_bf16"}, True), ({"avx512_bf16", "avx_vnni"}, True), ({"avx_vnni"}, False)],
)
def test_what_it_does_unasked_is_noted(monkeypatch: pytest.MonkeyPatch, flags: set[str], bfloat16: bool) -> None:
    report = look(monkeypatch, "2026.4.1", frozenset(flags))
    notes = [finding for finding in report.findings if "openvino" in finding.what.lower()]
    assert {finding.level for finding in notes} == {"note"}
    assert [("Google Analytics" in one.what, "bfloat16" in one.what) for one in notes] == [
        (True, False),
        *([(False, True)] if bfloat16 else []),
    ]
    assert report
