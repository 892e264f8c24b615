"""Help comes at once, says what there is, and needs none of the heavy packages."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from cli_tools import Cli

from edgecnn.cli.__main__ import COMMANDS

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "numpy",
    "PIL",
    "rich",
    "skimage",
)
BLOCKED = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from edgecnn.cli.__main__ import run
"""


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def seconds(*arguments: str) -> float:
    """Return the processor time of the shortest of five runs of a fresh interpreter, which neighbours disturb less than the clock."""
    times = []
    for _ in range(5):
        started = processor_seconds()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        times.append(processor_seconds() - started)
    return min(times)


def processor_seconds() -> float:
    """Return what children that have ended have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_imports_no_heavy_package() -> None:
    lines = [[], *([name] for name in COMMANDS)]
    text = python(f"{BLOCKED}\nfor line in {lines!r}:\n    assert run([*line, '--help']) == 0")
    assert text.count("Usage: edgecnn") == len(lines) == 19


def test_the_zoo_is_listed_without_a_heavy_package() -> None:
    assert '"name": "resnet50"' in python(f"{BLOCKED}\nassert run(['models', '--json']) == 0")


def test_help_takes_less_than_150_ms_and_little_more_than_click_itself() -> None:
    click, ours = seconds("-c", "import click"), seconds("-m", "edgecnn", "--help")
    assert ours < 0.15, f"edgecnn --help {ours:.3f} s, import click {click:.3f} s"
    assert ours < click + 0.06


def test_help_lists_the_commands_and_keeps_its_examples_apart(cli: Cli) -> None:
    text = cli("--help").out
    for name, line in COMMANDS.items():
        assert f"  {name} " in text
        assert line in text
    assert "\n  edgecnn predict efficientnet_lite0-int8 cat.jpg\n" in text
    assert "\n  edgecnn export resnet50 --int8 --weights IMAGENET1K_V1\n" in cli("export", "--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_debug(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "--json" in result.out
    assert "--debug" in result.out
    assert cli(command, "-h").out == result.out


def test_version(cli: Cli) -> None:
    from edgecnn import __version__

    assert cli("--version").out == f"edgecnn {__version__}\n"
