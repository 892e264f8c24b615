"""What a long search has measured so far, in a file that grows with each measurement: a search that was cut goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgecnn.artifacts import cache_folder, canonical_json, sha256_json
from edgecnn.writing import atomic_file

__all__ = ["Known"]

T = TypeVar("T")


class Known(Generic[T]):
    """Values by name.

    Attributes:
        values: what is known.
    """

    def __init__(self, cache: Path | None, kind: str, key: Any, read: Callable[[Any], T]) -> None:
        """Read what is there; a damaged file counts as absent.

        Args:
            cache: folder; None keeps nothing.
            kind: begins the file's name.
            key: JSON of all that the values depend on.
            read: turns what JSON holds into a value; raises ValueError, TypeError or AttributeError where it is none.
        """
        self.path = None if cache is None else cache / f"{kind}-{sha256_json(key)}.json"
        self.values: dict[str, T] = {}
        if self.path is not None and self.path.is_file():
            try:
                found = json.loads(self.path.read_bytes())
                self.values = {str(name): read(value) for name, value in found.items()}
            except (OSError, ValueError, AttributeError, TypeError):
                self.values = {}

    def add(self, name: str, value: T) -> None:
        """Take note of one value, JSON."""
        self.values[name] = value
        if self.path is not None:
            cache_folder(self.path.parent)
            with atomic_file(self.path) as stream:
                stream.write(canonical_json(self.values))
