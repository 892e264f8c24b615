"""What the tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecnn.cli.__main__ import run

NET = """
import torch
from torch import nn

def build(num_classes=5):
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    return nn.Sequential(*layers)

class Untranslatable(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x.mean(1)).real

class Deciding(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

class Failing(nn.Module):
    def __init__(self):
        raise RuntimeError("no such\\nluck")
"""
SIZE = ("--input-size", "3x32x32")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    def failed(self, code: int = 1) -> str:
        """Check that it failed with one line on stderr and nothing on stdout, and return the line."""
        assert self.code == code, self
        assert self.out == "", self.out
        (line,) = [line for line in self.err.splitlines() if line]  # click ends the line of a terminal's ^C
        assert line.startswith("error: "), line
        assert "Traceback" not in line
        return line


Cli = Callable[..., Result]


def invoke(arguments: Iterable[str | Path], read: Callable[[], tuple[str, str]]) -> Result:
    """Run a command line in this process."""
    code = run([str(argument) for argument in arguments])
    out, err = read()
    return Result(code, out, err)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs ``edgecnn`` in this process."""

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        return invoke(arguments, capsys.readouterr)

    return run


def listing(folder: Path) -> set[Path]:
    """Return everything in a folder, hidden files included."""
    return set(folder.rglob("*"))
