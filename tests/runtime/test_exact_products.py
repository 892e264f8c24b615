"""Why sessions ask for exact products: without that, integer kernels saturate on x86 processors without VNNI."""

from __future__ import annotations

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
    graph = oh.make_graph(
        nodes,
        "product",
        [oh.make_tensor_value_info("input", onnx.TensorProto.FLOAT, (1, CHANNELS, 4, 4))],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (1, 8, 4, 4))],
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
