"""The OpenVINO session: that it computes what onnxruntime does, what it says when it cannot, and what it keeps to itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import CLASSES, PREPROCESS, graph_bytes, photos, write_model

from edgecnn.calib import InMemory
from edgecnn.errors import BackendError, UserError
from edgecnn.fp16 import to_fp16
from edgecnn.passes.embed_preprocess import EmbedPreprocess
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import OpenVinoOptions, OpenVinoSession, OrtSession
from edgecnn.runtime.openvino import available_devices
from edgecnn.runtime.preprocess import fit
from edgecnn.simplify import transform
from edgecnn.spec import TensorSpec

X = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], outputs: list[str], *, opset: int = 20, kind: int = TensorProto.FLOAT) -> bytes:
    """Return a graph of nodes that read ``input`` (batch, 3, height, 8)."""
    domains = {node.domain for node in nodes if node.domain}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", kind, ["batch", 3, "height", 8])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def wide(folder: Path) -> Path:
    """Return the file of a convolution whose sums are long enough to show rounding to bfloat16."""
    draw = np.random.default_rng(1)
    arrays = {"w": draw.standard_normal((16, 3, 3, 3)), "v": draw.standard_normal((16, 16, 3, 3)) / 12}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["a"], name="a/Conv"),
            helper.make_node("Relu", ["a"], ["b"], name="b/Relu"),
            helper.make_node("Conv", ["b", "v"], ["c"], name="c/Conv"),
            helper.make_node("GlobalAveragePool", ["c"], ["d"], name="d/Pool"),
            helper.make_node("Flatten", ["d"], ["logits"], name="e/Flatten"),
        ],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 16])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    path = folder / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Return the energy of the reference over that of the difference, dB."""
    difference = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(difference, 1e-30)))


def both(path: Path, feed: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what onnxruntime and OpenVINO give."""
    with OrtSession(path) as one, OpenVinoSession(path) as other:
        assert [(s.name, s.dtype, len(s.shape)) for s in one.outputs] == [
            (s.name, s.dtype, len(s.shape)) for s in other.outputs
        ]
        return one.run(feed)["logits"], other.run(feed)["logits"]


def test_path_bytes_and_specs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_bytes())
    with OpenVinoSession(path) as one, OpenVinoSession(graph_bytes()) as two, OpenVinoSession(str(path)) as three:
        assert one.backend == "openvino"
        assert one.inputs == (TensorSpec(name="input", shape=("batch", 3, 32, 32)),)
        assert one.outputs == (TensorSpec(name="logits", shape=("batch", CLASSES)),)
        results = [session.run({"input": X})["logits"] for session in (one, two, three)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert results[0].shape == (2, CLASSES)


def test_uint8_and_static_specs() -> None:
    with OpenVinoSession(graph_bytes(uint8=True, batch=2)) as session:
        assert session.inputs == (TensorSpec(name="input", shape=(2, 32, 32, 3), dtype="uint8"),)


def test_fp32_is_fp32(tmp_path: Path) -> None:
    """Left alone, OpenVINO rounds to bfloat16 on processors that have it, which leaves some 40 dB."""
    reference, found = both(wide(tmp_path), {"input": X})
    assert sqnr(reference, found) > 110


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_quantized_graphs(tmp_path: Path, scheme: Any) -> None:
    source = onnx_model(wide(tmp_path))
    samples = InMemory([{"input": X[i : i + 1]} for i in range(2)], name="x")
    made = quantize(source, samples, QuantizeConfig(scheme=scheme), to=tmp_path / "q.onnx").model
    reference, found = both(made.path, {"input": X})
    assert sqnr(reference, found) > 35, "a value may fall on the other side of a rounding step, and no more than that"
    float_one, _ = both(source.path, {"input": X})
    assert sqnr(float_one, found) == pytest.approx(sqnr(float_one, reference), abs=3)


def test_half_precision(tmp_path: Path) -> None:
    samples = InMemory([{"input": X[:1]}], name="x")
    made = to_fp16(onnx_model(wide(tmp_path)), samples, to=tmp_path / "half.onnx").model
    reference, found = both(made.path, {"input": X})
    assert sqnr(reference, found) > 45


def test_embedded_preprocessing(tmp_path: Path) -> None:
    made = transform(write_model(tmp_path), [EmbedPreprocess(PREPROCESS)], to=tmp_path / "e.onnx")
    pixels = np.stack([fit(photo, PREPROCESS) for photo in photos()])
    reference, found = both(made.path, {"input": pixels})
    assert sqnr(reference, found) > 100


def test_several_outputs_keep_their_names() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
    ]
    with OpenVinoSession(model(nodes, ["c", "a", "b", "input"])) as session:
        assert [spec.name for spec in session.outputs] == ["c", "a", "b", "input"]
        assert session.inputs[0].shape == ("batch", 3, "dim2", 8)
        x = np.random.default_rng(0).standard_normal((1, 3, 4, 8)).astype(np.float32)
        found = session.run({"input": x}, ["b", "c"])
        np.testing.assert_array_equal(found["b"], np.maximum(x, 0))
        np.testing.assert_array_equal(found["c"], -np.maximum(x, 0))
        assert list(found) == ["b", "c"]
        assert session.run({"input": x}, []) == {}


def test_results_are_the_callers_own() -> None:
    with OpenVinoSession(graph_bytes()) as session:
        first = session.run({"input": X})["logits"]
        kept = first.copy()
        session.run({"input": -X})
        np.testing.assert_array_equal(first, kept)


def test_batches_strides_and_read_only_arrays() -> None:
    with OpenVinoSession(graph_bytes()) as session:
        whole = session.run({"input": X})["logits"]
        rows = [session.run({"input": X[i : i + 1]})["logits"] for i in range(2)]
        np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-5, atol=1e-6)
        strided = np.asfortranarray(X)
        strided.setflags(write=False)
        np.testing.assert_array_equal(session.run({"input": strided})["logits"], whole)


def compiled(session: OpenVinoSession) -> list[str]:
    """Return the input shape of each model that a session has compiled."""
    return [str(one._compiled.inputs[0].get_partial_shape()) for one in (session._one, session._any) if one is not None]


def test_a_batch_of_one_has_a_model_of_its_own_and_the_others_share_one() -> None:
    with OpenVinoSession(graph_bytes()) as session:
        session.run({"input": X[:1]})
        assert compiled(session) == ["[1,3,32,32]"]
        assert session.inputs[0].shape[0] == "batch", "what it takes is not what it was compiled for"
        alone = session.run({"input": X[:1]})["logits"]
        for batch in (2, 5, 2):
            found = session.run({"input": np.repeat(X[:1], batch, axis=0)})["logits"]
            np.testing.assert_allclose(found, np.repeat(alone, batch, axis=0), rtol=1e-5, atol=1e-6)
        assert compiled(session) == ["[1,3,32,32]", "[?,3,32,32]"]
    with OpenVinoSession(graph_bytes(batch=2)) as session:
        assert compiled(session) == ["[2,3,32,32]"]


def test_threads_that_first_need_another_batch_compile_it_once() -> None:
    with OpenVinoSession(graph_bytes(), OpenVinoOptions(threads=1)) as session:
        made: list[object] = []
        compile_ = session._compile
        session._compile = lambda model: made.append(model) or compile_(model)  # type: ignore[func-returns-value]
        start, expected = threading.Barrier(4), session.run({"input": X[:1]})["logits"]
        found: list[np.ndarray] = []

        def work() -> None:
            start.wait()
            found.append(session.run({"input": X})["logits"][:1])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert len(found) == 4
        for one in found:
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_that_takes_no_batch_of_one_is_compiled_as_it_is() -> None:
    concat = helper.make_node("Concat", ["input", "fixed"], ["y"], axis=3)
    graph = onnx.load_from_string(model([concat], ["y"]))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 3, 4, 1), np.float32), "fixed"))
    with OpenVinoSession(graph.SerializeToString()) as session:
        assert session.run({"input": np.zeros((2, 3, 4, 8), np.float32)})["y"].shape == (2, 3, 4, 9)
        assert len(compiled(session)) == 1
        with pytest.raises(BackendError, match="OpenVINO failed to run the model"):
            session.run({"input": np.zeros((1, 3, 4, 8), np.float32)})


@pytest.mark.parametrize("options", [OpenVinoOptions(threads=1), OpenVinoOptions(threads=2, hint="throughput")])
def test_options_change_nothing_but_speed(options: OpenVinoOptions) -> None:
    with OpenVinoSession(graph_bytes()) as plain, OpenVinoSession(graph_bytes(), options) as session:
        np.testing.assert_allclose(
            session.run({"input": X})["logits"], plain.run({"input": X})["logits"], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": -1}, "OpenVINO: threads must be"),
        ({"threads": True}, "OpenVINO: threads must be"),
        ({"hint": "fast"}, "hint 'fast' is not one of latency, throughput"),
        ({"device": ""}, "device must be a name"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        OpenVinoOptions(**options)


def test_missing_device_lists_the_available_ones() -> None:
    assert "CPU" in available_devices()
    with pytest.raises(BackendError, match=r"no device 'TPU' here; it has .*CPU"):
        OpenVinoSession(graph_bytes(), OpenVinoOptions(device="TPU"))


@pytest.mark.parametrize(
    ("refused", "match"),
    [
        (
            model([helper.make_node("Frobnicate", ["input"], ["y"])], ["y"]),
            "it has no operator Frobnicate-20: run it on onnxruntime",
        ),
        (
            model([helper.make_node("DeformConv2d", ["input"], ["y"], domain="edgecnn")], ["y"]),
            r"no operator edgecnn\.DeformConv2d: .*export with --deform gridsample",
        ),
        (model([helper.make_node("Relu", ["input"], ["y"])], ["y"], kind=TensorProto.STRING), "does not support input"),
        (model([helper.make_node("Relu", ["input"], ["y"])], ["y"], kind=TensorProto.BFLOAT16), "has type bf16"),
        (b"not a model", "Unable to read the model"),
        (graph_bytes()[:-30], "Unable to read the model"),
    ],
)
def test_refused_models(refused: bytes, match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        OpenVinoSession(refused)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ONNX file at"):
        OpenVinoSession(tmp_path / "nowhere.onnx")
    with pytest.raises(UserError, match=r"is empty \(0 bytes\)"):
        OpenVinoSession(b"")


def test_failing_run_is_one_line() -> None:
    concat = helper.make_node("Concat", ["input", "fixed"], ["y"], axis=3)
    fixed = onnx.numpy_helper.from_array(np.zeros((1, 3, 4, 1), np.float32), "fixed")
    graph = onnx.load_from_string(model([concat], ["y"]))
    graph.graph.initializer.append(fixed)
    with OpenVinoSession(graph.SerializeToString()) as session:
        with pytest.raises(BackendError, match="OpenVINO failed to run the model: ") as caught:
            session.run({"input": np.zeros((1, 3, 5, 8), np.float32)})
        assert "\n" not in str(caught.value)
        assert session.run({"input": np.zeros((1, 3, 4, 8), np.float32)})["y"].shape == (1, 3, 4, 9), "still usable"


def test_closed_session() -> None:
    session = OpenVinoSession(graph_bytes())
    session.close()
    session.close()
    with pytest.raises(UserError, match="this openvino session is closed"):
        session.run({"input": X})


def test_threads_do_not_mix_their_results() -> None:
    session = OpenVinoSession(graph_bytes(), OpenVinoOptions(threads=2, hint="throughput"))
    inputs = [np.full((1, 3, 32, 32), value, np.float32) * X[:1] for value in range(1, 5)]
    expected = [session.run({"input": x})["logits"] for x in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        found = (session.run({"input": inputs[index]})["logits"] for _ in range(50))
        wrong.extend(index for logits in found if not np.array_equal(logits, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    assert not wrong


def test_imported_without_its_telemetry_and_in_silence(tmp_path: Path) -> None:
    """The import sends an event where it finds its telemetry package, and writes an identifier into the home folder."""
    (tmp_path / "m.onnx").write_bytes(graph_bytes())
    code = """
import sys
from edgecnn.runtime import OpenVinoSession
OpenVinoSession(sys.argv[1]).close()
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
import openvino_telemetry  # an application that wants it can have it
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "intel").exists()


def onnx_model(path: Path) -> Any:
    """Open an ONNX file as a stage's artefact."""
    from edgecnn.onnxio import open_model

    return open_model(path, precision="fp32", lineage=())


def test_ctrl_c_after_sessions_have_closed_is_no_crash(tmp_path: Path) -> None:
    """A Core of OpenVINO that goes takes away the signal stack of the thread that made it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_bytes())
    script = f"""
import signal
from edgecnn.runtime import OpenVinoSession
first, second = OpenVinoSession({str(path)!r}), OpenVinoSession({str(path)!r})
first.close()
del first
second.close()
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    ran = subprocess.run([sys.executable, "-X", "faulthandler", "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


def test_what_batches_need_is_given_back_and_made_again() -> None:
    feed = {"input": X}
    with OpenVinoSession(graph_bytes()) as session:
        expected = session.run(feed)["logits"]
        assert session._any is not None
        session.trim()
        assert session._any is None
        assert np.array_equal(session.run(feed)["logits"], expected)
        alone = session.run({"input": X[:1]})["logits"]
        np.testing.assert_allclose(alone, expected[:1], rtol=0, atol=1e-5)
