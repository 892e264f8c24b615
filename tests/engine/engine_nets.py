"""Networks of the engine's tests, in plain ONNX."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["deformable", "network", "strange"]


def network(batch: int | str = "batch", opset: int = 20) -> bytes:
    """Return three convolutions, one of them depthwise, with a residual sum, pooling and a classifier: (N, 3, 16, 16) to (N, 10)."""
    draw = np.random.default_rng(0)
    arrays = {
        "stem.w": draw.standard_normal((16, 3, 3, 3)) * 0.3,
        "conv.w": draw.standard_normal((16, 16, 3, 3)) * 0.1,
        "depthwise.w": draw.standard_normal((16, 1, 3, 3)) * 0.3,
        "fc.w": draw.standard_normal((10, 16)),
        "fc.b": draw.standard_normal(10),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "stem.w"], ["a"], name="stem", **pads),
        helper.make_node("Relu", ["a"], ["b"], name="stem/relu"),
        helper.make_node("Conv", ["b", "conv.w"], ["c"], name="conv", **pads),
        helper.make_node("Add", ["c", "b"], ["d"], name="sum"),
        helper.make_node("Relu", ["d"], ["e"], name="sum/relu"),
        helper.make_node("Conv", ["e", "depthwise.w"], ["f"], name="depthwise", group=16, **pads),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["h"], name="flatten"),
        helper.make_node("Gemm", ["h", "fc.w", "fc.b"], ["logits"], name="fc", transB=1),
    ]
    return _model(nodes, {name: array.astype(np.float32) for name, array in arrays.items()}, batch, (batch, 10), opset)


def strange() -> bytes:
    """Return a network with three operators that no TensorRT has, one of a domain of its own."""
    nodes = [
        helper.make_node("Foo", ["input"], ["a"], name="one", domain="mine"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
        helper.make_node("Det", ["b"], ["c"], name="three"),
        helper.make_node("Foo", ["c"], ["logits"], name="four", domain="mine"),
    ]
    return _model(nodes, {}, 1, (1, 3), 20)


def deformable() -> bytes:
    """Return a network with two of ONNX's own deformable convolutions."""
    draw = np.random.default_rng(0)
    arrays = {"offset.w": draw.standard_normal((18, 3, 3, 3)), "dcn.w": draw.standard_normal((3, 3, 3, 3))}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "offset.w"], ["offset"], name="offset", **pads),
        helper.make_node("DeformConv", ["input", "dcn.w", "offset"], ["a"], name="dcn1", kernel_shape=[3, 3], **pads),
        helper.make_node("DeformConv", ["a", "dcn.w", "offset"], ["logits"], name="dcn2", kernel_shape=[3, 3], **pads),
    ]
    return _model(nodes, {name: array.astype(np.float32) for name, array in arrays.items()}, 1, (1, 3, 16, 16), 20)


def _model(
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    batch: int | str,
    output: tuple[int | str, ...],
    opset: int,
) -> bytes:
    """Return the bytes of a model."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(output))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
