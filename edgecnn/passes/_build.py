"""Makes nodes and constants under one name, as passes put them in the place of a node or behind an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import add_initializer
from edgecnn.optional import need

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Builder", "remove_unused"]


class Builder:
    """Collects new nodes of a graph; constants enter the graph at once.

    A node and its output are called ``<name>/<what it does>``, a constant ``<name>.<what it is>``.

    Args:
        graph: gets the constants.
        name: of the node, input or output that the new nodes come from.
        metadata: of every new node.

    Attributes:
        nodes: in order, for the caller to put into the graph.
    """

    def __init__(self, graph: ir.Graph, name: str, metadata: dict[str, str]) -> None:
        """Start without nodes."""
        self.nodes: list[ir.Node] = []
        self._ir = need("onnx_ir")
        self._graph, self._name, self._metadata = graph, name, metadata

    def constant(self, what: str, array: NDArray[Any]) -> ir.Value:
        """Return a new initializer."""
        return add_initializer(self._graph, f"{self._name}.{what}", array)

    def node(self, what: str, operator: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Add a node of the default domain and return its output."""
        name = f"{self._name}/{what}"
        node = self._ir.node(operator, inputs, attributes, name=name, metadata_props=dict(self._metadata))
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]  # type: ignore[no-any-return]

    def reshape(self, what: str, value: ir.Value | None, *dims: int) -> ir.Value:
        """Add a Reshape to ``dims``, one of which may be -1, and return its output."""
        return self.node(what, "Reshape", [value, self.constant(f"{what}_shape", np.asarray(dims, dtype=np.int64))])


def remove_unused(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove an initializer that nothing reads any more, which would otherwise stay in the file."""
    if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
        del graph.initializers[str(value.name)]
