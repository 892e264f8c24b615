"""Writes docs/BENCHMARKS.md from what ``make bench`` left in build/bench, and from what is kept: ``python tests/bench/page.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from record import ROOT, UNTRAINED, kept

MISSING = "(not run)\n"
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TIMED = ("resnet50", "efficientnet_lite0")

Rows = dict[str, dict[str, Any]]


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def everywhere(rows: Rows, names: Sequence[str], table: Callable[..., str]) -> str:
    """Return a table for each kind of processor that has all of these results."""
    kinds = [kind for kind in rows.get(names[0], {}) if all(kind in rows.get(name, {}) for name in names)]
    parts = []
    for kind in kinds:
        found = [rows[name][kind] for name in names]
        parts.append(f"{origin(found)}:\n\n{table(*(row['found'] for row in found))}")
    return "\n".join(parts) or MISSING


def latest(rows: Rows, names: Sequence[str], table: Callable[..., str]) -> str:
    """Return the table of the results measured last, for what the processor does not decide."""
    if any(name not in rows for name in names):
        return MISSING
    found = [max(rows[name].values(), key=lambda row: str(row["day"])) for name in names]
    return f"{origin(found)}:\n\n{table(*(row['found'] for row in found))}"


def each(rows: Rows, kind: str, networks: Sequence[str], table: Callable[..., str]) -> str:
    """Return the table of those networks that were measured, from their names and results."""
    there = [name for name in networks if f"{kind}_{name}" in rows]
    if not there:
        return MISSING
    return latest(rows, [f"{kind}_{name}" for name in there], partial(table, there))


def short(names: Sequence[str]) -> list[str]:
    """Return the heads of columns."""
    return [name.replace("efficientnet_l", "L") for name in names]


def origin(found: Sequence[dict[str, Any]]) -> str:
    """Return where, when and with which commit results were measured."""
    places = sorted({f"{row['machine']} ({row['day']}, commit {row['commit']})" for row in found})
    return "; ".join(places)


def accuracy(names: Sequence[str], *found: Any) -> str:
    """Return the table of the three networks."""
    rows = []
    for variant in found[0]:
        cells = []
        for network in found:
            row = network[variant]
            own = f"{row['top1']:.1f}"
            cells.append(own if variant == "fp32" else f"{own} / {row['agreement']:.1f} / {row['sqnr_db']:.1f}")
        rows.append([variant, *cells])
    return grid(["", *short(names)], rows)


def ratios(resnet: Any, lite: Any) -> str:
    """Return a table of ratios to fp32 on onnxruntime."""
    rows = [[variant, share(resnet, variant), share(lite, variant)] for variant in resnet]
    return grid(["time of fp32", "ResNet-50", "EfficientNet-Lite0"], rows)


def share(row: Any, variant: str) -> str:
    """Return a candidate's time as a share of fp32's: the median of the rounds, its spread, and that of the fastest runs."""
    own = row[variant]
    return f"{own['ratio']:.2f} ± {own['spread']:.2f} ({own['min_ms'] / row['fp32']['min_ms']:.2f})"


def cost(found: Any) -> str:
    """Return the table of wall times and memory."""
    rows = [[n, f"{r['export_s']:.0f}", f"{r['quantize_s']:.0f}", f"{r['peak_mb']:.0f}"] for n, r in found.items()]
    return grid(["", "export, simplify, s", "quantize twice, s", "peak RSS, MB"], rows)


def calibration(found: Any) -> str:
    """Return the table of calibration times."""
    rows = []
    for method, row in found.items():
        ours, theirs = row["edgecnn"], row["onnxruntime"]
        times = f"{ours['seconds'] / theirs['seconds']:.2f}"
        rows.append([method, times, f"{ours['peak_mb']:.0f}", f"{theirs['peak_mb']:.0f}"])
    return grid(["method", "our time / onnxruntime's", "our peak RSS, MB", "onnxruntime's"], rows)


def memory(found: Any) -> str:
    """Return the sentence on memory."""
    few, many = (found[count]["peak_mb"] for count in ("128", "2048"))
    return f"Peak RSS of calibrating EfficientNet-Lite0: {few:.0f} MB with 128 images, {many:.0f} MB with 2,048 ({many / few - 1:+.1%}).\n"


def overhead(found: Any) -> str:
    """Return the sentence on our session."""
    row = found["edgecnn"]
    times = f"{row['ratio']:.3f} ± {row['spread']:.3f}"
    text = f"`Session.run` takes {times} of the time of a bare `InferenceSession.run` (EfficientNet-Lite0, fp32)"
    if "added_us" in found:
        added = f"{found['added_us']:.0f} microseconds, {found['share']:.2%} of Lite0's fastest run"
        text += f". On a graph that computes next to nothing it adds {added}"
    return text + ".\n"


def peers(names: Sequence[str], *found: Any) -> str:
    """Return the table of the three networks, with the seconds each took."""
    rows = []
    for variant in found[0]:
        cells = []
        for network in found:
            row = network[variant]
            own = f"{row['top1']:.1f}"
            rest = (
                "" if variant == "fp32" else f" / {row['agreement']:.1f} / {row['sqnr_db']:.1f}, {row['seconds']:.0f} s"
            )
            cells.append(own + rest)
        rows.append([variant, *cells])
    return grid(["", *short(names)], rows)


def no_data(names: Sequence[str], *found: Any) -> str:
    """Return the table of sources of calibration images."""
    rows = []
    for source in found[0]:
        if source == "fp32":
            continue
        cells = []
        for network in found:
            row = network[source]
            took = f" ({row['seconds']:.0f} s to make)" if "seconds" in row else ""
            cells.append(f"{row['agreement']:.1f} / {row['sqnr_db']:.1f}{took}")
        rows.append([source, *cells])
    return grid(["", *short(names)], rows)


def splits(names: Sequence[str], *found: Any) -> str:
    """Return the table of the splits and their mean."""
    rows = [
        [
            f"split {number}",
            *(f"{n['splits'][number]['agreement']:.1f} / {n['splits'][number]['sqnr_db']:.1f}" for n in found),
        ]
        for number in range(len(found[0]["splits"]))
    ]
    rows.append(["mean", *(f"{n['means']['agreement']:.1f} / {n['means']['sqnr_db']:.1f}" for n in found)])
    if all("white" in n["means"] for n in found):
        rows.append(
            [
                "agreement that white noise of these dB on the FP32 logits leaves",
                *(f"{n['means']['white']:.1f}" for n in found),
            ]
        )
    return grid(["", *short(names)], rows)


def correction(found: Any) -> str:
    """Return the sentence on the time of the default."""
    times = (
        f"{found['cpu_s']:.0f} s of processor time on two cores ({found['seconds']:.0f} s on the clock, beside others)"
    )
    return f"The default, `--method auto --effort balanced`, takes {times} for EfficientNet-Lite0 and 128 images.\n"


def untrained(names: Sequence[str], *found: Any) -> str:
    """Return the table of networks with random weights."""
    rows = [
        [name, *(f"{row[scheme][effort]:.1f}" for scheme in ("int8", "int8-cpu") for effort in row[scheme])]
        for name, row in zip(names, found, strict=True)
    ]
    return grid(["dB", *(f"`{scheme}`, {effort}" for scheme in found[0] for effort in found[0][scheme])], rows)


def job(found: Any) -> str:
    """Return the sentence on the whole job."""
    parts = [f"{row['peak_mb']:.0f} MB with {count} images ({row['seconds']:.0f} s)" for count, row in found.items()]
    return f"Peak RSS of the whole job on ResNet-50, both INT8 schemes, `--effort balanced`: {', '.join(parts)}.\n"


def speed(found: Any) -> str:
    """Return the sentence on calibration beside inference."""
    parts = [f"{row['calibration_ms'] / row['inference_ms']:.2f} ({name})" for name, row in found.items()]
    told = "An image of calibration takes so many times an image of plain inference on the same two cores, where the goal is 1.3"
    return f"{told}: {', '.join(parts)}.\n"


PAGE = """# Benchmarks

    make bench                               # an hour and a half or more on two cores, by its parts; writes this page
    make bench-peers                         # NNCF and ModelOpt beside ours, about 20 minutes more
    make bench BENCH="tests/bench -k cost"   # some of it; the results of others stay

What was measured stands in `benchmarks.json`, by kind of processor, since whether one has VNNI decides how fast INT8 is on it. The
machines are shared, so times are ratios of candidates measured in turns in one run (median over the rounds, ± half the interquartile
range), and wall times are rough. `EDGECNN_IMAGENET_SAMPLE` names a folder of 500 labelled ImageNet photos, one of each even class,
which cannot be shipped; the accuracy and calibration parts need it.

## Accuracy of INT8

Trained weights of the packages; 128 calibration images, 372 others of other classes. Top-1 accuracy % / top-1 agreement with FP32 % /
SQNR of the logits in dB. `int8` is TensorRT-valid (symmetric, per-tensor activations, per-channel weights, float bias), `int8-cpu` is for
onnxruntime's integer kernels. Ours with the defaults (`--method auto`, `--effort balanced`), then with weights rounded to the nearest
and ranges by mean square error (`--effort fast`); onnxruntime.quantization with min-max ranges, per-channel weights: S8S8 symmetric,
U8S8 with zero points.

{accuracy}
372 images resolve 0.3 points of agreement, and top-1 has a standard error of about 2 points. `int8` with the defaults
on three such splits, agreement % / dB:

{splits}

Beside other quantizers, each in an environment of its own (`make bench-peers`: NNCF 3.4.0, ModelOpt 0.47.0), by the same protocol, with the
seconds each took. NNCF signed and ModelOpt are TensorRT-valid as `int8` is; the other two have uint8 activations as `int8-cpu` has:

{peers}
Without images of the application, agreement / dB of `int8` with ranges by mean square error and `--effort balanced`:

{no_data}
Untrained networks, whose weights are not packaged; ranges by `--method auto`; `plain` rounds weights to the nearest and leaves biases
alone, `fast` corrects biases where held-out photos are better for it;
24 photos to calibrate on, 8 other crops to judge by:

{untrained}
## Latency

Batch 1, 2 threads, onnxruntime on the CPU; in brackets the ratio of the fastest runs, which neighbours on
the machine disturb least. ResNet-50 has untrained weights, whose values do not change the time of its kernels.
`int8` is not meant for these kernels: engines are built from it, and OpenVINO runs it.

{latency}
Both backends in turns in one run, onnxruntime's threads not spinning between its turns, as shares of fp32 on onnxruntime:

{openvino}
The same beside the network that NNCF quantized for OpenVINO (`make bench-peers`):

{peers_speed}
What a session of ours adds:

{overhead}
## What making a bundle costs

32 photos, both INT8 schemes, with `--effort fast` and `balanced`, each in a process of its own (the bound for ResNet-152 is 1500 MB):

{cost}
Reading, calibrating on 128 images of the sample and writing the graph, EfficientNet-Lite0:

{calibration}
{correction}
{memory}
{job}
{speed}"""


def main() -> None:
    """Write the page."""
    rows = kept()
    parts = {
        "accuracy": each(rows, "accuracy", LITES, accuracy),
        "latency": everywhere(rows, [f"latency_{name}" for name in TIMED], ratios),
        "openvino": everywhere(rows, [f"openvino_{name}" for name in TIMED], ratios),
        "overhead": everywhere(rows, ["overhead"], overhead),
        "cost": latest(rows, ["cost"], cost),
        "calibration": latest(rows, ["calibration"], calibration),
        "memory": latest(rows, ["memory"], memory),
        "splits": each(rows, "splits", LITES, splits),
        "correction": latest(rows, ["correction"], correction),
        "peers": each(rows, "peers", LITES, peers),
        "peers_speed": everywhere(rows, [f"peers_speed_{name}" for name in TIMED], ratios),
        "no_data": each(rows, "no_data", LITES, no_data),
        "untrained": each(rows, "untrained", UNTRAINED, untrained),
        "job": latest(rows, ["pipeline"], job),
        "speed": latest(rows, ["calibration_speed"], speed),
    }
    (ROOT / "docs" / "BENCHMARKS.md").write_text(PAGE.format(**parts))


if __name__ == "__main__":
    main()
