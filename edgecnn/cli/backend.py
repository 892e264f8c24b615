"""The options of commands that run a bundle: which variant, on what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgecnn.cli.output import warn

if TYPE_CHECKING:
    from edgecnn.runtime import Bundle, OrtOptions

__all__ = ["PROVIDERS", "ort_options", "run_options", "warn_about"]

F = TypeVar("F", bound=Callable[..., Any])

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def run_options(command: F) -> F:
    """Add ``--threads``, ``--provider`` and ``--allow-unverified``."""
    for option in (
        click.option("--allow-unverified", is_flag=True, help="Use a bundle whose verification failed."),
        click.option(
            "--provider", type=click.Choice(list(PROVIDERS)), default="cpu", help="Where onnxruntime runs. [cpu]"
        ),
        click.option(
            "--threads", type=click.IntRange(min=0), default=0, help="Threads; 0: as the backend chooses. [0]"
        ),
    ):
        command = option(command)
    return command


def ort_options(threads: int, provider: str) -> OrtOptions:
    """Build the backend's options from the command line's."""
    from edgecnn.runtime import OrtOptions

    wanted = PROVIDERS[provider]
    providers = (wanted,) if provider == "cpu" else (wanted, PROVIDERS["cpu"])
    return OrtOptions(threads=threads, providers=providers)


def warn_about(bundle: Bundle) -> None:
    """Print what every command that reads a bundle must say of it (UNTRAINED, UNVERIFIED); ``inspect`` says the rest."""
    for text in bundle.alarms():
        warn(text)
