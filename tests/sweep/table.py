"""Writes docs/ZOO.md from the rows that ``make sweep`` left in build/sweep: ``python tests/sweep/table.py``."""

from __future__ import annotations

from typing import Any

from rows import ROOT, kept_rows, not_run

HEAD = """# The zoo, every model through the main job

    make sweep                                                         # hours; writes this page
    make sweep SWEEP="tests/sweep/test_zoo.py -k densenet"             # some models; the rows of others stay

Each network untrained (He initialisation, BatchNorm statistics from a few grainy photos, residual branches that start small,
offset convolutions that deform), since published weights cannot be downloaded everywhere; weights rounded to the nearest
(`--effort fast`). This shows that every structure exports, simplifies, quantizes and verifies.
**Agreement and dB are those of untrained networks on {images} photos that calibration saw too; they are no statement about trained ones**
(for these see BENCHMARKS.md). Published accuracies: `edgecnn models`.
Engines of every model, their size and build time in four precisions: [ZOO_ENGINES.md](ZOO_ENGINES.md) (`make sweep-engines`).

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
    metrics = {
        name: {key: found[key] for key in ("samples", "top1", "sqnr_db")} for name, found in row["metrics"].items()
    }
    return {name: row[name] for name in ("versions", "params", "macs", "nodes", "bytes", "verified")} | {
        "metrics": metrics
    }


def main() -> None:
    """Write the page; a model without a row is said to be missing."""
    rows = kept_rows("sweep", ROOT / "docs" / "zoo.json", kept)
    images = sorted({metrics["samples"] for row in rows for metrics in row["metrics"].values()})
    versions = sorted({row["versions"] for row in rows})
    head = HEAD.format(images=" or ".join(map(str, images)), versions="; ".join(versions))
    (ROOT / "docs" / "ZOO.md").write_text(head + "".join(map(line, rows)) + not_run(rows))


if __name__ == "__main__":
    main()
