"""Padding with zeros is something that a convolution does itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._graph import constant, is_op, only_reader

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoldPad"]


class FoldPad(Pass):
    """Folds a Pad with zeros into the ``pads`` of the convolution behind it, which may become asymmetric.

    Pools are left alone: a MaxPool pads with minus infinity, and an AveragePool may not count what it padded.
    """

    name: ClassVar[str] = "fold_pad"
    requires: ClassVar[str] = "nothing"
    ensures: ClassVar[str] = "no Pad of spatial axes with zeros has a convolution as its only reader"

    def apply(self, model: ir.Model) -> int:
        """Fold, and return how many were folded."""
        return sum(_fold(node) for node in list(model.graph) if is_op(node, "Pad"))


def _fold(node: ir.Node) -> bool:
    """Fold one Pad if it can be."""
    ir = need("onnx_ir")
    layer, source = only_reader(node.outputs[0]), node.inputs[0]
    if source is None or layer is None or not is_op(layer, "Conv") or layer.inputs[0] is not node.outputs[0]:
        return False
    weight = layer.inputs[1]
    if weight is None or weight.shape is None or layer.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    pads = _spatial_zeros(node, len(weight.shape))
    if pads is None:
        return False
    own = layer.attributes.get_ints("pads", [0] * len(pads))
    layer.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
    layer.replace_input_with(0, source)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def _spatial_zeros(node: ir.Node, rank: int) -> list[int] | None:
    """Return the begins and then the ends that a Pad adds to the spatial axes; None if it does anything else."""
    inputs = [*node.inputs, None, None, None][:4]
    pads, fill, axes = (constant(value) for value in inputs[1:])
    if node.attributes.get_string("mode", "constant") != "constant" or pads is None:
        return None
    if (inputs[2] is not None and (fill is None or np.any(fill != 0))) or (inputs[3] is not None and axes is None):
        return None
    full = np.zeros((2, rank), dtype=np.int64)
    full[:, list(range(rank)) if axes is None else axes.tolist()] = pads.reshape(2, -1)
    if (full < 0).any() or full[:, :2].any():  # a negative pad crops; axes 0 and 1 are batch and channels
        return None
    return [int(pad) for pad in full[:, 2:].ravel()]
