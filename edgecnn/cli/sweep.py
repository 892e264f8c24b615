"""``edgecnn sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgecnn.cli.backend import BACKENDS, session_options
from edgecnn.cli.executor import executor_config, executor_options
from edgecnn.cli.options import Names, usage
from edgecnn.cli.output import common_options, console, emit, number, progress_bar, table, warn

__all__ = ["command"]


@click.command("sweep")
@click.argument("targets", metavar="BUNDLE|MODEL...", nargs=-1, required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="ImageFolder, or images with labels.csv.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Table: .csv or .parquet.")
@click.option("--variants", type=Names(), help="Only these. [all of each bundle]")
@click.option("--backends", type=Names(BACKENDS), help=f"{', '.join(BACKENDS)}. [the installed ones of the first two]")
@click.option("--limit", type=click.IntRange(min=1), help="So many images, spread over the classes.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of a worker. [1]")
@click.option("--calib", default="photos", help="Calibration images of a MODEL, as of export. [photos]")
@click.option("--allow-unverified", is_flag=True, help="Use bundles and variants whose verification failed.")
@executor_options
@common_options
def command(
    targets: tuple[str, ...],
    data: Path,
    out: Path,
    variants: tuple[str, ...] | None,
    backends: tuple[str, ...] | None,
    limit: int | None,
    threads: int,
    calib: str,
    allow_unverified: bool,
    executor: str | None,
    workers: int | None,
    cluster: str,
    as_json: bool,
) -> int:
    """Evaluate a matrix of BUNDLEs or MODELs x variants x backends on labelled images, into one table.

    \b
    edgecnn sweep resnet50-int8 efficientnet_lite0-int8 --data imagenet/val -o results.parquet

    A row a combination: accuracy, agreement with fp32, SQNR, KL divergence, images/s of one worker, versions and hashes. Rows that
    are in the table and still true are not done again; an interrupted sweep goes on where it stopped. A MODEL is exported with INT8
    first. A combination that fails is a row with its error; the others go on, and the exit code is 1.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from edgecnn.scale.executor import ExecutorConfig
    from edgecnn.scale.sweep import SweepConfig, sweep
    from edgecnn.scale.table import check_table

    with usage():
        check_table(out)
        config = SweepConfig(
            backends={name: session_options(name, threads) for name in backends or _installed()},
            variants=variants or (),
            limit=limit,
            allow_unverified=allow_unverified,
            calib=calib,
            executor=executor_config(executor, workers, cluster) or ExecutorConfig(),
        )
    with progress_bar(as_json) as progress:
        result = sweep(targets, data, out, config, progress=progress)
    for row in result.rows:
        if row["error"]:
            warn(" ".join(filter(None, (row["bundle"], row["variant"], "on", f"{row['backend']}: {row['error']}"))))
    if as_json:
        emit({"table": str(out), **result.to_json()})
        return 0 if result else 1
    _print(result.rows)
    console().print(f"{out}: {len(result.rows)} rows, {result.kept} of them kept from before")
    return 0 if result else 1


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table(
        (
            "bundle",
            "variant",
            "backend",
            "images",
            "top-1 %",
            "top-5 %",
            "agreement %",
            "SQNR dB",
            "mean KL",
            "images/s",
        ),
        [
            (
                row["bundle"],
                row["variant"] or "-",
                row["backend"],
                "failed" if row["error"] else str(row["images"]),
                number(row["top1"], 1),
                number(row["top5"], 1),
                number(row["agreement"], 1),
                number(row["sqnr_db"], 1),
                number(row["mean_kl"], 4),
                number(row["images_per_s"], 1),
            )
            for row in rows
        ],
    )


def _installed() -> tuple[str, ...]:
    """Return the backends that a sweep takes by itself."""
    from edgecnn.optional import available

    return tuple(name for name in BACKENDS[:2] if available(name)) or BACKENDS[:1]
