"""Accuracies that the zoo's table does not state, with their sources, and networks that the zoo does not have."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

__all__ = ["Stated", "references", "stated_of"]


class Stated(NamedTuple):
    """An accuracy, percent, and the address where it is stated."""

    top1: float
    source: str


def stated_of(sha256: str, size: int) -> Stated | None:
    """Return the accuracy of a checkpoint on images of a size.

    Args:
        sha256: of the file, or its first 8 digits.
        size: height of the input, pixels: an accuracy at another one is another accuracy.
    """
    data = _data()
    for file, found in data["checkpoints"].items():
        if sha256 and file.endswith(f"-{sha256[:8]}.pth") and found["size"] == size:
            return Stated(found["top1"], data["sources"][found["source"]])
    return None


def references() -> list[dict[str, Any]]:
    """Return published networks that the zoo does not have, each with the address of its source."""
    data = _data()
    return [item | {"source": data["sources"][item["source"]]} for item in data["references"]]


@cache
def _data() -> dict[str, Any]:
    """Read the file."""
    data: dict[str, Any] = json.loads((files("edgecnn.comparison") / "published.json").read_text(encoding="utf-8"))
    return data
