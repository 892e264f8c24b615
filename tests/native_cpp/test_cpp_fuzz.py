"""A few seconds of damaged input; docs/CPP.md says how long it was run by hand."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cpp_tools import QUIET
from tiny_bundle import PREPROCESS


def test_damaged_input_never_ends_the_program(built: Path, tiny: Path, tmp_path: Path) -> None:
    seeds = {
        "0manifest": (tiny / "manifest.json").read_bytes(),
        "1npz": (tiny / "golden.npz").read_bytes(),
        "2labels": (tiny / "labels.txt").read_bytes(),
        "3preprocess": json.dumps(PREPROCESS.to_json()).encode(),
    }
    for name, content in seeds.items():
        (tmp_path / name).write_bytes(bytes([int(name[0])]) + content)
    command = [built / "fuzz", "5", "1", *(tmp_path / name for name in seeds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    executions, valid = (int(word) for word in done.stdout.split() if word.isdecimal())
    assert executions > 100
    assert 0 < valid < executions
