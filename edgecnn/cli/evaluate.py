"""``edgecnn evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecnn.cli.backend import run_options, session_options, warn_about
from edgecnn.cli.executor import executor_config, executor_options
from edgecnn.cli.output import common_options, emit, number, progress_bar, table, warn
from edgecnn.cli.remote import OnCommand

if TYPE_CHECKING:
    from edgecnn.parity.evaluate import Evaluation

__all__ = ["command"]


@click.command("evaluate", cls=OnCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="ImageFolder, or images with labels.csv.")
@click.option("--variant", "variants", multiple=True, help="Only these (repeatable). [all]")
@click.option("--limit", type=click.IntRange(min=1), help="So many images, spread over the classes.")
@run_options
@executor_options
@common_options
def command(
    bundle: Path,
    data: Path,
    variants: tuple[str, ...],
    limit: int | None,
    backend: str,
    plugins: tuple[Path, ...],
    threads: int,
    provider: str,
    allow_unverified: bool,
    executor: str | None,
    workers: int | None,
    cluster: str,
    as_json: bool,
) -> None:
    """Accuracy of a BUNDLE's variants on labelled images, and their agreement with fp32.

    Agreement and top-1/top-5 in percent, SQNR of the logits in dB, KL divergence in nats. Images that cannot be decoded are
    counted and left out; more than 10 % of them are an error.

    \b
    edgecnn evaluate BUNDLE --data labelled/
    edgecnn evaluate BUNDLE --data imagenet/val --workers 8

    With --workers or --executor it runs in many processes, and after an interruption, of whatever kind, the same command
    goes on where it stopped.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from functools import partial

    from edgecnn.parity.evaluate import evaluate
    from edgecnn.runtime import Bundle
    from edgecnn.scale.run import evaluate_at_scale

    options = session_options(backend, threads, provider, plugins)
    opened = Bundle.open(bundle, allow_unverified=allow_unverified)
    warn_about(opened)
    config = executor_config(executor, workers, cluster)
    run = evaluate if config is None else partial(evaluate_at_scale, executor=config)
    with progress_bar(as_json) as progress:
        result = run(
            opened,
            data,
            variants=variants or None,
            limit=limit,
            allow_unverified=allow_unverified,
            options=options,
            progress=progress,
        )
    _warn_of(result)
    if as_json:
        emit(result.to_json())
    else:
        _print(result, [opened.choose(score.variant, options=options).backend for score in result.variants])


def _warn_of(result: Evaluation) -> None:
    """Say what was left out."""
    for reason in result.skipped.values():
        warn(f"skipped {reason}")
    if result.unreadable > len(result.skipped):
        warn(f"skipped {result.unreadable} images in all")
    if all(score.top1 is None for score in result.variants):
        warn(f"no accuracy, only agreement with fp32: {result.labels}")


def _print(result: Evaluation, backends: Sequence[str]) -> None:
    """Print the table."""
    table(
        ("variant", "images", "top-1 %", "top-5 %", "agreement %", "SQNR dB", "mean KL", "backend"),
        [
            (
                score.variant,
                str(score.images),
                number(score.top1, 1),
                number(score.top5, 1),
                number(score.agreement, 1),
                number(score.sqnr_db, 1),
                number(score.mean_kl, 4),
                backend,
            )
            for score, backend in zip(result.variants, backends, strict=True)
        ],
    )
