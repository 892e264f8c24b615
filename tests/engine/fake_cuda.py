"""``cuda.bindings.runtime`` and ``cuda.core.utils`` over ordinary memory: streams do nothing before they are waited for.

So a result that is read too early, an input that is changed too early, or a copy in the wrong order shows in the values. A call with
what was freed, or was never given out, fails the test.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ERRORS = {"cudaSuccess": 0, "cudaErrorInvalidValue": 1, "cudaErrorMemoryAllocation": 2, "cudaErrorInsufficientDriver": 35,
          "cudaErrorNoDevice": 100, "cudaErrorStreamCaptureUnsupported": 900}  # fmt: skip
cudaError_t = enum.IntEnum("cudaError_t", ERRORS)
OK = cudaError_t.cudaSuccess


class FakeCuda:
    """The device.

    Attributes:
        fails: function -> the error that it gives.
        memory: bytes of device memory that there are.
        calls: every function that was called, in order.
    """

    def __init__(self, compute_capability: str = "8.7", memory: int = 1 << 30, devices: int = 1) -> None:
        self.fails: dict[str, str] = {}
        self.memory, self.devices = memory, devices
        self.compute_capability = compute_capability
        self.calls: list[str] = []
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self._numbers = itertools.count(1)

    @property
    def held(self) -> int:
        """How many things were made and not freed."""
        return len(self.device) + len(self.host) + len(self.streams) + len(self.graphs)

    def array(self, content: np.ndarray) -> SimpleNamespace:
        """Put an array on the device, as another library has it."""
        _, address = self.cudaMalloc(content.nbytes)
        self.write(address, content)
        shape, kind = content.shape, content.dtype.str
        interface = {"shape": shape, "typestr": kind, "data": (address, False), "version": 3}
        return SimpleNamespace(
            shape=shape, address=address, kind=kind, __cuda_array_interface__=interface, device=0, strides=None
        )

    def read(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Read the device's memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return self.device[address][:size].copy().view(dtype).reshape(shape)

    def write(self, address: int, content: np.ndarray) -> None:
        """Write the device's memory."""
        flat = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
        self.device[address][: len(flat)] = flat

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        self.recording.get(int(stream), self.streams[int(stream)]).append(work)

    def cudaGetDeviceCount(self) -> Any:
        return OK, self.devices

    def cudaSetDevice(self, device: int) -> Any:
        assert 0 <= device < self.devices
        return (OK,)

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> Any:
        return OK, int(self.compute_capability.split(".")[{"major": 0, "minor": 1}[attribute]])

    def cudaGetErrorString(self, error: Any) -> Any:
        return OK, b"said so"

    def cudaMalloc(self, size: int) -> Any:
        if size + sum(len(content) for content in self.device.values()) > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        address = 1 << 40 | next(self._numbers) << 20
        self.device[address] = np.full(size, 255, np.uint8)  # NaN, should it be read before it is written
        return OK, address

    def cudaFree(self, address: int) -> Any:
        del self.device[address]
        return (OK,)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        content = (ctypes.c_uint8 * size)(*([255] * min(size, 64)))
        self.host[ctypes.addressof(content)] = content
        return OK, ctypes.addressof(content)

    def cudaFreeHost(self, address: int) -> Any:
        del self.host[address]
        return (OK,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: str, stream: int) -> Any:
        def copy() -> None:
            if kind == "in":
                assert src in self.host
                self.device[dst][:count] = np.frombuffer(ctypes.string_at(src, count), np.uint8)
            else:
                assert dst in self.host
                ctypes.memmove(dst, self.device[src][:count].tobytes(), count)

        self.enqueue(stream, copy)
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == 1
        stream = next(self._numbers)
        self.streams[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> Any:
        del self.streams[stream]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        while self.streams[stream]:
            self.streams[stream].pop(0)()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> Any:
        self.recording[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        return OK, tuple(self.recording.pop(stream))

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        number = next(self._numbers)
        self.graphs[number] = list(graph)
        return OK, number

    def cudaGraphDestroy(self, graph: Any) -> Any:
        assert isinstance(graph, tuple)
        return (OK,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        self.streams[stream].extend(self.graphs[graph])
        return (OK,)

    def cudaGraphExecDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return (OK,)

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules that stand for cuda-python's."""
        runtime: Any = ModuleType("cuda.bindings.runtime")
        for name in [name for name in dir(self) if name.startswith("cuda")]:
            setattr(runtime, name, self._counted(name))
        runtime.cudaError_t = cudaError_t
        runtime.cudaDeviceAttr = SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
        )
        runtime.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")
        runtime.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")
        utils: Any = ModuleType("cuda.core.utils")
        utils.StridedMemoryView = View
        return {"cuda.bindings.runtime": runtime, "cuda.core.utils": utils}

    def _counted(self, name: str) -> Callable[..., Any]:
        """Return a function that notes its calls, and fails when it is told to."""

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                if name == "cudaStreamEndCapture":
                    self.recording.pop(arguments[0])
                return cudaError_t[self.fails[name]], None
            return getattr(self, name)(*arguments)

        return call


class View:
    """``StridedMemoryView`` of what :meth:`FakeCuda.array` gave."""

    @classmethod
    def from_any_interface(cls, array: Any, stream_ptr: int) -> Any:
        if not hasattr(array, "address"):
            raise BufferError("no DLPack here")
        return SimpleNamespace(
            ptr=array.address,
            shape=array.shape,
            dtype=np.dtype(array.kind),
            device_id=array.device,
            strides=array.strides,
            is_device_accessible=array.address > 1 << 40,
        )
