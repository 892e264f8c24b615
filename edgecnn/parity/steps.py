"""Runs every step of a graph by itself, on inputs that are given to it instead of on what the steps before it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.onnxio import load_ir, scratch_file
from edgecnn.optional import need
from edgecnn.parity.samples import Sample
from edgecnn.parity.trace import Graph, OnnxReader
from edgecnn.runtime.ort import OrtOptions, OrtSession

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StepReader", "isolated"]

Array = NDArray[Any]
GIVEN = "/given"
"""What the name of a graph input ends in that stands for a tensor."""


class StepReader:
    """Reads tensors of a graph in which other tensors are given.

    Args:
        graph: the graph. ``tensors``: to read.
        plain: a reader of the same graph, which knows what to feed it.
    """

    def __init__(self, graph: Graph, tensors: Sequence[str], plain: OnnxReader) -> None:
        """Hold what to read; the graph is cut at the first :meth:`read`, which brings the types of what is given."""
        self._path, self._names, self._plain = graph.path, list(tensors), plain
        self._session: OrtSession | None = None
        self._stack = ExitStack()

    def read(self, sample: Sample, given: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. The same tensors must be given each time, each with the type and shape that it has in the graph."""
        arrays = {name: self._plain.repeated(name, array) for name, array in given.items()}
        if self._session is None:
            file = self._stack.enter_context(scratch_file(isolated(self._path, arrays, self._names)))
            self._session = self._stack.enter_context(OrtSession(file, OrtOptions(optimize="disabled")))
        feed = self._plain.feed(sample) | {name + GIVEN: array for name, array in arrays.items()}
        found = self._session.run(feed, self._names)
        return {name: self._plain.single(name, array) for name, array in found.items()}

    def close(self) -> None:
        """Release the session."""
        self._stack.close()


def isolated(path: Path, given: Mapping[str, Array], tensors: Sequence[str]) -> ir.Model:
    """Return a model in which whatever read a ``given`` tensor reads a graph input ``<tensor>/given`` instead.

    Args:
        path: the model.
        given: tensor -> an array of its type and shape.
        tensors: to make outputs.
    """
    ir = need("onnx_ir")
    model = load_ir(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name, array in given.items():
        kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        entrance = ir.Value(name=name + GIVEN, shape=ir.Shape(array.shape), type=kind)
        for use in list(values[name].uses()):
            use.node.replace_input_with(use.idx, entrance)
        model.graph.inputs.append(entrance)
    present = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in tensors if name not in present)
    return model
