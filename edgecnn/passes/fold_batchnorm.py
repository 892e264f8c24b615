"""BatchNormalization in inference mode is an affine map per channel: it goes into the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.passes._base import Pass
from edgecnn.passes._graph import MODULE, constant, is_op, only_reader, set_constant, splice

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoldBatchNorm"]

BIAS = {"Conv": 2, "ConvTranspose": 2, "DeformConv": 3, "Gemm": 2}
"""Layer that is linear in weight and bias -> position of the bias among its inputs; the weight is at 1."""


class FoldBatchNorm(Pass):
    """Folds BatchNormalization into the layer before it, in float64.

    The layer keeps its name. Its output takes the name, and the layer takes the ``edgecnn.module``, of the BatchNormalization:
    that is the tensor it computes now.
    """

    name: ClassVar[str] = "fold_batchnorm"
    requires: ClassVar[str] = "nothing"
    ensures: ClassVar[str] = (
        "no BatchNormalization with constant statistics stands behind a Conv, ConvTranspose, DeformConv or Gemm with "
        "constant weights whose output it alone reads"
    )

    def apply(self, model: ir.Model) -> int:
        """Fold, and return how many were folded."""
        return sum(_fold(node) for node in list(model.graph) if is_op(node, "BatchNormalization"))


def _fold(node: ir.Node) -> bool:
    """Fold one BatchNormalization if it can be."""
    affine = _affine(node)
    layer = None if node.inputs[0] is None else node.inputs[0].producer()
    if affine is None or layer is None or not is_op(layer, *BIAS) or only_reader(layer.outputs[0]) is not node:
        return False
    scale, shift = affine
    at = BIAS[layer.op_type]
    given = layer.inputs[at] if len(layer.inputs) > at else None
    weight, bias = constant(layer.inputs[1]), constant(given)
    if weight is None or (given is not None and bias is None):
        return False
    old = np.float64(0) if bias is None else bias.astype(np.float64)
    if layer.op_type == "Gemm":
        old = old * layer.attributes.get_float("beta", 1.0)
        layer.attributes.pop("beta", None)
    set_constant(layer, 1, _scaled(layer, weight, scale).astype(weight.dtype), "weight")
    set_constant(layer, at, (old * scale + shift).astype(weight.dtype), "bias")
    if MODULE in node.metadata_props:
        layer.metadata_props[MODULE] = node.metadata_props[MODULE]
    splice(node, layer.outputs[0], rename=True)
    return True


def _affine(node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return (scale, shift) per channel of a BatchNormalization; None if it is in training mode or not constant.

    The formula is the operator's: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    if node.attributes.get_int("training_mode", 0) or len(node.outputs) != 1:
        return None
    parameters = [constant(value) for value in node.inputs[1:5]]
    if len(parameters) != 4 or any(parameter is None for parameter in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(parameter, dtype=np.float64) for parameter in parameters)
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def _scaled(layer: ir.Node, weight: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply the filters of each output channel by its scale."""
    if layer.op_type == "Gemm":
        return weight * (scale[:, None] if layer.attributes.get_int("transB", 0) else scale)
    if (
        layer.op_type == "ConvTranspose"
    ):  # weight (inputs, outputs / groups, ...): inputs are grouped, outputs follow by group
        groups = layer.attributes.get_int("group", 1)
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return (split * scale.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
