"""A report's part on devices: what they made of the commands that were run on them (``--on``), as it lies in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgecnn.remote.headline import headline
from edgecnn.report import html
from edgecnn.report.html import Column, Row, Table, cell, text_cell

__all__ = ["devices_section"]

_FOREIGN = (KeyError, TypeError, IndexError, AttributeError, ValueError)
"""What reading a document raises that is not what it should be: a bundle may be a stranger's."""


def devices_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of a bundle's results (``<device>/<verb>.json`` -> document), "" where there are none."""
    if not results:
        return ""
    columns = (
        Column("Device"),
        Column("Command"),
        Column("Result"),
        Column("Exit code", "0: well; 3: a gate was breached", number=True),
        Column("s", "That the command took there", number=True),
        Column("MB", "Largest memory of a process of it", number=True),
        Column("When", "In UTC"),
    )
    rows = [_row(name, document) for name, document in sorted(results.items())]
    found = Table(ident="devices", caption="The latest of each command on each device", columns=columns, rows=rows)
    told = "The bundle holds whole documents, with temperatures, clocks and power mode before and after, as results/DEVICE/COMMAND.json."
    beside = html.controls("devices", "device or command")
    return html.section(
        "On devices", f"<p class='lead'>{escape(told)}</p>", html.table(found), beside=beside, ident="on-devices"
    )


def _row(name: str, document: Mapping[str, Any]) -> Row:
    """Return one command's row."""
    device, _, verb = name.removesuffix(".json").rpartition("/")
    try:
        said = headline(verb, document["result"])
    except _FOREIGN:
        said = "cannot be read"
    code, seconds, peak = (_number(document.get(key)) for key in ("code", "seconds", "peak_rss_mb"))
    when = str(document.get("when", ""))
    return Row(
        cells=[
            text_cell(device, f"<span class='name'>{escape(device)}</span>"),
            text_cell(verb, escape(verb)),
            text_cell(said, escape(said)),
            cell(code, html.number(code, 0)),
            cell(seconds, html.number(seconds, 1)),
            cell(peak, html.number(peak, 0)),
            text_cell(when, escape(when)),
        ]
    )


def _number(value: object) -> float | None:
    """Return a number, None for what is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
