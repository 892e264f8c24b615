"""Writes docs/BENCHMARKS.md from what ``make bench`` left in build/bench: ``python tests/bench/page.py``."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT

MISSING = "(not run)\n"
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def read(name: str) -> Any:
    """Return a result, None where the benchmark has not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def cpu() -> str:
    """Return the processor's name, as Linux tells it, with what matters to INT8."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.*)", text)
    return (found[1] if found else platform.machine()) + (", AVX512-VNNI" if "avx512_vnni" in text else "")


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def accuracy() -> str:
    """Return the table of the three networks."""
    found = [read(f"accuracy_{name}") for name in LITES]
    if None in found:
        return MISSING
    rows = []
    for variant in found[0]:
        cells = []
        for network in found:
            row = network[variant]
            own = f"{row['top1']:.1f}"
            cells.append(own if variant == "fp32" else f"{own} / {row['agreement']:.1f} / {row['sqnr_db']:.1f}")
        rows.append([variant, *cells])
    return grid(["", "Lite0", "Lite1", "Lite2"], rows)


def latency() -> str:
    """Return the table of ratios to fp32."""
    return ratios("latency")


def openvino() -> str:
    """Return the same with OpenVINO's sessions among them."""
    return ratios("openvino")


def ratios(part: str) -> str:
    """Return a table of ratios to fp32 on onnxruntime."""
    found = {name: read(f"{part}_{name}") for name in ("resnet50", "efficientnet_lite0")}
    if None in found.values():
        return MISSING
    variants = list(found["resnet50"])
    rows = [[variant, *(share(row, variant) for row in found.values())] for variant in variants]
    return grid(["time of fp32", "ResNet-50", "EfficientNet-Lite0"], rows)


def share(row: Any, variant: str) -> str:
    """Return a candidate's time as a share of fp32's: the median of the rounds, its spread, and that of the fastest runs."""
    own = row[variant]
    return f"{own['ratio']:.2f} ± {own['spread']:.2f} ({own['min_ms'] / row['fp32']['min_ms']:.2f})"


def cost() -> str:
    """Return the table of wall times and memory."""
    found = read("cost")
    if found is None:
        return MISSING
    rows = [[n, f"{r['export_s']:.0f}", f"{r['quantize_s']:.0f}", f"{r['peak_mb']:.0f}"] for n, r in found.items()]
    return grid(["", "export, simplify, s", "quantize twice, s", "peak RSS, MB"], rows)


def calibration() -> str:
    """Return the table of calibration times."""
    found = read("calibration")
    if found is None:
        return MISSING
    rows = []
    for method, row in found.items():
        ours, theirs = row["edgecnn"], row["onnxruntime"]
        share = ours["seconds"] / theirs["seconds"]
        rows.append([method, f"{share:.2f}", f"{ours['peak_mb']:.0f}", f"{theirs['peak_mb']:.0f}"])
    return grid(["method", "our time / onnxruntime's", "our peak RSS, MB", "onnxruntime's"], rows)


def memory() -> str:
    """Return the sentence on memory."""
    found = read("memory")
    if found is None:
        return MISSING
    few, many = (found[count]["peak_mb"] for count in ("128", "2048"))
    return f"Peak RSS of calibrating EfficientNet-Lite0: {few:.0f} MB with 128 images, {many:.0f} MB with 2,048 ({many / few - 1:+.1%}).\n"


def overhead() -> str:
    """Return the sentence on our session."""
    found = read("overhead")
    if found is None:
        return MISSING
    row = found["edgecnn"]
    share = f"{row['ratio']:.3f} ± {row['spread']:.3f}"
    return f"`Session.run` takes {share} of the time of a bare `InferenceSession.run` (EfficientNet-Lite0, fp32).\n"


PAGE = """# Benchmarks

    make bench    # about half an hour; writes this page

{machine}. The machine is shared, so times are ratios of candidates measured in turns in one run (median over the rounds, ± half the
interquartile range), and wall times are rough. `EDGECNN_IMAGENET_SAMPLE` names a folder of 500 labelled ImageNet photos, one of each
even class, which cannot be shipped; the accuracy and calibration parts need it.

## Accuracy of INT8

Trained weights of the packages; 128 calibration images, 372 others of other classes. Top-1 accuracy % / top-1 agreement with FP32 % /
SQNR of the logits in dB. `int8` is TensorRT-valid (symmetric, per-tensor activations, per-channel weights, float bias), `int8-cpu` is for
onnxruntime's integer kernels. Ours with the defaults (`--method auto`, `--effort balanced`), then with ranges by mean square error
(`mse`), then with weights rounded to the nearest (`--effort fast`); onnxruntime.quantization with
min-max ranges, per-channel weights: S8S8 symmetric, U8S8 with zero points.

{accuracy}
372 images resolve 0.3 points of agreement, and top-1 has a standard error of about 2 points.

## Latency

Batch 1, 2 threads, onnxruntime on the CPU; in brackets the ratio of the fastest runs, which neighbours on
the machine disturb least. ResNet-50 has untrained weights, whose values do not change the time of its kernels.

{latency}
`int8` is not meant for these kernels: engines are built from it, and OpenVINO runs it. Both backends in turns in one run, onnxruntime's
threads not spinning between its turns, as shares of fp32 on onnxruntime:

{openvino}
{overhead}
## What making a bundle costs

32 photos, both INT8 schemes, with `--effort fast` and `balanced`, each in a process of its own (the bound for ResNet-152 is 1500 MB):

{cost}
Reading, calibrating on 128 images of the sample and writing the graph, EfficientNet-Lite0:

{calibration}
{memory}"""


def main() -> None:
    """Write the page."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime"))
    machine = f"{os.cpu_count()} cores, {cpu()}, Python {platform.python_version()}, {versions}"
    parts = {part.__name__: part() for part in (accuracy, latency, openvino, overhead, cost, calibration, memory)}
    (ROOT / "docs" / "BENCHMARKS.md").write_text(PAGE.format(machine=machine, **parts))


if __name__ == "__main__":
    main()
