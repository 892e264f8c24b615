"""A report's parts on where the bundle comes from: every step with its tools, configuration and hashes, and every file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from edgecnn.artifacts import Lineage
from edgecnn.report import html
from edgecnn.report.html import Column, Row, Table, cell, text_cell
from edgecnn.runtime.manifest import Manifest

__all__ = ["provenance_sections"]


def provenance_sections(manifest: Manifest) -> Iterator[str]:
    """Yield the steps, and the files with their hashes."""
    rows = [_row("all", step) for step in manifest.lineage]
    for name, variant in manifest.variants.items():
        rows += [_row(name, step) for step in _own(variant.lineage, manifest.lineage)]
    for name, engine in manifest.engines.items():
        graph = manifest.variants[engine.variant]
        rows += [_row(name, step) for step in _own(engine.lineage, graph.lineage)]
    tools = [f"{name} {version}" for name, version in sorted(manifest.tools.items())]
    columns = (
        Column("Of", "The variant or engine; all: the steps before they part"),
        Column("Step"),
        Column("Tools", "Versions that did the work"),
        Column("Configuration"),
        Column("Inputs", "sha256 of what went in"),
    )
    found = Table(ident="lineage", caption="How each file came about, oldest step first", columns=columns, rows=rows)
    told = f"Written {manifest.created or 'at an unknown time'} by edgecnn {manifest.edgecnn}"
    told += f" with {', '.join(tools)}." if tools else "."
    beside = html.controls("lineage", "variant, step or tool")
    parts = [f"<p class='lead'>{escape(told)}</p>", html.table(found) if rows else ""]
    yield html.section("Lineage", *parts, beside=beside if rows else "", ident="lineage-steps")
    yield _files(manifest)


def _own(steps: Iterable[Lineage], before: tuple[Lineage, ...]) -> list[Lineage]:
    """Return the steps without those that are told already."""
    return [step for step in steps if step not in before]


def _row(of: str, step: Lineage) -> Row:
    """Return one step's row."""
    tools = "<br>".join(f"{escape(name)} {escape(version)}" for name, version in step.tools.items())
    inputs = "<br>".join(f"{escape(name)} {_hash(value)}" for name, value in step.inputs.items())
    config = "<br>".join(f"{escape(name)} = <code>{escape(_value(value))}</code>" for name, value in _flat(step.config))
    notes = "".join(f"<small>{escape(note)}</small>" for note in step.notes)
    return Row(
        cells=[
            text_cell(of, f"<span class='name'>{escape(of)}</span>"),
            text_cell(step.stage, escape(step.stage) + notes),
            text_cell(" ".join(f"{name} {version}" for name, version in step.tools.items()), tools or " "),
            text_cell(" ".join(step.config), f"<div class='config'>{config}</div>"),
            text_cell(" ".join(step.inputs), inputs or " "),
        ]
    )


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a configuration says, those of its parts by dotted names; what is empty says nothing."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        elif value not in (None, "", [], {}):
            yield f"{before}{name}", value


def _value(value: Any) -> str:
    """Return a value as JSON; a long one is cut, since the manifest has it whole."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "..."


def _hash(value: str) -> str:
    """Return a hash that may break anywhere."""
    return f"<code class='hash'>{escape(value)}</code>"


def _files(manifest: Manifest) -> str:
    """Return the files with their hashes."""
    rows = [
        Row(
            cells=[
                text_cell(path, f"<span class='name'>{escape(path)}</span>"),
                cell(record.bytes, f"{record.bytes:,}".replace(",", " ")),
                text_cell(record.sha256, _hash(record.sha256)),
            ]
        )
        for path, record in sorted(manifest.files.items())
    ]
    columns = (Column("File"), Column("Bytes", number=True), Column("sha256"))
    found = Table(ident="files", caption="Every file of the bundle with its hash", columns=columns, rows=rows)
    return html.section("Files", html.table(found), ident="files-listed")
