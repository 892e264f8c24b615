"""A few seconds of damaged input; docs/CPP.md says how long it was run by hand."""

from __future__ import annotations

import json
from pathlib import Path

from cpp_tools import Probe
from tiny_bundle import PREPROCESS


def test_damaged_input_never_ends_the_program(probe: Probe, tiny: Path, tmp_path: Path) -> None:
    seeds = {
        "0manifest": (tiny / "manifest.json").read_bytes(),
        "1npz": (tiny / "golden.npz").read_bytes(),
        "2labels": (tiny / "labels.txt").read_bytes(),
        "3preprocess": json.dumps(PREPROCESS.to_json()).encode(),
    }
    for name, content in seeds.items():
        (tmp_path / name).write_bytes(bytes([int(name[0])]) + content)
    executions, valid = probe("fuzz", seconds=5, seed=1, files=[tmp_path / name for name in seeds])
    assert executions > 100
    assert 0 < valid < executions
