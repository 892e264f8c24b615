"""What can be known before the long work: that the result can be written, the model read, and memory had."""

from __future__ import annotations

from edgecnn.artifacts import OnnxModel, sha256_file
from edgecnn.engine.config import BuildConfig
from edgecnn.errors import UserError
from edgecnn.onnxio import data_path

__all__ = ["HOST_FACTOR", "LARGEST_FILE", "check_memory", "check_model"]

LARGEST_FILE = (1 << 31) - 1
"""protobuf's limit for one message, and so for an ONNX file; weights beyond it belong in a file beside it."""

HOST_FACTOR = 4.0
"""Host memory a build needs at least, as a multiple of the model's bytes: measured with TensorRT-RTX 1.7.1 on deform_resnet50_v2, whose
fp32 graph (106 MB) took 4.0 times its size beyond what the process had before, and whose int8 graph (63 MB) 5.6 times."""

_GIB = 1 << 30


def check_model(model: OnnxModel) -> None:
    """Refuse a graph that no TensorRT takes, or that is not what was described. Raises UserError."""
    if model.precision == "int8-cpu":
        raise UserError(
            f"{model.path.name} is int8-cpu, for the kernels of CPUs (its zero points are not 0): build the int8 variant"
        )
    files = [path for path in (model.path, data_path(model.path)) if path.is_file()]
    if model.path not in files or sha256_file(*files) != model.sha256:
        raise UserError(f"{model.path} is gone, or was changed since it was written: export it again")
    size = model.path.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(
            f"{model.path} has {size / _GIB:.1f} GiB, and protobuf cannot read more than 2: keep its weights as external data "
            f"({data_path(model.path).name}), as edgecnn writes them"
        )


def check_memory(model: OnnxModel, config: BuildConfig, *, available: int, device_memory: int) -> None:
    """Refuse a build for which there is clearly not enough memory: the system would kill it, without a word.

    Args:
        model: to build.
        config: its workspace.
        available: bytes of host memory; 0 if that is not known.
        device_memory: bytes that the GPU has; 0 if that is not known.

    Raises:
        UserError: not enough of either.
    """
    size = sum(path.stat().st_size for path in (model.path, data_path(model.path)) if path.is_file())
    needed = int(HOST_FACTOR * size)
    if available and available < needed:
        raise UserError(
            f"building {model.path.name} needs about {needed / _GIB:.1f} GiB of memory, and {available / _GIB:.1f} are free: close other "
            "programs, add swap, or build on a larger machine with the same GPU"
        )
    if device_memory and size > device_memory:
        raise UserError(
            f"the weights of {model.path.name} alone take {size / _GIB:.1f} GiB, and the GPU has {device_memory / _GIB:.1f}: build the "
            "int8 or fp16 variant, or on a GPU with more memory"
        )
    if device_memory and config.workspace > device_memory:
        raise UserError(
            f"--workspace {config.workspace / _GIB:.1f} GiB was asked for, and the GPU has {device_memory / _GIB:.1f}: ask for less"
        )
