"""How long work reports its progress without printing: the caller passes a function."""

from __future__ import annotations

from typing import Protocol

__all__ = ["LINE", "LINES", "Progress", "silent"]

LINES = "EDGECNN_PROGRESS_LINES"
"""Variable that makes a command write its progress as lines of stderr, for the one who runs it from afar."""
LINE = "\x1eprogress "
"""Begins such a line; JSON follows: ``[step, done, total]``."""


class Progress(Protocol):
    """Called as ``progress(step, done, total)``; ``total`` is 0 while the amount is unknown, ``done == total`` ends a step."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` units of ``step`` are finished."""


def silent(step: str, done: int, total: int) -> None:
    """Report nothing: the default."""
