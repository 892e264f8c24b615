"""Rows of the sweeps, one a model, kept from one sweep to the next: a sweep takes hours, and may be done in parts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecnn import zoo

__all__ = ["ROOT", "commit", "kept_rows", "not_run", "put_row"]

ROOT = Path(__file__).parents[2]


def commit() -> str:
    """Return the commit that is checked out, ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.check_output(command, text=True, cwd=ROOT).strip()


def put_row(sweep: str, row: dict[str, Any]) -> None:
    """Leave a model's row of this sweep in ``build/<sweep>``."""
    folder = ROOT / "build" / sweep
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{row['model']}.json").write_text(json.dumps({**row, "commit": commit()}, indent=2))


def kept_rows(sweep: str, to: Path, keep: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the rows of ``build/<sweep>`` to those in ``to``, and return all in the zoo's order.

    Args:
        sweep: ``sweep`` or ``sweep-engines``.
        to: the JSON file, model -> row.
        keep: what of a row is kept, beside its model and commit.
    """
    rows: dict[str, Any] = json.loads(to.read_text()) if to.exists() else {}
    for file in (ROOT / "build" / sweep).glob("*.json"):
        row = json.loads(file.read_text())
        rows[file.stem] = {"model": row["model"], "commit": row["commit"], **keep(row)}
    rows = {name: rows[name] for name in zoo.names() if name in rows}
    if not rows:
        raise SystemExit(f"no rows in build/{sweep}: run make {sweep}")
    to.write_text(json.dumps(rows, indent=1) + "\n")
    return list(rows.values())


def not_run(rows: list[dict[str, Any]]) -> str:
    """Return the sentence that names the models without a row, or nothing."""
    found = {row["model"] for row in rows}
    missing = [name for name in zoo.names() if name not in found]
    return f"\nNot run: {', '.join(missing)}.\n" if missing else ""
