"""Parsing of option values that several commands share, and what is said of those that do not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgecnn.quantize import QuantizeConfig

__all__ = ["InputSize", "Names", "Triple", "quantize_config", "quantize_options", "usage"]

F = TypeVar("F", bound=Callable[..., Any])
LAYERS = {
    "first_layer": "The convolution that reads the image.",
    "last_layer": "The classifier; its logits are float in any case.",
    "depthwise": "Depthwise convolutions.",
}


@contextmanager
def usage() -> Iterator[None]:
    """Turn what a configuration says of its values into a UsageError: such options are wrong whatever the files hold.

    It goes around constructors and parsers alone. What a file, a package or the machine lacks is another error.
    """
    from edgecnn.errors import SpecError, UserError

    try:
        yield
    except UserError as error:
        if type(error) not in (UserError, SpecError):
            raise
        raise click.UsageError(str(error), click.get_current_context(silent=True)) from error


def quantize_options(command: F) -> F:
    """Add the options of :class:`~edgecnn.quantize.QuantizeConfig`, which :func:`quantize_config` reads."""
    options = [
        click.option(
            "--method",
            default="auto",
            help="Of ranges: auto tries all on held-out samples; mse, pnorm[:P], minmax, percentile[:P], entropy. [auto]",
        ),
        click.option("--keep-float", multiple=True, metavar="REGEX", help="Nodes that stay float (repeatable)."),
        click.option(
            "--quantize-only", multiple=True, metavar="REGEX", help="Nodes that may become INT8 (repeatable)."
        ),
        click.option("--no-bias-correction", is_flag=True, help="Leave the mean error of weight rounding in."),
        *(
            click.option(
                f"--{name.replace('_', '-')}",
                type=click.Choice(["int8", "float"]),
                default="int8",
                help=f"{text} [int8]",
            )
            for name, text in LAYERS.items()
        ),
        click.option(
            "--concat",
            type=click.Choice(["separate", "shared"]),
            default="separate",
            help="Scales of what a concatenation joins; shared saves engines a rescaling. [separate]",
        ),
        click.option(
            "--effort",
            type=click.Choice(["fast", "balanced", "max"]),
            default="balanced",
            help="balanced rounds weights so that their errors cancel: a minute or so; max looks closer: several. [balanced]",
        ),
        click.option(
            "--equalize",
            is_flag=True,
            help="Scale channels between convolutions to even ranges first: for networks whose channels differ much.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def quantize_config(options: dict[str, Any], scheme: str = "int8") -> QuantizeConfig:
    """Build the quantizer's configuration. Raises UsageError."""
    from edgecnn.calib import parse
    from edgecnn.quantize import QuantizeConfig

    with usage():
        return QuantizeConfig(
            scheme=scheme,  # type: ignore[arg-type]
            method=parse(options["method"]),
            keep_float=options["keep_float"],
            quantize_only=options["quantize_only"],
            bias_correction=not options["no_bias_correction"],
            concat=options["concat"],
            effort=options["effort"],
            equalize=options["equalize"],
            **{name: options[name] == "int8" for name in LAYERS},
        )


class Names(click.ParamType):  # type: ignore[type-arg]
    """``a,b,c``."""

    name = "A,B,..."

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        """Take names of a list, or any."""
        self.known = known

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
        for name in names:
            if self.known and name not in self.known:
                self.fail(f"{name!r} is not one of {', '.join(self.known)}", param, ctx)
        return names or self.fail("no names", param, ctx)


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
