"""The page of an analysis: one HTML file that needs no network and no library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from edgecnn.analysis import Analysis, InputRange, LayerNoise
from edgecnn.report import html
from edgecnn.report.charts import histogram, noise_chart
from edgecnn.report.html import Column, Row, Table, cell, percent

__all__ = ["analysis_page", "analysis_sections", "write_page"]

CARDS = 12
"""How many layers' inputs are shown as histograms: the worst."""

COLUMNS = (
    Column("#", "Position in the order of computation", number=True),
    Column("Layer", "Node of the graph; below it why it is quantized or float"),
    Column("Op", "Operator"),
    Column("MACs", "Multiplications for one image", number=True),
    Column("Weights", "SQNR of the weights, dB", number=True),
    Column("Input", "SQNR of the worst quantized input, dB", number=True),
    Column("Isolated", "SQNR of the output with the layer's own noise alone, dB", number=True),
    Column("Cumulative", "SQNR of the output in the whole quantized graph, dB", number=True),
    Column("Logits", "SQNR of the logits with this layer's noise alone, dB", number=True),
    Column("Share", "Share of the noise that all layers, one by one, make at the logits", number=True),
    Column("Restored", "SQNR of the variant's logits with this layer alone in float, dB", number=True),
    Column("Reach", "How far the input's values go, of its range", number=True),
    Column("Clipped", "Share of the input's values beyond its range", number=True),
    Column("Codes", "Share of the 256 codes that the input uses", number=True),
)

TERMS = (
    ("SQNR", "signal-to-quantization-noise ratio: energy of the float tensor over energy of its error, in dB; 6 dB more halve the error."),
    ("Isolated", "the layer is quantized, its inputs come from the float graph: all noise at its output is its own."),
    ("Cumulative", "the whole graph is quantized: its own noise, and what it inherits from layers before it."),
    ("Logits, share", ("the isolated noise is put into the float graph at this layer alone. Later layers amplify the noise of one "
                      "and swallow that of another: what arrives at the logits is what a layer costs.")),
    ("Restored", "the quantized graph's logits with this layer alone in float, tried for the worst layers."),
    ("Reach", "1 when values go to the end of the range; more when they are clipped; less when part of the range is never used."),
    ("Codes", "int8 behind a ReLU uses half of them at most, as its range is symmetric."),
)  # fmt: skip


def write_page(analysis: Analysis, path: Path) -> None:
    """Write the page, whole or not at all; a file of that name is replaced. Raises OutputError."""
    html.write_text(analysis_page(analysis), path)


def analysis_page(analysis: Analysis) -> str:
    """Return the page's HTML."""
    body = [*_head(analysis), *analysis_sections(analysis), _footer(analysis)]
    return html.document(f"{analysis.model} {analysis.variant}, layer by layer", body)


def analysis_sections(analysis: Analysis) -> Iterator[str]:
    """Yield the figures, the advice, the charts, the table and what its words mean."""
    yield from _figures(analysis)
    yield _chart(analysis)
    yield from _histograms(analysis)
    yield _table(analysis)
    yield from _terms()


def _head(analysis: Analysis) -> Iterator[str]:
    """Yield the title and the notes."""
    images = "image" if analysis.images == 1 else "images"
    yield (
        f"<header><p class='kicker'>INT8 layer by layer</p><h1>{escape(analysis.model)} <span>{escape(analysis.variant)}</span></h1>"
        f"<p class='source'>Against fp32, on {analysis.images} {images} ({escape(analysis.source)})</p></header>"
    )
    for note in analysis.notes:
        yield f"<p class='note'>{escape(note)}</p>"


def _figures(analysis: Analysis) -> Iterator[str]:
    """Yield the figures and the advice."""
    quantized = sum(layer.quantized for layer in analysis.layers)
    first = analysis.worst[0]
    yield from html.figures(
        (
            ("Logits", html.db(analysis.logits_db), "SQNR of the whole variant"),
            ("Added up", html.db(analysis.added_db), "if single layers' noises add"),
            ("Layers", f"{quantized}", f"in INT8, {len(analysis.layers) - quantized} float"),
            ("Largest share", f"{first.share:.0%}", f"of the noise, from {first.node}"),
        )
    )
    option = f"<code>--keep-float '{escape(analysis.keep_float)}'</code>"
    command = f"<p class='act'>Export again with {option}</p>" if analysis.keep_float else ""
    yield f"<section class='advice'><p>{escape(analysis.finding)}</p>{command}</section>"


def _chart(analysis: Analysis) -> str:
    """Return the chart over the graph."""
    marks = html.legend(
        ("dot isolated", "isolated"), ("line cumulative", "cumulative"), ("box share", "share at the logits")
    )
    return html.section(
        "Noise along the graph", f"<div class='scroll'>{noise_chart(analysis.layers)}</div>", beside=marks
    )


def _histograms(analysis: Analysis) -> Iterator[str]:
    """Yield the worst layers' inputs."""
    chosen = [layer for layer in analysis.worst if layer.inputs][:CARDS]
    if not chosen:
        return
    cards = []
    for layer in chosen:
        worst = min(layer.inputs, key=lambda found: found.sqnr_db)
        cards.append(
            f"<figure><figcaption><a href='#layer-{layer.position}' title='{escape(layer.node)}'>{escape(layer.node)}</a>"
            f"<span>{html.db(worst.sqnr_db)}</span></figcaption>{histogram(worst)}"
            f"<p>{percent(worst.clipped)} clipped, {worst.codes:.0%} of codes</p></figure>"
        )
    marks = html.legend(
        ("box bin", "values, log scale"), ("box outside", "clipped"), ("line limit", "end of the range")
    )
    yield html.section("Inputs of the worst layers", f"<div class='cards'>{''.join(cards)}</div>", beside=marks)


def _table(analysis: Analysis) -> str:
    """Return the table, the worst layer first."""
    ranked = list(analysis.worst)
    ranked += [layer for layer in analysis.layers if layer.logits_db is None]
    most = max(layer.share for layer in ranked) or 1.0
    found = Table(
        ident="layers",
        caption="Every layer: what its quantization costs, and how its input is used",
        columns=COLUMNS,
        rows=[_row(layer, most) for layer in ranked],
        ordered="Share",
        wide=True,
    )
    beside = html.controls("layers", "name or operator", kind="int8", label="INT8 only")
    return html.section("Every layer", html.table(found), beside=beside)


def _row(layer: LayerNoise, most: float) -> Row:
    """Return one layer's row; cells carry what they are sorted by."""
    worst = min(layer.inputs, key=lambda found: found.sqnr_db, default=None)
    kind = "int8" if layer.quantized else "float"
    reason = f"<b class='{kind}'>{kind.upper() if layer.quantized else kind}</b> {escape(layer.reason)}"
    text = "" if layer.logits_db is None else percent(layer.share)
    bar = html.filled(layer.share / most)
    cells = [
        cell(layer.position, str(layer.position)),
        html.text_cell(layer.node, f"<span class='name'>{escape(layer.node)}</span>", reason),
        html.text_cell(layer.op, html.breakable(layer.op)),
        cell(layer.macs or None, html.count(layer.macs)),
        *(_ratio_cell(value) for value in (layer.weight_db, layer.input_db, layer.isolated_db)),
        *(_ratio_cell(value) for value in (layer.cumulative_db, layer.logits_db)),
        f"<td class='number bars' data-v='{layer.share:.6g}'>{text}{bar}</td>",
        _ratio_cell(layer.restored_db),
        *_range_cells(worst),
    ]
    return Row(cells=cells, anchor=f"layer-{layer.position}", kind=kind)


def _range_cells(found: InputRange | None) -> list[str]:
    """Return the cells about an input's range."""
    if found is None:
        return [cell(None, "")] * 3
    return [
        cell(found.reach, f"{found.reach:.2f}"),
        cell(found.clipped, percent(found.clipped)),
        cell(found.codes, f"{found.codes:.0%}"),
    ]


def _ratio_cell(value: float | None) -> str:
    """Return a cell of a ratio; no noise at all sorts above any."""
    if value is not None and math.isinf(value):
        return cell(1e9, "exact")
    return cell(value, "" if value is None else f"{value:.1f}")


def _terms() -> Iterator[str]:
    """Yield what the words mean."""
    yield "<section class='terms'><h2>How to read this</h2><dl>"
    for name, text in TERMS:
        yield f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
    yield "</dl></section>"


def _footer(analysis: Analysis) -> str:
    """Return the last line."""
    total = sum(layer.macs for layer in analysis.layers)
    weights = sum(layer.parameters for layer in analysis.layers)
    return html.footer(
        f"{html.count(weights)} weights, {html.count(total)} multiplications an image in the layers above."
    )
