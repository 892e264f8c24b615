"""The device's peak: a large matrix product on the same backend, as an ONNX model that is written here without the onnx package.

A device has a runtime and no onnx; the model is a few nodes, and protobuf's wire format a few lines.
Field numbers: onnx.proto3 of ONNX 1.18.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.bench.result import Peak
from edgecnn.onnxio import tag, varint
from edgecnn.runtime.choice import Options
from edgecnn.runtime.openvino import OpenVinoOptions, OpenVinoSession
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.session import Session

__all__ = ["SIDE", "gemm_model", "measure_peak"]

SIDE = 1024
"""Rows, columns and depth: 1.07 G multiply-adds, whose three matrices are larger than a core's own cache."""

_SECONDS = 0.5
_RUNS = 5
_FLOAT, _UINT8, _INT8 = 1, 2, 3
_OPSET, _IR = 13, 8


def measure_peak(backend: str, options: Options, precision: str, *, side: int = SIDE) -> Peak:
    """Run a matrix product for half a second and return the best run's speed.

    Args:
        backend: ``onnxruntime`` or ``openvino``.
        options: of that backend.
        precision: ``fp32``, or ``int8``: uint8 activations times int8 weights, quantized to uint8 again.
        side: of the square matrices.

    Raises:
        BackendError, MissingDependencyError: the backend refuses it, or is not installed.
    """
    model = gemm_model(precision, side)
    session: Session = (
        OpenVinoSession(model, options if isinstance(options, OpenVinoOptions) else OpenVinoOptions())
        if backend == "openvino"
        else OrtSession(model, options if isinstance(options, OrtOptions) else OrtOptions())
    )
    draw = np.random.default_rng(0)
    given: NDArray[Any] = draw.standard_normal((side, side)).astype(np.float32)
    if precision == "int8":
        given = draw.integers(0, 256, (side, side), dtype=np.uint8)
    best = float("inf")
    with session:
        session.run({"a": given})
        until, runs = time.perf_counter() + _SECONDS, 0
        while runs < _RUNS or time.perf_counter() < until:
            begun = time.perf_counter()
            session.run({"a": given})
            best = min(best, time.perf_counter() - begun)
            runs += 1
    return Peak(
        backend=backend,
        threads=options.threads,
        precision=precision,
        gmacs=side**3 / best / 1e9,
        shape=(side, side, side),
    )


def gemm_model(precision: str, side: int) -> bytes:
    """Return an ONNX model of ``c = a x b`` with a constant ``b``, float32 or between QuantizeLinear and DequantizeLinear."""
    draw = np.random.default_rng(1)
    if precision == "int8":
        scales = {"a_scale": 0.02, "b_scale": 0.01, "c_scale": 0.5}
        tensors = [_scalar(name, value) for name, value in scales.items()]
        tensors += [_tensor("a_zero", np.array(128, np.uint8)), _tensor("b_zero", np.array(0, np.int8))]
        tensors.append(_tensor("b", draw.integers(-127, 128, (side, side), dtype=np.int8)))
        nodes = [
            _node("DequantizeLinear", ("a", "a_scale", "a_zero"), "a_float"),
            _node("DequantizeLinear", ("b", "b_scale", "b_zero"), "b_float"),
            _node("MatMul", ("a_float", "b_float"), "c_float"),
            _node("QuantizeLinear", ("c_float", "c_scale", "a_zero"), "c"),
        ]
        kind = _UINT8
    else:
        tensors = [_tensor("b", draw.standard_normal((side, side)).astype(np.float32))]
        nodes = [_node("MatMul", ("a", "b"), "c")]
        kind = _FLOAT
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"gemm")
    graph += b"".join(_field(5, tensor) for tensor in tensors)
    graph += _field(11, _value("a", kind, side)) + _field(12, _value("c", kind, side))
    return _number(1, _IR) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, _OPSET))


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    """Return a NodeProto."""
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return names + _field(2, output.encode()) + _field(3, output.encode()) + _field(4, operator.encode())


def _scalar(name: str, value: float) -> bytes:
    """Return a TensorProto of one float32."""
    return _tensor(name, np.array(value, np.float32))


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    """Return a TensorProto."""
    kind = {"float32": _FLOAT, "uint8": _UINT8, "int8": _INT8}[str(array.dtype)]
    dims = b"".join(_number(1, length) for length in array.shape)
    return dims + _number(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, kind: int, side: int) -> bytes:
    """Return a ValueInfoProto of a square matrix."""
    shape = b"".join(_field(1, _number(1, side)) for _ in range(2))
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, shape)))


def _field(number: int, content: bytes) -> bytes:
    """Return a field of wire type 2: a length and so many bytes."""
    return tag(number) + varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    """Return a field of wire type 0: a number of at least 0."""
    return varint(number << 3) + varint(value)
