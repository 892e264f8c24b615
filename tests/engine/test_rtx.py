"""TensorRT-RTX for real: its builder needs no GPU (what it gives cannot be run without one)."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import engine_nets
import pytest

from edgecnn.artifacts import OnnxModel, sha256_file
from edgecnn.engine import Batch, BuildConfig, build
from edgecnn.errors import BackendError, GraphError, OutputError, UserError
from edgecnn.onnxio import data_path, expose, open_model, scratch_file
from edgecnn.parity.trace import layers_of, read_graph

pytest.importorskip("tensorrt_rtx")

RTX = BuildConfig(target="tensorrt-rtx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_every_precision_builds_and_passes_its_audit(
    precision: str, nets: Mapping[str, OnnxModel], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    model = nets[precision]
    engine = build(model, RTX, to=tmp_path / "x.plan", progress=lambda *step: seen.append(step))
    facts = engine.facts
    assert engine.passed
    assert facts.audit["source"] == "network"
    assert facts.audit["reformats"] is None
    assert facts.audit["layers"]["convolution"] == {precision.split("-", maxsplit=1)[0]: 3}
    assert facts.profile == {"input": ((1, 3, 16, 16),) * 3}
    assert (facts.flavour, facts.precision, facts.model_sha256) == ("tensorrt-rtx", precision, model.sha256)
    assert (facts.driver_cuda, facts.driver, facts.timing_cache_sha256) == ("", "", "")
    assert facts.compute_capabilities == ("8.0", "8.6", "8.9", "12.0")
    assert engine.sha256 == sha256_file(engine.path)
    assert engine.bytes == engine.path.stat().st_size > 1000
    assert [step.stage for step in engine.lineage] == [*(step.stage for step in model.lineage), "build"]
    assert seen[0] == ("engine", 0, 6)
    assert seen[-1] == ("engine", 6, 6)
    json.dumps(engine.to_json(), allow_nan=False)


@pytest.mark.parametrize("precision", ["fp32", "int8-fp16"])
def test_two_builds_give_the_same_bytes(precision: str, nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    made = [build(nets[precision], RTX, to=tmp_path / f"{index}.plan") for index in range(2)]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()


def test_the_plan_is_what_the_builder_gave_without_a_header_of_ours(
    nets: Mapping[str, OnnxModel], tmp_path: Path
) -> None:
    assert build(nets["fp32"], RTX, to=tmp_path / "x.plan").path.read_bytes().startswith(b"vtrt")


def test_a_range_of_batches_becomes_a_profile(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    config = BuildConfig(target="tensorrt-rtx", batch=Batch.parse("1:4:8"))
    engine = build(nets["int8"], config, to=tmp_path / "x.plan")
    assert engine.facts.profile == {"input": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))}


def test_gpus_that_are_named(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    default = build(nets["fp16"], RTX, to=tmp_path / "a.plan")
    config = BuildConfig(target="tensorrt-rtx", gpus=("8.6",))
    named = build(nets["fp16"], config, to=tmp_path / "b.plan")
    assert named.facts.compute_capabilities == ("8.6",)
    assert named.sha256 != default.sha256


def test_turing_has_no_fp32_matrix_product(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    config = BuildConfig(target="tensorrt-rtx", gpus=("7.5",))
    with pytest.raises(BackendError, match=r"FP32 GEMM is not supported.*build the fp16 or int8-fp16 variant"):
        build(nets["fp32"], config, to=tmp_path / "x.plan")
    assert build(nets["fp16"], config, to=tmp_path / "x.plan").passed


def test_a_graph_of_one_batch_size_is_built_for_it_alone(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(engine_nets.network(batch=2))
    model = open_model(tmp_path / "net.onnx")
    assert build(model, RTX, to=tmp_path / "x.plan").facts.profile == {"input": ((2, 3, 16, 16),) * 3}
    with pytest.raises(UserError, match=r"--batch 1:4:8 was asked for, and the graph is fixed to 2: export it without"):
        build(model, BuildConfig(target="tensorrt-rtx", batch=Batch(1, 4, 8)), to=tmp_path / "y.plan")
    assert not (tmp_path / "y.plan").exists()


def test_int8_that_is_not_there_fails_the_audit(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    (tmp_path / "int8.onnx").write_bytes(nets["fp32"].path.read_bytes())
    engine = build(open_model(tmp_path / "int8.onnx", precision="int8"), RTX, to=tmp_path / "x.plan")
    assert not engine.passed
    (problem,) = engine.facts.audit["problems"]
    assert problem.startswith("INT8 was asked for, and none of 3 convolutions is INT8")
    assert set(engine.facts.audit["left_float"]) == {"stem", "conv", "depthwise", "fc"}


def test_every_unsupported_node_is_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "strange.onnx").write_bytes(engine_nets.strange())
    with pytest.raises(GraphError) as caught:
        build(open_model(tmp_path / "strange.onnx"), RTX, to=tmp_path / "x.plan")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("cannot take 3 nodes of strange.onnx:")
    assert [line.partition(":")[0] for line in lines[1:4]] == ["one (Foo)", "three (Det)", "four (Foo)"]
    assert "Plugin not found" in lines[1]
    assert lines[2] == "three (Det): unsupported node"
    assert lines[4] == "Foo: give the library that has the operator with --plugin, or replace it in the network"
    assert lines[5].startswith("Det: replace the operator")
    assert {path.name for path in tmp_path.iterdir()} == {"strange.onnx"}


def test_a_model_that_cannot_be_built_is_refused_before_the_work(
    nets: Mapping[str, OnnxModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "x.plan"
    path = tmp_path / "net.onnx"
    path.write_bytes(nets["fp32"].path.read_bytes())
    with pytest.raises(UserError, match=r"is int8-cpu, for the kernels of CPUs.*build the int8 variant"):
        build(open_model(path, precision="int8-cpu"), RTX, to=to)
    model = open_model(path)
    monkeypatch.setattr("edgecnn.engine.preflight.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=r"protobuf cannot read more than 2: .* external data \(net\.onnx\.data\)"):
        build(model, RTX, to=to)
    monkeypatch.undo()
    monkeypatch.setattr("edgecnn.engine.builder.memory_available", lambda: 4000)
    with pytest.raises(UserError, match=r"needs about .* GiB of memory, and 0\.0 are free: close other programs"):
        build(model, RTX, to=to)
    monkeypatch.undo()
    path.write_bytes(b"changed")
    with pytest.raises(UserError, match="is gone, or was changed since it was written: export it again"):
        build(model, RTX, to=to)
    assert not to.exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    nets: Mapping[str, OnnxModel], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"nowhere is not a folder"):
        build(nets["fp32"], RTX, to=tmp_path / "nowhere" / "x.plan")
    with pytest.raises(OutputError, match="it is a folder"):
        build(nets["fp32"], RTX, to=tmp_path)


def test_weights_beside_the_graph_are_found(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(nets["fp32"].path)
    path = tmp_path / "large.onnx"
    onnx.save(model, path, save_as_external_data=True, location="large.onnx.data", size_threshold=100)
    assert (tmp_path / "large.onnx.data").exists()
    engine = build(open_model(path), RTX, to=tmp_path / "x.plan")
    assert engine.bytes > sum(tensor.ByteSize() for tensor in model.graph.initializer) / 2


def test_what_the_caller_raises_stops_the_builder_and_comes_back(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt(step: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(nets["fp32"], RTX, to=tmp_path / "x.plan", progress=interrupt)
    assert max(seen) == 2
    assert list(tmp_path.iterdir()) == []
    assert build(nets["fp32"], RTX, to=tmp_path / "x.plan").passed


def test_messages_go_to_logging_once_each_and_not_to_stderr(
    nets: Mapping[str, OnnxModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="edgecnn.engine")
    build(nets["int8"], RTX, to=tmp_path / "x.plan")
    texts = [record.message for record in caplog.records if record.name == "edgecnn.engine"]
    assert any("Engine generation completed" in text for text in texts)
    assert len(texts) == len(set(texts))
    assert {record.levelname for record in caplog.records} <= {"DEBUG", "WARNING"}


def test_deform_conv_is_refused_with_the_form_that_rtx_takes(tmp_path: Path) -> None:
    (tmp_path / "deform.onnx").write_bytes(engine_nets.deformable())
    with pytest.raises(GraphError) as caught:
        build(open_model(tmp_path / "deform.onnx"), RTX, to=tmp_path / "x.plan")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("cannot take 2 nodes of deform.onnx:")
    assert lines[1].startswith("dcn1 (DeformConv): Plugin not found")
    assert lines[2].startswith("dcn2 (DeformConv): Plugin not found")
    assert lines[3].startswith("DeformConv: export with --deform gridsample")
    assert len(lines) == 4


def test_ctrl_c_stops_the_builder(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    """The bindings swallow what is raised in a callback: a signal that arrives there must not be lost."""
    handler = signal.getsignal(signal.SIGINT)

    def press(step: str, done: int, total: int) -> None:
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(nets["int8"], RTX, to=tmp_path / "x.plan", progress=press)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_application_keeps_its_own_handler(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        engine = build(
            nets["fp32"],
            RTX,
            to=tmp_path / "x.plan",
            progress=lambda step, done, total: signal.raise_signal(signal.SIGINT) if done == 1 else None,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert engine.passed
    assert heard == [signal.SIGINT]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_a_graph_compiles_with_its_layers_as_outputs(
    precision: str, nets: Mapping[str, OnnxModel], tmp_path: Path
) -> None:
    """What bisecting of engines builds; here it cannot be run."""
    model = nets[precision]
    names = [entry.tensor for entry in layers_of(read_graph(model.path))]
    assert {"a", "b", "c", "d", "e", "f"} <= set(names)
    with scratch_file(expose(model.path, names, typed=True)) as file:
        marked = replace(model, path=file, sha256=sha256_file(file, data_path(file)))
        engine = build(marked, RTX, to=tmp_path / "x.plan")
    assert engine.passed
    assert engine.facts.audit["layers"]["convolution"] == {precision.split("-", maxsplit=1)[0]: 3}


def test_float32_is_not_rounded_to_tf32(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    """The builder allows it by default, and takes the flag away when it is told to."""
    import tensorrt_rtx as trt

    settings = trt.Builder(trt.Logger()).create_builder_config()
    assert settings.get_flag(trt.BuilderFlag.TF32)
    settings.clear_flag(trt.BuilderFlag.TF32)
    assert not settings.get_flag(trt.BuilderFlag.TF32)
