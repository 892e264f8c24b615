"""How a verification is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn.cli.output import console, number, table

if TYPE_CHECKING:
    from edgecnn.parity.report import ParityReport

__all__ = ["print_report"]


def print_report(report: ParityReport) -> None:
    """Print the verdict, a line for each stage, and in full what failed."""
    rows = []
    for name, row in report.summary()["stages"].items():
        sqnr = row.get("sqnr_db")
        measured = "sqnr_db" in row
        rows.append(
            (
                name,
                str(row.get("on", "-")),
                ("identical" if sqnr is None else number(sqnr, 1)) if measured else "-",
                number(row.get("top1"), 1),
                number(row.get("top5"), 1),
                number(row.get("kl"), 4),
                "passed" if row["passed"] else "FAILED",
            )
        )
    table(("stage", "on", "SQNR dB", "top-1 agreement %", "top-5 %", "KL", "verdict"), rows)
    out = console()
    lines = list(report.lines())
    out.print(lines[0], markup=False)
    if not report:
        for line in lines[1:]:
            out.print(line, markup=False)
