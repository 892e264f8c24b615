"""Why sessions ask for exact products: without that, integer kernels saturate on x86 processors without VNNI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest

from edgecnn.runtime import openvino
from edgecnn.runtime.cpu import saturates
from edgecnn.runtime.openvino import OpenVinoSession
from edgecnn.runtime.ort import OrtOptions, OrtSession

CHANNELS = 64
Shape = tuple[int, ...]


def product(weight: int) -> bytes:
    """Return a 1x1 convolution in the integer domain: uint8 input, int8 weights that are all the same."""
    constants = {
        "in_scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "kernel": np.full((8, CHANNELS, 1, 1), weight, np.int8),
        "kernel_scale": np.full(8, 1 / 127, np.float32),
        "kernel_zero": np.zeros(8, np.int8),
        "out_scale": np.float32(CHANNELS / 255),
    }
    nodes = [
        oh.make_node("QuantizeLinear", ["input", "in_scale", "zero"], ["q"]),
        oh.make_node("DequantizeLinear", ["q", "in_scale", "zero"], ["x"]),
        oh.make_node("DequantizeLinear", ["kernel", "kernel_scale", "kernel_zero"], ["w"], axis=0),
        oh.make_node("Conv", ["x", "w"], ["y"]),
        oh.make_node("QuantizeLinear", ["y", "out_scale", "zero"], ["yq"]),
        oh.make_node("DequantizeLinear", ["yq", "out_scale", "zero"], ["logits"]),
    ]
    return serialized(nodes, constants, (1, CHANNELS, 4, 4), (1, 8, 4, 4))


def serialized(nodes: list[onnx.NodeProto], constants: Mapping[str, Any], given: Shape, made: Shape) -> bytes:
    """Return a model's bytes."""
    graph = oh.make_graph(
        nodes,
        "product",
        [oh.make_tensor_value_info("input", onnx.TensorProto.FLOAT, given)],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, made)],
        [nh.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("weight", [127, 65, 3])
def test_products_do_not_saturate(weight: int) -> None:
    """Two products of 255 and 127 do not fit into 16 bits; on a processor with VNNI nothing would saturate anyway."""
    feed = {"input": np.ones((1, CHANNELS, 4, 4), np.float32)}
    with OrtSession(product(weight), OrtOptions(threads=1)) as session:
        found = session.run(feed)["logits"]
    assert np.abs(found - CHANNELS * weight / 127).max() <= CHANNELS / 255 / 2 + 1e-4


def signed(operator: str, zero_points: bool) -> bytes:
    """Return a layer between int8 tensors, with per-channel weights of 127, as TensorRT's placement and as other tools write it."""
    kernel = np.full((8, CHANNELS, 1, 1) if operator == "Conv" else (8, CHANNELS), 127, np.int8)
    constants = {
        "in_scale": np.float32(1 / 127),
        "out_scale": np.float32(CHANNELS / 127),
        "zero": np.int8(0),
        "kernel": kernel,
        "kernel_scale": np.full(8, 1 / 127, np.float32),
        "kernel_zero": np.zeros(8, np.int8),
        "bias": np.zeros(8, np.int32),
        "bias_scale": np.full(8, 1 / 127**2, np.float32),
    }
    weight = ["kernel", "kernel_scale", *(["kernel_zero"] if zero_points else [])]
    options = {"transB": 1} if operator == "Gemm" else {}
    nodes = [
        oh.make_node("QuantizeLinear", ["input", "in_scale", "zero"], ["q"]),
        oh.make_node("DequantizeLinear", ["q", "in_scale", "zero"], ["x"]),
        oh.make_node("DequantizeLinear", weight, ["w"], axis=0),
        oh.make_node("DequantizeLinear", ["bias", "bias_scale"], ["b"], axis=0),
        oh.make_node(operator, ["x", "w", "b"], ["y"], **options),
        oh.make_node("QuantizeLinear", ["y", "out_scale", "zero"], ["yq"]),
        oh.make_node("DequantizeLinear", ["yq", "out_scale", "zero"], ["logits"]),
    ]
    return serialized(nodes, constants, (1, CHANNELS, *kernel.shape[2:]), (1, 8, *kernel.shape[2:]))


@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_signed_graphs_load_and_do_not_saturate(operator: str, zero_points: bool) -> None:
    with OrtSession(signed(operator, zero_points), OrtOptions(threads=1)) as session:
        (shape,) = (spec.shape for spec in session.inputs)
        found = session.run({"input": np.ones(shape, np.float32)})["logits"]
    assert np.abs(found - CHANNELS).max() <= CHANNELS / 127 / 2 + 1e-4


@pytest.mark.parametrize(
    ("flags", "arch", "expected"),
    [
        ({"avx2"}, "x86_64", True),
        ({"avx2", "avx512f"}, "x86_64", True),
        ({"avx2", "avx_vnni"}, "x86_64", False),
        ({"avx512_vnni"}, "x86_64", False),
        ({"asimd"}, "aarch64", False),
        (set(), "x86_64", False),
    ],
)
def test_which_processors_saturate(flags: set[str], arch: str, expected: bool) -> None:
    assert saturates(frozenset(flags), arch) is expected


@pytest.mark.parametrize("without", [False, True])
def test_openvino_computes_exactly_too(monkeypatch: pytest.MonkeyPatch, without: bool) -> None:
    """As this processor needs it, and, on any processor, as one without VNNI does."""
    if without:
        monkeypatch.setattr(openvino, "saturates", lambda flags: True)
    feed = {"input": np.ones((1, CHANNELS, 4, 4), np.float32)}
    with OpenVinoSession(product(127)) as session:
        found = session.run(feed)["logits"]
    assert np.abs(found - CHANNELS).max() <= CHANNELS / 255 / 2 + 1e-4
