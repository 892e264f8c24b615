"""How commands print what was quantized, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecnn.cli.output import table

__all__ = ["print_decisions"]


def print_decisions(decisions: Sequence[dict[str, Any]], title: str = "") -> None:
    """Print every node's decision with its reason."""
    table(
        ("node", "operator", "INT8", "reason"),
        [(one["node"], one["op"], "yes" if one["quantized"] else "no", one["reason"]) for one in decisions],
        title=title,
    )
