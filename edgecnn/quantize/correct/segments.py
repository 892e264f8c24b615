"""Runs a graph layer by layer over many inputs at once: what is between two layers is a segment with a session of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import scratch_file, trim_memory
from edgecnn.optional import need
from edgecnn.runtime.ort import OrtOptions, OrtSession

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BUDGET", "Segment", "Walk", "batches", "cut"]

Array = NDArray[Any]

BUDGET = 384 * 1000 * 1000
"""Bytes that one walk may hold, about; the activations of 128 images of 224 x 224 between two layers of ResNet-50 take 260 MB."""

LARGEST = 1000
"""Magnitude in the first sample up to which activations are held as float16, which reaches to 65504; its error is a thousandth of
that of 8 bits."""

EMPTY = np.empty(0)
"""In place of what was held and is over."""

HEAVY = 1 << 26
"""Bytes of weights from which a segment's session maps them from a file instead of holding two copies while it loads."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A layer and all that needs no later layer; the first one is what comes before every layer.

    Attributes:
        reads: tensors of earlier segments.
        gives: tensors that later segments read.
    """

    reads: tuple[str, ...]
    gives: tuple[str, ...]


def cut(graph: ir.Graph, layers: Sequence[str]) -> list[Segment]:
    """Return ``len(layers) + 1`` segments.

    A DequantizeLinear belongs to each segment that reads it, so that what is kept between them is int8.

    Args:
        graph: in topological order.
        layers: names of nodes, in that order.
    """
    own = {name: index for index, name in enumerate(layers, 1)}
    made = {str(value.name): -1 for value in graph.inputs}
    reads: list[dict[str, None]] = [{} for _ in range(len(layers) + 1)]
    for node in graph:
        if node.op_type == "DequantizeLinear":
            continue
        given = [name for value in node.inputs if value is not None and (name := _kept(value)) in made]
        index = own.get(str(node.name), max([0, *(made[name] for name in given)]))
        made.update({str(value.name): index for value in node.outputs})
        reads[index].update(dict.fromkeys(name for name in given if made[name] < index))
    gives: list[dict[str, None]] = [{} for _ in reads]
    for wanted in reads:
        for name in wanted:
            if made[name] >= 0:
                gives[made[name]][name] = None
    return [Segment(reads=tuple(a), gives=tuple(b)) for a, b in zip(reads, gives, strict=True)]


def _kept(value: ir.Value) -> str:
    """Return the tensor that is kept for a value: what a DequantizeLinear reads, for its output."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]  # type: ignore[assignment]
    return str(value.name)


def _heavy(model: ir.Model) -> bool:
    """Whether a model's weights belong into a file: they are many, or lie in one already."""
    ir = need("onnx_ir")
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return sum(weight.nbytes for weight in weights) > HEAVY or any(isinstance(w, ir.ExternalTensor) for w in weights)


def batches(samples: Iterable[Mapping[str, Array]], size: int) -> Iterator[dict[str, Array]]:
    """Yield samples ``size`` at a time, the last one repeated where they do not come out even."""
    every = iter(samples)
    while batch := list(islice(every, size)):
        batch += batch[-1:] * (size - len(batch))
        yield {name: np.concatenate([one[name] for one in batch]) for name in batch[0]}


class Walk:
    """The state of one graph on its way through its segments.

    Attributes:
        held: the tensors that segments to come will read, each a list of what all feeds gave.
        count: feeds; the last ones are let go where all would not fit.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[str],
        feeds: Sequence[Mapping[str, Array]],
        workers: int,
        budget: int = BUDGET,
    ) -> None:
        """Start before the first segment; the model's weights may change until the segment that holds them is run."""
        self._model, self._workers, self._budget = model, workers, budget
        self._segments = cut(model.graph, layers)
        self._last = {name: index for index, segment in enumerate(self._segments) for name in segment.reads}
        self.count = len(feeds)
        self.held: dict[str, list[Array]] = {}
        for name in feeds[0].keys() & self._last.keys():
            dtype = _held_as(feeds[0][name])
            self.held[name] = [feed[name].astype(dtype) for feed in feeds]

    def run(self, index: int) -> None:
        """Run one segment, after all those before it, and forget what no later one reads."""
        segment = self._segments[index]
        over = [name for name in segment.reads if self._last[name] <= index]
        if segment.gives:
            model = self._model_of(segment)
            options = OrtOptions(threads=1, reuse=False)
            if _heavy(model):
                with scratch_file(model) as file, OrtSession(file, options) as session:
                    self._compute(session, segment, over)
            else:
                with OrtSession(need("onnx_ir").to_proto(model).SerializeToString(), options) as session:
                    self._compute(session, segment, over)
        for name in over:
            del self.held[name]
        trim_memory()

    def _model_of(self, segment: Segment) -> ir.Model:
        """Return a segment as a model of its own."""
        ir = need("onnx_ir")
        graph = ir.convenience.extract(self._model.graph, segment.reads, segment.gives)
        for value in graph.inputs:  # types and shapes of tensors inside are not in every graph
            array = _unpacked(self.held[str(value.name)][0])
            value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        return ir.Model(graph, ir_version=self._model.ir_version)  # type: ignore[no-any-return]

    def _compute(self, session: OrtSession, segment: Segment, over: Sequence[str]) -> None:
        """Add what a segment gives to what is held; the first feed tells how many there is room for."""

        def run(index: int) -> dict[str, Array]:
            return session.run({name: _unpacked(self.held[name][index]) for name in segment.reads}, segment.gives)

        first = run(0)
        dtypes = {name: _held_as(array) for name, array in first.items()}
        size = sum(array.size * dtypes[name].itemsize for name, array in first.items())
        size += sum(rows[0].nbytes for name, rows in self.held.items() if name not in over)
        if self.count > (room := max(1, self._budget // max(1, size))):
            self.count = room
            for rows in self.held.values():
                del rows[room:]

        def one(index: int) -> dict[str, Array]:
            made = {name: array.astype(dtypes[name]) for name, array in run(index).items()}
            for name in over:  # now, so that what a segment reads and what it gives are never held whole both
                self.held[name][index] = EMPTY
            return made

        with ThreadPoolExecutor(self._workers, thread_name_prefix="correct") as pool:
            rows_of_all = list(pool.map(one, range(self.count)))
        self.held |= {name: [rows[name] for rows in rows_of_all] for name in dtypes}


def _held_as(array: Array) -> np.dtype[Any]:
    """Return the type in which arrays like this one are held: float16 for float32, where its magnitude allows."""
    small = array.dtype == np.float32 and array.size and max(array.max(), -array.min()) < LARGEST
    return np.dtype(np.float16) if small else array.dtype


def _unpacked(array: Array) -> Array:
    """Return float16 as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array
