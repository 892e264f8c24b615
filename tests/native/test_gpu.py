"""The plugin's kernel on a GPU: goldens, random cases, and its time beside PyTorch's. ``pytest -m gpu tests/native``.

Needs nvcc and a PyTorch with CUDA. Times go to build/gpu/deform_conv2d.json with device and versions.
"""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cpu_kernel import NAMES, Pointers, Problem
from deform_cases import CASES, arguments, expected
from test_deform_kernel import RANDOM, draw, exact

from edgecnn.models.deformable import deform_conv2d
from edgecnn.native import SOURCES
from edgecnn.native.toolchain import find_nvcc

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.skipif(
        not (shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")), reason="nvcc is not installed"
    ),
]
REPORT = Path(__file__).parents[2] / "build" / "gpu" / "deform_conv2d.json"


class GpuKernel:
    """The kernels, called with tensors on the device."""

    def __init__(self, folder: Path) -> None:
        major, minor = torch.cuda.get_device_capability()
        path = folder / "deform_conv2d_gpu.so"
        find_nvcc().run(
            *("-shared", "-std=c++17", "-O3", f"-arch=sm_{major}{minor}", "-Xcompiler", "-fPIC", f"-I{SOURCES}"),
            *(SOURCES / "deform_conv2d.cu", Path(__file__).with_name("deform_conv2d_gpu.cu"), "-o", path),
        )
        self.library = ctypes.CDLL(str(path))
        self.library.deform_conv2d.restype = ctypes.c_char_p

    def run(self, tensors, stride, padding, dilation):
        """Run on the current stream; tensors are contiguous, on the device, all float32 or all float16."""
        image, weight, offset = (tensors[name] for name in ("input", "weight", "offset"))
        kernel, (batch, *_, height, width) = weight.shape[2:], offset.shape
        output = image.new_full((batch, weight.shape[0], height, width), torch.nan)
        groups = image.shape[1] // weight.shape[1]
        offset_groups = offset.shape[1] // (2 * kernel.numel())
        numbers = (*image.shape, *output.shape[1:], *kernel, *stride, *padding, *dilation, groups, offset_groups)
        problem = Problem(**dict(zip(NAMES, numbers, strict=True)))
        order = (tensors.get(name) for name in ("input", "weight", "offset", "bias", "mask"))
        pointers = Pointers(*(None if x is None else x.data_ptr() for x in order), output.data_ptr())
        half, stream = ctypes.c_bool(image.dtype == torch.float16), torch.cuda.current_stream().cuda_stream
        arguments_ = (ctypes.byref(problem), ctypes.byref(pointers), half, ctypes.c_void_p(stream))
        assert (fault := self.library.deform_conv2d(*arguments_)) is None, fault
        return output


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> GpuKernel:
    return GpuKernel(tmp_path_factory.mktemp("kernel"))


def on_device(tensors, dtype):
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to("cuda", dtype) for name, array in tensors.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_goldens_on_the_device(kernel, case):
    steps = {name: tuple(case[name]) for name in ("stride", "padding", "dilation")}
    found = kernel.run(on_device(arguments(case), torch.float32), **steps).cpu().numpy()
    np.testing.assert_allclose(found, expected(case), rtol=0, atol=10 * case["f32_vs_f64_max_abs"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", [*CASES, *RANDOM])
def test_all_cases_on_the_device(kernel, case, dtype):
    """With the same bounds as on a CPU."""
    if case in CASES:
        tensors = arguments(CASES[case])
        steps = {name: tuple(CASES[case][name]) for name in ("stride", "padding", "dilation")}
    else:
        tensors, steps = draw(*RANDOM[case])
    rounded = {name: array.astype(dtype) for name, array in tensors.items()}
    wanted, size = exact(rounded, **steps)
    found = kernel.run(on_device(rounded, None), **steps).cpu().numpy()
    bound = 2**-16 * size + 1e-7 if dtype == np.float32 else 2**-11 * (np.abs(wanted) + size) * 1.02 + 1e-6
    np.testing.assert_array_less(np.abs(found - wanted), bound)


def grid_sample_form(tensors, stride, padding, dilation):
    """Deformable convolution as grid_sample and a matrix product, as engines without the plugin run it; one offset group."""
    image, weight, offset = (tensors[name] for name in ("input", "weight", "offset"))
    (_, _, height, width), (kh, kw) = image.shape, weight.shape[2:]
    rows = torch.arange(offset.shape[2], device="cuda") * stride[0] - padding[0]
    columns = torch.arange(offset.shape[3], device="cuda") * stride[1] - padding[1]
    out = tensors["bias"].view(1, -1, 1, 1)
    for tap in range(kh * kw):
        y = rows[:, None] + tap // kw * dilation[0] + offset[:, 2 * tap]
        x = columns + tap % kw * dilation[1] + offset[:, 2 * tap + 1]
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False) * tensors["mask"][:, tap, None]
        out = out + torch.einsum("oc,nchw->nohw", weight[:, :, tap // kw, tap % kw], sampled)
    return out


def milliseconds(function, runs=50):
    """Return the median of ``runs``, by CUDA events, after a warm-up."""
    for _ in range(5):
        function()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in events:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([start.elapsed_time(end) for start, end in events]))


# The 3x3 convolutions of stages conv3 to conv5 of a deformable ResNet-50 at 224 pixels.
LAYERS = {"conv3": (128, 28), "conv4": (256, 14), "conv5": (512, 7)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("layer", LAYERS)
def test_time_beside_pytorch(kernel, layer, batch, dtype):
    channels, size = LAYERS[layer]
    case = (channels, channels, 1, 1, (size, size), (3, 3), (1, 1), (1, 1), (1, 1), True, True)
    tensors, steps = draw(*case, reach=2.0, batch=batch)
    tensors = on_device(tensors, getattr(torch, dtype))
    forms = {
        "plugin": lambda: kernel.run(tensors, **steps),
        "edgecnn in PyTorch": lambda: deform_conv2d(**tensors, **steps),
        "grid_sample": lambda: grid_sample_form(tensors, **steps),
    }
    try:
        from torchvision.ops import deform_conv2d as theirs
    except ImportError:
        pass
    else:
        forms["torchvision"] = lambda: theirs(**tensors, **steps)
    results = {name: form().float() for name, form in forms.items()}
    share = 0.05 if dtype == "float16" else 0.001  # grid_sample's coordinates in half are good to 0.01 pixels
    for name, result in results.items():  # what is timed computes the same
        difference = float((result - results["plugin"]).abs().max())
        assert difference <= share * float(result.abs().max()), name
    record = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    record["device"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}"
    record["nvcc"] = find_nvcc().version
    record[f"{layer} batch {batch} {dtype}, ms"] = {name: milliseconds(form) for name, form in forms.items()}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
