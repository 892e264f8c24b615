"""Faults planted in one stage must be found, put on that stage, and on the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_nets import (
    INPUT,
    PREPROCESS,
    Arrays,
    images,
    network,
    put_inside,
    write_embedded,
    write_fp16,
    write_fp32,
    write_int8,
)

from edgecnn.parity.bisect import bisect
from edgecnn.parity.samples import edge_inputs, gaussian
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.torch_runner import TorchSession
from edgecnn.runtime.ort import OrtSession

STAGES = ("onnx", "simplified", "embedded", "fp16", "int8")


@dataclass(frozen=True)
class Fault:
    """A fault: the stage it is planted in, how, and the tensor at which bisecting must point."""

    stage: str
    plant: Callable[[Path, Path], Path]
    tensor: str


def swapped_mean_std(arrays: Arrays) -> None:
    arrays["mean"], arrays["std"] = arrays["std"], arrays["mean"]


def swapped_channels(arrays: Arrays) -> None:
    arrays["mean"], arrays["std"] = arrays["mean"][:, ::-1], arrays["std"][:, ::-1]


def wrong_mean(arrays: Arrays) -> None:
    arrays["mean"] = np.full_like(arrays["mean"], 127.5)


def perturbed(name: str, share: float) -> Callable[[Arrays], None]:
    """Change one single weight by a share of itself."""

    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        place = np.unravel_index(np.abs(arrays[name]).argmax(), arrays[name].shape)
        arrays[name][place] *= 1 + share

    return change


def times(name: str, factor: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = (arrays[name] * factor).astype(arrays[name].dtype)

    return change


def transposed(name: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = np.ascontiguousarray(np.swapaxes(arrays[name], -1, -2))

    return change


def scales_in_the_wrong_order(name: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = np.ascontiguousarray(
            arrays[name][::-1] * np.linspace(0.3, 3, len(arrays[name]), dtype=np.float32)
        )

    return change


def transposed_activation(nodes: list[Any], arrays: Arrays) -> None:
    """Rows and columns change places on the way into the depthwise convolution."""
    from onnx import helper

    conv = next(node for node in nodes if node.name == "dw/Conv")
    nodes.insert(
        nodes.index(conv), helper.make_node("Transpose", [conv.input[0]], ["turned"], name="turned", perm=[0, 1, 3, 2])
    )
    conv.input[0] = "turned"


def channels_last(nodes: list[Any], arrays: Arrays) -> None:
    """A tensor keeps its name and gets another layout, undone behind it."""
    from onnx import helper

    relu = next(node for node in nodes if node.name == "act/Relu")
    relu.output[0] = "nchw"
    at = nodes.index(relu) + 1
    nodes.insert(at, helper.make_node("Transpose", ["nchw"], ["act/Relu"], name="to_nhwc", perm=[0, 2, 3, 1]))


FAULTS = {
    "swapped mean and std": Fault("embedded", lambda p, _: write_embedded(p, swapped_mean_std), "conv1/Conv"),
    "swapped mean and std, as Mul and Add": Fault(
        "embedded", lambda p, f: put_inside(p, f, mean=PREPROCESS.std, std=PREPROCESS.mean), "conv1/Conv"
    ),
    "mean and std of swapped channels": Fault("embedded", lambda p, _: write_embedded(p, swapped_channels), "conv1/Conv"),
    "another network's mean": Fault("embedded", lambda p, _: write_embedded(p, wrong_mean), "conv1/Conv"),
    "pixels with height and width swapped": Fault("embedded", lambda p, _: write_embedded(p, perm=(0, 3, 2, 1)), "conv1/Conv"),
    "one weight off by 1 %, at export": Fault("onnx", lambda p, _: write_fp32(p, perturbed("dw.weight", 0.01)), "dw/Conv"),
    "one weight off by 1 %": Fault("simplified", lambda p, _: write_fp32(p, perturbed("block.conv.weight", 0.01)), "block.conv/Conv"),
    "one weight doubled, in half": Fault("fp16", lambda p, _: write_fp16(p, perturbed("dw.weight", 1.0)), "dw/Conv"),
    "a bias lost": Fault("simplified", lambda p, _: write_fp32(p, times("fc.bias", 0)), "logits"),
    "a kernel transposed": Fault("simplified", lambda p, _: write_fp32(p, transposed("block.conv.weight")), "block.conv/Conv"),
    "an activation transposed": Fault("simplified", lambda p, _: write_fp32(p, extra=transposed_activation), "dw/Conv"),
    "a tensor in another layout": Fault("simplified", lambda p, _: write_fp32(p, extra=channels_last), "act/Relu"),
    "an activation scale too small": Fault("int8", lambda p, f: write_int8(p, f, times("relu/Relu", 1 / 8)), "relu/Relu_dequantized"),
    "an activation scale too large": Fault("int8", lambda p, f: write_int8(p, f, times("block/Add", 60)), "block/Add_dequantized"),
    "weight scales doubled": Fault("int8", lambda p, f: write_int8(p, f, times("fc.weight", 2)), "fc.weight_dequantized"),
    "weight scales in the wrong order": Fault(
        "int8", lambda p, f: write_int8(p, f, scales_in_the_wrong_order("dw.weight")), "dw.weight_dequantized"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("honest")
    fp32 = write_fp32(folder / "onnx.onnx")
    return {
        "onnx": fp32,
        "simplified": write_fp32(folder / "simplified.onnx"),
        "embedded": write_embedded(folder / "embedded.onnx"),
        "fp16": write_fp16(folder / "fp16.onnx"),
        "int8": write_int8(folder / "int8.onnx", fp32),
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_put_on_its_stage_and_layer(name: str, honest: dict[str, Path], tmp_path: Path) -> None:
    fault = FAULTS[name]
    files = dict(honest)
    files[fault.stage] = fault.plant(tmp_path / f"{fault.stage}.onnx", honest["onnx"])
    if fault.stage in ("onnx", "simplified"):
        # Whatever is made from a bad stage is as bad, and must not be blamed for it.
        inherited = {"simplified"} if fault.stage == "onnx" else set()
        files |= dict.fromkeys(inherited, files[fault.stage])
    reference = TorchSession(network(), (INPUT,))
    stages = [Stage("pytorch", "fp32", reference)]
    for stage in STAGES:
        precision = stage if stage in ("fp16", "int8") else "fp32"
        after = {"onnx": "pytorch", "simplified": "onnx"}.get(
            stage, "onnx" if fault.stage == "simplified" else "simplified"
        )
        stages.append(Stage(stage, precision, OrtSession(files[stage]), after=after))
    report = verify(stages, [images(12), gaussian(INPUT, PREPROCESS, count=4), edge_inputs(INPUT, PREPROCESS)])

    assert not report
    assert report.first_departure is not None
    assert report.first_departure.name == fault.stage, "\n".join(report.lines())
    would = report.first_departure.failures
    assert all(c.verdict.would_pass is not None and c.verdict.would_pass.judge(c.metrics, 1e9) for c in would)

    before: Any = reference if fault.stage == "onnx" else honest["onnx"]
    found = bisect(before, files[fault.stage], images(4))
    assert found.first is not None, "\n".join(found.lines())
    assert found.first.tensor == fault.tensor, "\n".join(found.lines())


def test_without_a_fault_nothing_is_found(honest: dict[str, Path]) -> None:
    stages = [Stage("pytorch", "fp32", TorchSession(network(), (INPUT,)))]
    for stage in STAGES:
        precision = stage if stage in ("fp16", "int8") else "fp32"
        after = {"onnx": "pytorch", "simplified": "onnx"}.get(stage, "simplified")
        stages.append(Stage(stage, precision, OrtSession(honest[stage]), after=after))
    report = verify(stages, [images(12), gaussian(INPUT, PREPROCESS, count=4), edge_inputs(INPUT, PREPROCESS)])
    assert report, "\n".join(report.lines())


def test_inserted_nodes_are_named(honest: dict[str, Path], tmp_path: Path) -> None:
    """A fault before the first shared tensor shows at that tensor; what lies between is listed."""
    turned = bisect(honest["onnx"], write_fp32(tmp_path / "t.onnx", extra=transposed_activation), images(2)).first
    assert turned is not None
    assert turned.between == ("turned",)
    report = bisect(honest["onnx"], write_embedded(tmp_path / "e.onnx", wrong_mean), images(2))
    assert report.first is not None
    assert "preprocess/Sub" in report.first.between
    assert any("preprocess/Sub" in line for line in report.lines())


def test_nan_in_the_middle_is_found_where_it_begins(honest: dict[str, Path], tmp_path: Path) -> None:
    def poison(arrays: Arrays) -> None:
        arrays["block.conv.bias"] = arrays["block.conv.bias"].copy()
        arrays["block.conv.bias"][3] = np.nan

    found = bisect(honest["onnx"], write_fp32(tmp_path / "nan.onnx", poison), images(2)).first
    assert found is not None
    assert (found.tensor, found.reason) == ("block.conv/Conv", "it has NaN or infinity")


def test_another_shape_is_named_with_both(honest: dict[str, Path], tmp_path: Path) -> None:
    def wrapped(nodes: list[Any], arrays: Arrays) -> None:
        """The pooled tensor keeps its name and gets another axis; its sign is lost where the axis is taken away."""
        from onnx import helper

        pool = next(node for node in nodes if node.name == "ReduceMean")
        pool.output[0] = "pooled"
        arrays["first"] = np.array([0], np.int64)
        at = nodes.index(pool) + 1
        nodes[at:at] = [
            helper.make_node("Unsqueeze", ["pooled", "first"], ["ReduceMean"], name="wrap"),
            helper.make_node("Neg", ["ReduceMean"], ["negative"], name="negative"),
            helper.make_node("Squeeze", ["negative", "first"], ["unwrapped"], name="unwrap"),
        ]
        nodes[-1].input[0] = "unwrapped"

    report = bisect(honest["onnx"], write_fp32(tmp_path / "wrapped.onnx", extra=wrapped), images(1))
    assert report.first is not None
    assert report.first.tensor == "ReduceMean"
    assert report.first.reason == "its shape is [1, 1, 16], and [1, 16] in the reference"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_swapped_mean_and_std_are_put_on_the_nodes_that_hold_them(
    precision: str, honest: dict[str, Path], tmp_path: Path
) -> None:
    """Two variants of one bundle, both with preprocessing inside, one of them with the constants swapped."""
    reference = put_inside(tmp_path / "reference.onnx", honest["onnx"], softmax=True)
    source = honest["onnx" if precision == "fp32" else precision]
    fine = put_inside(tmp_path / "fine.onnx", source, softmax=True)
    swapped = put_inside(tmp_path / "swapped.onnx", source, mean=PREPROCESS.std, std=PREPROCESS.mean, softmax=True)
    found = bisect(reference, fine, images(4))
    assert found, "\n".join(found.lines())
    assert found.layers[-1].tensor == "probabilities"
    found = bisect(reference, swapped, images(4))
    assert found.first is not None
    assert found.first.tensor == "input/Mul"
    assert [layer.tensor for layer in found.layers if layer.departs] == ["input/Mul", "input/Add"]
