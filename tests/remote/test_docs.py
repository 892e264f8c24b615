"""docs/DEPLOY.md says what is so: its file is read, its commands have the options that it gives them, its words are ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgecnn.cli.__main__ import cli
from edgecnn.remote.inventory import Inventory
from edgecnn.remote.transport import REASONS

DEPLOY = (Path(__file__).parents[2] / "docs" / "DEPLOY.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in DEPLOY.splitlines() if line.startswith("    edgecnn ")]


def test_its_inventory_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DEPLOY, re.DOTALL)
    (tmp_path / "devices.toml").write_text(block)
    found = Inventory.read(tmp_path / "devices.toml")
    assert [device.name for device in found.find("fleet:lab")] == ["orin", "pi", "server"]
    assert found.devices["pi"].grace == 60
    assert found.devices["orin"].extras == ("cpu", "cuda", "openvino")


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_are_understood(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    values, rest, _ = command.make_parser(click.Context(command)).parse_args(words)
    assert rest == []
    target = values.get("on")
    assert target is None or target in ("orin", "fleet:lab")


def test_it_has_commands_for_every_verb_that_takes_on() -> None:
    verbs = {shlex.split(line)[1] for line in COMMANDS if " --on " in line}
    assert verbs == {"build", "verify", "bench", "evaluate", "predict"}


def test_what_it_says_of_ssh_is_what_is_said() -> None:
    said = " ".join(todo for _, todo in REASONS)
    for words in ("ssh does not trust its host key", "its host key changed", "it refused the login"):
        assert words in DEPLOY
        assert words in said
