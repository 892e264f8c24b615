"""Memory handed to other libraries without a copy, as DLPack describes it (dlpack.h 0.8: ``DLManagedTensor``), with ctypes alone."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

__all__ = ["CPU", "CUDA", "capsule"]

CPU, CUDA = 1, 2
"""kDLCPU and kDLCUDA."""

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
"""kDLInt, kDLUInt, kDLFloat and kDLBool, by numpy's kinds."""
_UNUSED = b"dltensor"
"""What a capsule is called until a consumer takes it over and renames it."""


class _Device(ctypes.Structure):
    """``DLDevice``."""

    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    """``DLDataType``."""

    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """``DLTensor``; without strides it is dense, in C order."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("dl_tensor", _Tensor), ("manager_ctx", ctypes.c_void_p), ("deleter", _Deleter))


_held: dict[int, tuple[Any, ...]] = {}
"""Address of a managed tensor -> what must live until its consumer lets go of it."""


def capsule(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, device: tuple[int, int], owner: object
) -> Any:
    """Return a DLPack capsule over memory that is there already.

    Args:
        address: of the first element, which is dense and in C order.
        shape, dtype: of the array.
        device: (:data:`CPU` or :data:`CUDA`, its number).
        owner: kept alive until the consumer is done.
    """
    dims = (ctypes.c_int64 * len(shape))(*shape)
    kind = _DataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1)
    tensor = _Tensor(address, _Device(*device), len(shape), kind, dims, None, 0)
    managed = _Managed(tensor, None, _release)
    place = ctypes.addressof(managed)
    _held[place] = (managed, dims, owner)
    return _new(place, _UNUSED, _dropped)


@_Deleter  # type: ignore[untyped-decorator]
def _release(place: int) -> None:
    """Let go of what a consumer is done with."""
    _held.pop(place, None)


@_Deleter  # type: ignore[untyped-decorator]
def _dropped(made: int) -> None:
    """Let go of what a capsule holds that nobody took over."""
    if _valid(made, _UNUSED):
        _held.pop(_pointer(made, _UNUSED), None)


_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _Deleter)
_valid = ctypes.pythonapi.PyCapsule_IsValid
_valid.restype, _valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)
