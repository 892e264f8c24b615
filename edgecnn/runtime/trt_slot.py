"""One run at a time of a plan: an execution context with a stream and buffers of its own, which every run uses again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendError, UserError
from edgecnn.runtime.cuda import Cuda, is_foreign, view_device
from edgecnn.runtime.device_array import Pool
from edgecnn.runtime.trt_api import ContextLike

__all__ = ["Port", "Slot"]

Shapes = tuple[tuple[int, ...], ...]

log = logging.getLogger("edgecnn.runtime")


@dataclass(frozen=True)
class Port:
    """An input or output: its name, type, whether it is an input, shape (-1: open), and an input's least, best and largest shape."""

    name: str
    dtype: np.dtype[Any]
    reads: bool
    shape: tuple[int, ...]
    profile: Shapes


@dataclass(frozen=True)
class _Buffer:
    """Room for the largest shape of a port, on the device and, page-locked, on the host."""

    device: int
    host: int
    bytes: NDArray[np.uint8]

    def array(self, port: Port, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the host's part as an array of a shape."""
        size = math.prod(shape) * port.dtype.itemsize
        return self.bytes[:size].view(port.dtype).reshape(shape)


class Slot:
    """Runs one feed at a time; use it in one thread at a time.

    Attributes:
        inputs, outputs: in the order of the plan.
        largest: name -> shape at the top of the profile, once it is open.
    """

    def __init__(self, context: ContextLike, ports: list[Port], cuda: Cuda, where: str, why: Callable[[], str]) -> None:
        """Hold a context; :meth:`open` gets the memory."""
        self.inputs = tuple(port for port in ports if port.reads)
        self.outputs = tuple(port for port in ports if not port.reads)
        self.largest: dict[str, tuple[int, ...]] = {}
        self._context: ContextLike | None = context
        self._cuda, self._where, self._why = cuda, where, why
        self._stream: Any = None
        self._buffers: dict[str, _Buffer] = {}
        self._addresses: dict[str, int] = {}
        self._shapes: Shapes = ()
        self._graph: Any = None
        self._capturable = True

    def open(self) -> None:
        """Get the stream, and memory for the largest shapes. Raises BackendError; what it got is released by :meth:`close`."""
        self._stream = self._cuda.stream()
        self._set_shapes(tuple(port.profile[2] for port in self.inputs))
        for port in (*self.inputs, *self.outputs):
            shape = tuple(int(dim) for dim in self._open().get_tensor_shape(port.name))
            if any(dim < 0 for dim in shape):
                raise BackendError(
                    f"{self._where}: the shape of {port.name!r} depends on values, which is not supported"
                )
            self.largest[port.name] = shape
            size = max(1, math.prod(shape) * port.dtype.itemsize)
            device = self._cuda.device_memory(size)
            try:
                host, content = self._cuda.pinned(size)
            except BaseException:
                self._cuda.free_device(device)
                raise
            self._buffers[port.name] = _Buffer(device, host, content)

    def close(self) -> None:
        """Release everything; closing twice is fine."""
        self._drop_graph()
        self._context = None  # before the memory it works on
        for buffer in self._buffers.values():
            self._cuda.free_device(buffer.device)
            self._cuda.free_pinned(buffer.host)
        self._buffers = {}
        if self._stream is not None:
            self._cuda.free_stream(self._stream)
            self._stream = None

    def run(
        self, feed: Mapping[str, Any], outputs: tuple[str, ...], *, graph: bool, pool: Pool | None = None
    ) -> dict[str, Any]:
        """Run once.

        Args:
            feed: an array for each input, within the profile: on the host, or on this device.
            outputs: names to return.
            graph: launch the work as a CUDA graph, where everything comes from the host.
            pool: where outputs get memory of their own and stay on the device; without a graph. None brings them to the host.

        Returns:
            Arrays of the caller's own, of numpy or, with a pool, :class:`~edgecnn.runtime.device_array.DeviceArray`.

        Raises:
            UserError: an array on a device that cannot be read.
            BackendError: CUDA or TensorRT failed.
        """
        shapes: Shapes = tuple(tuple(feed[port.name].shape) for port in self.inputs)
        again = shapes == self._shapes
        self._set_shapes(shapes)
        views = {port.name: self._view(port, feed[port.name]) for port in self.inputs if is_foreign(feed[port.name])}
        for port in self.inputs:
            if port.name not in views:
                self._buffers[port.name].array(port, feed[port.name].shape)[...] = feed[port.name]
        for port in self.inputs:
            view = views.get(port.name)
            self._set_address(port.name, view.address if view else self._buffers[port.name].device)
        given = {port.name: self._shape_of(port) for port in (*self.inputs, *self.outputs)}
        if pool is not None:
            return self._run_on_device(given, views, outputs, pool)
        for port in self.outputs:
            self._set_address(port.name, self._buffers[port.name].device)
        if graph and again and not views and self._capturable and self._graph is None:
            self._capture(given)
        if self._graph is not None and not views:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue(given, views)
            self._enqueue_copies(given)
        self._cuda.synchronize(self._stream)
        return {
            port.name: self._buffers[port.name].array(port, given[port.name]).copy()
            for port in self.outputs
            if port.name in outputs
        }

    def run_apart(self, feed: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
        """Run once from the host to the host, and wait after every step.

        Returns:
            Nanoseconds of the copies, both ways, and of the plan's work.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        self._set_shapes(tuple(tuple(feed[port.name].shape) for port in self.inputs))
        for port in (*self.inputs, *self.outputs):
            self._set_address(port.name, self._buffers[port.name].device)
        given = {port.name: self._shape_of(port) for port in (*self.inputs, *self.outputs)}
        begun = time.perf_counter_ns()
        for port in self.inputs:
            buffer = self._buffers[port.name]
            buffer.array(port, given[port.name])[...] = feed[port.name]
            self._cuda.copy_in(buffer.device, buffer.host, _size(port, given[port.name]), self._stream)
        self._cuda.synchronize(self._stream)
        there = time.perf_counter_ns()
        self._execute()
        self._cuda.synchronize(self._stream)
        done = time.perf_counter_ns()
        self._enqueue_copies(given)
        self._cuda.synchronize(self._stream)
        for port in self.outputs:
            self._buffers[port.name].array(port, given[port.name]).copy()
        return there - begun + time.perf_counter_ns() - done, done - there

    def attach(self, profiler: Any) -> None:
        """Let a profiler hear of every layer of every run from now on."""
        self._drop_graph()
        self._open().profiler = profiler

    def _execute(self) -> None:
        """Put the plan's work on the stream."""
        if not self._open().execute_async_v3(int(self._stream)):
            raise BackendError(f"TensorRT failed to run {self._where}: {self._why()}")

    def _enqueue(self, shapes: Mapping[str, tuple[int, ...]], views: Mapping[str, Any]) -> None:
        """Put the copies of the inputs and the plan's work on the stream, in order."""
        for port in self.inputs:
            if port.name not in views:
                buffer = self._buffers[port.name]
                self._cuda.copy_in(buffer.device, buffer.host, _size(port, shapes[port.name]), self._stream)
        self._execute()

    def _enqueue_copies(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Put the copies of the outputs to the host on the stream."""
        for port in self.outputs:
            buffer = self._buffers[port.name]
            self._cuda.copy_out(buffer.host, buffer.device, _size(port, shapes[port.name]), self._stream)

    def _run_on_device(
        self, shapes: Mapping[str, tuple[int, ...]], views: Mapping[str, Any], names: tuple[str, ...], pool: Pool
    ) -> dict[str, Any]:
        """Run into memory of the pool, which the outputs that are asked for keep."""
        room = {port.name: max(1, _size(port, self.largest[port.name])) for port in self.outputs}
        taken: dict[str, int] = {}
        found = {}
        try:
            for port in self.outputs:
                taken[port.name] = pool.take(room[port.name])
                self._set_address(port.name, taken[port.name])
            self._enqueue(shapes, views)
            self._cuda.synchronize(self._stream)
            for port in self.outputs:
                if port.name in names:
                    address = taken.pop(port.name)
                    found[port.name] = pool.array(room[port.name], address, shapes[port.name], port.dtype)
        finally:
            for name, address in taken.items():
                pool.give(room[name], address)
        return found

    def _capture(self, given: Mapping[str, tuple[int, ...]]) -> None:
        """Capture the work for these shapes, which have run once; what cannot be captured runs without."""

        def whole() -> None:
            self._enqueue(given, {})
            self._enqueue_copies(given)

        try:
            self._graph = self._cuda.capture(self._stream, whole)
        except BackendError as error:
            self._capturable = False
            log.warning("%s runs without a CUDA graph: %s", self._where, error)

    def _view(self, port: Port, array: Any) -> Any:
        """Look at an input that is on the device."""
        view = view_device(port.name, array, device=self._cuda.device, stream=self._stream)
        if view.dtype != port.dtype:
            raise UserError(f"input {port.name!r} must be {port.dtype}, found {view.dtype}")
        return view

    def _set_shapes(self, shapes: Shapes) -> None:
        """Tell the context the shapes, where they changed; a graph of other ones is dropped."""
        if shapes == self._shapes:
            return
        self._drop_graph()
        self._shapes = ()  # unknown, should one be refused
        for port, shape in zip(self.inputs, shapes, strict=True):
            if not self._open().set_input_shape(port.name, shape):
                raise BackendError(f"TensorRT refuses shape {list(shape)} for input {port.name!r} of {self._where}")
        self._shapes = shapes

    def _set_address(self, name: str, address: int) -> None:
        """Tell the context where a tensor is, where that changed; a graph of the old one is dropped."""
        if self._addresses.get(name) == address:
            return
        self._drop_graph()
        if not self._open().set_tensor_address(name, address):
            raise BackendError(f"TensorRT refuses the memory for {name!r} of {self._where}")
        self._addresses[name] = address

    def _shape_of(self, port: Port) -> tuple[int, ...]:
        """Return a port's shape in this run."""
        return tuple(int(dim) for dim in self._open().get_tensor_shape(port.name))

    def _open(self) -> ContextLike:
        """Return the context."""
        if self._context is None:
            raise UserError("this session is closed")
        return self._context

    def _drop_graph(self) -> None:
        """Destroy the graph."""
        if self._graph is not None:
            self._cuda.free_graph(self._graph)
            self._graph = None


def _size(port: Port, shape: tuple[int, ...]) -> int:
    """Return a shape's size in bytes."""
    return math.prod(shape) * port.dtype.itemsize
