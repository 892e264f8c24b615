"""How a device's document is printed here: as the command itself prints, where that is known, else as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from edgecnn.cli.output import number, table

__all__ = ["show"]

Document = Mapping[str, Any]


def show(verb: str, document: Document) -> None:
    """Print a document."""
    _SHOW.get(verb, _show_any)(document)


def _show_verify(document: Document) -> None:
    """Print as ``edgecnn verify`` does."""
    from edgecnn.cli.parity import print_report
    from edgecnn.parity.report import ParityReport

    print_report(ParityReport.from_json(document))
    if "bisect" in document:
        _show_any(document["bisect"])


def _show_build(document: Document) -> None:
    """Print as ``edgecnn build`` does."""
    from edgecnn.artifacts import Engine
    from edgecnn.cli.engines import print_engines
    from edgecnn.runtime.engines import EngineRecord

    engines = {}
    for name, data in document["engines"].items():
        facts = EngineRecord.from_json({**data, "variant": name}, f"engine {name}", ()).facts
        engines[name] = Engine(path=Path(data["file"]), sha256=data["sha256"], bytes=data["bytes"], facts=facts)
    print_engines(engines)


def _show_evaluate(document: Document) -> None:
    """Print as ``edgecnn evaluate`` does."""
    keys = (("top1", 1), ("top5", 1), ("agreement", 1), ("sqnr_db", 1), ("mean_kl", 4))
    rows = [
        (row["variant"], str(row["images"]), *(number(row[key], digits) for key, digits in keys))
        for row in document["variants"]
    ]
    table(("variant", "images", "top-1 %", "top-5 %", "agreement %", "SQNR dB", "mean KL"), rows)


def _show_predict(document: Document) -> None:
    """Print as ``edgecnn predict`` does."""
    many = len(document["results"]) + len(document["failed"]) > 1
    for one in document["results"]:
        if many:
            click.echo(f"{one['image']}:")
        for guess in one["predictions"]:
            click.echo(f"{'  ' if many else ''}{100 * guess['probability']:6.2f} %  {guess['label']}")


def _show_bench(document: Document) -> None:
    """Print as ``edgecnn bench`` does; the device has printed the warnings."""
    from edgecnn.bench import BenchResult
    from edgecnn.cli.bench_show import print_result

    print_result(BenchResult.from_json(document))


def _show_any(document: Document) -> None:
    """Print single values as lines, lists of records as tables."""
    for key, value in document.items():
        if isinstance(value, (str, int, float, bool)):
            click.echo(f"{key}: {value}")
    for key, value in document.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            columns = [name for name, cell in value[0].items() if not isinstance(cell, (dict, list))]
            table(columns, [[_cell(row.get(name)) for name in columns] for row in value], title=key)
        elif isinstance(value, dict) and value:
            click.echo(f"{key}:")
            _show_any(value)


def _cell(value: Any) -> str:
    """Format a value for a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


_SHOW: Mapping[str, Callable[[Document], None]] = {
    "verify": _show_verify,
    "build": _show_build,
    "evaluate": _show_evaluate,
    "bench": _show_bench,
    "predict": _show_predict,
}
