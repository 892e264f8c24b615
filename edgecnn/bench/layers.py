"""What each operator of a graph or layer of an engine takes, and how many multiplications a graph makes."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgecnn.bench.result import LayerTime
from edgecnn.errors import BackendError
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.session import Array
from edgecnn.runtime.tensorrt import TensorRtSession

__all__ = ["count_macs", "engine_layer_times", "layer_times", "macs_of_trace", "times_of_trace"]

_RUNS = 20
_WARM = 3

Event = Mapping[str, Any]


def layer_times(model: Path, options: OrtOptions, feed: Mapping[str, Array]) -> tuple[LayerTime, ...]:
    """Run a graph under onnxruntime's tracer and return what its operators take, as they are after fusing, in their order.

    Tracing costs time of its own: shares can be trusted more than milliseconds.

    Raises:
        BackendError: onnxruntime refuses the model, or wrote no trace.
    """
    return times_of_trace(_trace(model, options, feed, _WARM + _RUNS), skip=_WARM)


def engine_layer_times(session: TensorRtSession, feed: Mapping[str, Array]) -> tuple[LayerTime, ...]:
    """Run an engine under TensorRT's profiler; the session is slower afterwards. The kind of a layer stands in its name.

    Raises:
        UserError, BackendError: as :meth:`~edgecnn.runtime.session.Session.run`.
    """
    return _averaged(session.layer_times(feed, _WARM + _RUNS), skip=_WARM)


def count_macs(model: Path, feed: Mapping[str, Array]) -> int:
    """Count the multiply-adds of convolutions and matrix products in one run of an ONNX file, by the shapes that onnxruntime saw.

    Raises:
        BackendError: onnxruntime refuses the model, or wrote no trace.
    """
    return macs_of_trace(_trace(model, OrtOptions(optimize="disabled"), feed, 1))


def times_of_trace(events: Sequence[Event], *, skip: int) -> tuple[LayerTime, ...]:
    """Average the kernels of a trace over its runs.

    Args:
        events: of the whole trace.
        skip: runs at the beginning that do not count.
    """
    taken: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in _kernels(events):
        name = str(event["name"]).removesuffix("_kernel_time")
        taken.setdefault(name, []).append(float(event["dur"]) / 1e3)  # microseconds
        kinds[name] = str(event["args"].get("op_name", ""))
    return _averaged(taken, kinds, skip=skip)


def _averaged(
    taken: Mapping[str, Sequence[float]], kinds: Mapping[str, str] = MappingProxyType({}), *, skip: int
) -> tuple[LayerTime, ...]:
    """Average milliseconds by name, without the first runs."""
    means = {name: sum(times[skip:]) / len(times[skip:]) for name, times in taken.items() if len(times) > skip}
    whole = sum(means.values()) or 1.0
    return tuple(
        LayerTime(name=name, op=kinds.get(name, ""), mean_ms=mean, share=mean / whole) for name, mean in means.items()
    )


def macs_of_trace(events: Sequence[Event]) -> int:
    """Count multiply-adds in a trace of one run without optimization: bias, activations and pooling count nothing."""
    total = 0
    for event in _kernels(events):
        arguments = event["args"]
        operator = str(arguments.get("op_name", ""))
        inputs, outputs = (_shapes(arguments.get(key)) for key in ("input_type_shape", "output_type_shape"))
        if not outputs or len(inputs) < 2:
            continue
        made = math.prod(outputs[0])
        if operator in ("Conv", "DeformConv"):
            total += made * math.prod(inputs[1][1:])
        elif operator == "Gemm":
            total += made * math.prod(inputs[0]) // outputs[0][0]
        elif operator == "MatMul":
            total += made * inputs[0][-1]
    return total


def _kernels(events: Sequence[Event]) -> list[Event]:
    """Return the events that are operators at work."""
    return [
        event
        for event in events
        if event.get("cat") == "Node"
        and re.search(r"_kernel_time$", str(event.get("name", "")))
        and isinstance(event.get("args"), Mapping)
    ]


def _shapes(value: Any) -> list[list[int]]:
    """Return the shapes that a trace gives as ``[{"float": [1, 3, 8, 8]}, ...]``."""
    return [[int(dim) for dim in next(iter(item.values()))] for item in value or [] if item]


def _trace(model: Path, options: OrtOptions, feed: Mapping[str, Array], runs: int) -> list[Event]:
    """Run under the tracer. Raises BackendError."""
    with tempfile.TemporaryDirectory() as folder:
        with OrtSession(model, replace(options, trace=Path(folder))) as session:
            for _ in range(runs):
                session.run(feed)
            path = session.end_trace()
        try:
            events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError) as error:
            raise BackendError(f"onnxruntime wrote no trace of {model.name} that can be read: {error}") from error
    return [event for event in events if isinstance(event, Mapping)]
