"""One small network in every form that a pipeline makes of it, each of which can be sabotaged.

PyTorch with BatchNorm; ONNX with it folded; with preprocessing inside; in FP16; with Q/DQ. Names follow the pipeline's
conventions: a node's output is called as the node, ``X`` gains ``X_quantized`` and ``X_dequantized``, nodes know their module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecnn.onnxio import expose, scratch_file
from edgecnn.parity.samples import SampleSet, from_pixels
from edgecnn.runtime.ort import OrtSession
from edgecnn.spec import Preprocess, TensorSpec

CLASSES = 10
SIZE = 32
PREPROCESS = Preprocess(size=(SIZE, SIZE), resize=36)
INPUT = TensorSpec(name="input", shape=("batch", 3, SIZE, SIZE))
Arrays = dict[str, Any]
Change = Callable[[Arrays], None]


class Net(nn.Module):
    """A convolution with BatchNorm, a residual block, a depthwise convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.block = Block()
        self.dw = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.act = nn.ReLU()
        self.drop = nn.Dropout()
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.act(self.dw(self.block(x)))
        return self.fc(self.drop(x.mean((2, 3))))


class Block(nn.Module):
    """x + relu(conv(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.relu(self.conv(x))


def network() -> Net:
    """Return the network with fixed random weights; left in training mode on purpose."""
    torch.manual_seed(3)
    net = Net()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                torch.randn(p.shape) * (2 / max(1, p[0].numel())) ** 0.5 if p.ndim > 1 else torch.randn(p.shape) * 0.1
            )
        net.bn1.weight.copy_(torch.rand(16) + 0.5)
        net.bn1.running_mean.copy_(torch.randn(16) * 0.2)
        net.bn1.running_var.copy_(torch.rand(16) + 0.5)
    return net


def folded(net: Net) -> Arrays:
    """Return the weights of the ONNX form."""
    state = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
    factor = state["bn1.weight"] / np.sqrt(state["bn1.running_var"] + net.bn1.eps)
    arrays = {
        name: state[name]
        for name in ("block.conv.weight", "block.conv.bias", "dw.weight", "dw.bias", "fc.weight", "fc.bias")
    }
    arrays["conv1.weight"] = state["conv1.weight"] * factor[:, None, None, None]
    arrays["conv1.bias"] = state["bn1.bias"] - state["bn1.running_mean"] * factor
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def _node(op: str, module: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    node = helper.make_node(op, inputs, [output], name=output, **attributes)
    entry = node.metadata_props.add()
    entry.key, entry.value = "edgecnn.module", module
    return node


def _layers() -> list[onnx.NodeProto]:
    return [
        _node(
            "Conv", "conv1", ["input", "conv1.weight", "conv1.bias"], "conv1/Conv", strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        _node("Relu", "relu", ["conv1/Conv"], "relu/Relu"),
        _node(
            "Conv",
            "block.conv",
            ["relu/Relu", "block.conv.weight", "block.conv.bias"],
            "block.conv/Conv",
            pads=[1, 1, 1, 1],
        ),
        _node("Relu", "block.relu", ["block.conv/Conv"], "block.relu/Relu"),
        _node("Add", "block", ["relu/Relu", "block.relu/Relu"], "block/Add"),
        _node("Conv", "dw", ["block/Add", "dw.weight", "dw.bias"], "dw/Conv", pads=[1, 1, 1, 1], group=16),
        _node("Relu", "act", ["dw/Conv"], "act/Relu"),
        _node("ReduceMean", "", ["act/Relu", "axes"], "ReduceMean", keepdims=0),
        _node("Gemm", "fc", ["ReduceMean", "fc.weight", "fc.bias"], "logits", transB=1),
    ]


def _save(path: Path, nodes: list[onnx.NodeProto], arrays: Mapping[str, Any], precision: str, **options: Any) -> Path:
    """Write a model. Options: ``batch``, ``uint8``, ``output`` (name of the last tensor)."""
    batch, uint8 = options.get("batch", "batch"), options.get("uint8", False)
    shape = [batch, SIZE, SIZE, 3] if uint8 else [batch, 3, SIZE, SIZE]
    output = options.get("output", "logits")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.UINT8 if uint8 else TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"edgecnn.precision": precision})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def write_fp32(path: Path, change: Change | None = None, *, batch: int | str = "batch", extra: Any = None) -> Path:
    """Write the float form. ``extra`` edits the list of nodes."""
    arrays = folded(network()) | {"axes": np.array([2, 3], np.int64)}
    if change:
        change(arrays)
    nodes = _layers()
    if extra:
        extra(nodes, arrays)
    return _save(path, nodes, arrays, "fp32", batch=batch)


def write_embedded(
    path: Path, change: Change | None = None, *, softmax: bool = False, perm: tuple[int, ...] = (0, 3, 1, 2)
) -> Path:
    """Write the form that takes uint8 pixels and, if asked, gives probabilities."""
    arrays = folded(network()) | {"axes": np.array([2, 3], np.int64)}
    arrays["mean"] = np.array(PREPROCESS.mean, np.float32).reshape(1, 3, 1, 1) * 255
    arrays["std"] = np.array(PREPROCESS.std, np.float32).reshape(1, 3, 1, 1) * 255
    if change:
        change(arrays)
    inside = [
        _node("Cast", "", ["input"], "preprocess/Cast", to=TensorProto.FLOAT),
        _node("Transpose", "", ["preprocess/Cast"], "preprocess/Transpose", perm=list(perm)),
        _node("Sub", "", ["preprocess/Transpose", "mean"], "preprocess/Sub"),
        _node("Div", "", ["preprocess/Sub", "std"], "preprocess/Div"),
    ]
    layers = _layers()
    layers[0].input[0] = "preprocess/Div"
    if softmax:
        layers.append(_node("Softmax", "", ["logits"], "probabilities"))
    return _save(path, [*inside, *layers], arrays, "fp32", uint8=True, output="probabilities" if softmax else "logits")


def put_inside(
    path: Path, source: Path, *, mean: Sequence[float] = (), std: Sequence[float] = (), softmax: bool = False
) -> Path:
    """Write ``source`` with what embedding puts around it: Cast, Transpose, Mul and Add in front; if asked, Softmax behind."""
    mean = np.array(mean or PREPROCESS.mean, np.float32).reshape(1, 3, 1, 1)
    std = np.array(std or PREPROCESS.std, np.float32).reshape(1, 3, 1, 1)
    model = ir.load(source)
    graph, old = model.graph, model.graph.inputs[0]
    constants = []
    for name, array in (("input.scale", 1 / (255 * std)), ("input.shift", -mean / std)):
        tensor = ir.tensor(array, name=name)
        constants.append(ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)))
        graph.register_initializer(constants[-1])
    value = pixels = ir.Value(
        name="input", shape=ir.Shape([old.shape[0], SIZE, SIZE, 3]), type=ir.TensorType(ir.DataType.UINT8)
    )
    nodes = []
    for op, more, attributes in (
        ("Cast", [], {"to": ir.DataType.FLOAT}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Mul", constants[:1], {}),
        ("Add", constants[1:], {}),
    ):
        nodes.append(ir.node(op, [value, *more], attributes, name=f"input/{op}"))
        value = nodes[-1].outputs[0]
        value.name = f"input/{op}"
    ir.convenience.replace_all_uses_with(old, value)
    graph.inputs[0] = pixels
    graph.insert_before(graph[0], nodes)
    if softmax:
        graph.append(ir.node("Softmax", [graph.outputs[0]], {"axis": 1}, name="softmax"))
        result = graph[-1].outputs[0]
        result.name, result.shape, result.type = "probabilities", graph.outputs[0].shape, graph.outputs[0].type
        graph.outputs[0] = result
    ir.save(model, path)
    return path


def write_fp16(path: Path, change: Change | None = None) -> Path:
    """Write the half-precision form, float32 at its borders."""
    arrays = {name: value.astype(np.float16) for name, value in folded(network()).items()}
    arrays["axes"] = np.array([2, 3], np.int64)
    if change:
        change(arrays)
    layers = _layers()
    layers[0].input[0] = "input_cast"
    layers[-1].output[0] = layers[-1].name = "fc/Gemm"
    return _save(
        path,
        [
            _node("Cast", "", ["input"], "input_cast", to=TensorProto.FLOAT16),
            *layers,
            _node("Cast", "", ["fc/Gemm"], "logits", to=TensorProto.FLOAT),
        ],
        arrays,
        "fp16",
    )


QUANTIZED = ("input", "relu/Relu", "block/Add", "block.relu/Relu", "act/Relu")
_CONSUMERS = {"conv1/Conv", "block.conv/Conv", "dw/Conv", "block/Add", "ReduceMean"}


def scales(fp32: Path) -> Arrays:
    """Return symmetric activation scales from the largest values on the pictures, and per-channel weight scales."""
    names = [name for name in QUANTIZED if name != "input"]
    largest = dict.fromkeys(QUANTIZED, 0.0)
    with scratch_file(expose(fp32, names)) as file, OrtSession(file) as session:
        for sample in images(24, seed=99):
            found = session.run(sample.feed) | sample.feed
            largest.update({name: max(largest[name], float(np.abs(found[name]).max())) for name in QUANTIZED})
    result: Arrays = {name: np.float32(value / 127) for name, value in largest.items()}
    for name, value in folded(network()).items():
        if name.endswith("weight"):
            result[name] = (np.abs(value.reshape(len(value), -1)).max(axis=1) / 127).astype(np.float32)
    return result


def write_int8(path: Path, fp32: Path, change: Change | None = None, *, batch: int | str = "batch") -> Path:
    """Write the Q/DQ form. ``change`` edits the scales, after the weights were rounded with the right ones."""
    arrays = folded(network())
    scale = scales(fp32)
    rounded = {}
    for name in ("conv1.weight", "block.conv.weight", "dw.weight", "fc.weight"):
        column = scale[name].reshape(-1, *[1] * (arrays[name].ndim - 1))
        rounded[name] = np.clip(np.rint(arrays[name] / column), -127, 127).astype(np.int8)
    if change:
        change(scale)
    nodes: list[onnx.NodeProto] = []
    store: Arrays = {"axes": np.array([2, 3], np.int64), "zero": np.int8(0)}
    for layer in _layers():
        module = layer.metadata_props[0].value
        for position, name in enumerate(layer.input):
            pair = [f"{name}_quantized", f"{name}_scale"]
            if name in rounded:
                zeros = np.zeros(len(scale[name]), np.int8)
                store |= {pair[0]: rounded[name], pair[1]: scale[name], f"{name}_zero": zeros}
                nodes.append(_node("DequantizeLinear", module, [*pair, f"{name}_zero"], f"{name}_dequantized", axis=0))
                layer.input[position] = f"{name}_dequantized"
            elif name in QUANTIZED and layer.name in _CONSUMERS:
                if pair[1] not in store:
                    store[pair[1]] = scale[name]
                    nodes.append(_node("QuantizeLinear", "", [name, pair[1], "zero"], pair[0]))
                    nodes.append(_node("DequantizeLinear", "", [*pair, "zero"], f"{name}_dequantized"))
                layer.input[position] = f"{name}_dequantized"
            elif name in arrays:
                store[name] = arrays[name]
        nodes.append(layer)
    return _save(path, nodes, store, "int8", batch=batch)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return pictures with areas, edges and gradients, uint8 (SIZE, SIZE, 3), red brighter than blue."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        blocks = np.kron(draw.integers(0, 256, (4, 4, 3)), np.ones((SIZE // 4, SIZE // 4, 1)))
        ramp = np.linspace(0, 60, SIZE)[:, None, None] * draw.uniform(-1, 1, 3)
        found.append(np.clip(blocks * np.array([1.0, 0.8, 0.5]) + ramp, 0, 255).astype(np.uint8))
    return found


def images(count: int = 12, seed: int = 0) -> SampleSet:
    """Return pictures as a set with tensors and pixels."""
    return from_pixels(pictures(count, seed), PREPROCESS)
