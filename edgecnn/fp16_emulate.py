"""FP16 on a CPU, honestly: a float32 graph that rounds wherever the FP16 one does.

onnxruntime has no FP16 kernels on x86. It wraps each FP16 node in casts and then removes the pairs between neighbours, with every
optimization off too, so that such a model computes in FP32 throughout: nothing overflows, and only the weights are rounded. A
comparison of that with the FP32 model says nothing about FP16. Casts that stand in the file are left alone, and that is what is
written here: each node computes in FP32 and its result is cast to FP16 and back, as hardware does that accumulates in FP32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.errors import GraphError
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.optional import need

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["emulate"]


def emulate(model: OnnxModel, *, to: Path) -> OnnxModel:
    """Write the float32 form of an FP16 model; nodes, and tensors between them, keep their names.

    For measuring what FP16 does to a network where there is no GPU; not for deployment, it is slower than FP32.

    Raises:
        GraphError: the model is not of precision ``fp16`` or ``int8-fp16``.
    """
    if model.precision not in ("fp16", "int8-fp16"):
        raise GraphError(f"{model.path.name} is {model.precision}: only an fp16 or int8-fp16 model is emulated")
    graph = load_ir(model.path)
    widened: dict[int, ir.Value] = {}
    for node in list(graph.graph):
        if node.op_type != "Cast":
            _widen(graph.graph, node, widened)
    graph.graph.sort()
    step = Lineage(stage="emulate", inputs={"model": model.sha256})
    return save_ir(graph, to, precision=model.precision, lineage=(*model.lineage, step))


def _widen(graph: ir.Graph, node: ir.Node, widened: dict[int, ir.Value]) -> None:
    """Let one node read and make float32, between casts; ``widened`` holds the float32 form of FP16 values met before."""
    ir = need("onnx_ir")
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == ir.DataType.FLOAT16:
            if id(value) not in widened:
                cast = ir.node(
                    "Cast", [value], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{value.name}/Cast_wide"
                )
                cast.outputs[0].name, cast.outputs[0].shape = f"{value.name}_wide", value.shape
                cast.outputs[0].dtype = ir.DataType.FLOAT
                graph.insert_before(node, cast)
                widened[id(value)] = cast.outputs[0]
            node.replace_input_with(index, widened[id(value)])
    for value in list(node.outputs):
        if value.dtype == ir.DataType.FLOAT16:
            cast = ir.node(
                "Cast", [value], attributes={"to": int(ir.DataType.FLOAT16)}, name=f"{value.name}/Cast_round"
            )
            rounded = cast.outputs[0]
            rounded.shape, rounded.dtype = value.shape, ir.DataType.FLOAT16
            for use in list(value.uses()):
                if use.node is not cast:
                    use.node.replace_input_with(use.idx, rounded)
            rounded.name, value.name, value.dtype = value.name, f"{value.name}_exact", ir.DataType.FLOAT
            graph.insert_after(node, cast)
