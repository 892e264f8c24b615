"""What several passes ask of a graph, and the edits that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.onnxio import add_initializer
from edgecnn.optional import need

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["constant", "is_op", "only_reader", "set_constant", "splice"]

MODULE = "edgecnn.module"
"""Metadata of a node: the PyTorch module whose output it gives."""


def is_op(node: ir.Node | None, *ops: str) -> bool:
    """Whether a node is one of ONNX's own operators of these names."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in ops


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return what a weight or a Constant node holds; None for what depends on the input, or for an absent input.

    An initializer that is a graph input too is only a default, which the caller may override.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = need("onnx_ir").convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, once; None where others read it too or it is a graph output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def set_constant(node: ir.Node, index: int, array: NDArray[Any], role: str) -> None:
    """Give a node another weight: under the old one's name if nothing else reads that, else as ``<node>.<role>``."""
    ir = need("onnx_ir")
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None and old.is_initializer() and only_reader(old) is node:
        old.const_value = ir.tensor(array, name=old.name)
        old.shape = ir.Shape(array.shape)
        return
    graph = node.graph
    assert graph is not None
    value = add_initializer(graph, _unused(graph, f"{node.name}.{role}"), array)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def splice(node: ir.Node, value: ir.Value, *, rename: bool) -> None:
    """Remove a node of one output: its readers read ``value``, which takes that output's name, shape and type on ``rename``."""
    ir, graph, output = need("onnx_ir"), node.graph, node.outputs[0]
    assert graph is not None
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if rename:
        value.name = output.name
        value.shape = output.shape if output.shape is not None else value.shape
        value.type = output.type if output.type is not None else value.type


def _unused(graph: ir.Graph, name: str) -> str:
    """Return ``name``, or ``name_1``, ``name_2``, ... if a value has it."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken.update(value.name for node in graph for value in node.outputs)
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
