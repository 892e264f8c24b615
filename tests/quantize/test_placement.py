"""Placement and scales against text goldens."""

from __future__ import annotations

import difflib
from pathlib import Path

import placement_text
import pytest

SLOW = ("googlenet", "densenet121", "efficientnet_b0")  # ten seconds each, nearly all of it torch.onnx
CASES = [
    *placement_text.CASES,
    *(pytest.param(f"zoo.{name}", marks=pytest.mark.sweep if name in SLOW else ()) for name in placement_text.ZOO),
]


@pytest.mark.parametrize("case", CASES)
def test_placement_and_scales_are_the_golden_ones(case: str, exports: Path, tmp_path: Path) -> None:
    found = placement_text.text_of(case, exports, tmp_path)
    golden = (placement_text.GOLDEN / f"{case}.txt").read_text()
    if not placement_text.same(found, golden):
        lines = difflib.unified_diff(golden.splitlines(), found.splitlines(), "golden", "found", lineterm="", n=0)
        accept = f"if this is meant: python tests/golden/regenerate_placement.py {case}"
        pytest.fail("\n".join([*lines, accept]), pytrace=False)


def test_every_golden_has_its_case() -> None:
    cases = {*placement_text.CASES, *(f"zoo.{name}" for name in placement_text.ZOO)}
    assert {path.stem for path in placement_text.GOLDEN.iterdir()} == cases


@pytest.mark.parametrize(
    ("found", "agrees"),
    [("a scale 0.1235 zero 3", True), ("a scale 0.1239 zero 3", False), ("a scale 0.1234 zero 4", False)],
)
def test_goldens_forgive_the_last_digit_of_a_scale_alone(found: str, agrees: bool) -> None:
    assert placement_text.same(found, "a scale 0.1234 zero 3") is agrees
