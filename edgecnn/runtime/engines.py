"""The engines of a bundle, as its manifest describes them: what a device must have to load one, and how it was made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from edgecnn.artifacts import EngineFacts, EngineSpeed, Lineage
from edgecnn.errors import BundleSchemaError
from edgecnn.runtime.checks import Fields, bundle_path

__all__ = ["EngineRecord", "engine_file"]

_TEXTS = ("flavour", "version", "cuda", "driver_cuda", "platform", "precision", "model_sha256", "timing_cache_sha256")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def engine_file(variant: str, flavour: str) -> str:
    """Return the file of an engine in a bundle: ``engine.int8.tensorrt-rtx.plan``."""
    return f"engine.{variant}.{flavour}.plan"


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """One plan of the bundle.

    Attributes:
        file: its path in the bundle: a plain plan.
        variant: the graph that it was built from.
        facts: what it needs, and how it was built.
        lineage: the graph's history and the build.
    """

    file: str
    variant: str
    facts: EngineFacts
    lineage: tuple[Lineage, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "file": self.file,
            "variant": self.variant,
            **self.facts.to_json(),
            "lineage": [step.to_json() for step in self.lineage],
        }

    @classmethod
    def from_json(cls, data: Any, where: str, lineage: tuple[Lineage, ...]) -> Self:
        """Read a JSON object; its history is read by the manifest's own reader. Raises BundleSchemaError, BundlePathError."""
        read = Fields(data, where)
        texts = {name: read.text(name) for name in _TEXTS}
        if not _NAME.fullmatch(texts["flavour"]):
            raise BundleSchemaError(f"{where}: {texts['flavour'][:40]!r} is not a name for a flavour")
        return cls(
            file=bundle_path(read.text("file")),
            variant=read.text("variant"),
            lineage=lineage,
            facts=EngineFacts(
                **texts,
                driver=read.text("driver", ""),
                compute_capabilities=read.texts("compute_capabilities"),
                profile={name: _shapes(value, where) for name, value in read.mapping("profile").items()},
                options=read.mapping("options"),
                seconds=read.number("seconds", low=0),
                audit=read.mapping("audit"),
                speed=_speed(read.mapping_or_none("speed"), where),
            ),
        )


def _speed(data: Any, where: str) -> EngineSpeed | None:
    """Read what was measured."""
    if data is None:
        return None
    read = Fields(data, f"{where} speed")
    return EngineSpeed(
        milliseconds=read.number("milliseconds", low=0),
        ratio=read.number("ratio", low=0),
        baseline=read.text("baseline"),
        gpu=read.text("gpu"),
    )


def _shapes(value: Any, where: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Read the least, best and largest shape of an input."""
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(shape, list) for shape in value):
        raise BundleSchemaError(f"{where}: a profile has three shapes")
    if any(isinstance(dim, bool) or not isinstance(dim, int) or dim < 1 for shape in value for dim in shape):
        raise BundleSchemaError(f"{where}: a profile's shapes are of positive integers")
    low, best, high = (tuple(shape) for shape in value)
    return low, best, high
