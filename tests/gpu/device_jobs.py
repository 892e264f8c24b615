"""What an engine must do on a device, beside computing the right values: run on fakes in every test run, and on a GPU by ``make gpu``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import engine_nets
import numpy as np

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.engine import Batch, BuildConfig, build
from edgecnn.fp16 import to_fp16
from edgecnn.onnxio import open_model
from edgecnn.pack import BundleContents, VariantContents, pack
from edgecnn.pipeline.engine_bisect import bisect_engines
from edgecnn.pipeline.engines import build_into
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import Bundle, OrtSession, TensorRtOptions, TensorRtSession
from edgecnn.runtime.manifest import Weights
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

__all__ = ["JOBS", "Nets", "small_nets"]

Nets = Mapping[str, OnnxModel]
SPEC = ModelSpec(
    name="net",
    builder="net:build",
    family="user",
    num_classes=10,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 16, 16)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    preprocess=Preprocess(size=(16, 16), resize=18),
)
DRAW = np.random.default_rng(5)


def small_nets(folder: Path) -> Nets:
    """Return a small network in three precisions."""
    (folder / "fp32.onnx").write_bytes(engine_nets.network())
    plain = open_model(folder / "fp32.onnx")
    samples = InMemory([{"input": images(1)} for _ in range(4)])
    return {
        "fp32": plain,
        "fp16": to_fp16(plain, samples, to=folder / "fp16.onnx").model,
        "int8": quantize(plain, samples, QuantizeConfig(effort="fast"), to=folder / "int8.onnx").model,
    }


def images(count: int) -> np.ndarray:
    """Return noise."""
    return DRAW.standard_normal((count, 3, 16, 16)).astype(np.float32)


def near(found: np.ndarray, graph: Path, x: np.ndarray) -> None:
    """Compare with the graph on the CPU."""
    with OrtSession(graph) as session:
        wanted = session.run({"input": x})["logits"]
    noise = float(np.square(found - wanted).sum() / np.square(wanted).sum())
    assert noise < 1e-4, noise  # 40 dB


def session_of(nets: Nets, flavour: Any, folder: Path, precision: str = "fp32", **options: Any) -> TensorRtSession:
    """Build and load."""
    build_options = {name: options.pop(name) for name in ("strip_weights",) if name in options}
    config = BuildConfig(target=flavour, batch=Batch(1, 4, 8), **build_options)
    engine = build(nets[precision], config, to=folder / f"{precision}.plan")
    own = TensorRtOptions(flavour=flavour, **options)
    return TensorRtSession(engine.path, own, engine.facts, weights=nets[precision].path)


def cuda_graphs(nets: Nets, flavour: Any, folder: Path) -> None:
    """A captured graph gives what every run gives, also after another shape."""
    with session_of(nets, flavour, folder, cuda_graph=True) as session:
        for count in (2, 2, 2, 8, 2, 2):
            x = images(count)
            near(session.run({"input": x})["logits"], nets["fp32"].path, x)


def device_outputs(nets: Nets, flavour: Any, folder: Path) -> None:
    """Outputs stay on the device, unchanged by later runs."""
    with session_of(nets, flavour, folder, device_outputs=True) as session:
        xs = [images(count) for count in (1, 8, 3)]
        kept = [session.run({"input": x})["logits"] for x in xs]
        for x, array in zip(xs, kept, strict=True):
            near(array.numpy(), nets["fp32"].path, x)
            near(np.asarray(session.run({"input": x})["logits"]), nets["fp32"].path, x)


def several_contexts(nets: Nets, flavour: Any, folder: Path) -> None:
    """Several sizes go through several contexts."""
    from concurrent.futures import ThreadPoolExecutor

    xs = [images(1 + index % 8) for index in range(16)]
    with session_of(nets, flavour, folder, contexts=3) as session, ThreadPoolExecutor(5) as pool:
        for x, found in zip(xs, pool.map(lambda x: session.run({"input": x})["logits"], xs), strict=True):
            near(found, nets["fp32"].path, x)


def refit(nets: Nets, flavour: Any, folder: Path) -> None:
    """Stripped weights come back."""
    for precision in nets:
        with session_of(nets, flavour, folder, precision, strip_weights=True) as session:
            x = images(4)
            near(session.run({"input": x})["logits"], nets[precision].path, x)


def gate_and_bisect(nets: Nets, flavour: Any, folder: Path) -> None:
    """INT8 and FP16 are measured, and no layer of a sound engine departs from its graph."""
    packed = [VariantContents(model=model, verified=True) for model in nets.values()]
    contents = BundleContents(spec=SPEC, weights=Weights(entry="own", source="here"), variants=packed, verified=True)
    bundle: Bundle = pack(folder / "bundle", contents)
    outcome = build_into(bundle, BuildConfig(target=flavour), latency_gate=True)
    assert outcome.gate is not None
    assert set(outcome.gate.ratios) == set(nets)
    assert all(ratio > 0 for ratio in outcome.gate.ratios.values())
    found = bisect_engines(outcome.bundle, TensorRtOptions(flavour=flavour))
    assert list(found) == [f"{name}@{flavour}" for name in nets]
    for name, report in found.items():
        assert len(report.layers) > 5
        assert report, (name, *report.lines())


JOBS: Mapping[str, Callable[[Nets, Any, Path], None]] = {
    job.__name__: job for job in (cuda_graphs, device_outputs, several_contexts, refit, gate_and_bisect)
}
