"""The options of commands that run a bundle: which variant, on what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgecnn.cli.output import warn

if TYPE_CHECKING:
    from edgecnn.runtime import Bundle
    from edgecnn.runtime.choice import Options

__all__ = ["BACKENDS", "PROVIDERS", "backend_option", "provider_option", "run_options", "session_options", "warn_about"]

F = TypeVar("F", bound=Callable[..., Any])

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def backend_option(command: F) -> F:
    """Add ``--backend`` and ``--plugin``."""
    command = click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Library of an engine's operators (repeatable).",
    )(command)
    return click.option(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default="auto",
        help="auto: whichever was measured to be faster when the bundle was written; tensorrt, tensorrt-rtx: its engine. [auto]",
    )(command)


def provider_option(command: F) -> F:
    """Add ``--provider``."""
    return click.option(
        "--provider", type=click.Choice(list(PROVIDERS)), default="cpu", help="Where onnxruntime runs. [cpu]"
    )(command)


def run_options(command: F) -> F:
    """Add ``--backend``, ``--plugin``, ``--threads``, ``--provider`` and ``--allow-unverified``."""
    for option in (
        click.option("--allow-unverified", is_flag=True, help="Use a bundle whose verification failed."),
        provider_option,
        click.option(
            "--threads", type=click.IntRange(min=0), default=0, help="Threads; 0: as the backend chooses. [0]"
        ),
        backend_option,
    ):
        command = option(command)
    return command


def session_options(backend: str, threads: int, provider: str = "cpu", plugins: tuple[Path, ...] = ()) -> Options:
    """Build the options whose type tells the runtime which backend to take. Raises UsageError for what is another one's."""
    from edgecnn.runtime import AutoOptions, OpenVinoOptions, OrtOptions

    if plugins and backend not in ("tensorrt", "tensorrt-rtx"):
        raise click.UsageError("--plugin is for engines: it needs --backend tensorrt")
    if provider != "cpu":
        if backend not in ("auto", "onnxruntime"):
            raise click.UsageError(f"--provider {provider} is onnxruntime's: leave out --backend {backend}")
        return OrtOptions(threads=threads, providers=(PROVIDERS[provider], PROVIDERS["cpu"]))
    if backend in ("tensorrt", "tensorrt-rtx"):
        return _engine_options(backend, threads, plugins)
    kinds: dict[str, type[OrtOptions | OpenVinoOptions | AutoOptions]] = {
        "onnxruntime": OrtOptions,
        "openvino": OpenVinoOptions,
        "auto": AutoOptions,
    }
    return kinds[backend](threads=threads)


def _engine_options(backend: str, threads: int, plugins: tuple[Path, ...]) -> Options:
    """Build the options of an engine, which is built anew where the bundle's does not fit this device."""
    from functools import partial

    from edgecnn.pipeline.engines import rebuilt
    from edgecnn.runtime import TensorRtOptions

    if threads:
        raise click.UsageError(f"--threads is for CPUs: leave out --backend {backend}")
    flavour: Any = backend
    return TensorRtOptions(flavour=flavour, plugins=plugins, rebuild=partial(rebuilt, say=warn))


def warn_about(bundle: Bundle) -> None:
    """Print what every command that reads a bundle must say of it (UNTRAINED, UNVERIFIED); ``inspect`` says the rest."""
    for text in bundle.alarms():
        warn(text)
