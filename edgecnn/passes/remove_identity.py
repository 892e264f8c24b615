"""Nodes that give what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from edgecnn.passes._base import Pass
from edgecnn.passes._graph import constant, is_op, splice

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["RemoveIdentity"]


class RemoveIdentity(Pass):
    """Removes Identity, Dropout in inference, and Cast, Transpose, Reshape and Flatten that change nothing.

    Readers then read the input, under the input's name. A node that gives a graph output hands its name to the tensor before it,
    and stays where that one has a name to keep: where it is a graph input, a weight, or another graph output.
    """

    name: ClassVar[str] = "remove_identity"
    requires: ClassVar[str] = "shapes of intermediate tensors; a Reshape of a tensor of unknown shape stays"
    ensures: ClassVar[str] = "no node gives its input unchanged, but for those that name a graph output"

    def apply(self, model: ir.Model) -> int:
        """Remove, and return how many were removed."""
        return sum(_bypass(node) for node in list(model.graph) if is_op(node, *IDLE) and IDLE[node.op_type](node))


def _bypass(node: ir.Node) -> bool:
    """Remove a node that gives its input unchanged if the names of the graph's border allow it."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    border = output.is_graph_output()
    if border and (source.producer() is None or source.is_graph_output()):
        return False
    splice(node, source, rename=border)
    return True


def _is_dropout_idle(node: ir.Node) -> bool:
    """Whether a Dropout is in inference mode, which is the default, and nothing reads its mask."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    mode = constant(training)
    mask_read = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    return not mask_read and (training is None or (mode is not None and not mode.any()))


def _is_cast_idle(node: ir.Node) -> bool:
    """Whether a Cast is to the type that its input has."""
    source = node.inputs[0]
    return source is not None and source.dtype is not None and int(source.dtype) == node.attributes.get_int("to")


def _is_transpose_idle(node: ir.Node) -> bool:
    """Whether a Transpose keeps the order; without ``perm`` it reverses it."""
    order = node.attributes.get_ints("perm")
    return order is not None and list(order) == list(range(len(order)))


def _is_reshape_idle(node: ir.Node) -> bool:
    """Whether a Reshape is to the shape that its input has.

    The number of elements stays, so one length need not be known: it is what the others leave.
    """
    source, target = node.inputs[0], constant(node.inputs[1])
    if source is None or source.shape is None or target is None or len(target) != len(source.shape):
        return False
    if node.attributes.get_int("allowzero", 0) and not target.all():
        return False
    pairs = list(zip(source.shape, target.tolist(), strict=True))
    open_ = [(old, new) for old, new in pairs if new != 0 and old != new]
    return not open_ or (len(open_) == 1 and (open_[0][1] == -1 or not isinstance(open_[0][0], int)))


def _is_flatten_idle(node: ir.Node) -> bool:
    """Whether a Flatten is of a matrix into rows, its default axis."""
    source = node.inputs[0]
    rank = None if source is None or source.shape is None else len(source.shape)
    return rank == 2 and node.attributes.get_int("axis", 1) in (1, -1)


IDLE: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda _: True,
    "Dropout": _is_dropout_idle,
    "Cast": _is_cast_idle,
    "Transpose": _is_transpose_idle,
    "Reshape": _is_reshape_idle,
    "Flatten": _is_flatten_idle,
}
"""Operator -> whether a node of it gives its input unchanged."""
