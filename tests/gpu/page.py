"""Writes docs/GPU.md from the rows that ``make gpu`` left and those of earlier runs (docs/gpu.json): ``python tests/gpu/page.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))

from rows import ROOT

from edgecnn import zoo

__all__ = ["KEPT", "PAGE", "collected", "page"]

KEPT = ROOT / "docs" / "gpu.json"
PAGE = ROOT / "docs" / "GPU.md"
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
Rows = Mapping[str, Mapping[str, Any]]

HEAD = """# On an NVIDIA GPU

    make gpu                                                     # all of it: hours; writes this page
    make gpu GPU="tests/gpu/test_zoo_cuda.py -k resnet50"        # a part; the rows of others stay
    make gpu GPU="tests/gpu/test_zoo_engines.py -k 'tensorrt-rtx and mobilenet'"
    make gpu GPU=tests/native                                    # the plugin's kernels alone

runs the tests that need one (marker `gpu`); without a GPU, or without what they need beside it, they are skipped and pytest says why.
Networks are untrained, as in ZOO.md, and times are those of one image with its copies to and from the device, measured in turns, as a
share of fp32's in the same rounds. A row says with which device, versions and commit it was made.

"""
TITLES = {
    "cuda": (
        "onnxruntime's CUDA provider beside its CPU",
        "`tests/gpu/test_zoo_cuda.py`, with `pip install '.[export,gpu,zoo]'` in place of `cpu`: parity and latency of every model.",
    ),
    "tensorrt": (
        "TensorRT's engines beside onnxruntime's CPU",
        (
            "`tests/gpu/test_zoo_engines.py`, with `pip install tensorrt '.[cuda]'`: built on the device, audited by the plan, verified at "
            "batches 1, 4 and 8."
        ),
    ),
    "tensorrt-rtx": (
        "TensorRT-RTX's engines beside onnxruntime's CPU",
        (
            "`tests/gpu/test_zoo_engines.py`, with `pip install '.[rtx,cuda]'`. First the library itself is asked whether it runs on this "
            "GPU: its builder names no Hopper."
        ),
    ),
    "device": (
        "What an engine must do on a device",
        (
            "`tests/gpu/test_device.py`: CUDA graphs, outputs that stay on the GPU, several contexts, refit of stripped weights, "
            "`--gate latency`, `--bisect`. In every test run the same is done to fakes."
        ),
    ),
    "plugin": (
        "The plugin's goldens inside engines",
        (
            "`tests/gpu/test_plugin_engine.py`, with nvcc and TensorRT's headers (`EDGECNN_TENSORRT_ROOT`): largest difference from "
            "torchvision's operator in float64."
        ),
    ),
    "kernel": (
        "The plugin's kernels beside PyTorch's forms",
        (
            "`tests/native/test_gpu.py`, with nvcc and a PyTorch with CUDA: goldens and random cases, and milliseconds of three layers of "
            "a deformable ResNet-50."
        ),
    ),
}
NEVER = "**This has not run yet: no GPU was at hand.**\n"
TAIL = """
## What nothing here shows

DLA, a Jetson, version-compatible plans, TensorRT-RTX's runtime cache on a device. ENGINES.md and PLUGIN.md say what was compiled, and
what stood in for the GPU in the tests.
"""


def collected(build: Path, kept: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """Return the kept rows with those of ``build/gpu`` over them: kind -> model or case -> row.

    Args:
        build: the folder: ``cuda/resnet50.json`` ..., and ``deform_conv2d.json`` of the kernels.
        kept: of earlier runs.
    """
    found: dict[str, dict[str, Any]] = {kind: dict(rows) for kind, rows in kept.items()}
    for file in sorted(build.glob("*/*.json")):
        found.setdefault(file.parent.name, {})[file.stem] = json.loads(file.read_text())
    if (build / "deform_conv2d.json").exists():
        found["kernel"] = {"deform_conv2d": json.loads((build / "deform_conv2d.json").read_text())}
    return {kind: found[kind] for kind in sorted(found)}


def page(rows: Mapping[str, Rows]) -> str:
    """Return the page."""
    parts = [HEAD]
    for kind, (title, text) in TITLES.items():
        probe = rows.get(f"{kind}-probe", {})
        body = "".join(_body(kind, rows.get(kind, {}))) + "".join(map(_probe, probe.values()))
        parts.append(f"## {title}\n\n{text}\n\n{body or NEVER}\n")
    return "".join(parts).rstrip("\n") + "\n" + TAIL


def _body(kind: str, rows: Rows) -> Iterable[str]:
    """Yield the lines of a kind's table; nothing where there are no rows."""
    if not rows:
        return
    if kind == "kernel":
        yield from _kernel(rows["deform_conv2d"])
    elif kind == "device":
        yield "| passed | device | versions | commit |\n|---|---|---|---|\n"
        for name, row in rows.items():
            yield f"| {name} | {_made(row)} |\n"
    elif kind == "plugin":
        yield "| case | largest difference | of | device | versions | commit |\n|---|---|---|---|---|---|\n"
        for name, row in rows.items():
            yield f"| {name} | {row['max_abs']:.2g} | {row['of']:.2g} | {_made(row)} |\n"
    else:
        columns = "".join(f" {name} ratio / dB |" for name in PRECISIONS)
        extra = " INT8 convolutions | reformats |" if kind != "cuda" else ""
        yield f"| model | fp32 ms |{columns}{extra} passed | device | versions | commit |\n"
        yield f"|---|---|{'---|' * len(PRECISIONS)}{'---|---|' if extra else ''}---|---|---|---|\n"
        for name in (name for name in zoo.names() if name in rows):
            yield _model(name, rows[name], engines=kind != "cuda")


def _model(name: str, row: Mapping[str, Any], *, engines: bool) -> str:
    """Return a model's line."""
    variants = row["variants"]
    cells = [name, f"{variants['fp32']['milliseconds']:.3f}"]
    for precision in PRECISIONS:
        one = variants[precision]
        decibels = "identical" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f}"
        cells.append(f"{one['ratio']:.2f} / {decibels}")
    if engines:
        counts, int8 = variants["int8"]["convolutions"], variants["int8"]
        cells.append(f"{counts.get('int8', 0)} of {sum(counts.values())} ({int8['audit']})")
        cells.append("-" if int8["reformats"] is None else str(int8["reformats"]))
    good = all(one["passed"] and one.get("as_asked", True) for one in variants.values())
    return f"| {' | '.join(cells)} | {'yes' if good else 'NO'} | {_made(row)} |\n"


def _kernel(row: Mapping[str, Any]) -> Iterable[str]:
    """Yield the lines of the kernels' table."""
    times = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    forms = list(dict.fromkeys(form for value in times.values() for form in value))
    yield f"{row['device']}, nvcc {row['nvcc']}.\n\n| layer | {' | '.join(forms)} |\n|---|{'---|' * len(forms)}\n"
    for name, value in times.items():
        yield f"| {name} | {' | '.join(f'{value[form]:.3f}' if form in value else '-' for form in forms)} |\n"


def _probe(row: Mapping[str, Any]) -> str:
    """Say whether a flavour runs on a GPU."""
    said = f"does not run: {row['refusal']}" if row["refusal"] else "runs an engine"
    return f"\n{row['device']} ({row['versions']}): {said}.\n"


def _made(row: Mapping[str, Any]) -> str:
    """Return what a row was made with."""
    return f"{row['device']} | {row['versions']} | {row['commit']}"


def main() -> None:
    """Keep the rows and write the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    rows = collected(ROOT / "build" / "gpu", kept)
    if rows:
        KEPT.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
