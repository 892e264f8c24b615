"""A benchmark's result with every part filled, for tests of those who read one."""

from __future__ import annotations

from edgecnn.bench.result import (
    BenchResult,
    Comparison,
    Device,
    Histogram,
    Latency,
    LayerTime,
    Load,
    Memory,
    Peak,
    Roofline,
    Run,
    StartUp,
    Telemetry,
)


def latency(middle: float = 10.0) -> Latency:
    """Return a distribution around a time in milliseconds."""
    names = ("min", "mean", "std", "p50", "p90", "p95", "p99", "p99_9", "max")
    factors = (0.9, 1.02, 0.05, 1.0, 1.1, 1.2, 1.5, 1.9, 2.0)
    return Latency(count=300, **{f"{name}_ms": middle * factor for name, factor in zip(names, factors, strict=True)})


def run(label: str, middle: float, variant: str = "fp32") -> Run:
    """Return a run with every part."""
    return Run(
        label=label, bundle="lite0", model="efficientnet_lite0", variant=variant, precision=variant, backend="onnxruntime",
        batch=1, threads=2, streams=1, end_to_end=True, seconds=3.0, throughput=30.0, latency=latency(middle),
        histogram=Histogram(edges_ms=(9.0, 10.0, 11.0), counts=(100, 200)),
        start_up=StartUp(import_ms=120.0, load_ms=35.5, first_ms=20.25, warmup_runs=12, warmup_ms=150.0, steady=True),
        memory=Memory(rss_before_mb=100.5, rss_loaded_mb=130.0, rss_after_mb=140.0, rss_peak_mb=150.0, gpu_used_mb=512.0),
        stages={name: latency(middle / 4) for name in ("preprocess", "copy", "compute", "postprocess")},
        load=Load(pattern="fixed", rate=30.0, achieved=29.9, deadline_ms=33.3, requests=90, served=90, misses=2,
                  queue=latency(0.1), service=latency(middle), utilisation=0.3),
        telemetry=Telemetry(sources=("tegrastats",), samples=30, seconds=3.0, watts={"VDD_IN": 9.5}, joules_per_inference=0.3,
                            energy_source="tegrastats VDD_IN", mhz_min={"gpu": 900.0}, mhz_max={"gpu": 918.0}, celsius_max={"tj": 51.5},
                            power_mode="MAXN", throttling=("thermal",), clocks_locked=False, others_share=0.05),
        roofline=Roofline(macs=385_000_000, macs_source="the zoo", gmacs=38.5, peak_gmacs=100.0, precision="fp32", fraction=0.385),
        layers=(LayerTime(name="conv", op="Conv", mean_ms=1.5, share=0.75), LayerTime(name="fc", op="Gemm", mean_ms=0.5, share=0.25)),
        warnings=("clocks are not locked",),
    )  # fmt: skip


def whole_result() -> BenchResult:
    """Return a result with every part."""
    return BenchResult(
        device=Device(name="a board", arch="aarch64", system="Linux", cores=6, gpus=("a GPU",), versions={"onnxruntime": "1.32.0"}),
        config={"duration": 3.0, "batches": [1]},
        runs=(run("fp32@onnxruntime", 10.0), run("int8-cpu@onnxruntime", 5.0, "int8-cpu")),
        comparisons=(
            Comparison(baseline="fp32@onnxruntime", candidate="int8-cpu@onnxruntime", rounds=40, ratio=0.5, low=0.49, high=0.51,
                       confidence=0.95, method="block bootstrap", verdict="faster", text="2.00x faster"),
        ),
        peaks=(Peak(backend="onnxruntime", threads=2, precision="fp32", gmacs=100.0, shape=(512, 512, 512)),),
        warnings=("a warning",),
        created="2026-11-30T20:30:00+00:00",
    )  # fmt: skip
