"""Why every session of ours leaves onnxruntime's WeightBiasQuantization out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.onnxio import open_model
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import OrtOptions, OrtSession
from edgecnn.runtime.ort import ALWAYS_DISABLED, EXACT_PRODUCTS

IMAGES = np.random.default_rng(1).standard_normal((4, 1, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def mixed(tmp_path: Path) -> OnnxModel:
    """Return an INT8 graph with a convolution left in float whose weights on a dead channel are 300 times larger.

    In float they do nothing. Rounded together with them, the others become zero.
    """
    generator = np.random.default_rng(0)
    shapes = {"stem": (8, 3, 3, 3), "island": (8, 8, 3, 3), "head": (8, 8, 1, 1)}
    weights = {name: 0.3 * generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    weights["stem"][0] = 0
    weights["island"][:, 0] *= 300
    nodes = [
        helper.make_node("Conv", ["input", "stem"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "island"], ["c"], "island", pads=[1] * 4),
        helper.make_node("Conv", ["c", "head"], ["maps"], "head"),
    ]
    borders = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 16, 16])]
        for name, channels in (("input", 3), ("maps", 8))
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "mixed", *borders, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "f.onnx")
    config = QuantizeConfig(scheme="int8-cpu", keep_float=("^island$",))
    return quantize(open_model(tmp_path / "f.onnx"), InMemory(IMAGES), config, to=tmp_path / "q.onnx").model


def plain_run(model: OnnxModel, optimized: Path, disabled: list[str]) -> tuple[NDArray[Any], list[str]]:
    """Run onnxruntime as anyone would; return its output and the operators of the graph that it made."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    session = ort.InferenceSession(
        str(model.path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    return session.run(None, {"input": IMAGES[0]})[0], [node.op_type for node in onnx.load(optimized).graph.node]


def test_the_pass_destroys_a_layer_that_was_kept_float_and_our_session_keeps_it(
    mixed: OnnxModel, tmp_path: Path
) -> None:
    exact = OrtSession(mixed.path, OrtOptions(optimize="disabled")).run({"input": IMAGES[0]})["maps"]
    with_pass, operators = plain_run(mixed, tmp_path / "with.onnx", [])
    without_pass, others = plain_run(mixed, tmp_path / "without.onnx", [*ALWAYS_DISABLED])
    ours = OrtSession(mixed.path).run({"input": IMAGES[0]})["maps"]
    assert (operators.count("QLinearConv"), others.count("QLinearConv")) == (2, 1)  # the island is the second
    assert np.square(with_pass - exact).sum() > 0.5 * np.square(exact).sum()
    for found in (without_pass, ours):
        assert np.square(found - exact).sum() < 1e-4 * np.square(exact).sum()  # a value may round to the other side
