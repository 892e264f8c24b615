"""A channel between two convolutions may have any positive scale: what the first one multiplies, the second one divides by.

Cross-layer equalization, Nagel et al. 2019, arXiv:1906.04721, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import GraphError
from edgecnn.passes._base import Pass
from edgecnn.passes._build import Builder, remove_unused
from edgecnn.passes._graph import MODULE, constant, is_op, only_reader, set_constant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SUFFIX", "EqualizeChannels", "Pair", "pairs"]

Array = NDArray[Any]
SUFFIX = "/equalized"
"""Of the name of a tensor whose channels were scaled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two convolutions, and what stands between them: nothing, a ReLU, or a Clip from 0; then pools, or none.

    Attributes:
        first, second: the convolutions.
        between: nodes from the first to the second, in order.
        cap: what the Clip lets through at most; None where nothing caps.
    """

    first: ir.Node
    second: ir.Node
    between: tuple[ir.Node, ...]
    cap: float | None

    @property
    def tensor(self) -> str:
        """The tensor that the second convolution reads."""
        return str(self.second.inputs[0].name)  # type: ignore[union-attr]

    def weight(self) -> Array:
        """Return the second weight by group, (groups, inputs, outputs, taps), float64."""
        weight = constant(self.second.inputs[1])
        assert weight is not None
        groups = self.second.attributes.get_int("group", 1)
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return split.transpose(0, 2, 1, 3).astype(np.float64)


def pairs(graph: ir.Graph) -> Iterator[Pair]:
    """Yield the pairs of a float graph whose channels may be scaled, in graph order.

    Both weights and the first bias are constants, and no other node reads what is between, which is no graph output.
    """
    for node in graph:
        if not is_op(node, "Conv") or constant(node.inputs[1]) is None:
            continue
        if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
            continue
        found = _pair(node)
        if found is not None:
            yield found


def _pair(first: ir.Node) -> Pair | None:
    """Walk from a convolution to the next one."""
    between: list[ir.Node] = []
    cap: float | None = None
    value = first.outputs[0]
    while (reader := only_reader(value)) is not None:
        if is_op(reader, "Conv"):
            if reader.inputs[0] is not value or constant(reader.inputs[1]) is None:
                return None
            return Pair(first=first, second=reader, between=tuple(between), cap=cap)
        if is_op(reader, "Clip") and not between:
            low, high = (constant(value) for value in [*reader.inputs, None, None][1:3])
            if low is None or float(low) != 0 or high is None or float(high) <= 0:
                return None
            cap = float(high)
        elif not (is_op(reader, "MaxPool", "AveragePool") or (is_op(reader, "Relu") and not between)):
            return None
        if len(reader.outputs) != 1:
            return None
        between.append(reader)
        value = reader.outputs[0]
    return None


class EqualizeChannels(Pass):
    """Multiplies channels between two convolutions by positive scales, and divides the weights behind them by the same.

    A Clip from 0 becomes a Relu and, since its cap differs by channel then, a Min with a constant (1, C, 1, 1). Tensors between are other
    tensors than before: they are called ``<name>/equalized``, and their nodes give no module's output any more.

    Args:
        scales: by :attr:`Pair.tensor`, each (C,).
    """

    name: ClassVar[str] = "equalize_channels"
    requires: ClassVar[str] = "each tensor of the scales is between two convolutions as `pairs` yields them"
    ensures: ClassVar[str] = "the same function up to rounding"

    def __init__(self, scales: Mapping[str, Array]) -> None:
        """Take the scales."""
        self.scales = dict(scales)

    def apply(self, model: ir.Model) -> int:
        """Scale, and return how many pairs were."""
        known = {pair.tensor: pair for pair in pairs(model.graph)}
        for tensor in self.scales:
            if tensor not in known:
                raise GraphError(f"{tensor!r} is not between two convolutions alone: its channels cannot be scaled")
        for tensor, scale in self.scales.items():
            _scale(model.graph, known[tensor], np.asarray(scale, dtype=np.float64))
        return len(self.scales)


def _scale(graph: ir.Graph, pair: Pair, scale: Array) -> None:
    """Scale the channels of one pair."""
    first, second = pair.first, pair.second
    weight, behind = constant(first.inputs[1]), constant(second.inputs[1])
    assert weight is not None
    assert behind is not None
    if scale.shape != (weight.shape[0],) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise GraphError(f"{pair.tensor!r} has {weight.shape[0]} channels: it needs as many positive scales")
    set_constant(first, 1, (weight * _along(scale, weight.ndim)).astype(weight.dtype), "weight")
    bias = constant(first.inputs[2]) if len(first.inputs) > 2 else None
    if bias is not None:
        set_constant(first, 2, (bias * scale).astype(bias.dtype), "bias")
    inputs = behind.shape[1]
    groups = len(scale) // inputs
    split = behind.reshape(groups, behind.shape[0] // groups, inputs, -1) / scale.reshape(groups, 1, inputs, 1)
    set_constant(second, 1, split.reshape(behind.shape).astype(behind.dtype), "weight")
    for node in (first, *pair.between):
        node.outputs[0].name = f"{node.outputs[0].name}{SUFFIX}"
        node.metadata_props.pop(MODULE, None)
    if pair.cap is not None:
        _cap_by_channel(graph, pair.between[0], (pair.cap * scale).astype(weight.dtype), weight.ndim)


def _cap_by_channel(graph: ir.Graph, clip: ir.Node, caps: Array, rank: int) -> None:
    """Put a Relu and a Min in the place of a Clip from 0."""
    build = Builder(graph, str(clip.name), dict(clip.metadata_props))
    output, limits = clip.outputs[0], clip.inputs[1:3]
    positive = build.node("relu", "Relu", [clip.inputs[0]])
    capped = build.node("min", "Min", [positive, build.constant("caps", caps.reshape(1, -1, *[1] * (rank - 2)))])
    for value in (positive, capped):
        value.type, value.shape = output.type, output.shape
    graph.insert_before(clip, build.nodes)
    for use in list(output.uses()):
        use.node.replace_input_with(use.idx, capped)
    graph.remove(clip, safe=True)
    capped.name = output.name
    for limit in limits:
        remove_unused(graph, limit)


def _along(scale: Array, rank: int) -> Array:
    """Return scales of the first axis."""
    return scale.reshape(-1, *[1] * (rank - 1))
