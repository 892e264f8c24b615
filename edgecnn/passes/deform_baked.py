"""The plugin's node in the form that bakes its kernel into the engine.

A quickly deployable plugin of TensorRT (10.9 and newer) has a fixed number of inputs and is asked for by the node's attribute
``aot``; so the contract's one operator becomes two, with a mask and without, whose names the C++ plugin does not have. Both are
registered by :mod:`edgecnn.engine.plugins.deform_conv2d`. Only a builder needs this form: what is kept in a bundle is
:mod:`edgecnn.passes.deform_plugin`'s, which other runtimes run too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes.deform_plugin import DOMAIN, OPERATOR, DropDeformFunction

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MODULATED", "PLAIN", "DeformBaked"]

PLAIN = "BakedDeformConv2d"
"""Inputs ``input, weight, offset, bias``."""

MODULATED = "BakedModulatedDeformConv2d"
"""Inputs ``input, weight, offset, bias, mask``."""


class DeformBaked(Pass):
    """Renames each ``edgecnn::DeformConv2d`` and sets ``aot`` on it; the function of that name goes. Attributes stay.

    Not exact: only TensorRT runs the result.
    """

    name = "deform_baked"
    requires = "the pass deform_plugin ran"
    ensures = "no edgecnn::DeformConv2d is left, neither node nor function"
    exact = False

    def apply(self, model: ir.Model) -> int:
        """Rename every node and return how many there were."""
        ir = need("onnx_ir")
        nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OPERATOR)]
        for node in nodes:
            node.op_type = MODULATED if len(node.inputs) == 5 else PLAIN
            node.attributes["aot"] = ir.AttrInt64("aot", 1)
        DropDeformFunction().apply(model)
        return len(nodes)
