"""What no output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgecnn.optional import need
from edgecnn.passes._base import Pass

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["RemoveUnused"]


class RemoveUnused(Pass):
    """Removes nodes, weights, functions and opset imports that nothing uses. Graph inputs stay, used or not."""

    name: ClassVar[str] = "remove_unused"
    requires: ClassVar[str] = "nothing"
    ensures: ClassVar[str] = "every node and weight reaches a graph output; every function and opset import is used"

    def apply(self, model: ir.Model) -> int:
        """Remove, and return how many nodes, weights, functions and imports went."""
        common = need("onnx_ir.passes.common")
        before = _size(model)
        for step in (common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass):
            step()(model)
        return before - _size(model)


def _size(model: ir.Model) -> int:
    """Return the number of nodes, weights, functions and opset imports."""
    graph = model.graph
    return len(graph) + len(graph.initializers) + len(model.functions) + len(graph.opset_imports)
