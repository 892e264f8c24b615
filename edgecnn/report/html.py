"""What every page is made of: the document around it, sections, tables that sort and filter, and numbers as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.writing import atomic_file, check_writable

__all__ = [
    "Column",
    "Row",
    "Table",
    "breakable",
    "bullets",
    "cell",
    "controls",
    "count",
    "db",
    "document",
    "facts",
    "figures",
    "filled",
    "footer",
    "legend",
    "number",
    "percent",
    "section",
    "source_link",
    "table",
    "text_cell",
    "write_text",
]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself keeps a page from the network."""


@dataclass(frozen=True)
class Column:
    """A column's name, what it means, and whether it holds numbers."""

    name: str
    title: str = ""
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: its cells as HTML (:func:`cell`, :func:`text_cell`), an anchor, a kind that a check box keeps, and a key for scripts."""

    cells: Sequence[str]
    anchor: str = ""
    kind: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. ``caption`` is read aloud; ``ordered`` is the name of the column that rows are sorted by, largest first."""

    ident: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    ordered: str = ""
    wide: bool = False


def write_text(text: str, path: Path) -> None:
    """Write a page or a picture, whole or not at all; a file of that name is replaced. Raises OutputError."""
    check_writable(path)
    with atomic_file(path) as stream:
        stream.write(text.encode())


def document(
    title: str, body: Iterable[str], *, scripts: Sequence[str] = ("page.js",), styles: Sequence[str] = ()
) -> str:
    """Return a page that needs no network and no library; ``scripts`` and ``styles`` are files of this package."""
    style = "".join(_asset(name) for name in ("page.css", *styles))
    script = "".join(_asset(name) for name in scripts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>{''.join(body)}</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    """Return a file of this package."""
    return (files("edgecnn.report") / name).read_text(encoding="utf-8")


def section(title: str, *parts: str, beside: str = "", ident: str = "") -> str:
    """Return a section with its heading; ``beside`` stands on the heading's line."""
    anchor = f' id="{escape(ident)}"' if ident else ""
    return f"<section{anchor}><div class='bar'><h2>{escape(title)}</h2>{beside}</div>{''.join(parts)}</section>"


def figures(items: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield large numbers: (name, value with its unit behind a space, explanation) of each."""
    yield "<section class='figures'>"
    for name, value, text in items:
        amount, _, unit = value.partition(" ")
        small = f" <small>{escape(unit)}</small>" if unit else ""
        yield f"<div><h2>{escape(name)}</h2><strong>{escape(amount)}{small}</strong><p>{escape(text)}</p></div>"
    yield "</section>"


def bullets(items: Iterable[str]) -> str:
    """Return a list of texts, nothing where there are none."""
    found = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul class='asides'>{found}</ul>" if found else ""


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Return names with their values, which are HTML; those without a value are left out."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in items if value)
    return f"<dl class='about'>{rows}</dl>"


def legend(*items: tuple[str, str]) -> str:
    """Return what the marks of a chart mean: (classes, text) of each."""
    marks = "".join(f"<span><i class='{kind}'></i>{text}</span>" for kind, text in items)
    return f"<p class='legend'>{marks}</p>"


def controls(ident: str, hint: str, *, kind: str = "", label: str = "") -> str:
    """Return a table's filter, and a check box that keeps the rows of one kind if there is to be one."""
    box = f"<label><input type='checkbox' data-for='{ident}' value='{kind}'> {escape(label)}</label>" if kind else ""
    return (
        f"<p class='controls'><label>Filter <input type='search' data-for='{ident}' placeholder='{escape(hint)}' "
        f"autocomplete='off'></label>{box}</p>"
    )


def table(found: Table) -> str:
    """Return a table whose columns sort when their headers are pressed; on a small screen it scrolls in itself."""
    parts = [f"<div class='scroll'><table id='{found.ident}'{' class=wide' if found.wide else ''}>"]
    parts.append(f"<caption>{escape(found.caption)}</caption><thead><tr>")
    for column in found.columns:
        order = " aria-sort='descending'" if column.name == found.ordered else ""
        kind = " class='number'" if column.number else ""
        title = f" title='{escape(column.title)}'" if column.title else ""
        parts.append(f"<th scope='col'{kind}{order}><button type='button'{title}>{escape(column.name)}</button></th>")
    parts.append("</tr></thead><tbody>")
    for row in found.rows:
        anchor = f" id='{escape(row.anchor)}'" if row.anchor else ""
        kind = f" data-kind='{escape(row.kind)}'" if row.kind else ""
        key = f" data-key='{escape(row.key)}'" if row.key else ""
        parts.append(f"<tr{anchor}{kind}{key}>{''.join(row.cells)}</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def cell(value: float | None, text: str) -> str:
    """Return a number's cell, with what it is sorted by; ``text`` is HTML."""
    return f"<td class='number' data-v='{'' if value is None else format(value, '.6g')}'>{text}</td>"


def text_cell(value: str, html: str = "", small: str = "") -> str:
    """Return a text's cell: the text, or HTML in its place; ``small`` is HTML below it."""
    below = f"<small>{small}</small>" if small else ""
    return f"<td data-v='{escape(value)}'>{html or escape(value)}{below}</td>"


def source_link(source: str) -> str:
    """Return a link to where something is stated, by site and project; what is no web address stays text."""
    if not re.match(r"https?://[\w.-]+(/|$)", source):
        return escape(source)
    short = "/".join(source.partition("//")[2].partition("#")[0].rstrip("/").split("/")[:3])
    return f"<a href='{escape(source)}' rel='noopener noreferrer'>{escape(short)}</a>"


def filled(share: float) -> str:
    """Return a bar below a cell's number, so long as a share (0 to 1) of the column's largest."""
    return f"<i style='width:{100 * share:.1f}%'></i>" if share > 0 else ""


def footer(text: str = "") -> str:
    """Return the last line."""
    return f"<footer>{escape(text)}{' ' if text else ''}Written by edgecnn {escape(__version__)}.</footer>"


def breakable(name: str) -> str:
    """Return an operator's name, which may break between its words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "<wbr>", escape(name))


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many digits behind the point, nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def count(value: int) -> str:
    """Return a large number with a unit."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return str(value) if value else ""


def percent(share: float) -> str:
    """Return a share as percent, small ones with the digits that they need."""
    if share == 0:
        return "0%"
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%" if share >= 0.001 else "&lt;0.1%"


def db(value: float) -> str:
    """Return a ratio as text."""
    return "exact" if math.isinf(value) else f"{value:.1f} dB"
