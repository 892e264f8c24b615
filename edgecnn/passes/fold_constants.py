"""What depends on weights alone is computed once, here, and not on every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.onnxio import add_initializer
from edgecnn.optional import need
from edgecnn.passes._base import Pass
from edgecnn.passes._graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoldConstants"]

GROWTH = 1 << 20
"""Bytes by which a result may exceed what it was computed from; beyond that the file grows more than the node costs."""

KEPT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}  # they say how a weight is quantized
    | {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}  # another result each time
    | {"If", "Loop", "Scan", "Constant"}
)


class FoldConstants(Pass):
    """Turns Constant nodes into initializers, and computes nodes whose inputs are all constant with ONNX's reference evaluator.

    A result is an initializer under the name of the node's output.
    """

    name: ClassVar[str] = "fold_constants"
    requires: ClassVar[str] = "nothing"
    ensures: ClassVar[str] = (
        "no node of ONNX's own operators has constants alone for inputs, but for random and quantizing ones, those that give "
        "a graph output, those whose result is far larger than their inputs, and those that the evaluator lacks"
    )

    def apply(self, model: ir.Model) -> int:
        """Fold, and return how many nodes became constants."""
        common = need("onnx_ir.passes.common")
        before = len(model.graph)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        opset = model.graph.opset_imports.get("", 1)
        model.graph.sort()  # so that one walk also folds what depends on a folded node
        for node in list(model.graph):
            if node.domain in ("", "ai.onnx") and node.op_type not in KEPT:
                _fold(node, opset)
        return before - len(model.graph)


def _fold(node: ir.Node, opset: int) -> None:
    """Replace one node by its results if they are constant."""
    graph = node.graph
    given = {str(value.name): constant(value) for value in node.inputs if value is not None}
    arrays = {name: array for name, array in given.items() if array is not None}
    if not given or len(arrays) != len(given) or any(value.is_graph_output() for value in node.outputs):
        return
    results = _evaluate(node, arrays, opset)
    if results is None or _bytes(results) > _bytes(arrays) + GROWTH:
        return
    assert graph is not None
    for output in [value for value in node.outputs if value.name]:
        output.replace_all_uses_with(add_initializer(graph, str(output.name), results[str(output.name)]))
    graph.remove(node, safe=True)


def _evaluate(node: ir.Node, arrays: dict[str, NDArray[Any]], opset: int) -> dict[str, NDArray[Any]] | None:
    """Compute a node's outputs; None if the evaluator lacks the operator."""
    ir, onnx, reference = need("onnx_ir"), need("onnx"), need("onnx.reference")
    names = [str(value.name) for value in node.outputs if value.name]
    imports = [onnx.helper.make_opsetid("", opset)]
    function = onnx.helper.make_function("edgecnn", "constant", list(arrays), names, [ir.to_proto(node)], imports)
    try:
        with np.errstate(all="ignore"):
            results = reference.ReferenceEvaluator(function).run(None, arrays, attributes={})
    except NotImplementedError:
        return None
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _bytes(arrays: dict[str, NDArray[Any]]) -> int:
    """Return the size of all arrays together."""
    return sum(array.nbytes for array in arrays.values())
