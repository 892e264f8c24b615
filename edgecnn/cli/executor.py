"""The options of commands that run in many processes: how many, and whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgecnn.scale.executor import ExecutorConfig

__all__ = ["executor_config", "executor_options"]

F = TypeVar("F", bound=Callable[..., Any])


def executor_options(command: F) -> F:
    """Add ``--executor``, ``--workers`` and ``--cluster``, which :func:`executor_config` reads."""
    for option in (
        click.option(
            "--cluster", default="", metavar="ADDRESS", help="Of a running Ray or Dask. [one on this machine]"
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Processes. [one a core, or all of --cluster]"),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray", "dask"]),
            help="Run in many processes: joblib's, Ray's or Dask's. [local]",
        ),
    ):
        command = option(command)
    return command


def executor_config(executor: str | None, workers: int | None, cluster: str) -> ExecutorConfig | None:
    """Build the configuration; None where none of the options was given. Raises UsageError."""
    from edgecnn.scale.executor import ExecutorConfig

    if executor is None and workers is None and not cluster:
        return None
    if cluster and executor not in ("ray", "dask"):
        raise click.UsageError("--cluster needs --executor ray or --executor dask")
    kind: Any = executor or "local"
    return ExecutorConfig(kind=kind, workers=workers or 0, cluster=cluster)
