"""Writes docs/ZOO.md from the rows that ``make sweep`` left in build/sweep: ``python tests/sweep/table.py``."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from edgecnn import zoo

ROOT = Path(__file__).parents[2]
HEAD = """# The zoo, every model through the main job

    make sweep    # hours; writes this page

Each network untrained (He initialisation, BatchNorm statistics from a few grainy photos, residual branches that start small,
offset convolutions that deform), since published weights cannot be downloaded everywhere; weights rounded to the nearest
(`--effort fast`). This shows that every structure exports, simplifies, quantizes and verifies.
**Agreement and dB are those of untrained networks on {images} photos that calibration saw too; they are no statement about trained ones**
(for these see BENCHMARKS.md). Published accuracies: `edgecnn models`.

Nodes are those of the simplified fp32 graph. Agreement is the share of photos with the same top-1 class as PyTorch, dB is the SQNR
of the logits, both of `int8` / `int8-cpu`. Made with {versions}.

| model | Mparams | GMACs | nodes | fp32 MB | int8 MB | agreement % | SQNR dB | verified |
|---|---|---|---|---|---|---|---|---|
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
    ]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Write the page; a model without a row is said to be missing."""
    rows = ROOT / "build" / "sweep"
    found = [name for name in zoo.names() if (rows / f"{name}.json").exists()]
    if not found:
        raise SystemExit(f"no rows in {rows}: run make sweep")
    read = [json.loads((rows / f"{name}.json").read_text()) for name in found]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxsim", "onnxruntime"))
    images = read[0]["metrics"]["int8"]["samples"]
    page = HEAD.format(images=images, versions=versions) + "".join(map(line, read))
    missing = [name for name in zoo.names() if name not in found]
    if missing:
        page += f"\nNot run: {', '.join(missing)}.\n"
    (ROOT / "docs" / "ZOO.md").write_text(page)


if __name__ == "__main__":
    main()
