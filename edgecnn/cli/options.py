"""Parsing of option values that several commands share."""

from __future__ import annotations

import click

__all__ = ["InputSize", "Triple"]


class InputSize(click.ParamType):  # type: ignore[type-arg]
    """``3x224x224``: channels, height, width."""

    name = "CxHxW"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Return (channels, height, width)."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) == 3 and all(part.isdigit() and int(part) > 0 for part in parts):
            channels, height, width = (int(part) for part in parts)
            return channels, height, width
        return self.fail(f"{value!r} is not CHANNELSxHEIGHTxWIDTH, such as 3x224x224", param, ctx)


class Triple(click.ParamType):  # type: ignore[type-arg]
    """``0.485,0.456,0.406``: one number a channel."""

    name = "R,G,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            return self.fail(
                f"{value!r} is not a comma-separated list of numbers, such as 0.485,0.456,0.406", param, ctx
            )
