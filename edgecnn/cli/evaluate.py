"""``edgecnn evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.backend import run_options, session_options, warn_about
from edgecnn.cli.output import common_options, emit, number, progress_bar, table, warn

__all__ = ["command"]


@click.command("evaluate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="ImageFolder, or images with labels.csv.")
@click.option("--variant", "variants", multiple=True, help="Only these (repeatable). [all]")
@click.option("--limit", type=click.IntRange(min=1), help="So many images, spread over the classes.")
@run_options
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
    as_json: bool,
) -> None:
    """Accuracy of a BUNDLE's variants on labelled images, and their agreement with fp32.

    Agreement and top-1/top-5 in percent, SQNR of the logits in dB, KL divergence in nats.
    """
    from edgecnn.parity.evaluate import evaluate
    from edgecnn.runtime import Bundle

    options = session_options(backend, threads, provider, plugins)
    opened = Bundle.open(bundle, allow_unverified=allow_unverified)
    warn_about(opened)
    with progress_bar(as_json) as progress:
        result = evaluate(
            opened,
            data,
            variants=variants or None,
            limit=limit,
            allow_unverified=allow_unverified,
            options=options,
            progress=progress,
        )
    for reason in result.skipped.values():
        warn(f"skipped {reason}")
    if all(score.top1 is None for score in result.variants):
        warn(f"no accuracy, only agreement with fp32: {result.labels}")
    if as_json:
        emit(result.to_json())
        return
    table(
        ("variant", "images", "top-1 %", "top-5 %", "agreement %", "SQNR dB", "mean KL", "backend"),
        [
            (
                row["variant"],
                str(row["images"]),
                number(row["top1"], 1),
                number(row["top5"], 1),
                number(row["agreement"], 1),
                number(row["sqnr_db"], 1),
                number(row["mean_kl"], 4),
                opened.choose(row["variant"], options=options).backend,
            )
            for row in result.to_json()["variants"]
        ],
    )
