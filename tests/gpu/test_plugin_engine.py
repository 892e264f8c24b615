"""The deformable-convolution plugin inside engines of TensorRT: the goldens, FP32 and FP16. Needs nvcc and TensorRT's headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from deform_cases import CASES, arguments, expected
from onnx import TensorProto, helper, numpy_helper
from rows import put_row
from zoo_jobs import described

from edgecnn.engine import BuildConfig, build
from edgecnn.engine.device import device
from edgecnn.errors import EdgecnnError
from edgecnn.native.build import PluginBuild, build_plugin
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.optional import available
from edgecnn.passes.deform_plugin import DeformPlugin
from edgecnn.runtime import TensorRtOptions, TensorRtSession

HERE = device()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(HERE is None, reason="there is no NVIDIA GPU with a driver"),
    pytest.mark.skipif(not available("tensorrt"), reason="tensorrt is not installed"),
    pytest.mark.skipif(not available("cuda.bindings.runtime"), reason="cuda-bindings is not installed"),
]


def graph_of(case: dict, dtype: str) -> bytes:
    """Return one of ONNX's own deformable convolutions, its weight and bias inside."""
    tensors = {name: array.astype(dtype) for name, array in arguments(case).items()}
    inside = [name for name in ("weight", "bias") if name in tensors]
    outside = [name for name in ("input", "offset", "mask") if name in tensors]
    node = helper.make_node(
        "DeformConv",
        [name if name in tensors else "" for name in ("input", "weight", "offset", "bias", "mask")],
        ["output"],
        name="dcn",
        kernel_shape=list(case["kernel"]),
        strides=list(case["stride"]),
        pads=[*case["padding"], *case["padding"]],
        dilations=list(case["dilation"]),
        group=case["groups"],
        offset_group=case["offset_groups"],
    )
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    graph = helper.make_graph(
        [node],
        "dcn",
        [helper.make_tensor_value_info(name, kind, tensors[name].shape) for name in outside],
        [helper.make_tensor_value_info("output", kind, case["output_shape"])],
        [numpy_helper.from_array(tensors[name], name) for name in inside],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled plugin, for this GPU."""
    assert HERE is not None
    out = tmp_path_factory.mktemp("plugin") / "libedgecnn_plugin.so"
    try:
        return build_plugin(
            PluginBuild(out=out, architectures=("sm_" + HERE.compute_capability.replace(".", ""),))
        ).path
    except EdgecnnError as error:
        pytest.skip(f"the plugin cannot be compiled here: {error}")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_goldens_inside_an_engine(case: str, dtype: str, library: Path, tmp_path: Path) -> None:
    assert HERE is not None
    (tmp_path / "standard.onnx").write_bytes(graph_of(CASES[case], dtype))
    graph = load_ir(tmp_path / "standard.onnx")
    assert DeformPlugin().apply(graph) == 1
    precision = "fp32" if dtype == "float32" else "fp16"
    model = save_ir(graph, tmp_path / "plugin.onnx", precision=precision)
    engine = build(model, BuildConfig(target="tensorrt", plugins=(library,)), to=tmp_path / "x.plan")
    with TensorRtSession(engine.path, TensorRtOptions(plugins=(library,)), engine.facts) as session:
        feed = {spec.name: arguments(CASES[case])[spec.name].astype(dtype) for spec in session.inputs}
        found = session.run(feed)["output"]
    wanted = expected(CASES[case])
    difference = float(np.abs(found - wanted).max())
    put_row(
        "gpu/plugin",
        {"model": f"{case}-{dtype}", **described(HERE), "max_abs": difference, "of": float(np.abs(wanted).max())},
    )
    share = 1e-5 if dtype == "float32" else 1e-2
    assert difference <= share * float(np.abs(wanted).max())
