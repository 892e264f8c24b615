"""Every name that a session touches is in the recorded versions of TensorRT, in the real TensorRT-RTX and in the real cuda-python."""

from __future__ import annotations

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import members

from edgecnn.errors import BackendError
from edgecnn.runtime import cuda, trt_api

CLASSES = {
    "ContextLike": "IExecutionContext",
    "EngineLike": "ICudaEngine",
    "ParserRefitterLike": "OnnxParserRefitter",
    "PluginsLike": "IPluginRegistry",
    "RefitterLike": "Refitter",
    "RuntimeLike": "Runtime",
}
RTX = {"RtxEngine": "ICudaEngine", "RtxRuntimeCache": "IRuntimeCache", "RtxRuntimeConfig": "IRuntimeConfig"}


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_the_recorded_versions(version: str) -> None:
    names = fake_tensorrt.recorded(version)
    found = {(theirs, name) for ours, theirs in CLASSES.items() for name in members(getattr(trt_api, ours))}
    assert len(found) > 15
    assert not [pair for pair in found if pair[1] not in names[pair[0]]]
    assert {"INPUT", "OUTPUT"} <= names["TensorIOMode"]


def test_rtx_for_real() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    pairs = {**CLASSES, **RTX}
    found = [(theirs, name) for ours, theirs in pairs.items() for name in members(getattr(trt_api, ours))]
    assert not [pair for pair in found if not hasattr(getattr(rtx, pair[0]), pair[1])]
    assert hasattr(rtx.IProfiler, "report_layer_time")
    assert rtx.TensorIOMode.INPUT.name == "INPUT"
    assert rtx.DataType.FLOAT.name == "FLOAT"


def test_cuda_for_real() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert not [name for name in cuda.NAMES if not hasattr(runtime, name)]
    for owner, names in {
        "cudaDeviceAttr": ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"),
        "cudaMemcpyKind": ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"),
        "cudaStreamCaptureMode": ("cudaStreamCaptureModeThreadLocal",),
        "cudaError_t": ("cudaSuccess", "cudaErrorMemoryAllocation", *cuda._NO_DRIVER),
    }.items():
        assert not [name for name in names if not hasattr(getattr(runtime, owner), name)]
    code, text = runtime.cudaGetErrorString(runtime.cudaError_t.cudaErrorMemoryAllocation)
    assert (code, text) == (runtime.cudaError_t.cudaSuccess, b"out of memory")


def test_what_is_called_is_what_is_listed() -> None:
    called = {name for name in dir(FakeCuda) if name.startswith("cuda")}
    assert set(cuda.NAMES) == called | {"cudaDeviceAttr", "cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"}


def test_a_machine_without_a_gpu_says_so() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is one here")
    with pytest.raises(BackendError, match="no NVIDIA GPU with a working driver here"):
        cuda.Cuda()


def test_arrays_on_the_host_are_recognised_by_the_real_view() -> None:
    pytest.importorskip("cuda.core.utils")

    class Tensor:
        def __init__(self) -> None:
            self.array = np.ones((2, 3), np.float32)

        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    assert cuda.is_foreign(Tensor())
    assert not cuda.is_foreign(np.ones(3))
    with pytest.raises(cuda.UserError, match="is a Tensor in host memory: pass a numpy array"):
        cuda.view_device("input", Tensor(), device=0, stream=-1)
