"""Softmax inside the graph: the application gets probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn.errors import GraphError
from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._build import Builder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PROBABILITIES", "EmbedSoftmax"]

PROBABILITIES = "probabilities"
"""Name of the output, by which :class:`edgecnn.parity.stages.Stage` knows what it compares."""


class EmbedSoftmax(Pass):
    """Appends a softmax over the classes; the logits keep their name inside the graph, where they can be exposed."""

    name = "embed_softmax"
    requires = "one output, float (N, classes), that is not probabilities yet"
    ensures = f"the output is called {PROBABILITIES!r}, of the same shape and type; each row sums to 1"
    exact = False

    def apply(self, model: ir.Model) -> int:
        """Change the output and return 1. Raises GraphError; see :class:`Pass`."""
        graph = model.graph
        logits = self._output(graph)
        build = Builder(graph, str(logits.name), {})
        result = build.node("softmax", "Softmax", [logits], axis=1)
        result.name, result.shape, result.type = PROBABILITIES, logits.shape, logits.type
        graph.extend(build.nodes)
        graph.outputs[0] = result
        return 1

    def _output(self, graph: ir.Graph) -> ir.Value:
        """Return the output. Raises GraphError where it is not what the pass requires."""
        kinds = need("onnx_ir").DataType
        outputs = list(graph.outputs)
        if len(outputs) == 1 and outputs[0].dtype in (kinds.FLOAT, kinds.FLOAT16):
            value = outputs[0]
            if value.shape is not None and len(value.shape) == 2 and value.name != PROBABILITIES:
                return value
        found = ", ".join(str(value) for value in outputs)
        raise GraphError(
            f"{self.name} needs one output of float logits (N, classes), found {found}: apply it once, to a classifier"
        )
