"""What a pass is, and how passes run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from edgecnn.errors import GraphError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Pass", "run_passes"]


class Pass(ABC):
    """One transformation of a graph, in place, with a contract. Parameters are the instance's attributes.

    Attributes:
        name: its name in reports and lineage.
        requires: what must hold of the graph before, in words.
        ensures: what holds after it, in words.
        exact: whether the graph computes the same function of the same inputs as before, up to rounding. A pass that changes
            the graph's border or its precision does not.
    """

    name: ClassVar[str]
    requires: ClassVar[str]
    ensures: ClassVar[str]
    exact: ClassVar[bool] = True

    @abstractmethod
    def apply(self, model: ir.Model) -> int:
        """Change the graph in place and return how many places were changed.

        Nodes that are replaced keep their name, and their ``edgecnn.module`` metadata, where one node takes the place of one;
        new nodes are named ``<name of the node they come from>/<what they do>``. Graph inputs and outputs keep their names.

        Raises:
            GraphError: the graph does not meet what the pass requires.
        """


def run_passes(model: ir.Model, passes: Iterable[Pass]) -> dict[str, int]:
    """Run passes once each, in order; return name -> number of changes.

    Raises:
        GraphError: of a pass; named after it where the failure is a foreign one.
    """
    counts: dict[str, int] = {}
    for item in passes:
        try:
            changed = item.apply(model)
        except GraphError:
            raise
        except Exception as error:
            raise GraphError(f"the pass {item.name} failed: {type(error).__name__}: {error}") from error
        counts[item.name] = counts.get(item.name, 0) + changed
    model.graph.sort()
    return counts
