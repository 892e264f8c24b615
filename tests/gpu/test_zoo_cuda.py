"""Every model of the zoo on onnxruntime's CUDA provider beside its CPU: ``make gpu GPU="tests/gpu/test_zoo_cuda.py -k resnet"``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from rows import put_row
from zoo_jobs import PRECISIONS, compared, described, network

from edgecnn import zoo
from edgecnn.engine.device import device
from edgecnn.runtime import OrtOptions, OrtSession
from edgecnn.runtime.ort import available_providers

HERE = device()
CUDA = "CUDAExecutionProvider"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(HERE is None, reason="there is no NVIDIA GPU with a driver"),
    pytest.mark.skipif(
        CUDA not in available_providers(), reason="this onnxruntime has no CUDA provider (onnxruntime-gpu)"
    ),
]


@pytest.mark.parametrize("name", zoo.names())
def test_the_cuda_provider_computes_what_the_cpu_does(name: str, tmp_path: Path) -> None:
    assert HERE is not None
    found = network(name, tmp_path)
    options = OrtOptions(providers=(CUDA, "CPUExecutionProvider"))
    with ExitStack() as stack:
        reference = stack.enter_context(OrtSession(found.graphs["fp32"].path))
        sessions = {
            precision: stack.enter_context(OrtSession(found.graphs[precision].path, options))
            for precision in PRECISIONS
        }
        variants = compared(found, reference, sessions)
    put_row("gpu/cuda", {"model": name, **described(HERE), "variants": variants})
    assert all(one["passed"] for one in variants.values()), variants
