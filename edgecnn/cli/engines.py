"""How commands print engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecnn.cli.output import console, number, table, warn

if TYPE_CHECKING:
    from edgecnn.artifacts import Engine
    from edgecnn.pipeline.gate import LatencyGate

__all__ = ["print_engines", "print_gate"]


def print_engines(engines: Mapping[str, Engine]) -> None:
    """Print a table of engines: size, build time, and what the audit found; nothing where there are none."""
    if not engines:
        return
    rows = []
    for name, engine in engines.items():
        facts, audit = engine.facts, engine.facts.audit
        rows.append(
            (
                f"{name} {facts.flavour} {facts.version}",
                number(engine.bytes / 1e6, 1),
                number(facts.seconds, 1),
                _counts(audit, "convolution"),
                _counts(audit, "matrix product"),
                "-" if audit["reformats"] is None else str(audit["reformats"]),
                "yes" if engine.passed else "NO",
            )
        )
    table(("engine", "MB", "s", "convolutions", "matrix products", "reformats", "as asked"), rows)


def print_gate(gate: LatencyGate | None) -> None:
    """Print what the latency gate found, as a warning where INT8 is not faster."""
    if gate is None:
        return
    if gate:
        console().print(str(gate), markup=False)
    else:
        warn(str(gate))


def _counts(audit: Mapping[str, Any], kind: str) -> str:
    """Return ``49 int8``, or ``40 int8, 9 fp32``."""
    return ", ".join(f"{count} {precision}" for precision, count in audit["layers"].get(kind, {}).items()) or "-"
