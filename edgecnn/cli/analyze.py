"""``edgecnn analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecnn.cli.output import common_options, console, emit, number, progress_bar, table, warn

if TYPE_CHECKING:
    from edgecnn.analysis import Analysis, LayerNoise

__all__ = ["command"]

SHOWN = 10


@click.command("analyze")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--variant", default="", help="A quantized one. [int8, or the first]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images to use in place of the golden ones.")
@click.option("--limit", type=click.IntRange(min=1), default=8, help="Images at most. [8]")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with charts to this file.")
@click.option("--all", "every", is_flag=True, help=f"Show every layer, not the worst {SHOWN}.")
@common_options
def command(
    bundle: Path, variant: str, data: Path | None, limit: int, html: Path | None, every: bool, as_json: bool
) -> None:
    """Explain the INT8 variant of a BUNDLE layer by layer.

    Ratios are SQNR in dB: of a layer's weights and worst input; of its output alone and in the whole graph; and of the logits with
    the noise of this layer alone. The layer that costs the logits most comes first; restored are the logits with it in float.
    """
    from edgecnn.analysis import analyze
    from edgecnn.report import write_page
    from edgecnn.writing import check_writable

    if html is not None:
        check_writable(html)
    with progress_bar(as_json) as progress:
        found = analyze(bundle, data, variant=variant, limit=limit, progress=progress)
    for text in found.notes:
        warn(text)
    if html is not None:
        write_page(found, html)
    if as_json:
        emit({"bundle": str(bundle), **found.to_json()})
        return
    _print(found, every)
    if html is not None:
        console().print(f"page: {html}")


def _print(found: Analysis, every: bool) -> None:
    """Print the layers, the totals and the advice."""
    silent_ones = [layer for layer in found.layers if layer.logits_db is None]
    shown = [*found.worst, *silent_ones] if every else found.worst[:SHOWN]
    columns = (
        "#",
        "layer",
        "weights",
        "input",
        "isolated",
        "cumulative",
        "logits",
        "share %",
        "restored",
        "clipped %",
        "codes %",
    )
    table(columns, [_row(layer) for layer in shown], title=f"{found.model} {found.variant}, SQNR in dB")
    out = console()
    if len(shown) < len(found.layers):
        out.print(f"{len(shown)} of {len(found.layers)} layers, the worst first (--all shows every one)")
    out.print(
        f"logits {number(found.logits_db, 1)} dB on {found.images} image(s) ({found.source}); "
        f"{number(found.added_db, 1)} dB if the noises of single layers add up"
    )
    out.print(found.advice)


def _row(layer: LayerNoise) -> tuple[str, ...]:
    """Return one layer's line."""
    worst = min(layer.inputs, key=lambda item: item.sqnr_db, default=None)
    ratios = (layer.weight_db, layer.input_db, layer.isolated_db, layer.cumulative_db, layer.logits_db)
    return (
        str(layer.position),
        layer.node,
        *(number(value, 1) for value in ratios),
        "-" if layer.logits_db is None else number(100 * layer.share, 1),
        number(layer.restored_db, 1),
        "-" if worst is None else number(100 * worst.clipped, 2),
        "-" if worst is None else number(100 * worst.codes, 0),
    )
