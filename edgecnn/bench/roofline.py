"""How much of the device's peak a model reaches: its multiply-adds at the measured latency, over a matrix product's in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgecnn.bench.gemm import measure_peak
from edgecnn.bench.layers import count_macs
from edgecnn.bench.requests import inputs_of
from edgecnn.bench.result import Peak, Roofline, Run
from edgecnn.bench.sessions import Cell
from edgecnn.errors import EdgecnnError, UserError
from edgecnn.optional import available
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import BACKENDS
from edgecnn.zoo import table

__all__ = ["rooflines"]


def rooflines(runs: Sequence[Run], cells: Sequence[Cell]) -> tuple[list[Run], tuple[Peak, ...], list[str]]:
    """Measure what is needed, and add a roofline to each run.

    Args:
        runs: with latencies of the inference alone.
        cells: of the same labels.

    Returns:
        The runs, the peaks, and why a run has none.
    """
    by_label = {cell.label: cell for cell in cells}
    peaks: dict[tuple[str, int, str], Peak] = {}
    macs: dict[str, tuple[int, str]] = {}
    texts: dict[str, None] = {}
    found = []
    for run in runs:
        cell = by_label[run.label]
        precision = "int8" if run.precision.startswith("int8") else "fp32"
        key = (run.backend, run.threads, precision)
        try:
            if run.backend not in BACKENDS:
                raise UserError(f"the peak of {run.backend} is not measured")
            if key not in peaks:
                peaks[key] = measure_peak(run.backend, cell.options, precision)
            if run.bundle not in macs:
                macs[run.bundle] = _macs(cell.bundle)
        except EdgecnnError as error:
            texts[f"no roofline of {run.label}: {error}"] = None
            found.append(run)
            continue
        found.append(replace(run, roofline=_roofline(run, peaks[key], *macs[run.bundle])))
    return found, tuple(peaks.values()), list(texts)


def _roofline(run: Run, peak: Peak, macs: int, source: str) -> Roofline:
    """Divide. Requests side by side count together, since they share the device; preprocessing does not count."""
    compute = run.stages["compute"].p50_ms if run.end_to_end or run.load else run.latency.p50_ms
    rate = run.batch / compute * 1e3 if run.streams == 1 or run.load else run.throughput
    gmacs = macs * rate / 1e9
    return Roofline(
        macs=macs,
        macs_source=source,
        gmacs=gmacs,
        peak_gmacs=peak.gmacs,
        precision=peak.precision,
        fraction=gmacs / peak.gmacs,
    )


def _macs(bundle: Bundle) -> tuple[int, str]:
    """Return the multiply-adds for one image, and where the number comes from. Raises EdgecnnError."""
    variant = bundle.variants.get("fp32") or next(iter(bundle.variants.values()))
    if available("onnxruntime"):
        spec = variant.inputs[0]
        batch = 1 if isinstance(spec.shape[0], str) else spec.shape[0]
        feed = inputs_of(bundle, spec, batch).feeds[0]
        return count_macs(bundle.path / variant.file, feed) // batch, f"shapes that onnxruntime saw in {variant.file}"
    preprocess = bundle.preprocess
    wanted = (bundle.spec.name, [preprocess.channels, *preprocess.size], bundle.spec.num_classes)
    for row in table():
        if (row["name"], row["input_size"], row["num_classes"]) == wanted:
            return int(row["macs"]), "the zoo's table"
    raise UserError(
        "its multiply-adds are counted with onnxruntime, which is not installed, and the zoo has no such model"
    )
