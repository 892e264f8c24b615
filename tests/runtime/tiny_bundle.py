"""A bundle small enough to write in every test: one convolution, five classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.onnxio import open_model
from edgecnn.pack import BundleContents, VariantContents, make_golden, pack
from edgecnn.runtime import Bundle, OrtSession
from edgecnn.runtime.manifest import Weights
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

CLASSES = 5
LABELS = ("tench", "goldfish", "Egyptian cat", "crème brûlée", "odd\u2028name")
PREPROCESS = Preprocess(size=(32, 32), resize=36)
SPEC = ModelSpec(
    name="tiny",
    builder="tiny_bundle:build",
    num_classes=CLASSES,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 32, 32)),),
    outputs=(TensorSpec(name="logits", shape=("batch", CLASSES)),),
    preprocess=PREPROCESS,
)


def graph_bytes(
    *, batch: int | str = "batch", scale: float = 1.0, uint8: bool = False, softmax: bool = False, bias: float = 0.0
) -> bytes:
    """Return a conv - relu - pool - linear network; ``uint8`` normalises inside, ``softmax`` ends in probabilities."""
    draw = np.random.default_rng(0)
    arrays = {
        "w": draw.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.3,
        "fc": (draw.standard_normal((CLASSES, 8)) * scale).astype(np.float32),
        "b": np.full(CLASSES, bias, np.float32),
    }
    nodes, x = [], "input"
    if uint8:
        arrays["mean"] = np.array(PREPROCESS.mean, np.float32).reshape(1, 3, 1, 1) * 255
        arrays["std"] = np.array(PREPROCESS.std, np.float32).reshape(1, 3, 1, 1) * 255
        nodes = [
            helper.make_node("Cast", ["input"], ["float"], to=1),
            helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Sub", ["nchw", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normal"]),
        ]
        x = "normal"
    nodes += [
        helper.make_node("Conv", [x, "w"], ["conv"], strides=[2, 2], name="conv/Conv"),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "b"], ["scores" if softmax else "logits"], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["logits"]))
    shape = [batch, 32, 32, 3] if uint8 else [batch, 3, 32, 32]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", onnx.TensorProto.UINT8 if uint8 else onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_model(folder: Path, precision: str = "fp32", **options: Any) -> OnnxModel:
    """Write the network as a stage would have."""
    path = folder / f"{precision}.onnx"
    path.write_bytes(graph_bytes(**options))
    lineage = [Lineage(stage="export", tools={"torch": "2.9"}, config={"opset": 20}, inputs={}, notes=("made up",))]
    return open_model(path, precision=precision, lineage=lineage)


def photos(count: int = 3, height: int = 50, width: int = 60) -> list[np.ndarray]:
    """Return pictures with edges, uint8 (h, w, 3)."""
    draw = np.random.default_rng(7)
    blocks = draw.integers(0, 256, (count, height // 5, width // 5, 3), dtype=np.uint8)
    return [np.kron(image, np.ones((5, 5, 1), np.uint8)) for image in blocks]


def contents(folder: Path, variants: Sequence[VariantContents] = (), **changes: Any) -> BundleContents:
    """Describe a bundle of an fp32 and an int8-cpu variant (the latter a copy of the former), both verified."""
    if not variants:
        variants = [
            VariantContents(model=write_model(folder, "fp32"), verified=True),
            VariantContents(
                model=write_model(folder, "int8-cpu"), verified=True, placement={"quantized": 3, "float": 1}
            ),
        ]
    sessions = {item.model.precision: OrtSession(item.model.path) for item in variants}
    values: dict[str, Any] = {
        "spec": SPEC,
        "weights": Weights(entry="IMAGENET1K_V1", source="https://example.org/tiny.pth", top1=70.5, licence="BSD"),
        "variants": variants,
        "labels": LABELS,
        "golden": make_golden(photos(), PREPROCESS, sessions),
        "ranges": {"int8-cpu": {"method": "mse", "tensors": {"input": [-2.0, 2.0]}}},
        "parity": {"stages": [{"name": "onnx", "max_abs": 1e-6}]},
        "parity_summary": {"passed": True},
        "verified": True,
        "calibration": {"kind": "folder", "count": 128},
        "notes": ("calibrated on the built-in photos",),
        "tools": {"onnxruntime": "1.25"},
    }
    return BundleContents(**(values | changes))


def write_tiny(
    folder: Path, name: str = "bundle", variants: Sequence[VariantContents] = (), *, force: bool = False, **changes: Any
) -> Bundle:
    """Write a bundle into ``folder/name``."""
    return pack(folder / name, contents(folder, variants, **changes), force=force)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a bundle's manifest in place; a result other than None replaces it."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    result = change(data)
    path.write_text(json.dumps(data if result is None else result))


def rehash(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    content = (bundle / name).read_bytes()
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def change(data: dict[str, Any]) -> None:
        data["files"][name] = record
        if data["labels"] and data["labels"]["file"] == name:
            data["labels"]["sha256"] = record["sha256"]

    edit_manifest(bundle, change)
