"""A benchmark's table as a file for a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

from edgecnn.bench.result import BenchResult, Run
from edgecnn.writing import atomic_file

__all__ = ["csv_text", "write_csv"]

_PLAIN = ("label", "bundle", "model", "variant", "precision", "backend", "batch", "threads", "streams", "end_to_end", "seconds",
          "throughput")  # fmt: skip
_STAGES = ("preprocess", "copy", "compute", "postprocess")
_LOAD = ("pattern", "rate", "achieved", "deadline_ms", "requests", "served", "misses", "utilisation")
_TELEMETRY = ("joules_per_inference", "energy_source", "power_mode", "clocks_locked", "others_share")
_ROOFLINE = ("macs", "gmacs", "peak_gmacs", "fraction")


def write_csv(result: BenchResult, path: Path) -> None:
    """Write the table, whole or not at all; a file of that name is replaced. Raises OutputError."""
    with atomic_file(path) as stream:
        stream.write(csv_text(result).encode())


def csv_text(result: BenchResult) -> str:
    """Return a header and a line for each run; cells of what was not measured are empty (RFC 4180)."""
    rows = [_row(run) | {"device": result.device.name, "created": result.created} for run in result.runs]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(run: Run) -> dict[str, Any]:
    """Return a run as one flat line."""
    row: dict[str, Any] = {name: getattr(run, name) for name in _PLAIN}
    for part in (run.latency, run.start_up, run.memory):
        row |= {item.name: getattr(part, item.name) for item in dataclasses.fields(part)}
    row |= {f"{name}_p50_ms": run.stages[name].p50_ms if name in run.stages else None for name in _STAGES}
    others: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("load", run.load, _LOAD),
        ("telemetry", run.telemetry, _TELEMETRY),
        ("roofline", run.roofline, _ROOFLINE),
    )
    for prefix, found, names in others:
        row |= {f"{prefix}_{name}": None if found is None else getattr(found, name) for name in names}
    row["warnings"] = "; ".join(run.warnings)
    return row
