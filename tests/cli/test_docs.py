"""Commands in the README and in docs/ are understood as they stand there, comments included, whether or not a test runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgecnn.cli import export
from edgecnn.cli.__main__ import COMMANDS, cli

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def lines() -> Iterator[tuple[str, str]]:
    """Yield (page, what follows ``edgecnn``) of every command in an indented block, those on several lines joined."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for found in re.finditer(r"^    (?:\S+/)?edgecnn (.+)$", text, re.MULTILINE):
            yield page.name, found[1]


@pytest.mark.parametrize(("page", "line"), list(lines()))
def test_a_command_of_the_docs_is_understood(page: str, line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    parent = click.Context(
        cli, **cli.context_settings
    )  # click keeps a command's help option as its first parent has it
    command = cli.get_command(parent, name)
    assert command is not None, f"{page}: there is no command {name}"
    try:
        given = command.make_context(name, words, parent=parent).params
    except click.exceptions.Exit:
        assert "--help" in words
        return
    if name == "export":  # options that go together, too
        export._config(given)


def test_every_command_has_a_line_somewhere() -> None:
    assert {line.split()[0] for _, line in lines()} >= set(COMMANDS) - {
        "native"
    }  # whose lines are inside those of cmake
