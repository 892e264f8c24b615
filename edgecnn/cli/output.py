"""How commands print: one JSON document, tables, and progress bars on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgecnn.progress import LINE, LINES, Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["common_options", "console", "emit", "number", "progress_bar", "table", "warn"]

F = TypeVar("F", bound=Callable[..., Any])


def common_options(command: F) -> F:
    """Add what every command takes: ``--json`` and ``--debug``."""
    command = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


def emit(data: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Return the console for stdout; wide enough for our tables where stdout is not a terminal.

    Text is printed as it is: names of layers and classes may look like rich's markup (``edgecnn[gpu]``) or emoji codes.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else 140, highlight=False, markup=False, emoji=False, soft_wrap=not terminal)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table; columns whose cells are numbers are set flush right."""
    from rich import box
    from rich.table import Table

    grid = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        numeric = all(_is_number(cell) for cell in cells)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console().print(grid)


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or stands for one that there is not."""
    try:
        float(cell)
    except ValueError:
        return cell in ("", "-")
    return True


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Format a number for a table, ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"warning: {text}", err=True)


@contextmanager
def progress_bar(as_json: bool = False) -> Iterator[Progress]:
    """Yield a progress function: bars on a terminal's stderr, silence elsewhere and under ``--json``; lines for a client far away."""
    if os.environ.get(LINES):
        yield _lines()
        return
    if as_json or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),  # bound now: a stage may redirect stderr while a tool it calls chatters
        transient=True,
    )
    tasks: dict[str, Any] = {}
    with bars:

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total or None)
            bars.update(tasks[step], completed=done, total=total or None)

        yield report


def _lines() -> Progress:
    """Return a progress function that writes lines on stderr, at most five a second for each step."""
    last: dict[str, float] = {}

    def report(step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last.get(step, 0.0) > 0.2:
            last[step] = now
            click.echo(LINE + json.dumps([step, done, total]), err=True)

    return report
