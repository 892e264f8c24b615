"""What the noise of one layer does to the network's output: a graph that takes noise at its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import load_ir, scratch_file
from edgecnn.optional import need
from edgecnn.runtime.ort import OrtSession

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["NoiseProbe"]

Array = NDArray[Any]
NOISE = "/noise"
"""What the name of a graph input ends in that is added to a tensor."""

ADDED = "/noise_added"
"""What the name of a tensor with noise ends in."""


class NoiseProbe:
    """Runs a graph with noise added to one of its tensors.

    Every tensor that may get noise is added to an input of the graph, which is a single zero for all but one of them: one session
    serves all layers.

    Args:
        path: the graph.
        ranks: tensor -> its rank, of all that may get noise.
        output: the tensor to read, with the noise that it may get itself.
    """

    def __init__(self, path: Path, ranks: Mapping[str, int], output: str) -> None:
        """Change a copy of the graph and load it."""
        self._ranks = dict(ranks)
        self._output = output + ADDED if output in ranks else output
        with ExitStack() as stack:
            file = stack.enter_context(scratch_file(_with_noise(path, ranks, self._output)))
            self._session = stack.enter_context(OrtSession(file))
            self._close = stack.pop_all().close
        self._dtypes = {spec.name: spec.dtype for spec in self._session.inputs}

    def read(self, feed: Mapping[str, Array], noise: Mapping[str, Array]) -> Array:
        """Return the output, float32, with noise on some tensors; each has one sample's shape."""
        whole = {name: np.zeros((1,) * rank, np.float32) for name, rank in self._ranks.items()} | dict(noise)
        added = {name + NOISE: array.astype(self._dtypes[name + NOISE]) for name, array in whole.items()}
        return self._session.run({**feed, **added}, [self._output])[self._output].astype(np.float32)

    def close(self) -> None:
        """Release the session."""
        self._close()

    def __enter__(self) -> Self:
        """Return the probe."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the session."""
        self.close()


def _with_noise(path: Path, ranks: Mapping[str, int], output: str) -> ir.Model:
    """Return the graph in which whatever read a tensor reads the sum of it and a new graph input."""
    ir = need("onnx_ir")
    model = load_ir(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for position, (name, rank) in enumerate(ranks.items()):
        value = values[name]
        uses, producer = list(value.uses()), value.producer()
        dims = ir.Shape([f"noise{position}_{axis}" for axis in range(rank)])
        entrance = ir.Value(name=name + NOISE, shape=dims, type=value.type or ir.TensorType(ir.DataType.FLOAT))
        node = ir.node("Add", [value, entrance], name=name + NOISE)
        values[name + ADDED] = node.outputs[0]
        node.outputs[0].name, node.outputs[0].type = name + ADDED, entrance.type
        for use in uses:
            use.node.replace_input_with(use.idx, node.outputs[0])
        assert producer is not None  # values holds nodes' outputs alone
        model.graph.insert_after(producer, node)
        model.graph.inputs.append(entrance)
    if output not in {value.name for value in model.graph.outputs}:
        model.graph.outputs.append(values[output])
    return model
