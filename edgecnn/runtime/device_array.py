"""Outputs that stay on the GPU, for whoever computes on with them there."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.runtime.cuda import Cuda
from edgecnn.runtime.dlpack import CUDA, capsule

__all__ = ["DeviceArray", "Pool"]


class DeviceArray:
    """An output on the GPU, finished and its caller's own: no later run writes into it.

    PyTorch, CuPy, JAX ... read it where it is (``torch.from_dlpack(array)``, ``cupy.asarray(array)``). Its memory goes back to the session
    when neither it nor what was made of it is referred to any more, also after the session is closed.

    Attributes:
        shape, dtype: as of a numpy array; dense, in C order.
        device: number of the GPU. ``address``: of the first element.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], cuda: Cuda) -> None:
        """Hold memory on the device."""
        self.address, self.shape, self.dtype, self.device = address, shape, dtype, cuda.device
        self._cuda = cuda

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array for CuPy, Numba, PyTorch ... (version 3); no stream: it is finished."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
            "owner": self,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's name for the GPU."""
        return CUDA, self.device

    def __dlpack__(self, **wishes: object) -> Any:
        """Return a DLPack capsule."""
        return capsule(self.address, self.shape, self.dtype, device=self.__dlpack_device__(), owner=self)

    def numpy(self) -> NDArray[Any]:
        """Return a copy on the host. Raises BackendError."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return self._cuda.fetch(self.address, size).view(self.dtype).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return a copy on the host, for ``numpy.asarray``."""
        if copy is False:
            raise ValueError("an array on the GPU cannot be had on the host without a copy")
        return self.numpy().astype(dtype or self.dtype, copy=False)


class Pool:
    """Device memory for outputs, used again once their arrays are gone. Safe to use from several threads."""

    def __init__(self, cuda: Cuda) -> None:
        """Hold nothing."""
        self._cuda = cuda
        self._free: dict[int, list[int]] = {}
        self._lock = (
            threading.RLock()
        )  # an array may be collected, and give its memory back, while its own thread holds it
        self._closed = False

    def take(self, size: int) -> int:
        """Return the address of ``size`` bytes. Raises BackendError."""
        with self._lock:
            free = self._free.get(size)
            if free:
                return free.pop()
        return self._cuda.device_memory(size)

    def give(self, size: int, address: int) -> None:
        """Take memory back."""
        with self._lock:
            if not self._closed:
                self._free.setdefault(size, []).append(address)
                return
        self._cuda.free_device(address)

    def array(self, size: int, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Return an array over memory that was taken, which gives it back when it is gone."""
        made = DeviceArray(address, shape, dtype, self._cuda)
        weakref.finalize(made, self.give, size, address).atexit = False
        return made

    def close(self) -> None:
        """Free what is not in use; the rest is freed when it comes back."""
        with self._lock:
            self._closed, free = True, [address for held in self._free.values() for address in held]
            self._free = {}
        for address in free:
            self._cuda.free_device(address)
