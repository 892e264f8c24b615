"""onnxsim (https://github.com/onnxsim/onnxsim) as a pass: in a process of its own, on the graph without its weights."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecnn.errors import GraphError, MissingDependencyError
from edgecnn.optional import available, install_line, need
from edgecnn.passes._base import Pass

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OnnxSim", "run_onnxsim"]

TIMEOUT = 600
"""Seconds that onnxsim may take; without weights a CNN takes it less than one."""

_CHILD = (
    "import sys, onnx, onnxsim; result, _ = onnxsim.simplify(onnx.load(sys.argv[1])); onnx.save(result, sys.argv[2])"
)


class OnnxSim(Pass):
    """Lets onnxsim simplify the graph, and gives back to it what onnxsim loses.

    onnxsim sees float weights as graph inputs: what it finds then holds for any weights. So it does not copy them (it takes three
    times their size in memory), and files of any size can be simplified; folding weights is the other passes' work. It runs in a
    child process, since it is C++ that can crash, it prints, and it imports torch.

    Nodes get their names and metadata back by the name of their first output. Where onnxsim gives no fewer nodes than it got,
    the graph stays as it was.
    """

    name: ClassVar[str] = "onnxsim"
    requires: ClassVar[str] = "the onnxsim package"
    ensures: ClassVar[str] = (
        "the graph has fewer nodes, or is what it was; inputs, outputs, weights and metadata are the same"
    )

    def apply(self, model: ir.Model) -> int:
        """Simplify, and return how many nodes fewer the graph has.

        Raises:
            GraphError: onnxsim failed, crashed, or changed the graph's border.
        """
        ir, onnx = need("onnx_ir"), need("onnx")
        bare = model.clone()
        weights = _lift_weights(bare.graph)
        graph = ir.from_proto(onnx.load_from_string(run_onnxsim(ir.to_proto(bare).SerializeToString()))).graph
        fewer = len(model.graph) - len(graph)
        if fewer <= 0:
            return 0
        _lower_weights(graph, weights)
        _check_border(model.graph, graph)
        _restore_names(model.graph, graph)
        model.graph = graph
        need("onnx_ir.passes.common").NameFixPass()(model)
        return fewer


def run_onnxsim(model: bytes) -> bytes:
    """Run onnxsim on a serialised model in a child process.

    Raises:
        MissingDependencyError: it is not installed.
        GraphError: it failed, crashed, or took longer than :data:`TIMEOUT`.
    """
    if not available("onnxsim"):
        raise MissingDependencyError(f"onnxsim is not installed: {install_line('onnxsim')}")
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as folder:
        source, result = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(model)
        command = [sys.executable, "-P", "-c", _CHILD, str(source), str(result)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)  # noqa: S603 -- our own words
        except subprocess.TimeoutExpired as error:
            raise GraphError(f"onnxsim did not end within {TIMEOUT} s") from error
        except subprocess.CalledProcessError as error:
            raise GraphError(f"onnxsim failed: {_reason(error)}") from error
        return result.read_bytes()


def _reason(error: subprocess.CalledProcessError) -> str:
    """Return the last line of a Python traceback, or the signal that ended the process."""
    if error.returncode < 0:
        return f"it was killed by signal {-error.returncode}"
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {error.returncode}"


def _lift_weights(graph: ir.Graph) -> dict[str, Any]:
    """Make float weights of more than one element graph inputs; return their tensors by name."""
    weights: dict[str, Any] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        border = value.is_graph_input() or value.is_graph_output()
        if tensor is not None and tensor.size > 1 and tensor.dtype.is_floating_point() and not border:
            weights[name] = tensor
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return weights


def _lower_weights(graph: ir.Graph, weights: dict[str, Any]) -> None:
    """Make graph inputs weights again."""
    for value in list(graph.inputs):
        if value.name in weights:
            graph.inputs.remove(value)
            value.const_value = weights[value.name]
            graph.register_initializer(value)


def _check_border(before: ir.Graph, after: ir.Graph) -> None:
    """Raise GraphError unless inputs and outputs are the same."""
    for what in ("inputs", "outputs"):
        old, new = ([f"{v.name} {v.dtype} {v.shape}" for v in getattr(graph, what)] for graph in (before, after))
        if old != new:
            raise GraphError(f"onnxsim changed the graph's {what} from {old} to {new}")


def _restore_names(before: ir.Graph, after: ir.Graph) -> None:
    """Give nodes back their names, and the metadata of the node that gave the same tensor.

    A node of an old name and operator keeps that name, fused or not; another takes the name of the node whose tensor it gives.
    """
    by_name = {node.name: node for node in before}
    by_output = {node.outputs[0].name: node for node in before}
    for node in after:
        output = node.outputs[0].name
        same, origin = by_name.get(node.name), by_output.get(output)
        if same is None or same.op_type != node.op_type:
            node.name = f"{output}/{node.op_type}" if origin is None else origin.name
        source = origin or same
        if source is not None:
            node.metadata_props.update(source.metadata_props)
