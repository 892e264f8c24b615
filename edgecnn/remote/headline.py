"""What a device's document says, in a few words: for a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["headline"]

Document = Mapping[str, Any]


def headline(verb: str, document: Document | None) -> str:
    """Return a document in a few words.

    Raises:
        KeyError, TypeError, IndexError, AttributeError: it is not what the verb prints.
    """
    if document is None:
        return "it printed no result"
    if "error" in document:
        return str(document["error"]["message"])
    return _HEADLINE[verb](document) if verb in _HEADLINE else "done"


def _passed(document: Document) -> str:
    """Return a verdict."""
    return "passed" if document["passed"] else "FAILED"


def _scores(document: Document) -> str:
    """Return each variant's top-1, or its agreement where there are no labels."""
    rows = [(row["variant"], row["agreement" if row["top1"] is None else "top1"]) for row in document["variants"]]
    return ", ".join(f"{name} {'-' if value is None else f'{value:.1f}'} %" for name, value in rows)


def _guesses(document: Document) -> str:
    """Return the first image's first guess."""
    first = [one["predictions"][0] for one in document["results"][:1]]
    return ", ".join(f"{guess['label']} {100 * guess['probability']:.1f} %" for guess in first) or "no image was read"


def _latencies(document: Document) -> str:
    """Return the verdict of a comparison, else each run's median latency."""
    verdicts = [str(found["text"]) for found in document["comparisons"]]
    runs = (f"{run['label']} {run['latency']['p50_ms']:.2f} ms" for run in document["runs"])
    return ", ".join(verdicts or runs)


_HEADLINE: Mapping[str, Callable[[Document], str]] = {
    "verify": _passed,
    "build": _passed,
    "evaluate": _scores,
    "bench": _latencies,
    "predict": _guesses,
}
