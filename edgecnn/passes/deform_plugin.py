"""DeformConv as a plugin of TensorRT, in a file that other runtimes still run.

The node that this writes is a contract with the plugin:

* operator ``DeformConv2d`` of the domain ``edgecnn``; plugin name ``DeformConv2d``, version ``1``, namespace
  ``edgecnn``
* inputs ``input, weight, offset, bias`` and, for DCNv2, ``mask``, with the layouts of ONNX's DeformConv. A plugin's
  inputs have no gaps: an absent bias becomes zeros, an absent mask is left out at the end
* attributes, which are the plugin's int32 fields (``native/plugin/plugin.hpp``): ``stride`` (height, width), ``padding``
  (top, left, bottom, right), ``dilation`` (height, width), ``groups``, ``offset_groups``

How TensorRT chooses between a plugin and a local function of one name (``parseNode`` in ModelImporter.cpp of
onnx-tensorrt; CHANGELOG.md of NVIDIA/TensorRT): through 10.6 the function always wins; from 10.7 a registered plugin
does; the parser that has the flag kENABLE_PLUGIN_OVERRIDE (10.15) prefers the function again, unless the flag is set or
the node has the attribute ``plugin_namespace``. So the node has it; with ``plugin_version`` it also says which plugin
is looked up.

TensorRT must not import the function: its importer of DeformConv reads ``strides`` and ``dilations`` past the
references to the function's attributes and takes them for 1 (``modulatedDeformableConvPluginHelper`` in
importerUtils.cpp, 10.1 and later). The result, whose size is the offsets', would be silently wrong. But TensorRT
refuses a function that is not given all its inputs (``LocalFunctionImporter`` in onnxOpImporters.cpp), which ONNX
allows; so the function ends with an input that no node gives. Where the plugin is not registered, leave DeformConv as
it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecnn.errors import GraphError
from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._build import Builder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["DOMAIN", "OPERATOR", "PLUGIN_VERSION", "DeformPlugin", "DropDeformFunction"]

DOMAIN = "edgecnn"
"""Of the operator, and namespace of the plugin."""

OPERATOR = "DeformConv2d"
PLUGIN_VERSION = "1"

_LISTS = {"stride": ("strides", (1, 1)), "padding": ("pads", (0, 0, 0, 0)), "dilation": ("dilations", (1, 1))}
_NUMBERS = {"groups": "group", "offset_groups": "offset_group"}
"""Our attributes -> DeformConv's; numbers are 1 by default."""


class DeformPlugin(Pass):
    """Replaces each DeformConv by ``edgecnn::DeformConv2d``, and adds a function of that name that computes it.

    TensorRT takes the plugin where it is registered; onnxruntime takes the function. See the module for the contract.
    """

    name = "deform_plugin"
    requires = "opset 19; DeformConv in 2-D, with a constant weight"
    ensures = "no DeformConv is left outside the function edgecnn::DeformConv2d"

    def apply(self, model: ir.Model) -> int:
        """Replace every DeformConv and return how many there were. Raises GraphError; see :class:`Pass`."""
        nodes = [node for node in model.graph if node.op_type == "DeformConv" and node.domain == ""]
        for node in nodes:
            _replace(model.graph, node)
        if nodes:
            model.graph.opset_imports[DOMAIN] = 1
            function = _function(model.graph.opset_imports[""])
            model.functions[function.identifier()] = function
        return len(nodes)


class DropDeformFunction(Pass):
    """Removes the function, for TensorRT through 10.6 (JetPack 6 has 10.3), where it would hide the plugin and be refused.

    Not exact: only TensorRT with the plugin runs the result.
    """

    name = "drop_deform_function"
    requires = "nothing"
    ensures = "no function edgecnn::DeformConv2d"
    exact = False

    def apply(self, model: ir.Model) -> int:
        """Remove the function and return how many there were, 0 or 1."""
        found = [key for key in model.functions if key[:2] == (DOMAIN, OPERATOR)]
        for key in found:
            del model.functions[key]
        return len(found)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    """Put one plugin node in the place of one DeformConv."""
    ir = need("onnx_ir")
    image, weight, offset, bias, mask = (*node.inputs, None, None)[:5]
    if weight is None or weight.const_value is None or len(weight.const_value.shape) != 4:
        found = "one that is computed" if weight is None or weight.const_value is None else weight.const_value.shape
        raise GraphError(f"{node.name}: deform_plugin needs a constant weight of 4 dimensions, found {found}")
    if bias is None:
        zeros = np.zeros(weight.const_value.shape.numpy()[0], dtype=weight.const_value.dtype.numpy())
        bias = Builder(graph, str(node.name), {}).constant("bias", zeros)
    lists = {name: node.attributes.get_ints(theirs, default) for name, (theirs, default) in _LISTS.items()}
    numbers = {name: node.attributes.get_int(theirs, 1) for name, theirs in _NUMBERS.items()}
    plugin = ir.node(
        OPERATOR,
        [image, weight, offset, bias, *([] if mask is None else [mask])],
        {**lists, **numbers, "plugin_version": PLUGIN_VERSION, "plugin_namespace": DOMAIN},
        domain=DOMAIN,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [plugin], node.outputs, plugin.outputs)


def _function(opset: int) -> ir.Function:
    """Return the function: a DeformConv whose attributes are the function's."""
    ir = need("onnx_ir")
    inputs = [ir.Value(name=name) for name in ("input", "weight", "offset", "bias", "mask", "never_given")]
    kinds = {**dict.fromkeys(_LISTS, ir.AttributeType.INTS), **dict.fromkeys(_NUMBERS, ir.AttributeType.INT)}
    theirs = {**{name: target for name, (target, _) in _LISTS.items()}, **_NUMBERS}
    references = [ir.RefAttr(theirs[name], name, kind) for name, kind in kinds.items()]
    output = ir.Value(name="output")
    node = ir.Node("", "DeformConv", inputs[:5], references, outputs=[output], name="DeformConv")
    graph = ir.Graph(inputs, [output], nodes=[node], opset_imports={"": opset}, name=OPERATOR)
    return ir.Function(  # type: ignore[no-any-return]
        DOMAIN, OPERATOR, graph=graph, attributes=[ir.Attr(name, kind, None) for name, kind in kinds.items()]
    )
