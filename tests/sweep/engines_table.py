"""Writes docs/ZOO_ENGINES.md from the rows that ``make sweep-engines`` left: ``python tests/sweep/engines_table.py``."""

from __future__ import annotations

from typing import Any

from rows import ROOT, kept_rows, not_run

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
HEAD = """# The zoo, compiled by TensorRT-RTX on a CPU

    make sweep-engines                                                         # an hour or more; writes this page
    make sweep-engines SWEEP="tests/sweep/test_engines.py -k mobilenet"        # some models; the rows of others stay

Every model through TensorRT-RTX {version}'s builder on a machine without a GPU, for its default GPUs (8.0, 8.6, 8.9, 12.0) at batch 1.
**Nothing here was executed**: this says that a graph compiles, how large the engine is and how long the builder took, not how fast it runs.
Networks untrained, as in ZOO.md; INT8 with weights rounded to the nearest, on {images} photos. Deformable convolutions as GridSample.

Convolutions are those of the int8 graph, INT8 of all, as parsed: the others are kept in float on purpose (squeeze-excite, offsets), or
stand for a deformable convolution. INT8 engines are larger than a quarter of fp32's where there are depthwise convolutions: see ENGINES.md.

| model | {columns} | INT8 convolutions | as asked | commit |
|---|{rule}---|---|---|
"""


def line(row: dict[str, Any]) -> str:
    """Return a model's line: megabytes and seconds of each precision."""
    engines = row["engines"]
    convolutions = engines["int8"]["layers"]["convolution"]
    cells = [
        row["model"],
        *(f"{engines[name]['bytes'] / 1e6:.1f} / {engines[name]['seconds']:.1f}" for name in PRECISIONS),
        f"{convolutions.get('int8', 0)} of {sum(convolutions.values())}",
        "yes" if all(one["passed"] for one in engines.values()) else "NO",
        row["commit"],
    ]
    return f"| {' | '.join(cells)} |\n"


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row keeps from one sweep to the next."""
    return {"images": row["images"], "engines": row["engines"]}


def main() -> None:
    """Write the page; a model without a row is said to be missing."""
    rows = kept_rows("sweep-engines", ROOT / "docs" / "zoo-engines.json", kept)
    head = HEAD.format(
        version=" and ".join(sorted({engine["version"] for row in rows for engine in row["engines"].values()})),
        images=" or ".join(sorted({str(row["images"]) for row in rows})),
        columns=" | ".join(f"{name} MB / s" for name in PRECISIONS),
        rule="---|" * len(PRECISIONS),
    )
    (ROOT / "docs" / "ZOO_ENGINES.md").write_text(head + "".join(map(line, rows)) + not_run(rows))


if __name__ == "__main__":
    main()
