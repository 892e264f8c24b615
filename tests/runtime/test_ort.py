"""The onnxruntime session: what it accepts, what it says when it does not, and what it must never do to a graph."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import CLASSES, graph_bytes

from edgecnn.errors import BackendError, UserError
from edgecnn.runtime import OrtOptions, OrtSession
from edgecnn.runtime.ort import ALWAYS_DISABLED, available_providers
from edgecnn.spec import TensorSpec

X = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)


def one_node(op: str, *, domain: str = "", opset: int = 20, kind: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    """Return a model of one node from ``input`` (1, 3, 8, 8) to ``logits``."""
    graph = helper.make_graph(
        [helper.make_node(op, ["input"], ["logits"], name="the_node", domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info("input", kind, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, None)],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def test_path_bytes_and_specs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_bytes())
    with OrtSession(path) as from_path, OrtSession(graph_bytes()) as from_bytes, OrtSession(str(path)) as from_text:
        assert from_path.backend == "onnxruntime"
        assert from_path.inputs == (TensorSpec(name="input", shape=("batch", 3, 32, 32)),)
        assert from_path.outputs == (TensorSpec(name="logits", shape=("batch", CLASSES)),)
        assert from_path.providers == ("CPUExecutionProvider",)
        results = [session.run({"input": X})["logits"] for session in (from_path, from_bytes, from_text)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert results[0].shape == (2, CLASSES)


def test_uint8_and_static_specs() -> None:
    with OrtSession(graph_bytes(uint8=True, batch=2)) as session:
        assert session.inputs == (TensorSpec(name="input", shape=(2, 32, 32, 3), dtype="uint8"),)


def test_nameless_dimensions_get_a_name() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3, "height", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 3, "height", 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with OrtSession(model.SerializeToString()) as session:
        assert session.inputs[0].shape == ("dim0", 3, "height", 8)


def test_options_change_nothing_but_speed() -> None:
    expected = OrtSession(graph_bytes()).run({"input": X})["logits"]
    for options in (
        OrtOptions(threads=1),
        OrtOptions(threads=2, inter_threads=2, spin=False),
        OrtOptions(optimize="disabled"),
        OrtOptions(optimize="basic", disabled_optimizers=("ConstantFolding",)),
        OrtOptions(providers=(("CPUExecutionProvider", {"use_arena": "0"}),)),
    ):
        with OrtSession(graph_bytes(), options) as session:
            np.testing.assert_allclose(session.run({"input": X})["logits"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": -1}, "threads must be"),
        ({"threads": True}, "threads must be"),
        ({"inter_threads": 1.5}, "inter_threads must be"),
        ({"optimize": "max"}, "optimize 'max' is not one of all, extended, basic, disabled"),
        ({"providers": ()}, "providers must be"),
        ({"providers": "CPUExecutionProvider"}, "providers must be"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        OrtOptions(**options)


def test_options_are_frozen() -> None:
    inner = {"device_id": 0}
    options = OrtOptions(providers=(("CPUExecutionProvider", inner),))
    inner["device_id"] = 5
    assert options.provider_names == ("CPUExecutionProvider",)
    assert options.providers[0][1]["device_id"] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (one_node("Frobnicate"), "there is no operator Frobnicate in opset 20"),
        (one_node("DeformConv2d", domain="edgecnn"), "operator edgecnn::DeformConv2d is not implemented"),
        (one_node("Relu", kind=TensorProto.UINT16), r"cannot load the model: .*tensor\(uint16\)"),
        (
            one_node("GlobalLpPool", kind=TensorProto.DOUBLE),
            r"operator GlobalLpPool \(opset 2\) of node 'the_node' is not implemented for these providers and types",
        ),
        (one_node("Relu", opset=99), "Opset 99 is under development"),
        (b"not a model", "protobuf parsing failed"),
        (graph_bytes()[:-30], "cannot load the model"),
    ],
)
def test_refused_models(model: bytes, match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        OrtSession(model)
    assert "\n" not in str(caught.value)
    assert "/onnxruntime" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is not None


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ONNX file at"):
        OrtSession(tmp_path / "nowhere.onnx")
    (tmp_path / "zero.onnx").touch()
    with pytest.raises(UserError, match=r"is empty \(0 bytes\)"):
        OrtSession(tmp_path / "zero.onnx")
    with pytest.raises(UserError, match=r"is empty \(0 bytes\)"):
        OrtSession(b"")
    with pytest.raises(UserError, match="no ONNX file at"):
        OrtSession(tmp_path)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        (("CUDAExecutionProvider", {"device_id": "1"}), {"use_tf32": "0", "device_id": "1"}),
        (("CUDAExecutionProvider", {"use_tf32": "1"}), {"use_tf32": "1"}),
        ("CPUExecutionProvider", {}),
    ],
)
def test_cuda_computes_float32_in_float32_unless_told_otherwise(
    given: Any, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def start(*arguments: Any, **named: Any) -> Any:
        seen.update(named)
        raise RuntimeError("far enough")

    monkeypatch.setattr("onnxruntime.InferenceSession", start)
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(BackendError, match="far enough"):
        OrtSession(graph_bytes(), OrtOptions(providers=(given,)))
    assert seen["providers"] == [(given if isinstance(given, str) else given[0], options)]


def test_missing_provider_lists_the_available_ones() -> None:
    assert "CPUExecutionProvider" in available_providers()
    with pytest.raises(BackendError, match=r"has no WarpDriveExecutionProvider; available: .*CPUExecutionProvider"):
        OrtSession(graph_bytes(), OrtOptions(providers=("WarpDriveExecutionProvider", "CPUExecutionProvider")))


def test_failing_run_is_one_line() -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"], name="head/Reshape")],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([1, 3]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = OrtSession(model.SerializeToString())
    with pytest.raises(BackendError, match=r"failed to run the model: .*head/Reshape") as caught:
        session.run({"input": np.zeros((2, 3), np.float32)})
    assert "\n" not in str(caught.value)


def test_the_checks_of_every_session() -> None:
    with OrtSession(graph_bytes()) as session:
        for feed, match in (
            ({}, "input 'input' is missing"),
            ({"input": X.astype(np.float64)}, "must be float32, found float64"),
            ({"input": X[0]}, "must have shape"),
            ({"input": X[:, :, :31]}, "must have shape"),
            ({"input": X.tolist()}, "must be a numpy array"),
            ({"input": X, "more": X}, r"unknown input\(s\) \['more'\]"),
        ):
            with pytest.raises(UserError, match=match):
                session.run(feed)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="unknown output"):
            session.run({"input": X}, ["probabilities"])
        assert list(session.run({"input": X}, ["logits"])) == ["logits"]
        assert session.run({"input": X}, []) == {}
    with pytest.raises(UserError, match="is closed"):
        session.run({"input": X})
    session.close()


def test_strided_input() -> None:
    with OrtSession(graph_bytes()) as session:
        expected = session.run({"input": X})["logits"]
        strided = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        assert not strided.flags.c_contiguous
        np.testing.assert_array_equal(session.run({"input": strided})["logits"], expected)


def test_threads_share_a_session() -> None:
    session = OrtSession(graph_bytes(), OrtOptions(threads=1))
    inputs = [X + i for i in range(4)]
    expected = [session.run({"input": x})["logits"] for x in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        results = [session.run({"input": inputs[index]})["logits"] for _ in range(50)]
        wrong.extend(index for result in results if not np.array_equal(result, expected[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_closing_while_others_run() -> None:
    session = OrtSession(graph_bytes(), OrtOptions(threads=1))
    odd: list[BaseException] = []
    ended: list[int] = []
    started = threading.Event()

    def work() -> None:
        try:
            while True:
                session.run({"input": X})
                started.set()
        except UserError:
            ended.append(1)
        except BaseException as error:
            odd.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    session.close()
    for thread in threads:
        thread.join(10)
    assert not odd
    assert len(ended) == 3


def test_metadata() -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.ParseFromString(graph_bytes())
    helper.set_model_props(model, {"edgecnn.model": "tiny"})
    with OrtSession(model.SerializeToString()) as session:
        assert session.metadata == {"edgecnn.model": "tiny"}


def test_binding() -> None:
    with OrtSession(graph_bytes()) as session:
        expected = session.run({"input": X})["logits"]
        binding = session.bind({"batch": 2})
        assert binding.inputs["input"].shape == (2, 3, 32, 32)
        for sign in (1, -1, 1):
            binding.inputs["input"][...] = sign * X
            outputs = binding.run()
        assert outputs is binding.outputs
        np.testing.assert_array_equal(outputs["logits"], expected)
        assert session.bind().outputs["logits"].shape == (1, CLASSES)
        with pytest.raises(UserError, match="cannot have the shape"):
            session.bind({"batch": 0})
    with pytest.raises(UserError, match="closed"):
        session.bind()


def float_island() -> bytes:
    """Return an int8 graph with one float convolution in it: quantized, dequantized, float conv, quantized again."""
    draw = np.random.default_rng(1)
    weight = draw.standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[0] *= 1000  # one loud channel: a per-tensor int8 weight would silence the others
    arrays = {"w": weight, "scale": np.float32(0.05), "zero": np.int8(0), "out_scale": np.float32(0.1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("Conv", ["dq", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["conv", "out_scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "out_scale", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "island",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def test_a_float_island_stays_float(tmp_path: Path) -> None:
    """onnxruntime's WeightBiasQuantization would quantize its weights behind our back: every session leaves it out."""
    import onnxruntime

    assert "WeightBiasQuantization" in ALWAYS_DISABLED

    def optimized(disabled: list[str], name: str) -> tuple[bytes, np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            float_island(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
        return (tmp_path / name).read_bytes(), session.run(None, {"input": image})[0]

    image = np.random.default_rng(2).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with OrtSession(float_island(), OrtOptions(optimize="disabled")) as session:
        exact = session.run({"input": image})["logits"]
    with OrtSession(float_island()) as session:
        ours = session.run({"input": image})["logits"]
    stock_graph, stock = optimized([], "stock.onnx")
    kept_graph, kept = optimized(list(ALWAYS_DISABLED), "kept.onnx")
    np.testing.assert_array_equal(ours, kept)
    assert b"QLinearConv" not in kept_graph
    assert np.abs(ours - exact).max() < 0.11, "at most one step of the output's own scale"
    assert (np.abs(ours - exact) > 0.01).mean() < 0.02
    # What it saves us from. If this fails, onnxruntime no longer does it, and ALWAYS_DISABLED can go.
    assert b"QLinearConv" in stock_graph
    assert np.abs(stock - exact).max() > 0.25


def test_it_prints_nothing() -> None:
    """Neither importing, nor loading, nor failing writes to stdout or stderr."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from tiny_bundle import graph_bytes
from edgecnn.errors import EdgecnnError
from edgecnn.runtime import OrtOptions, OrtSession
import numpy as np
OrtSession(graph_bytes()).run({"input": np.zeros((1, 3, 32, 32), np.float32)})
for model, options in ((b"junk", OrtOptions()), (graph_bytes(), OrtOptions(providers=("Nope",)))):
    try:
        OrtSession(model, options)
    except EdgecnnError:
        pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout + done.stderr == ""
