"""Which quantized tensors have one scale."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from edgecnn.quantize.structure import Structure

if TYPE_CHECKING:
    from edgecnn.quantize.rules import Decision

__all__ = ["shared_ranges"]


def shared_ranges(
    structure: Structure, decisions: Iterable[Decision], tensors: Collection[str], *, concat: bool
) -> tuple[tuple[tuple[str, ...], ...], frozenset[str]]:
    """Return the groups of tensors that have one scale, and those of them whose own range does not matter.

    Args:
        structure: of the graph.
        decisions: of its nodes.
        tensors: those that are quantized, in graph order.
        concat: whether what a quantized concatenation reads and gives is a group.
    """
    groups = {name: {name} for name in tensors}
    passed_on: set[str] = set()
    for decision in decisions:
        node = structure.nodes[decision.node]
        if decision.quantized and decision.op == "MaxPool" and str(node.outputs[0].name) in groups:
            _unite(groups, [structure.input_name(decision.node, 0), str(node.outputs[0].name)])
            passed_on.add(str(node.outputs[0].name))
        if decision.quantized and decision.op == "Concat" and concat:
            given = [structure.input_name(decision.node, index) for index in decision.inputs]
            _unite(groups, [*given, *structure.read_as(node.outputs[0], tensors)])
    found = {id(group): group for group in groups.values() if len(group) > 1}
    order = {name: index for index, name in enumerate(tensors)}
    return tuple(tuple(sorted(group, key=order.__getitem__)) for group in found.values()), frozenset(passed_on)


def _unite(groups: dict[str, set[str]], names: list[str]) -> None:
    """Merge the groups of ``names``."""
    merged: set[str] = set().union(*(groups[name] for name in names))
    for name in merged:
        groups[name] = merged
