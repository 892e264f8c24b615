"""One builder, three APIs: TensorRT-RTX for real, TensorRT 10 and 11 as recorded from the sources of their bindings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_tensorrt
import onnx
import pytest
from engine_machine import ORIN
from fake_tensorrt import members

from edgecnn.artifacts import OnnxModel, sha256_file
from edgecnn.engine import Batch, BuildConfig, build, protocols
from edgecnn.errors import BackendError, GraphError, MissingDependencyError, OutputError, UserError
from edgecnn.onnxio import load_ir, open_model, save_ir
from edgecnn.passes.deform_plugin import DeformPlugin

CLASSES = {
    "BuilderLike": "Builder", "ConfigLike": "IBuilderConfig", "EngineLike": "ICudaEngine", "InspectorLike": "EngineInspector",
    "LayerLike": "ILayer", "NetworkLike": "INetworkDefinition", "ParserErrorLike": "ParserError", "ParserLike": "OnnxParser",
    "ProfileLike": "IOptimizationProfile", "RegistryLike": "IPluginRegistry", "RuntimeLike": "Runtime", "TensorLike": "ITensor",
    "TimingCacheLike": "ITimingCache",
}  # fmt: skip
"""Our protocol -> their class."""


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_every_name_we_touch_is_in_every_version(version: str) -> None:
    names = fake_tensorrt.recorded(version)
    missing = {
        f"{theirs}.{member}"
        for ours, theirs in CLASSES.items()
        for member in members(getattr(protocols, ours))
        if member not in names[theirs]
    }
    assert not missing


def test_every_name_we_touch_is_in_rtx() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    pairs = {**CLASSES, "RtxConfig": "IBuilderConfig"}
    missing = {
        f"{theirs}.{member}"
        for ours, theirs in pairs.items()
        for member in members(getattr(protocols, ours))
        if not hasattr(getattr(rtx, theirs), member)
    }
    assert not missing
    assert not [name for name in members(protocols.Module) if not hasattr(rtx, name)]
    assert set(CLASSES) | {"Module", "RtxConfig"} == set(protocols.__all__)


def test_the_fake_refuses_what_11_removed() -> None:
    ten, eleven = fake_tensorrt.fake("10.3.0"), fake_tensorrt.fake("11.1.0")
    for name in ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"):
        assert hasattr(ten.BuilderFlag, name)
        assert not hasattr(eleven.BuilderFlag, name)
    ten.IBuilderConfig().int8_calibrator = object()
    with pytest.raises(AttributeError, match="int8_calibrator"):
        eleven.IBuilderConfig().int8_calibrator = object()
    assert not hasattr(eleven.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(ten.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY")


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_the_builder_on_every_recorded_version(
    version: str, precision: str, nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    module = tensorrt(version)
    seen: list[tuple[str, int, int]] = []
    config = BuildConfig(target="tensorrt", batch=Batch(1, 8, 32), workspace=1 << 28, hardware="ampere+", level=4)
    engine = build(nets[precision], config, to=tmp_path / "x.plan", progress=lambda *step: seen.append(step))
    (settings,) = module.configs
    flag = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert f" {flag} " in engine.path.read_text()
    assert settings._flags == []
    assert settings._cleared == [module.BuilderFlag.TF32]
    assert settings._pools == {module.MemoryPoolType.WORKSPACE: 1 << 28}
    assert settings.hardware_compatibility_level == module.HardwareCompatibilityLevel.AMPERE_PLUS
    assert settings.builder_optimization_level == 4
    assert engine.facts.profile == {"input": ((1, 3, 16, 16), (8, 3, 16, 16), (32, 3, 16, 16))}
    facts = engine.facts
    assert (facts.version, facts.compute_capabilities) == (version, ("8.7",))
    assert (facts.driver_cuda, facts.driver) == (ORIN.driver_cuda, ORIN.driver) == ("12.6", "540.4.0")
    assert engine.passed
    convolutions = engine.facts.audit["layers"]["convolution"]
    assert convolutions == {precision.split("-", maxsplit=1)[0]: 3}
    assert seen == [("engine", 0, 3), ("engine", 1, 3), ("engine", 2, 3), ("engine", 3, 3), ("engine", 3, 3)]


def test_rtx_and_the_fakes_see_the_same_layers(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    real = build(nets["int8"], BuildConfig(target="tensorrt-rtx"), to=tmp_path / "rtx.plan").facts.audit["layers"]
    tensorrt("11.1.0")
    faked = build(nets["int8"], BuildConfig(target="tensorrt"), to=tmp_path / "fake.plan").facts.audit["layers"]
    for kind in ("convolution", "matrix product", "quantize"):
        assert faked[kind] == real[kind]


def test_dla_strip_and_version_compatibility_reach_the_builder(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    module = tensorrt("10.3.0")
    config = BuildConfig(target="tensorrt", dla=1, strip_weights=True, version_compatible=True)
    engine = build(nets["int8"], config, to=tmp_path / "x.plan")
    (settings,) = module.configs
    assert {flag.name for flag in settings._flags} == {
        "STRIP_PLAN",
        "REFIT_IDENTICAL",
        "VERSION_COMPATIBLE",
        "GPU_FALLBACK",
    }
    assert (settings.DLA_core, settings.default_device_type) == (1, module.DeviceType.DLA)
    assert engine.facts.options["dla"] == 1
    with pytest.raises(UserError, match="DLA core 2 was asked for, and this device has 2"):
        build(nets["int8"], BuildConfig(target="tensorrt", dla=2), to=tmp_path / "x.plan")


def test_plugin_libraries_are_loaded_and_their_absence_named(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    module = tensorrt("11.1.0")
    (tmp_path / "broken.so").touch()
    (tmp_path / "good.so").touch()
    to = tmp_path / "x.plan"
    build(nets["fp32"], BuildConfig(target="tensorrt", plugins=(tmp_path / "good.so",)), to=to)
    assert module.loaded == [str(tmp_path / "good.so")]
    with pytest.raises(UserError, match=r"no plugin library at .*none\.so"):
        build(nets["fp32"], BuildConfig(target="tensorrt", plugins=(tmp_path / "none.so",)), to=to)
    with pytest.raises(BackendError, match=r"TensorRT 11\.1\.0 cannot load the plugin library .*broken\.so"):
        build(nets["fp32"], BuildConfig(target="tensorrt", plugins=(tmp_path / "broken.so",)), to=to)


@pytest.mark.parametrize(("version", "functions"), [("10.3.0", 0), ("10.16.0", 1), ("11.1.0", 1)])
def test_the_parser_gets_the_function_only_where_the_plugin_comes_first(
    version: str, functions: int, tensorrt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine_nets

    (tmp_path / "standard.onnx").write_bytes(engine_nets.deformable())
    (tmp_path / "plugin.so").touch()
    graph = load_ir(tmp_path / "standard.onnx")
    assert DeformPlugin().apply(graph) == 2
    model = save_ir(graph, tmp_path / "deformable.onnx")
    module = tensorrt(version)
    seen: list[onnx.ModelProto] = []
    monkeypatch.setattr(module.OnnxParser, "parse_from_file", lambda _, file: bool(seen.append(onnx.load(file))))
    with pytest.raises(GraphError):
        build(model, BuildConfig(target="tensorrt", plugins=(tmp_path / "plugin.so",)), to=tmp_path / "x.plan")
    assert [len(proto.functions) for proto in seen] == [functions]
    assert [node.op_type for node in seen[0].graph.node].count("DeformConv2d") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deformable.onnx", "plugin.so", "standard.onnx"]


def test_a_machine_without_tensorrt_or_gpu(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "x.plan"
    tensorrt("10.3.0", device=None)
    with pytest.raises(UserError, match=r"TensorRT 10\.3\.0 has no way to build without an NVIDIA GPU"):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=to)
    tensorrt("10.3.0", no_gpu=True)
    with pytest.raises(BackendError, match=r"cannot start here \(Orin\): CUDA initialization failure.*edgecnn doctor"):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=to)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="not installed: pip install tensorrt"):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=to)
    monkeypatch.setitem(sys.modules, "tensorrt", type(sys)("tensorrt"))  # what a package of type stubs leaves behind
    with pytest.raises(MissingDependencyError, match="not installed: pip install tensorrt"):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=to)
    assert not to.exists()


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("Error Code 10: Could not find any implementation for node conv", "more with --workspace"),
        ("CUDA out of memory", "less with --workspace"),
        ("something\n  else", r"did not build int8\.onnx \(int8\): something else$"),
    ],
)
def test_a_failed_build_says_why(
    failure: str, said: str, nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    tensorrt("11.1.0", failure=failure)
    with pytest.raises(BackendError, match=said):
        build(nets["int8"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_stops_and_raises(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    tensorrt("10.3.0")

    def interrupt(step: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(nets["int8"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_unknown_operators_are_listed_by_the_fakes_too(tensorrt: Callable[..., Any], tmp_path: Path) -> None:
    import engine_nets

    tensorrt("10.16.0")
    (tmp_path / "strange.onnx").write_bytes(engine_nets.strange())
    with pytest.raises(GraphError, match=r"cannot take 3 nodes of strange\.onnx"):
        build(open_model(tmp_path / "strange.onnx"), BuildConfig(target="tensorrt"), to=tmp_path / "x.plan")


def test_the_timing_cache_is_kept_by_version_gpu_and_graph(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    cache = tmp_path / "orin.cache"
    config = BuildConfig(target="tensorrt", timing_cache=cache)

    def notes(precision: str = "int8") -> tuple[str, ...]:
        engine = build(nets[precision], config, to=tmp_path / "x.plan")
        assert engine.facts.timing_cache_sha256 == sha256_file(cache)
        return engine.lineage[-1].notes

    tensorrt("10.3.0")
    assert (notes(), cache.read_bytes()) == ((), b"entry;")
    assert (notes(), cache.read_bytes()) == ((), b"entry;entry;")
    (note,) = notes("fp32")
    assert "is of another graph" in note
    assert cache.read_bytes() == b"entry;"
    tensorrt("10.16.0")
    (note,) = notes("fp32")
    assert "another version: '10.3.0', now '10.16.0'" in note
    cache.write_bytes(cache.read_bytes()[:-2])
    (note,) = notes("fp32")
    assert "truncated or was changed" in note
    (tmp_path / "orin.cache.json").write_text("[]")
    (note,) = notes("fp32")
    assert "nothing says what it is of" in note
    assert cache.read_bytes() == b"entry;"


def test_memory_of_the_gpu_is_looked_at_before_the_work(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    module = tensorrt("10.3.0")
    to = tmp_path / "x.plan"
    with pytest.raises(UserError, match=r"--workspace 64\.0 GiB was asked for, and the GPU has 32\.0: ask for less"):
        build(nets["fp32"], BuildConfig(target="tensorrt", workspace=64 << 30), to=to)
    tensorrt("10.3.0", device=replace(ORIN, memory=1000))
    with pytest.raises(
        UserError, match=r"the weights of fp32\.onnx alone take 0\.0 GiB, and the GPU has 0\.0: build the int8"
    ):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=to)
    assert module.configs == []
    assert not to.exists()


@pytest.mark.parametrize(
    ("version", "jetson", "said"),
    [
        ("8.6.1", False, "TensorRT before 10 has no strongly typed networks with INT8: pip install -U"),
        (
            "11.2.0",
            True,
            "TensorRT 11.0 to 11.4.0 does not support JetPack, and has no DLA: use the TensorRT 10 of JetPack 6",
        ),
    ],
)
def test_a_version_that_is_known_to_be_bad_is_refused(
    version: str,
    jetson: bool,
    said: str,
    nets: Mapping[str, OnnxModel],
    tensorrt: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = tensorrt("10.3.0")
    module.__version__ = version
    monkeypatch.setattr("edgecnn.engine.builder.JETSON", tmp_path if jetson else tmp_path / "none")
    with pytest.raises(UserError, match=said):
        build(nets["fp32"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan")
    assert module.configs == []


def test_a_version_with_a_fault_is_warned_of_and_the_engine_says_so(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt("10.0.0").__version__ = "10.2.0"
    engine = build(nets["fp32"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan")
    (note,) = engine.lineage[-1].notes
    assert note.startswith("TensorRT 10.2.0 is a release that other exporters refuse as faulty: pip install -U")
    assert note in caplog.text


def test_a_timing_cache_that_cannot_be_read_or_written_is_refused_before_the_work(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    module = tensorrt("10.3.0")
    for place, said in ((tmp_path, "it is a folder"), (tmp_path / "none" / "x.cache", "none is not a folder")):
        with pytest.raises(OutputError, match=said):
            build(nets["fp32"], BuildConfig(target="tensorrt", timing_cache=place), to=tmp_path / "x.plan")
    assert module.configs == []
    assert list(tmp_path.iterdir()) == []
