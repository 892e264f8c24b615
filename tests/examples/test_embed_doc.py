"""Every block of Python in docs/EMBED.md, run in its order in one folder; and that it names what there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgecnn.runtime
from edgecnn import errors

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "EMBED.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_block_runs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny, tmp_path / "efficientnet_lite0-int8")
    shutil.copy(ROOT / "tests" / "data" / "cat.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    assert len(BLOCKS) == 6
    for block in BLOCKS:
        exec(compile(block, "EMBED.md", "exec"), namespace)
    said = capsys.readouterr().out
    assert "TensorSpec(name='input'" in said
    assert "answered=11" in said


COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    edgecnn ")]


def test_every_command_runs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.cli.__main__ import run

    shutil.copytree(tiny, tmp_path / "efficientnet_lite0-int8")
    monkeypatch.chdir(tmp_path)
    assert [command.split()[1] for command in COMMANDS] == ["package", "package"]
    for command in COMMANDS:
        assert run(command.split()[1:]) == 0, command
    assert (tmp_path / "models" / "tiny" / "config.pbtxt").is_file()
    assert (tmp_path / "image" / "Dockerfile").is_file()


def test_errors_that_the_page_names_exist() -> None:
    named = set(re.findall(r"\b[A-Z]\w+Error\b", TEXT))
    assert {"BusyError", "DroppedError", "EngineMisfitError"} <= named
    assert named <= {*errors.__all__, "RuntimeError", "TimeoutError"}


def test_the_page_names_what_an_application_uses() -> None:
    assert not [name for name in edgecnn.runtime.__all__ if f"`{name}" not in TEXT and f" {name}" not in TEXT]
    names = [
        "Classifier",
        "load",
        "selftest",
        "Service",
        "HotClassifier",
        "Wait",
        "Refuse",
        "DropOldest",
        "WhenFull",
        "FakeSession",
    ]
    assert not [name for name in names if name not in TEXT or name not in edgecnn.runtime.__all__]
