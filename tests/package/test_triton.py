"""Triton's repositories: every configuration is what Triton's own protobuf takes, and the parts fit each other and the graph."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cli_tools import Cli, listing
from google.protobuf import text_format
from PIL import Image
from tiny_bundle import CLASSES, LABELS, PREPROCESS, photos, write_model, write_tiny
from tritonclient.grpc import model_config_pb2

from edgecnn.artifacts import Engine, EngineFacts, sha256_file
from edgecnn.errors import BundleUnverifiedError, OutputError, UserError
from edgecnn.pack import VariantContents, add_engines
from edgecnn.package import OnnxRuntime, OpenVino, TensorRt, TritonConfig, write_triton
from edgecnn.package.triton_backends import float_behind_quantized
from edgecnn.runtime import Bundle, Classifier, OrtOptions, OrtSession, Speed
from edgecnn.runtime.manifest import BackendSpeed, Embedded
from edgecnn.runtime.preprocess import preprocess

Config = Any


def configs(repository: Path) -> dict[str, Config]:
    """Parse every configuration with Triton's protobuf, which refuses unknown fields and wrong types."""
    return {
        path.parent.name: text_format.Parse(path.read_text("ascii"), model_config_pb2.ModelConfig())
        for path in sorted(repository.glob("*/config.pbtxt"))
    }


def kind(config: Config) -> str:
    return str(model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind))


def dtype(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type))


def test_a_whole_repository(tiny: Path, tmp_path: Path) -> None:
    made = write_triton(
        Bundle.open(tiny), tmp_path / "models", TritonConfig(instances=3, versions=2, delay=0.005, queue=9)
    )
    assert made.models == ("tiny", "tiny_network", "tiny_preprocess")
    found = configs(tmp_path / "models")
    assert set(found) == set(made.models)
    for name, config in found.items():
        assert config.name == name, "Triton refuses a name that is not the folder's"
        assert config.max_batch_size == 8
        assert (tmp_path / "models" / name / "1").is_dir()
    network = found["tiny_network"]
    assert (network.platform, network.default_model_filename) == ("onnxruntime_onnx", "model.onnx")
    assert (kind(network), network.instance_group[0].count) == ("KIND_CPU", 3)
    assert network.version_policy.latest.num_versions == 2
    assert network.dynamic_batching.max_queue_delay_microseconds == 5000
    assert network.dynamic_batching.default_queue_policy.max_queue_size == 9
    assert [warm.inputs["input"].random_data for warm in network.model_warmup] == [True]
    assert [note for note in made.notes if "VNNI" not in note] == []


def test_tensors_are_those_of_the_graph(tiny: Path, tmp_path: Path) -> None:
    write_triton(Bundle.open(tiny), tmp_path / "models")
    network = configs(tmp_path / "models")["tiny_network"]
    session = onnxruntime.InferenceSession(tmp_path / "models" / "tiny_network" / "1" / "model.onnx")
    for side, given in ((network.input, session.get_inputs()), (network.output, session.get_outputs())):
        assert [(one.name, dtype(one), list(one.dims)) for one in side] == [
            (one.name, "TYPE_FP32", one.shape[1:]) for one in given
        ], "without the batch, which Triton adds"


def test_labels_are_beside_every_output_that_names_them(tiny: Path, tmp_path: Path) -> None:
    write_triton(Bundle.open(tiny), tmp_path / "models")
    for name, config in configs(tmp_path / "models").items():
        for output in config.output:
            assert bool(output.label_filename) == (name != "tiny_preprocess")
            if output.label_filename:
                lines = (tmp_path / "models" / name / output.label_filename).read_bytes().decode().split("\n")
                assert len(lines) == CLASSES + 1
                assert lines[:4] == list(LABELS[:4])
                assert lines[-1] == ""


def test_the_ensemble_joins_what_there_is(tiny: Path, tmp_path: Path) -> None:
    write_triton(Bundle.open(tiny), tmp_path / "models", TritonConfig(name="cats.v2"))
    found = configs(tmp_path / "models")
    ensemble = found["cats.v2"]
    assert ensemble.platform == "ensemble"
    assert [(one.name, dtype(one), list(one.dims)) for one in ensemble.input] == [("IMAGE", "TYPE_STRING", [1])]
    known = {one.name: (dtype(one), list(one.dims)) for one in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = found[step.model_name]
        assert step.model_version == -1
        assert set(step.input_map) == {one.name for one in model.input}
        for one in model.input:
            assert known[step.input_map[one.name]] == (dtype(one), list(one.dims))
        assert set(step.output_map) == {one.name for one in model.output}
        known |= {step.output_map[one.name]: (dtype(one), list(one.dims)) for one in model.output}
    assert {one.name: (dtype(one), list(one.dims)) for one in ensemble.output}.items() <= known.items()


class Utils(ModuleType):
    """What Triton's python backend offers a model, as its README says."""

    TritonError: Any = type(
        "TritonError",
        (),
        {"INVALID_ARG": 3, "__init__": lambda self, message, code: vars(self).update(message=message, code=code)},
    )

    @staticmethod
    def Tensor(name: str, array: np.ndarray) -> Any:
        return SimpleNamespace(name=name, array=array)

    @staticmethod
    def InferenceResponse(output_tensors: Any = (), error: Any = None) -> Any:
        return SimpleNamespace(output_tensors=output_tensors, error=error)

    @staticmethod
    def get_input_tensor_by_name(request: dict[str, np.ndarray], name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: request[name])


@pytest.fixture
def python_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load the model.py that was written, as Triton does."""
    write_triton(Bundle.open(tiny), tmp_path / "models")
    folder = tmp_path / "models" / "tiny_preprocess"
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Utils("triton_python_backend_utils"))
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from google.protobuf.json_format import MessageToDict

    config = MessageToDict(configs(tmp_path / "models")["tiny_preprocess"], preserving_proto_field_name=True)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1", "model_config": json.dumps(config)})
    return model


def test_the_ensemble_gives_what_the_classifier_gives(python_model: Any, tiny: Path, tmp_path: Path) -> None:
    """Pictures through the written model.py and the written graph, as the ensemble chains them."""
    encoded = []
    for index, picture in enumerate(photos(3)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        encoded.append((tmp_path / f"{index}.png").read_bytes())
    images = np.array(encoded, dtype=object).reshape(-1, 1)
    first, second = python_model.execute([{"IMAGE": images}, {"IMAGE": images[:1]}])
    (tensor,) = first.output_tensors
    assert (tensor.name, tensor.array.dtype, tensor.array.shape) == ("input", np.float32, (3, 3, 32, 32))
    np.testing.assert_array_equal(tensor.array, np.concatenate([preprocess(one, PREPROCESS) for one in encoded]))
    np.testing.assert_array_equal(second.output_tensors[0].array, tensor.array[:1])
    session = onnxruntime.InferenceSession(tmp_path / "models" / "tiny_network" / "1" / "model.onnx")
    logits = session.run(None, {"input": tensor.array})[0]
    with Classifier(tiny, options=OrtOptions(threads=1)) as classify:
        assert logits.argmax(1).tolist() == [row[0].index for row in classify(encoded)]


def test_a_bad_picture_is_an_error_of_its_request_alone(python_model: Any, tmp_path: Path) -> None:
    Image.fromarray(photos()[0]).save(tmp_path / "a.png")
    good = np.array([[(tmp_path / "a.png").read_bytes()]], dtype=object)
    bad, fine = python_model.execute([{"IMAGE": np.array([[b"no"]], dtype=object)}, {"IMAGE": good}])
    assert "not an image" in bad.error.message
    assert bad.error.code == 3
    assert fine.error is None


def test_pixels_need_no_ensemble(tmp_path: Path) -> None:
    model = write_model(tmp_path, "fp32", uint8=True, softmax=True)
    bundle = write_tiny(
        tmp_path,
        variants=[VariantContents(model=model, verified=True)],
        embedded=Embedded(preprocess=True, softmax=True),
    )
    made = write_triton(bundle, tmp_path / "models")
    (config,) = configs(tmp_path / "models").values()
    assert made.models == ("tiny",)
    assert [(dtype(one), list(one.dims)) for one in config.input] == [("TYPE_UINT8", [32, 32, 3])]
    assert config.output[0].label_filename == "labels.txt"
    text = (tmp_path / "models" / "README.md").read_text()
    assert "probabilities" in text
    assert "resized and cropped" in text


def test_a_fixed_batch_is_told_as_it_is(tmp_path: Path) -> None:
    bundle = write_tiny(
        tmp_path, variants=[VariantContents(model=write_model(tmp_path, "fp32", batch=4), verified=True)]
    )
    made = write_triton(bundle, tmp_path / "models")
    assert made.max_batch == 0
    found = configs(tmp_path / "models")
    assert {config.max_batch_size for config in found.values()} == {0}
    assert list(found["tiny_network"].input[0].dims) == [4, 3, 32, 32]
    assert list(found["tiny"].input[0].dims) == [4]
    assert not found["tiny_network"].HasField("dynamic_batching")
    with pytest.raises(UserError, match="fixed batch of 4"):
        write_triton(bundle, tmp_path / "other", TritonConfig(max_batch=8))


# What runs it.


def test_a_quantized_graph_that_the_optimizer_cannot_hurt(bundle_of: Any, quantized: Any, tmp_path: Path) -> None:
    bundle = bundle_of(quantized("int8-cpu"))
    assert float_behind_quantized(bundle.model_path("int8-cpu")) == []
    made = write_triton(bundle, tmp_path / "models")
    assert (made.variant, made.backend) == ("int8-cpu", "onnxruntime")
    network = configs(tmp_path / "models")["tiny_network"]
    assert network.optimization.graph.level == 0
    assert [note for note in made.notes if "VNNI" in note]
    # As Triton's backend starts it, with every pass, on the golden pictures. Saturation alone may make a difference.
    session = onnxruntime.InferenceSession(tmp_path / "models" / "tiny_network" / "1" / "model.onnx")
    golden = bundle.golden()
    found = session.run(None, {"input": golden["tensors"]})[0]
    np.testing.assert_allclose(found, golden["logits.int8-cpu"], atol=0.1 * np.abs(golden["logits.int8-cpu"]).max())


def test_float_constants_behind_a_dequantized_input_are_named(bundle_of: Any, quantized: Any) -> None:
    """The TensorRT-valid graph keeps its bias in float: the pass may touch it."""
    bundle = bundle_of(quantized("int8"))
    assert float_behind_quantized(bundle.model_path("int8"))
    assert float_behind_quantized(bundle.model_path("fp32")) == []


def test_such_a_graph_is_refused_served_by_openvino_or_not_optimized(
    bundle_of: Any, quantized: Any, tmp_path: Path
) -> None:
    fast = Speed(milliseconds=1, ratio=0.3)
    model = quantized("int8")
    bundle = bundle_of(model, speeds={"int8": fast})
    with pytest.raises(UserError, match=r"would quantize without being asked: .* --backend openvino"):
        write_triton(bundle, tmp_path / "a", variant="int8")
    assert not (tmp_path / "a").exists()
    made = write_triton(bundle, tmp_path / "b", variant="int8", backend=OnnxRuntime())
    assert configs(tmp_path / "b")["tiny_network"].optimization.graph.level == 2
    assert "optimizer is off" in made.notes[0]
    assert made.notes[0] in (tmp_path / "b" / "README.md").read_text()
    made = write_triton(bundle, tmp_path / "c", variant="int8", backend=OpenVino())
    assert configs(tmp_path / "c")["tiny_network"].backend == "openvino"


def test_level_2_is_what_keeps_the_numbers(bundle_of: Any, quantized: Any, tmp_path: Path) -> None:
    """Level 2 of Triton's backend is ORT_DISABLE_ALL: with it a plain session computes what ours does, to float's rounding."""
    bundle = bundle_of(quantized("int8"))
    write_triton(bundle, tmp_path / "models", variant="int8", backend=OnnxRuntime())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "models" / "tiny_network" / "1" / "model.onnx", options)
    feed = {"input": bundle.golden()["tensors"]}
    with OrtSession(bundle.model_path("int8"), OrtOptions(optimize="disabled")) as ours:
        np.testing.assert_allclose(session.run(None, feed)[0], ours.run(feed)["logits"], rtol=1e-5, atol=1e-5)


def test_openvino_where_it_was_measured_to_be_the_fastest(bundle_of: Any, quantized: Any, tmp_path: Path) -> None:
    import platform

    others = {"openvino": BackendSpeed(milliseconds=1, ratio=0.2, verified=True)}
    speed = Speed(milliseconds=1, ratio=1.4, machine=platform.machine(), backends=others)
    plain = Speed(milliseconds=1, ratio=1.0, machine=platform.machine(), backends={})
    model = VariantContents(model=write_model(tmp_path, "fp32"), verified=True, speed=plain)
    int8 = VariantContents(model=quantized("int8"), verified=True, speed=speed)
    bundle = write_tiny(tmp_path, variants=[model, int8])
    made = write_triton(bundle, tmp_path / "models")
    assert (made.variant, made.backend, made.max_batch) == ("int8", "openvino", 1)
    network = configs(tmp_path / "models")["tiny_network"]
    assert {key: value.string_value for key, value in network.parameters.items()} == {"PERFORMANCE_HINT": "LATENCY"}
    assert any("bfloat16" in note for note in made.notes)
    write_triton(bundle, tmp_path / "more", TritonConfig(max_batch=4))
    network = configs(tmp_path / "more")["tiny_network"]
    assert network.parameters["ENABLE_BATCH_PADDING"].string_value == "YES", "a smaller run is an error without it"
    with pytest.raises(UserError, match="OpenVINO backend runs on the CPU"):
        OpenVino(gpu=True)


def test_gpu(tiny: Path, tmp_path: Path) -> None:
    made = write_triton(Bundle.open(tiny), tmp_path / "models", gpu=True)
    found = configs(tmp_path / "models")
    assert (made.backend, made.variant) == ("onnxruntime", "fp32")
    assert kind(found["tiny_network"]) == "KIND_GPU"
    assert kind(found["tiny_preprocess"]) == "KIND_CPU"


def with_engine(bundle: Bundle, folder: Path, *, low: int = 1, high: int = 16, **options: Any) -> Bundle:
    """Put a plan into the bundle: what is in the file matters to TensorRT alone."""
    (folder / "x.plan").write_bytes(b"ftrt plan")
    shape = (3, 32, 32)
    facts = EngineFacts(
        flavour="tensorrt", version="10.13.3.9", cuda="13.0", driver_cuda="13.0", compute_capabilities=("8.9",), platform="linux-x86_64",
        precision="fp32", profile={"input": ((low, *shape), (low, *shape), (high, *shape))}, options=options,
        model_sha256=sha256_file(bundle.model_path("fp32")), timing_cache_sha256="", seconds=1.0, audit={"passed": True},
    )  # fmt: skip
    engine = Engine(path=folder / "x.plan", sha256=sha256_file(folder / "x.plan"), bytes=9, facts=facts)
    return add_engines(bundle, [("fp32", engine)])


def test_an_engine_is_taken_before_a_graph(tmp_path: Path) -> None:
    bundle = with_engine(write_tiny(tmp_path), tmp_path)
    made = write_triton(bundle, tmp_path / "models")
    assert (made.variant, made.backend, made.max_batch) == ("fp32", "tensorrt", 8)
    network = configs(tmp_path / "models")["tiny_network"]
    assert (network.platform, kind(network)) == ("tensorrt_plan", "KIND_GPU")
    assert (tmp_path / "models" / "tiny_network" / "1" / "model.plan").read_bytes() == b"ftrt plan"
    assert "TensorRT 10.13.3.9, linux-x86_64 and a GPU of compute capability 8.9" in made.notes[0]
    assert "--gpus all" in (tmp_path / "models" / "README.md").read_text()
    with pytest.raises(UserError, match=r"takes 16 pictures at most: build it with --batch 1:32:32"):
        write_triton(bundle, tmp_path / "other", TritonConfig(max_batch=32))
    assert write_triton(bundle, tmp_path / "cpu", backend=OnnxRuntime()).backend == "onnxruntime"
    assert write_triton(bundle, tmp_path / "int8", variant="int8-cpu").backend == "onnxruntime", "which has no engine"


def test_what_the_server_must_be_told_of_an_engine(tmp_path: Path) -> None:
    bundle = with_engine(write_tiny(tmp_path), tmp_path, version_compatible=True, plugins=["libdeform.so"])
    text = "\n".join(write_triton(bundle, tmp_path / "models").notes)
    assert "--backend-config=tensorrt,version-compatible=true" in text
    assert "--backend-config=tensorrt,plugins=/PATH/libdeform.so" in text


def test_engines_that_triton_cannot_run(tmp_path: Path, tiny: Path) -> None:
    bundle = with_engine(write_tiny(tmp_path), tmp_path, low=4)
    with pytest.raises(UserError, match="takes 4 pictures at least"):
        write_triton(bundle, tmp_path / "models")
    (tmp_path / "stripped").mkdir()
    stripped = with_engine(write_tiny(tmp_path / "stripped"), tmp_path, strip_weights=True)
    with pytest.raises(UserError, match="puts no weights back"):
        write_triton(stripped, tmp_path / "models")
    with pytest.raises(UserError, match=r"no TensorRT engine of fp32 \(engines: none; .*edgecnn build BUNDLE"):
        write_triton(Bundle.open(tiny), tmp_path / "models", backend=TensorRt())
    with pytest.raises(UserError, match="on a GPU alone"):
        TensorRt(gpu=False)
    assert not (tmp_path / "models").exists()


# What is refused, and how it is written.


def test_unverified(tmp_path: Path) -> None:
    write_tiny(tmp_path, verified=False)
    bundle = Bundle.open(tmp_path / "bundle", allow_unverified=True)
    with pytest.raises(BundleUnverifiedError, match="--allow-unverified"):
        write_triton(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    made = write_triton(bundle, tmp_path / "models", allow_unverified=True)
    assert made.notes[0].startswith("UNVERIFIED")
    assert "UNVERIFIED" in (tmp_path / "models" / "README.md").read_text()


def test_an_existing_folder(tiny: Path, tmp_path: Path) -> None:
    bundle, models = Bundle.open(tiny), tmp_path / "models"
    write_triton(bundle, models)
    with pytest.raises(OutputError, match="--force"):
        write_triton(bundle, models)
    write_triton(bundle, models, TritonConfig(name="other"), force=True)
    assert set(configs(models)) == {"other", "other_network", "other_preprocess"}, "nothing of the old one is left"
    (models / "mine").mkdir()
    (models / "mine" / "config.pbtxt").write_text("")
    with pytest.raises(OutputError, match=r"1 file\(s\) that are not the package's \(mine/config\.pbtxt\)"):
        write_triton(bundle, models, force=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="not written by edgecnn package"):
        write_triton(bundle, tmp_path / "photos", force=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_failure_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OnnxRuntime, "put", fail)
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="No space left"):
        write_triton(Bundle.open(tiny), tmp_path / "a" / "models")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        {"name": "../x"},
        {"name": "a b"},
        {"name": 'a"'},
        {"max_batch": -1},
        {"instances": 0},
        {"instances": True},
        {"queue": 0},
        {"delay": -1},
        {"delay": float("nan")},
    ],
)
def test_wrong_values(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"must be|no name for a model"):
        TritonConfig(**options)


def test_odd_names_of_tensors_and_models_survive(tmp_path: Path) -> None:
    from edgecnn.package.pbtxt import dumps

    odd = 'a"b\\c\nd\té\u2028'
    parsed = text_format.Parse(
        dumps({"name": odd, "input": [{"name": odd, "dims": [1, -1]}]}), model_config_pb2.ModelConfig()
    )
    assert (parsed.name, parsed.input[0].name, list(parsed.input[0].dims)) == (odd, odd, [1, -1])


def test_the_command(tiny: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "package",
        tiny,
        "--triton",
        tmp_path / "models",
        "--name",
        "cats",
        "--max-batch",
        "16",
        "--instances",
        "2",
        "--json",
    )
    assert (done.code, done.err) == (0, "")
    document = done.document["triton"]
    assert (document["name"], document["variant"], document["max_batch"]) == ("cats", "int8-cpu", 16)
    assert configs(tmp_path / "models")["cats_network"].instance_group[0].count == 2
    assert "exists" in cli("package", tiny, "--triton", tmp_path / "models").failed()
    said = cli("package", tiny, "--triton", tmp_path / "models", "--force", "--variant", "fp32")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{tmp_path / 'models'}: fp32 on onnxruntime; see README.md in it\n"
    assert "--triton DIR, --docker DIR" in cli("package", tiny).failed(2)
    assert "no variant 'int4'" in cli("package", tiny, "--triton", tmp_path / "x", "--variant", "int4").failed()
    assert "OpenVINO backend runs on the CPU" in cli(
        "package", tiny, "--triton", tmp_path / "x", "--backend", "openvino", "--gpu"
    ).failed(2)
    assert not (tmp_path / "x").exists()


def test_record(tiny: Path, tmp_path: Path) -> None:
    write_triton(Bundle.open(tiny), tmp_path / "models")
    record = json.loads((tmp_path / "models" / "edgecnn-package.json").read_text())
    assert record["kind"] == "triton"
    assert record["bundle"] == sha256_file(tiny / "manifest.json")
    there = {p.relative_to(tmp_path / "models").as_posix() for p in listing(tmp_path / "models") if p.is_file()}
    assert set(record["files"]) == there - {"edgecnn-package.json"}
