"""Writes docs/ZOO.md from the rows that ``make sweep`` left in build/sweep: ``python tests/sweep/table.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecnn import zoo

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "docs" / "zoo.json"
"""Every model's last row: a sweep takes hours, and may be done in parts (``make sweep SWEEP="tests/sweep/test_zoo.py -k densenet"``)."""

HEAD = """# The zoo, every model through the main job

    make sweep    # hours; writes this page

Each network untrained (He initialisation, BatchNorm statistics from a few grainy photos, residual branches that start small,
offset convolutions that deform), since published weights cannot be downloaded everywhere; weights rounded to the nearest
(`--effort fast`). This shows that every structure exports, simplifies, quantizes and verifies.
**Agreement and dB are those of untrained networks on {images} photos that calibration saw too; they are no statement about trained ones**
(for these see BENCHMARKS.md). Published accuracies: `edgecnn models`.

Nodes are those of the simplified fp32 graph. Agreement is the share of photos with the same top-1 class as PyTorch, dB is the SQNR
of the logits, both of `int8` / `int8-cpu`. Made with {versions}, by the edgecnn of the commit given.

| model | Mparams | GMACs | nodes | fp32 MB | int8 MB | agreement % | SQNR dB | verified | commit |
|---|---|---|---|---|---|---|---|---|---|
"""


def line(row: dict[str, Any]) -> str:
    """Return a model's line."""
    found = [row["metrics"][name] for name in ("int8", "int8-cpu")]
    cells = [
        row["model"],
        f"{row['params'] / 1e6:.1f}",
        f"{row['macs'] / 1e9:.2f}",
        str(row["nodes"]["fp32"]),
        f"{row['bytes']['fp32'] / 1e6:.1f}",
        f"{row['bytes']['int8'] / 1e6:.1f}",
        " / ".join(f"{metrics['top1']:.0f}" for metrics in found),
        " / ".join(f"{metrics['sqnr_db']:.1f}" for metrics in found),
        "yes" if row["verified"] else "NO",
        row["commit"],
    ]
    return f"| {' | '.join(cells)} |\n"


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row keeps from one sweep to the next."""
    cells = {
        name: row[name] for name in ("model", "commit", "versions", "params", "macs", "nodes", "bytes", "verified")
    }
    metrics = {
        name: {key: found[key] for key in ("samples", "top1", "sqnr_db")} for name, found in row["metrics"].items()
    }
    return cells | {"metrics": metrics}


def main() -> None:
    """Add the rows of build/sweep to those of earlier sweeps, and write the page; a model without a row is said to be missing."""
    rows: dict[str, Any] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    for file in (ROOT / "build" / "sweep").glob("*.json"):
        rows[file.stem] = kept(json.loads(file.read_text()))
    rows = {name: rows[name] for name in zoo.names() if name in rows}
    if not rows:
        raise SystemExit(f"no rows in {ROOT / 'build' / 'sweep'}: run make sweep")
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    images = sorted({metrics["samples"] for row in rows.values() for metrics in row["metrics"].values()})
    versions = sorted({row["versions"] for row in rows.values()})
    page = HEAD.format(images=" or ".join(map(str, images)), versions="; ".join(versions)) + "".join(
        map(line, rows.values())
    )
    missing = [name for name in zoo.names() if name not in rows]
    if missing:
        page += f"\nNot run: {', '.join(missing)}.\n"
    (ROOT / "docs" / "ZOO.md").write_text(page)


if __name__ == "__main__":
    main()
