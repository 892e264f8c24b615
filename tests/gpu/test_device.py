"""What an engine must do on this GPU, beside computing the right values of the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_jobs import JOBS, images, near, session_of, small_nets
from rows import put_row
from zoo_jobs import described

from edgecnn.engine.capabilities import RTX_GPUS
from edgecnn.engine.device import device
from edgecnn.optional import available
from edgecnn.runtime.trt_api import MODULES

HERE = device()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(HERE is None, reason="there is no NVIDIA GPU with a driver"),
    pytest.mark.skipif(not available("cuda.bindings.runtime"), reason="cuda-bindings is not installed"),
]


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Return a flavour that is installed and made for this GPU."""
    assert HERE is not None
    if not available(MODULES[request.param]):
        pytest.skip(f"{request.param} is not installed")
    if request.param == "tensorrt-rtx" and HERE.compute_capability not in RTX_GPUS:
        pytest.skip(f"TensorRT-RTX builds for no {HERE.compute_capability}")
    return str(request.param)


@pytest.mark.parametrize("job", JOBS)
def test_on_the_device(job: str, flavour: str, tmp_path: Path) -> None:
    assert HERE is not None
    JOBS[job](small_nets(tmp_path), flavour, tmp_path)
    put_row("gpu/device", {"model": f"{job} {flavour}", **described(HERE)})


def test_pytorch_reads_an_output_where_it_is_and_gives_an_input(flavour: str, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    nets = small_nets(tmp_path)
    x = images(4)
    with session_of(nets, flavour, tmp_path, device_outputs=True) as session:
        array = session.run({"input": torch.from_numpy(x).cuda()})["logits"]
        for tensor in (torch.from_dlpack(array), torch.as_tensor(array, device="cuda")):
            assert tensor.data_ptr() == array.address
            near(tensor.cpu().numpy(), nets["fp32"].path, x)
            assert np.isfinite(tensor.cpu().numpy()).all()
