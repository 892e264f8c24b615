"""Normalisation inside the graph: the application feeds pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import GraphError
from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._build import Builder
from edgecnn.spec import Preprocess

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["EmbedPreprocess"]


@dataclass(frozen=True)
class EmbedPreprocess(Pass):
    """Makes the graph take what :func:`edgecnn.runtime.preprocess.fit` returns and do itself what ``normalize`` does.

    Colours come in the network's order: ``fit`` sees to that. ``(value / 255 - mean) / std`` becomes one multiplication
    and one addition, whose result differs from that of ``normalize`` by float32's rounding.

    Attributes:
        preprocess: its mean and std are used; its size and number of channels must be the input's.
    """

    preprocess: Preprocess

    name = "embed_preprocess"
    requires = "one input, float32 (N, C, H, W), of the preprocessing's channels and size"
    ensures = "the input, of the same name, is uint8 (N, H, W, C)"
    exact = False

    def apply(self, model: ir.Model) -> int:
        """Change the input and return 1. Raises GraphError; see :class:`Pass`."""
        ir, graph = need("onnx_ir"), model.graph
        old = self._input(graph)
        assert old.shape is not None
        batch, channels, *size = old.shape
        pixels = ir.Value(
            name=old.name, shape=ir.Shape([batch, *size, channels]), type=ir.TensorType(ir.DataType.UINT8)
        )
        mean, std = np.asarray(self.preprocess.mean), np.asarray(self.preprocess.std)
        build = Builder(graph, str(old.name), {})
        # The cast comes first: TensorRT takes uint8 at a network's border alone (onnx-tensorrt 10.1,
        # ModelImporter.cpp).
        value = build.node("cast", "Cast", [pixels], to=ir.DataType.FLOAT)
        value = build.node("transpose", "Transpose", [value], perm=[0, 3, 1, 2])
        value = build.node("scale", "Mul", [value, build.constant("scale", _per_channel(1 / (255 * std)))])
        value = build.node("shift", "Add", [value, build.constant("shift", _per_channel(-mean / std))])
        value.shape, value.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, value)
        graph.inputs[0] = pixels
        graph.insert_before(graph[0], build.nodes)
        return 1

    def _input(self, graph: ir.Graph) -> ir.Value:
        """Return the input. Raises GraphError where it is not what the pass requires."""
        wanted = (self.preprocess.channels, *self.preprocess.size)
        inputs = list(graph.inputs)
        if len(inputs) == 1 and inputs[0].dtype == need("onnx_ir").DataType.FLOAT:
            shape = inputs[0].shape
            if shape is not None and len(shape) == 4:
                pairs = zip(shape[1:], wanted, strict=True)
                if all(dim == want for dim, want in pairs if isinstance(dim, int)):
                    return inputs[0]
        found = ", ".join(str(value) for value in inputs)
        raise GraphError(
            f"{self.name} needs one input, float32 (N, {', '.join(map(str, wanted))}) as the preprocessing makes it, "
            f"found {found}: apply it once, to a graph with a float32 border and of the preprocessing's size"
        )


def _per_channel(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return constants that broadcast over NCHW."""
    return values.astype(np.float32).reshape(1, -1, 1, 1)
