"""Networks that take pixels and give probabilities, against ``normalize`` and the network that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.errors import GraphError
from edgecnn.export import export
from edgecnn.onnxio import expose, load_ir, save_ir, scratch_file
from edgecnn.passes import Pass, run_passes
from edgecnn.passes.embed_preprocess import EmbedPreprocess
from edgecnn.passes.embed_softmax import EmbedSoftmax
from edgecnn.quantize import QuantizeConfig, Scheme, quantize
from edgecnn.runtime import OrtSession
from edgecnn.runtime.classifier import run_pixels, softmax
from edgecnn.runtime.preprocess import normalize
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

HEIGHT, WIDTH = 12, 16
PREPROCESS = Preprocess(size=(HEIGHT, WIDTH), resize=20)
BGR = Preprocess(size=(HEIGHT, WIDTH), resize=20, mean=(0.4, 0.5, 0.6), std=(1 / 255, 0.5, 1.0), colour="BGR")


class Net(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, channels: int = 3) -> None:
        """Make the parts."""
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return 20 * self.fc(torch.relu(self.conv(torch.relu(self.stem(x)))).mean((2, 3)))


def exported(to: Path, channels: int = 3) -> OnnxModel:
    torch.manual_seed(0)
    spec = ModelSpec(
        name="net",
        builder="net:build",
        num_classes=5,
        inputs=(TensorSpec(name="input", shape=("batch", channels, HEIGHT, WIDTH)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 5)),),
    )
    return export(Net(channels), spec, to=to)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Export the network once."""
    return exported(tmp_path_factory.mktemp("net") / "net.onnx")


def pixels(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, channels), dtype=np.uint8)


def passed(source: Path, passes: list[Pass]) -> Path:
    """Write the file that passes make of another, having had it checked."""
    model = load_ir(source)
    counts = run_passes(model, passes)
    assert counts == {item.name: 1 for item in passes}
    path = source.with_name("passed.onnx")
    save_ir(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def output(model: Path, name: str, fed: np.ndarray) -> np.ndarray:
    with OrtSession(model) as session:
        return session.run({"input": fed}, [name])[name]


@pytest.mark.parametrize("preprocess", [PREPROCESS, BGR], ids=["RGB", "BGR"])
def test_the_graph_normalises_as_the_runtime_does(net: OnnxModel, preprocess: Preprocess) -> None:
    every_value = np.arange(256, dtype=np.uint8).repeat(3 * HEIGHT * WIDTH).reshape(-1, HEIGHT, WIDTH, 3)
    path = passed(net.path, [EmbedPreprocess(preprocess)])
    with scratch_file(expose(path, ["input/shift"])) as exposed:
        found = output(exposed, "input/shift", every_value)
    expected = normalize(every_value, preprocess)
    assert np.abs(found - expected).max() <= 4 * np.finfo(np.float32).eps * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_in_probabilities_out(net: OnnxModel, batch: int) -> None:
    x = pixels(batch)
    expected = output(net.path, "logits", normalize(x, PREPROCESS))
    with OrtSession(passed(net.path, [EmbedPreprocess(PREPROCESS), EmbedSoftmax()])) as session:
        found = run_pixels(session, x, PREPROCESS)
        assert session.inputs == (TensorSpec(name="input", shape=("batch", HEIGHT, WIDTH, 3), dtype="uint8"),)
        assert session.outputs == (TensorSpec(name="probabilities", shape=("batch", 5)),)
    np.testing.assert_allclose(found, softmax(expected), rtol=0, atol=1e-6)
    assert expected.argmax(axis=1).tolist() == found.argmax(axis=1).tolist()
    assert found.max() > 0.3  # not flat: the softmax runs over the classes


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_a_quantized_network(net: OnnxModel, scheme: Scheme, tmp_path: Path) -> None:
    samples = InMemory(normalize(pixels(16), PREPROCESS))
    made = quantize(net, samples, QuantizeConfig(scheme=scheme), to=tmp_path / "int8.onnx").model
    x = pixels(8)
    expected = softmax(output(made.path, "logits", normalize(x, PREPROCESS)))
    found = output(passed(made.path, [EmbedPreprocess(PREPROCESS), EmbedSoftmax()]), "probabilities", x)
    assert np.abs(found - expected).max() < 0.01  # the last bit of a pixel may round to another int8


def test_a_gray_network(tmp_path: Path) -> None:
    gray = Preprocess(size=(HEIGHT, WIDTH), resize=20, mean=(0.5,), std=(0.25,), colour="L")
    model, x = exported(tmp_path / "gray.onnx", channels=1), pixels(2, channels=1)
    expected = output(model.path, "logits", normalize(x, gray))
    found = output(passed(model.path, [EmbedPreprocess(gray)]), "logits", x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_softmax_of_large_logits_and_of_float16(net: OnnxModel) -> None:
    """As an FP16 graph gives them behind its last cast, or without one."""
    x = normalize(pixels(2), PREPROCESS)
    model = load_ir(net.path)
    (value,) = model.graph.outputs
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16}, name="cast")
    cast.outputs[0].name, cast.outputs[0].shape = "half", value.shape
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    model.graph.append(cast)
    model.graph.outputs[0] = cast.outputs[0]
    path = net.path.with_name("half.onnx")
    save_ir(model, path)
    found = output(passed(path, [EmbedSoftmax()]), "probabilities", x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, softmax(output(net.path, "logits", x)), rtol=0, atol=1e-2)


def test_the_logits_can_still_be_exposed(net: OnnxModel) -> None:
    x = normalize(pixels(2), PREPROCESS)
    path = passed(net.path, [EmbedSoftmax()])
    with scratch_file(expose(path, ["logits"])) as exposed:
        assert output(exposed, "logits", x).tolist() == output(net.path, "logits", x).tolist()


def test_each_is_applied_once(net: OnnxModel) -> None:
    model = load_ir(net.path)
    run_passes(model, [EmbedPreprocess(PREPROCESS), EmbedSoftmax()])
    with pytest.raises(GraphError, match=r"embed_preprocess needs one input, float32 .*UINT8.* apply it once"):
        run_passes(model, [EmbedPreprocess(PREPROCESS)])
    with pytest.raises(GraphError, match=r"embed_softmax needs one output .*probabilities.* apply it once"):
        run_passes(model, [EmbedSoftmax()])


def test_another_size_is_refused(net: OnnxModel) -> None:
    with pytest.raises(GraphError, match=r"float32 \(N, 3, 224, 224\).* found .*12,16"):
        run_passes(load_ir(net.path), [EmbedPreprocess(Preprocess())])


def test_several_outputs_are_refused(net: OnnxModel) -> None:
    model = load_ir(net.path)
    model.graph.outputs.append(model.graph[0].outputs[0])
    with pytest.raises(GraphError, match="needs one output of float logits"):
        run_passes(model, [EmbedSoftmax()])
