"""What TensorRT refuses, in words that say which node, which operator and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from edgecnn.engine.config import Batch, Flavour
from edgecnn.errors import BackendError, GraphError, UserError
from edgecnn.onnxio import load_ir
from edgecnn.optional import available

__all__ = ["NodeProblem", "alike", "batch_misfit", "not_built", "not_parsed"]


@dataclass(frozen=True, kw_only=True)
class NodeProblem:
    """A node that the parser cannot take: its name, operator, the parser's error code and text."""

    node: str
    operator: str
    code: str
    text: str


def alike(model: Path, problems: Sequence[NodeProblem], unknown: AbstractSet[str]) -> list[NodeProblem]:
    """Return a graph's other nodes of operators that are unknown: the parser may stop at the first one (it does at DeformConv).

    Args:
        model: the ONNX file.
        problems: what the parser found.
        unknown: operators that it does not have at all.

    Returns:
        In the graph's order; nothing where onnx-ir is not installed, as on a device that only builds.
    """
    if not unknown or not available("onnx_ir"):
        return []
    said = {problem.operator: problem for problem in reversed(problems)}
    listed = {problem.node for problem in problems}
    return [
        replace(said[node.op_type], node=str(node.name))
        for node in load_ir(model).graph
        if node.op_type in unknown and node.name not in listed
    ]


_BY_OPERATOR = {
    ("tensorrt-rtx", "DeformConv"): "export with --deform gridsample (--deform auto does, with --target tensorrt-rtx)",
    ("tensorrt", "DeformConv"): "export with --deform plugin or gridsample, or use TensorRT 10.1 or newer",
    ("tensorrt-rtx", "DeformConv2d"): "export with --deform gridsample: TensorRT-RTX takes no plugin",
    ("tensorrt", "DeformConv2d"): "give edgecnn's plugin library with --plugin, or export with --deform gridsample",
}
_BY_TEXT = (
    ("zero point", "this graph is not symmetric, and so for CPUs: build the int8 variant"),
    ("plugin not found", "give the library that has the operator with --plugin, or replace it in the network"),
)
_OTHERWISE = "replace the operator in the network, or try another --opset"


def not_parsed(flavour: Flavour, name: str, model: str, problems: Sequence[NodeProblem]) -> GraphError:
    """Return an error that lists every node, operators with the same way out together."""
    if not problems:
        return GraphError(f"{name} cannot read {model}, and does not say why: try 'edgecnn inspect {model}'")
    lines = [f"{name} cannot take {len(problems)} node{'s' * (len(problems) > 1)} of {model}:"]
    hints: dict[str, list[str]] = {}
    for problem in problems:
        lines.append(f"{problem.node} ({problem.operator or 'operator unknown'}): {_plain(problem)}")
        hints.setdefault(_hint(flavour, problem), []).append(problem.operator or problem.node)
    lines += [f"{', '.join(dict.fromkeys(operators))}: {hint}" for hint, operators in hints.items()]
    return GraphError("\n".join(lines))


def _hint(flavour: Flavour, problem: NodeProblem) -> str:
    """Return what to do about a node."""
    if hint := _BY_OPERATOR.get((flavour, problem.operator)):
        return hint
    return next((hint for text, hint in _BY_TEXT if text in problem.text.lower()), _OTHERWISE)


def _plain(problem: NodeProblem) -> str:
    """Return the parser's reason; some are the source text of a failed condition."""
    quoted = problem.text.rpartition(' && "')[2].removeprefix("Assertion failed: creator: ").strip().rstrip('"')
    if quoted in ("", "false", "true"):
        return problem.code.lower().replace("_", " ")
    return quoted


_BY_LOG = (
    ("zero point", "this graph is not symmetric, and so for CPUs: build the int8 variant"),
    (
        "is not supported",
        "for Turing (7.5) build the fp16 or int8-fp16 variant: it has no FP32 matrix multiplication there",
    ),
    ("cuda_success", "what was asked for needs a GPU, and there is none here"),
    ("out of memory", "give the builder less with --workspace, close other programs, or add swap"),
    ("could not find any implementation", "give the builder more with --workspace, or try another --level"),
)


def not_built(name: str, model: str, precision: str, errors: Sequence[str]) -> BackendError:
    """Return an error for a graph that was parsed but not built."""
    reason = errors[-1] if errors else "no reason given"
    hint = next((hint for text, hint in _BY_LOG if text in reason.lower()), "")
    return BackendError(
        f"{name} did not build {model} ({precision}): {' '.join(reason.split())}{': ' if hint else ''}{hint}"
    )


def batch_misfit(tensor: str, shape: Sequence[int], batch: Batch | None) -> UserError | None:
    """Return why an input of a parsed network cannot have a batch, or None. Open dimensions are negative."""
    if not shape or any(dim < 0 for dim in shape[1:]):
        return UserError(f"input {tensor!r} is {list(shape)}: only its first dimension, the batch, may be open (-1)")
    if batch is None or shape[0] < 0 or (batch.fixed and batch.low == shape[0]):
        return None
    return UserError(
        f"--batch {batch} was asked for, and the graph is fixed to {shape[0]}: export it without --batch, so that the size is open"
    )
