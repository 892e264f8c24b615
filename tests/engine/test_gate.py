"""INT8 is the default only where it is faster than FP16: measured on a device, here one whose plans take as long as they are told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli
from engine_machine import Machine
from tiny_bundle import PREPROCESS, SPEC, edit_manifest

from edgecnn.artifacts import EngineSpeed, OnnxModel
from edgecnn.engine import BuildConfig
from edgecnn.errors import BundleSchemaError, MissingDependencyError, SpecError, UserError
from edgecnn.pack import BundleContents, VariantContents, pack
from edgecnn.pipeline import PipelineConfig
from edgecnn.pipeline.engines import build_into, engine_config
from edgecnn.pipeline.gate import LatencyGate, cpu_gate
from edgecnn.runtime import Bundle, Speed, load
from edgecnn.runtime.choice import fastest_engine
from edgecnn.runtime.manifest import BackendSpeed, Weights
from edgecnn.spec import TensorSpec

TENSORRT = BuildConfig(target="tensorrt")
NET = replace(
    SPEC,
    num_classes=10,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 16, 16)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    preprocess=replace(PREPROCESS, size=(16, 16), resize=18),
)


class Clock:
    """Stands for the module ``time``: it goes on when a plan runs, and a little when it is read; a busy machine changes no ratio."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        cls.pass_by(1e-6)
        return cls.now

    @classmethod
    def pass_by(cls, seconds: float) -> None:
        cls.now += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setattr("edgecnn.pipeline.gate.SECONDS", 0.02)
    monkeypatch.setattr("edgecnn.bench.timing.time", Clock)
    found = Machine(monkeypatch, tmp_path / "cache")
    found.module.take_time = lambda graph: Clock.pass_by(0.001)
    return found


def bundle_of(nets: Mapping[str, OnnxModel], folder: Path, *names: str) -> Bundle:
    """Return a bundle of some precisions, all of them verified."""
    packed = [VariantContents(model=nets[name], verified=True) for name in names]
    return pack(folder / "bundle", contents(packed))


def contents(packed: list[VariantContents]) -> BundleContents:
    notes = ("calibrated on the built-in photos",)
    return BundleContents(
        spec=NET, weights=Weights(entry="own", source="here"), variants=packed, verified=True, notes=notes
    )


def slow(machine: Machine, nets: Mapping[str, OnnxModel], seconds: Mapping[str, float]) -> None:
    """Make the plans of some precisions take their time, and the others a millisecond."""
    times = {nets[name].path.read_bytes(): own for name, own in seconds.items()}

    machine.module.take_time = lambda graph: Clock.pass_by(times.get(graph, 0.0) + 0.001)


@pytest.mark.parametrize(
    ("seconds", "winner"),
    [
        ({"fp32": 0.05, "fp16": 0.04, "int8": 0.03, "int8-fp16": 0}, "int8-fp16"),
        ({"fp32": 0.05, "fp16": 0.04, "int8": 0, "int8-fp16": 0.03}, "int8"),
        ({"fp32": 0.05, "fp16": 0, "int8": 0.04, "int8-fp16": 0.03}, "fp16"),
        ({"fp32": 0, "fp16": 0.03, "int8": 0.04, "int8-fp16": 0.03}, "fp32"),
    ],
)
def test_the_faster_one_is_the_default_and_both_are_recorded(
    nets: Mapping[str, OnnxModel],
    machine: Machine,
    cli: Cli,
    tmp_path: Path,
    seconds: Mapping[str, float],
    winner: str,
) -> None:
    bundle = bundle_of(nets, tmp_path, *seconds)
    slow(machine, nets, seconds)
    result = cli("build", bundle.path, "--target", "tensorrt", "--gate", "latency", "--json")
    fast = winner.startswith("int8")
    assert result.code == (0 if fast else 3), result.err
    assert (result.document["passed"], result.document["gate"]["winner"]) == (fast, winner)
    written = Bundle.open(bundle.path)
    speeds = {name: record.facts.speed for name, record in written.manifest.engines.items()}
    assert set(speeds) == {f"{name}.tensorrt" for name in seconds}
    assert all(speed is not None and (speed.baseline, speed.gpu) == ("fp16", "Orin (8.7)") for speed in speeds.values())
    order = sorted(seconds, key=lambda name: speeds[f"{name}.tensorrt"].ratio)  # type: ignore[union-attr]
    assert order[0] == winner
    assert speeds["fp16.tensorrt"].ratio == 1  # type: ignore[union-attr]
    (note,) = (note for note in written.manifest.notes if note.startswith("latency of tensorrt"))
    assert note == f"latency of tensorrt: {result.document['gate']['reason']}"
    assert (
        f"so {winner} is the default: times as a fraction of fp16's on Orin (8.7) with TensorRT 10.3.0: {winner} "
        in note
    )
    assert str(written.choose(backend="tensorrt")) == f"{winner} on tensorrt"
    with load(bundle.path, backend="tensorrt") as session:
        assert session.run({"input": np.zeros((1, 3, 16, 16), np.float32)})["logits"].shape == (1, 10)


def test_the_verdict_is_printed_and_a_second_one_replaces_the_first(
    nets: Mapping[str, OnnxModel], machine: Machine, cli: Cli, tmp_path: Path
) -> None:
    bundle = bundle_of(nets, tmp_path, "fp16", "int8")
    slow(machine, nets, {"fp16": 0, "int8": 0.04})
    result = cli("build", bundle.path, "--target", "tensorrt", "--gate", "latency")
    assert result.code == 3
    assert "warning: INT8 is not clearly faster" in result.err
    slow(machine, nets, {"fp16": 0.04, "int8": 0})
    result = cli("build", bundle.path, "--target", "tensorrt", "--gate", "latency")
    assert result.code == 0
    assert "INT8 is faster, so int8 is the default" in " ".join(result.out.split())
    notes = Bundle.open(bundle.path).manifest.notes
    assert len([note for note in notes if note.startswith("latency of tensorrt: INT8 is faster")]) == 1
    assert len([note for note in notes if note.startswith("latency")]) == 1
    assert "calibrated on the built-in photos" in notes
    assert cli("build", bundle.path, "--target", "tensorrt", "--variant", "int8").code == 0
    opened = Bundle.open(bundle.path)
    assert opened.manifest.engines["int8.tensorrt"].facts.speed is None  # another engine, which nobody measured
    assert opened.choose(backend="tensorrt").variant == "int8"


def test_fp16_is_built_beside_the_variant_that_was_named(
    nets: Mapping[str, OnnxModel], machine: Machine, tmp_path: Path
) -> None:
    bundle = bundle_of(nets, tmp_path, "fp32", "fp16", "int8")
    slow(machine, nets, {"fp16": 0.04})
    outcome = build_into(bundle, TENSORRT, variants=["int8"], latency_gate=True)
    assert list(outcome.engines) == ["int8", "fp16"]
    assert outcome
    assert outcome.gate is not None
    assert outcome.gate.winner == "int8"
    assert machine.cuda.held == 0


def test_int8_that_failed_verification_wins_nothing(
    nets: Mapping[str, OnnxModel], machine: Machine, tmp_path: Path
) -> None:
    packed = [VariantContents(model=nets[name], verified=name != "int8") for name in ("fp16", "int8")]
    bundle = pack(tmp_path / "bundle", contents(packed))
    slow(machine, nets, {"fp16": 0.04})
    outcome = build_into(bundle, TENSORRT, allow_unverified=True, latency_gate=True)
    assert not outcome
    assert outcome.gate is not None
    assert outcome.gate.winner == outcome.bundle.choose(backend="tensorrt").variant == "fp16"


def test_a_stripped_or_version_compatible_engine_is_measured_too(
    nets: Mapping[str, OnnxModel], machine: Machine, tmp_path: Path
) -> None:
    bundle = bundle_of(nets, tmp_path, "fp16", "int8")
    config = BuildConfig(target="tensorrt", strip_weights=True, version_compatible=True)
    outcome = build_into(bundle, config, latency_gate=True)
    assert all(engine.facts.speed is not None for engine in outcome.engines.values())


def test_what_cannot_be_compared_is_refused_before_anything_is_built(
    nets: Mapping[str, OnnxModel],
    machine: Machine,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = bundle_of(nets, tmp_path / "a", "fp32", "int8")
    with pytest.raises(UserError, match=r"compares INT8 with FP16, and .* has no verified fp16: export it with --int8"):
        build_into(without, TENSORRT, latency_gate=True)
    floats = bundle_of(nets, tmp_path / "b", "fp32", "fp16")
    with pytest.raises(UserError, match="there is no INT8 among fp32, fp16"):
        build_into(floats, TENSORRT, latency_gate=True)
    whole = bundle_of(nets, tmp_path / "c", "fp16", "int8")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgecnn\[cuda\]'"):
        build_into(whole, TENSORRT, latency_gate=True)
    assert machine.module.configs == []
    assert all(not Bundle.open(one.path).manifest.engines for one in (without, floats, whole))


def test_rtx_compiles_without_a_gpu_but_cannot_be_measured(
    nets: Mapping[str, OnnxModel], cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = bundle_of(nets, tmp_path, "fp16", "int8")
    result = cli("build", bundle.path, "--target", "tensorrt-rtx", "--gate", "latency")
    assert result.code == 1
    assert (
        "--gate latency runs the engines of TensorRT-RTX to measure them, and there is no NVIDIA GPU here: leave it out, and on the "
        "machine that will run them take 'edgecnn build BUNDLE --target tensorrt-rtx --gate latency'"
    ) in " ".join(result.err.split())
    with pytest.raises(UserError, match="there is no NVIDIA GPU here"):
        engine_config(PipelineConfig(int8=True, target="tensorrt-rtx", latency_gate=True))


def test_the_main_job_makes_fp16_and_says_what_to_run_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PipelineConfig(int8=True, target="tensorrt", latency_gate=True)
    assert config.fp16
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    build, (note,) = engine_config(config)
    assert build is None
    assert note.endswith("on the device, run 'edgecnn build BUNDLE --target tensorrt --gate latency'")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "cpu"}, "the latency gate is for INT8"),
        ({"target": "cpu", "int8": True, "measure_seconds": 0}, "needs measurements"),
    ],
)
def test_a_gate_that_has_nothing_to_compare(options: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        PipelineConfig(latency_gate=True, **options)


@pytest.mark.parametrize(
    ("ratios", "winner"),
    [
        ({"fp16": 1.0, "int8": 0.94}, "int8"),
        ({"fp16": 1.0, "int8": 0.96}, "fp16"),
        ({"fp16": 1.0, "int8-fp16": 0.5, "int8": 0.49}, "int8-fp16"),
        ({"fp32": 0.8, "fp16": 1.0, "int8": 0.79}, "fp32"),
        ({"fp16": 1.0}, "fp16"),
    ],
)
def test_int8_must_be_clearly_faster(ratios: Mapping[str, float], winner: str) -> None:
    assert fastest_engine(ratios) == winner


@pytest.mark.parametrize(("ratio", "elsewhere", "winner"), [(0.4, 0.9, "int8-cpu"), (1.4, 1.1, "fp32")])
def test_a_cpu_is_judged_by_what_its_bundle_runs(
    nets: Mapping[str, OnnxModel], tmp_path: Path, ratio: float, elsewhere: float, winner: str
) -> None:
    int8 = replace(nets["fp32"], precision="int8-cpu")
    other = {"openvino": BackendSpeed(milliseconds=1, ratio=elsewhere, verified=True)}
    packed = [
        VariantContents(model=nets["fp32"], verified=True, speed=Speed(milliseconds=2, ratio=1, threads=0)),
        VariantContents(model=int8, verified=True, speed=Speed(milliseconds=2, ratio=ratio, threads=0, backends=other)),
    ]
    bundle = pack(tmp_path / "bundle", contents(packed))
    gate = cpu_gate(bundle)
    assert (gate.winner, bool(gate)) == (winner, winner != "fp32")
    assert gate.ratios == {
        "fp32 on onnxruntime": 1,
        "int8-cpu on onnxruntime": ratio,
        "int8-cpu on openvino": elsewhere,
    }
    assert str(gate).startswith("INT8 is faster, so int8-cpu" if gate else "INT8 is not clearly faster")


def test_a_manifest_whose_speed_is_no_number(nets: Mapping[str, OnnxModel], machine: Machine, tmp_path: Path) -> None:
    bundle = build_into(bundle_of(nets, tmp_path, "fp16", "int8"), TENSORRT, latency_gate=True).bundle
    speed = {"milliseconds": 1.0, "ratio": "fast", "baseline": "fp16", "gpu": "Orin"}
    edit_manifest(bundle.path, lambda data: data["engines"]["int8.tensorrt"].update(speed=speed))
    with pytest.raises(BundleSchemaError, match=r"int8\.tensorrt' speed: ratio must be a number of at least 0"):
        Bundle.open(bundle.path)
    edit_manifest(bundle.path, lambda data: data["engines"]["int8.tensorrt"].update(speed=None))
    assert Bundle.open(bundle.path).manifest.engines["int8.tensorrt"].facts.speed is None


def test_json_of_a_gate() -> None:
    gate = LatencyGate(winner="fp16", ratios={"fp16": 1.0, "int8": 1.23456}, baseline="fp16", where="X")
    assert gate.to_json() == {
        "passed": False,
        "winner": "fp16",
        "baseline": "fp16",
        "ratios": {"fp16": 1.0, "int8": 1.2346},
        "where": "X",
        "reason": str(gate),
    }
    assert EngineSpeed(milliseconds=1, ratio=2, baseline="fp16", gpu="X").to_json()["ratio"] == 2
