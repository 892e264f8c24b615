"""The README's commands and snippets, run in its order in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CAT = ROOT / "tests" / "data" / "cat.jpg"

COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    edgecnn ")]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the README's reader has in theirs."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("readme")
    (folder / "cat.jpg").write_bytes(CAT.read_bytes())
    (folder / "net.py").write_text(NET)
    (folder / "labelled").mkdir()
    (folder / "labelled" / "cat.jpg").write_bytes(CAT.read_bytes())
    (folder / "labelled" / "labels.csv").write_text("file,label\ncat.jpg,285\n")
    (folder / "photos").mkdir()
    for name in ("astronaut", "coffee", "rocket"):
        picture = Image.fromarray(getattr(skimage.data, name)())
        for part in range(4):
            box = (40 * part, 40 * part, 40 * part + 260, 40 * part + 260)
            picture.crop(box).save(folder / "photos" / f"{name}{part}.jpg")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with an empty cache and no network."""
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **offline, "EDGECNN_CACHE": str(folder / "cache")}
    arguments = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 9
    assert {command.split()[1] for command in COMMANDS} >= {
        "export",
        "verify",
        "predict",
        "evaluate",
        "inspect",
        "models",
    }


@pytest.mark.timeout(2400)  # five exports, one of which rounds weights on 96 images
def test_every_command_does_what_the_readme_says(folder: Path) -> None:
    said = {}
    for command in COMMANDS:
        done = run(command, folder)
        said[command] = done.stdout
        if command == "edgecnn export resnet50 --int8":
            # Published weights, and there is no network: the error says what to fetch and where to put it.
            assert done.returncode == 1
            assert "https://download.pytorch.org/models/resnet50" in done.stderr
            assert "--weights" in done.stderr
            assert not (folder / "resnet50-int8").exists()
        else:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "cat" in said["edgecnn predict efficientnet_lite0-int8 cat.jpg"]


def test_every_snippet_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs the bundles of the test above."""
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    assert len(SNIPPETS) == 2
    for snippet in SNIPPETS:
        exec(snippet, {"module": namespace["build"]()})
