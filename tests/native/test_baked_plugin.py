"""The plugin whose kernel is baked into the engine, against a recorded fake of TensorRT; what would be launched runs on the CPU."""

from __future__ import annotations

import sys
import types

import numpy as np
import onnx_ir as ir
import pytest
from cpu_kernel import COMPILER, NAMES, CpuKernel
from deform_cases import CASES, arguments, expected
from fake_trt_plugin import FakePlugin

from edgecnn.engine.plugins import deform_conv2d
from edgecnn.errors import BackendError, MissingDependencyError
from edgecnn.passes import run_passes
from edgecnn.passes.deform_baked import MODULATED, PLAIN, DeformBaked
from edgecnn.passes.deform_plugin import DeformPlugin, DropDeformFunction


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts the fake in TensorRT's place."""

    def install(**options: bool) -> FakePlugin:
        package = types.ModuleType("tensorrt")
        package.__version__, package.float16, package.float32 = "10.9.0", "half", "float"
        package.plugin = FakePlugin(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", package)
        monkeypatch.setitem(sys.modules, "tensorrt.plugin", package.plugin)
        monkeypatch.setattr(deform_conv2d, "_STATE", {})
        return package.plugin

    return install


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("dtype", ["float", "half"])
def test_what_would_be_launched_computes_the_goldens(tensorrt, tmp_path, dtype):
    kernel, plugin = CpuKernel.compiled(tmp_path), tensorrt()
    deform_conv2d.register("the kernels")
    for case in CASES.values():
        tensors = arguments(case)
        tensors.setdefault("bias", np.zeros(case["out_channels"]))
        names = [name for name in ("input", "weight", "offset", "bias", "mask") if name in tensors]
        fields = {
            "stride": case["stride"],
            "padding": 2 * case["padding"],
            "dilation": case["dilation"],
            "groups": [case["groups"]],
            "offset_groups": [case["offset_groups"]],
        }
        identifier = f"edgecnn::{MODULATED if 'mask' in tensors else PLAIN}"
        shapes = [tensors[name].shape for name in names]
        shape, name, text, launch, numbers = plugin.build(identifier, shapes, dtype, fields)
        assert text == "the kernels"
        assert name == f"edgecnn_{'modulated_' if 'mask' in tensors else ''}deform_conv2d_{dtype}"
        assert shape == tuple(case["output_shape"])
        sizes = dict(zip(NAMES, numbers, strict=True))
        assert (launch.grid_x, launch.grid_y) == kernel.grid(sizes)
        assert (launch.block_x, launch.block_y, launch.grid_z, launch.shared_mem) == (256, 1, 1, 0)
        rounded = {k: v.astype(np.float16 if dtype == "half" else np.float32) for k, v in tensors.items()}
        found = kernel.launch(sizes, rounded, shape)
        # Rounded to half, an offset of up to 6 moves by up to 2^-9; here the arguments alone are checked.
        np.testing.assert_allclose(found, expected(case), rtol=0, atol=0.05 if dtype == "half" else 1e-5)


def test_registering_again_exchanges_the_kernels(tensorrt):
    plugin = tensorrt()
    deform_conv2d.register("old")
    deform_conv2d.register("new")
    shapes = [(1, 70, 5, 5), (130, 35, 1, 1), (1, 2, 5, 5), (130,)]
    fields = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": [2], "offset_groups": [1]}
    _, _, text, launch, _ = plugin.build(f"edgecnn::{PLAIN}", shapes, "float", fields)
    assert text == "new"
    assert (launch.grid_x, launch.grid_y) == (1, 4)  # 65 outputs a group are two tiles


def test_what_could_not_be_registered_is_tried_again(tensorrt, monkeypatch):
    plugin = tensorrt()
    register, asked = plugin.register, []

    def failing_once(identifier):
        asked.append(identifier)
        if asked == [f"edgecnn::{PLAIN}", f"edgecnn::{MODULATED}"]:
            raise RuntimeError("no memory")
        return register(identifier)

    monkeypatch.setattr(plugin, "register", failing_once)
    with pytest.raises(RuntimeError, match="no memory"):
        deform_conv2d.register("old")
    deform_conv2d.register("new")
    shapes = [(3, 8, 9, 10), (6, 4, 3, 2), (3, 48, 4, 11), (6,), (3, 24, 4, 11)]
    fields = {"stride": [2, 1], "padding": [1, 2, 0, 1], "dilation": [1, 2], "groups": [2], "offset_groups": [4]}
    assert plugin.build(f"edgecnn::{MODULATED}", shapes, "half", fields)[2] == "new"
    assert asked.count(f"edgecnn::{PLAIN}") == 1


def test_padding_of_the_four_sides_is_in_the_output(tensorrt):
    plugin = tensorrt()
    deform_conv2d.register("ptx")
    shapes = [(3, 8, 9, 10), (6, 4, 3, 2), (3, 48, 4, 11), (6,), (3, 24, 4, 11)]
    fields = {"stride": [2, 1], "padding": [1, 2, 0, 1], "dilation": [1, 2], "groups": [2], "offset_groups": [4]}
    shape, _, _, _, numbers = plugin.build(f"edgecnn::{MODULATED}", shapes, "half", fields)
    assert shape == (3, 6, 4, 11)
    assert numbers == [3, 8, 9, 10, 6, 4, 11, 3, 2, 2, 1, 1, 2, 1, 2, 2, 4]


def test_a_tensorrt_that_cannot_bake(tensorrt):
    tensorrt(baking=False)
    with pytest.raises(
        BackendError, match=r"needs TensorRT 10\.9 or newer, found 10\.9\.0: compile the plugin's library"
    ):
        deform_conv2d.register("ptx")
    assert deform_conv2d._STATE == {}


def test_no_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        deform_conv2d.register("ptx")


TWO_NODES = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[1, 2, 4, 4] x, float[1, 2, 4, 4] offset, float[1, 2, 5, 6] further, float[1, 1, 5, 6] mask) => (float[1, 2, 5, 6] y)
<float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {0, 0}>
{
    h = DeformConv (x, w, offset)
    y = DeformConv <pads = [1, 2, 0, 0]> (h, w, further, b, mask)
}
"""


def test_the_pass_renames_nodes_by_their_mask_and_asks_for_the_kernel():
    model = ir.from_onnx_text(TWO_NODES)
    assert run_passes(model, [DeformPlugin(), DeformBaked()]) == {"deform_plugin": 2, "deform_baked": 2}
    nodes = [node for node in model.graph if node.domain == "edgecnn"]
    assert [node.op_type for node in nodes] == [PLAIN, MODULATED]
    assert [len(node.inputs) for node in nodes] == [4, 5]
    assert [tuple(node.attributes["padding"].as_ints()) for node in nodes] == [(0, 0, 0, 0), (1, 2, 0, 0)]
    for node in nodes:
        assert node.attributes["aot"].as_int() == 1
        assert node.attributes["plugin_namespace"].as_string() == "edgecnn"
        assert node.attributes["plugin_version"].as_string() == "1"
    assert not model.functions
    assert DeformBaked().apply(model) == 0


def test_without_the_function_the_nodes_stay():
    model = ir.from_onnx_text(TWO_NODES)
    passes = [DeformPlugin(), DropDeformFunction()]
    assert run_passes(model, passes) == {"deform_plugin": 2, "drop_deform_function": 1}
    assert not model.functions
    assert [node.op_type for node in model.graph if node.domain == "edgecnn"] == ["DeformConv2d"] * 2
    assert DropDeformFunction().apply(model) == 0
