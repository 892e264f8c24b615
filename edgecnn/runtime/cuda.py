"""The few calls of the CUDA runtime that a session needs, through ``cuda.bindings.runtime`` (12.6 and newer), errors in our words."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendError, UserError
from edgecnn.optional import need

__all__ = ["NAMES", "Cuda", "DeviceView", "is_foreign", "view_device"]

NAMES = (
    "cudaDeviceAttr", "cudaDeviceGetAttribute", "cudaError_t", "cudaFree", "cudaFreeHost", "cudaGetDeviceCount", "cudaGetErrorString",
    "cudaGraphDestroy", "cudaGraphExecDestroy", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaHostAlloc", "cudaMalloc",
    "cudaMemcpyAsync", "cudaMemcpyKind", "cudaSetDevice", "cudaStreamBeginCapture", "cudaStreamCaptureMode",
    "cudaStreamCreateWithFlags", "cudaStreamDestroy", "cudaStreamEndCapture", "cudaStreamSynchronize",
)  # fmt: skip
"""Everything of ``cuda.bindings.runtime`` that is used here; a test compares it with the real module."""

_NON_BLOCKING = 1
"""cudaStreamNonBlocking (driver_types.h): no waiting for work on the default stream."""
_NO_DRIVER = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorSystemDriverMismatch")


class Cuda:
    """One device. CUDA keeps the current device per thread: call :meth:`use` before other calls in a thread.

    Args:
        device: its number, from 0.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        BackendError: no driver, or no GPU. UserError: no GPU of that number.
    """

    def __init__(self, device: int = 0) -> None:
        """Look for the device."""
        self._rt: ModuleType = need("cuda.bindings.runtime")
        self.device = device
        found = self._call("cudaGetDeviceCount", what="look for an NVIDIA GPU")
        if device >= found:
            raise UserError(f"GPU {device} was asked for, and there are {found}, counted from 0")
        self.use()

    def use(self) -> None:
        """Make the device this thread's. Raises BackendError."""
        self._call("cudaSetDevice", self.device, what=f"use GPU {self.device}")

    def compute_capability(self) -> str:
        """Return the compute capability, such as ``8.7``. Raises BackendError."""
        attributes = self._rt.cudaDeviceAttr
        names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
        parts = [
            self._call(
                "cudaDeviceGetAttribute", getattr(attributes, name), self.device, what="ask for the compute capability"
            )
            for name in names
        ]
        return f"{parts[0]}.{parts[1]}"

    def stream(self) -> Any:
        """Return a new stream, to be given to :meth:`free_stream`. Raises BackendError."""
        return self._call("cudaStreamCreateWithFlags", _NON_BLOCKING, what="make a stream")

    def free_stream(self, stream: Any) -> None:
        """Destroy a stream. Never raises: it runs while other errors are on their way."""
        self._rt.cudaStreamDestroy(stream)

    def synchronize(self, stream: Any) -> None:
        """Wait for the work on a stream. Raises BackendError for what failed in it."""
        self._call("cudaStreamSynchronize", stream, what="finish a run")

    def device_memory(self, size: int) -> int:
        """Return the address of ``size`` bytes of device memory, to be given to :meth:`free_device`. Raises BackendError."""
        return int(self._call("cudaMalloc", size, what=f"get {_spoken(size)} of device memory"))

    def free_device(self, address: int) -> None:
        """Free device memory. Never raises."""
        self._rt.cudaFree(address)

    def pinned(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """Return the address of ``size`` bytes of page-locked host memory, and an array over them.

        The address is to be given to :meth:`free_pinned`, after which the array must not be touched. Raises BackendError.
        """
        address = int(self._call("cudaHostAlloc", size, 0, what=f"get {_spoken(size)} of page-locked memory"))
        return address, np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)

    def free_pinned(self, address: int) -> None:
        """Free page-locked memory. Never raises."""
        self._rt.cudaFreeHost(address)

    def copy_in(self, device: int, host: int, size: int, stream: Any) -> None:
        """Enqueue a copy of page-locked memory to the device. Raises BackendError."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream, what="copy an input to the device")

    def copy_out(self, host: int, device: int, size: int, stream: Any) -> None:
        """Enqueue a copy from the device to page-locked memory. Raises BackendError."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream, what="copy an output from the device")

    def fetch(self, device: int, size: int) -> NDArray[np.uint8]:
        """Return a copy on the host of finished device memory. Raises BackendError."""
        self.use()
        stream, host = self.stream(), 0
        try:
            host, content = self.pinned(size)
            self.copy_out(host, device, size, stream)
            self.synchronize(stream)
            return content.copy()
        finally:
            if host:
                self.free_pinned(host)
            self.free_stream(stream)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """Record what ``enqueue`` puts on a stream, and return a graph to be given to :meth:`launch` and :meth:`free_graph`.

        Raises:
            BackendError: something in it cannot be captured; the stream is usable afterwards.
        """
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode, what="begin the capture of a CUDA graph")
        try:
            enqueue()
        except BaseException:
            self._rt.cudaStreamEndCapture(stream)  # its error is the consequence of the one on its way
            raise
        graph = self._call("cudaStreamEndCapture", stream, what="capture a CUDA graph")
        try:
            return self._call("cudaGraphInstantiate", graph, 0, what="make a CUDA graph ready")
        finally:
            self._rt.cudaGraphDestroy(graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a captured graph. Raises BackendError."""
        self._call("cudaGraphLaunch", graph, stream, what="launch a CUDA graph")

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph. Never raises."""
        self._rt.cudaGraphExecDestroy(graph)

    def _call(self, name: str, *arguments: Any, what: str) -> Any:
        """Call a function, whose answer begins with an error code, and return the rest of it."""
        code, *rest = getattr(self._rt, name)(*arguments)
        if code == self._rt.cudaError_t.cudaSuccess:
            return rest[0] if rest else None
        kind = str(getattr(code, "name", code))
        if kind in _NO_DRIVER:
            todo = "install or update the NVIDIA driver ('edgecnn doctor' says what there is), or take --backend onnxruntime"
            raise BackendError(f"there is no NVIDIA GPU with a working driver here ({kind}): {todo}")
        if kind == "cudaErrorMemoryAllocation":
            todo = "run smaller batches or fewer contexts, build with a smaller --batch, or close other programs"
            raise BackendError(f"out of memory: CUDA cannot {what}: {todo}")
        said = self._rt.cudaGetErrorString(code)[1]
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise BackendError(f"CUDA cannot {what}: {text} ({kind})")


class DeviceView:
    """Memory of someone else on the device: its address, shape and type. It keeps its owner alive."""

    def __init__(self, view: Any) -> None:
        """Hold a view of cuda.core."""
        self._view = view
        self.address = int(view.ptr)
        self.shape: tuple[int, ...] = tuple(int(dim) for dim in view.shape)
        self.dtype = np.dtype(view.dtype)
        self.device = int(view.device_id)
        strides = view.strides
        self.contiguous = strides is None or tuple(strides) == _dense(self.shape)


def is_foreign(array: object) -> bool:
    """Whether something that is no numpy array offers memory through DLPack or ``__cuda_array_interface__``."""
    if isinstance(array, np.ndarray):
        return False
    return hasattr(array, "__cuda_array_interface__") or hasattr(array, "__dlpack__")


def view_device(name: str, array: Any, *, device: int, stream: Any) -> DeviceView:
    """Look at an array on the device without copying it.

    Args:
        name: of the input, for messages.
        array: a tensor of PyTorch, CuPy, JAX ...: whatever has DLPack or ``__cuda_array_interface__``.
        device: where it must be.
        stream: where it is used: work on it waits for the producer's.

    Raises:
        MissingDependencyError: cuda-core is not installed.
        UserError: it is not on that device, or not contiguous.
    """
    try:
        found = need("cuda.core.utils").StridedMemoryView.from_any_interface(array, stream_ptr=int(stream))
    except (BufferError, TypeError, ValueError) as error:
        raise UserError(f"input {name!r}: {type(array).__name__} cannot be read through DLPack: {error}") from error
    if not found.is_device_accessible:
        raise UserError(
            f"input {name!r} is a {type(array).__name__} in host memory: pass a numpy array (numpy.asarray)"
        )
    view = DeviceView(found)
    if view.device != device:
        raise UserError(f"input {name!r} is on GPU {view.device}, and this session runs on GPU {device}")
    if not view.contiguous:
        raise UserError(f"input {name!r} is not contiguous in C order: make it so (.contiguous() in PyTorch)")
    return view


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous array, in elements."""
    strides, step = [], 1
    for dim in reversed(shape):
        strides.append(step)
        step *= dim
    return tuple(reversed(strides))


def _spoken(size: int) -> str:
    """Return a number of bytes in MB."""
    return f"{size / 1e6:.1f} MB"
