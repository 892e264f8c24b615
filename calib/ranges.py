"""The ranges artefact: one (low, high) a tensor, and what they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from edgecnn.errors import DataError

__all__ = ["FORMAT", "Ranges"]

FORMAT = 3
"""Version of the arithmetic and of the file; part of the ranges' key."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Ranges of tensors.

    Attributes:
        tensors: name -> (low, high).
        method: of :meth:`~edgecnn.calib.methods.Method.to_json`.
        symmetric: whether every range is (-peak, peak).
        hashes: sha256 of ``model``, ``data`` and ``key``, the content key of all that they depend on.
        reused: whether their statistics came from the cache.
    """

    tensors: Mapping[str, tuple[float, float]]
    method: Mapping[str, Any]
    symmetric: bool
    hashes: Mapping[str, str]
    reused: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("tensors", "method", "hashes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "format": FORMAT,
            "method": dict(self.method),
            "symmetric": self.symmetric,
            "hashes": dict(self.hashes),
            "tensors": {name: list(pair) for name, pair in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, reused: bool = False) -> Self:
        """Read what :meth:`to_json` wrote. Raises DataError."""
        try:
            if data["format"] != FORMAT:
                raise DataError(f"ranges of format {data['format']}, this edgecnn reads {FORMAT}: calibrate again")
            tensors = {str(name): (float(low), float(high)) for name, (low, high) in data["tensors"].items()}
            return cls(
                tensors=tensors,
                method=data["method"],
                symmetric=bool(data["symmetric"]),
                hashes=data["hashes"],
                reused=reused,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a ranges file: {error}") from error
