"""The mean over a whole map, written as the pooling that runtimes have kernels for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._graph import constant, is_op

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["GlobalPool"]


class GlobalPool(Pass):
    """Turns ReduceMean over exactly the spatial axes into GlobalAveragePool.

    onnxruntime's blocked-layout and integer kernels, and TensorRT's pooling, exist for the pool and not for the reduction. A
    ReduceMean that drops the axes (``keepdims=0``) stays: it would need a second node.
    """

    name: ClassVar[str] = "global_pool"
    requires: ClassVar[str] = "shapes of intermediate tensors; a ReduceMean of unknown rank stays"
    ensures: ClassVar[str] = "no ReduceMean takes the mean over exactly the spatial axes and keeps them"

    def apply(self, model: ir.Model) -> int:
        """Replace, and return how many were replaced."""
        found = [node for node in model.graph if is_op(node, "ReduceMean") and _is_global(node)]
        for node in found:
            _replace(node)
        return len(found)


def _is_global(node: ir.Node) -> bool:
    """Whether a ReduceMean of floats (N, C, ...) reduces all axes but the first two, and keeps them with length 1."""
    source = node.inputs[0]
    if source is None or source.shape is None or source.dtype is None or not source.dtype.is_floating_point():
        return False
    rank = len(source.shape)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes")
    if given is None or rank < 3 or not node.attributes.get_int("keepdims", 1):
        return False
    return sorted(int(axis) % rank for axis in given) == list(range(2, rank))


def _replace(node: ir.Node) -> None:
    """Put a GlobalAveragePool in the place of a node, under its name."""
    ir, graph = need("onnx_ir"), node.graph
    assert graph is not None
    pool = ir.node(
        "GlobalAveragePool", [node.inputs[0]], name=node.name, metadata_props=dict(node.metadata_props), num_outputs=1
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], node.outputs, pool.outputs)
