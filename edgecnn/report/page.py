"""The page of an analysis: one HTML file that needs no network and no library."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.analysis import Analysis, InputRange, LayerNoise
from edgecnn.artifacts import atomic_file
from edgecnn.errors import OutputError
from edgecnn.report.charts import histogram, noise_chart

__all__ = ["analysis_page", "check_place", "write_page"]

CARDS = 12
"""How many layers' inputs are shown as histograms: the worst."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself keeps the page from the network."""

COLUMNS = (
    ("#", "Position in the order of computation"),
    ("Layer", "Node of the graph; below it why it is quantized or float"),
    ("Op", "Operator"),
    ("MACs", "Multiplications for one image"),
    ("Weights", "SQNR of the weights, dB"),
    ("Input", "SQNR of the worst quantized input, dB"),
    ("Isolated", "SQNR of the output with the layer's own noise alone, dB"),
    ("Cumulative", "SQNR of the output in the whole quantized graph, dB"),
    ("Logits", "SQNR of the logits with this layer's noise alone, dB"),
    ("Share", "Share of the noise that all layers, one by one, make at the logits"),
    ("Restored", "SQNR of the variant's logits with this layer alone in float, dB"),
    ("Reach", "How far the input's values go, of its range"),
    ("Clipped", "Share of the input's values beyond its range"),
    ("Codes", "Share of the 256 codes that the input uses"),
)
NUMERIC = frozenset({"#", "MACs", *(name for name, _ in COLUMNS[4:])})

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


def check_place(path: Path) -> None:
    """Check that a page can be written, before the work that it shows. Raises OutputError."""
    if path.is_dir():
        raise OutputError(
            f"cannot write {path}: it is a folder; give the name of a file, such as {path / 'analysis.html'}"
        )
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")


def write_page(analysis: Analysis, path: Path) -> None:
    """Write the page, whole or not at all; a file of that name is replaced. Raises OutputError."""
    check_place(path)
    with atomic_file(path) as stream:
        stream.write(analysis_page(analysis).encode())


def analysis_page(analysis: Analysis) -> str:
    """Return the page's HTML."""
    title = f"{analysis.model} {analysis.variant}, layer by layer"
    body = "".join(
        [*_head(analysis), *_chart(analysis), *_histograms(analysis), *_table(analysis), *_terms(), _footer(analysis)]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n<main>{body}</main>\n"
        f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    """Return a file of this package."""
    return (files("edgecnn.report") / name).read_text(encoding="utf-8")


def _head(analysis: Analysis) -> Iterator[str]:
    """Yield the title, the figures and the advice."""
    images = "image" if analysis.images == 1 else "images"
    yield (
        f"<header><p class='kicker'>INT8 layer by layer</p><h1>{escape(analysis.model)} <span>{escape(analysis.variant)}</span></h1>"
        f"<p class='source'>Against fp32, on {analysis.images} {images} ({escape(analysis.source)})</p></header>"
    )
    for note in analysis.notes:
        yield f"<p class='note'>{escape(note)}</p>"
    quantized = sum(layer.quantized for layer in analysis.layers)
    first = analysis.worst[0]
    figures = (
        ("Logits", _db(analysis.logits_db), "SQNR of the whole variant"),
        ("Added up", _db(analysis.added_db), "if single layers' noises add"),
        ("Layers", f"{quantized}", f"in INT8, {len(analysis.layers) - quantized} float"),
        ("Largest share", f"{first.share:.0%}", f"of the noise, from {first.node}"),
    )
    yield "<section class='figures'>"
    for name, value, text in figures:
        number, _, unit = value.partition(" ")
        small = f" <small>{unit}</small>" if unit else ""
        yield f"<div><h2>{name}</h2><strong>{number}{small}</strong><p>{escape(text)}</p></div>"
    yield "</section>"
    option = f"<code>--keep-float '{escape(analysis.keep_float)}'</code>"
    command = f"<p class='act'>Export again with {option}</p>" if analysis.keep_float else ""
    yield f"<section class='advice'><p>{escape(analysis.finding)}</p>{command}</section>"


def _chart(analysis: Analysis) -> Iterator[str]:
    """Yield the chart over the graph."""
    yield "<section><div class='bar'><h2>Noise along the graph</h2>"
    yield _legend(("dot isolated", "isolated"), ("line cumulative", "cumulative"), ("box share", "share at the logits"))
    yield f"</div><div class='scroll'>{noise_chart(analysis.layers)}</div></section>"


def _legend(*items: tuple[str, str]) -> str:
    """Return what the marks of a chart mean: (classes, text) of each."""
    marks = "".join(f"<span><i class='{kind}'></i>{text}</span>" for kind, text in items)
    return f"<p class='legend'>{marks}</p>"


def _histograms(analysis: Analysis) -> Iterator[str]:
    """Yield the worst layers' inputs."""
    chosen = [layer for layer in analysis.worst if layer.inputs][:CARDS]
    if not chosen:
        return
    yield "<section><div class='bar'><h2>Inputs of the worst layers</h2>"
    yield _legend(("box bin", "values, log scale"), ("box outside", "clipped"), ("line limit", "end of the range"))
    yield "</div><div class='cards'>"
    for layer in chosen:
        worst = min(layer.inputs, key=lambda found: found.sqnr_db)
        yield (
            f"<figure><figcaption><a href='#layer-{layer.position}' title='{escape(layer.node)}'>{escape(layer.node)}</a>"
            f"<span>{_db(worst.sqnr_db)}</span></figcaption>{histogram(worst)}"
            f"<p>{_percent(worst.clipped)} clipped, {worst.codes:.0%} of codes</p></figure>"
        )
    yield "</div></section>"


def _table(analysis: Analysis) -> Iterator[str]:
    """Yield the table, the worst layer first."""
    ranked = list(analysis.worst)
    ranked += [layer for layer in analysis.layers if layer.logits_db is None]
    most = max(layer.share for layer in ranked) or 1.0
    yield "<section><div class='bar'><h2>Every layer</h2><p class='controls'><label>Filter <input id='filter' type='search' "
    yield "placeholder='name or operator' autocomplete='off'></label><label><input id='quantized' type='checkbox'> INT8 only</label>"
    yield "</p></div><div class='scroll'><table id='layers'><thead><tr>"
    for name, text in COLUMNS:
        order = " aria-sort='descending'" if name == "Share" else ""
        kind = " class='number'" if name in NUMERIC else ""
        yield f"<th scope='col'{kind}{order}><button type='button' title='{escape(text)}'>{name}</button></th>"
    yield "</tr></thead><tbody>"
    for layer in ranked:
        yield _row(layer, most)
    yield "</tbody></table></div></section>"


def _row(layer: LayerNoise, most: float) -> str:
    """Return one layer's row; cells carry what they are sorted by."""
    worst = min(layer.inputs, key=lambda found: found.sqnr_db, default=None)
    kind = "int8" if layer.quantized else "float"
    name = (
        f"<td data-v='{escape(layer.node)}'><span class='name'>{escape(layer.node)}</span>"
        f"<small><b class='{kind}'>{kind.upper() if layer.quantized else kind}</b> {escape(layer.reason)}</small></td>"
    )
    bar = f"<i style='width:{100 * layer.share / most:.1f}%'></i>" if layer.share else ""
    text = "" if layer.logits_db is None else _percent(layer.share)
    share = f"<td class='number bars' data-v='{layer.share:.6g}'>{text}{bar}</td>"
    cells = [
        _cell(layer.position, str(layer.position)),
        name,
        f"<td data-v='{escape(layer.op)}'>{_breakable(layer.op)}</td>",
        _cell(layer.macs or None, _count(layer.macs)),
        *(_ratio_cell(value) for value in (layer.weight_db, layer.input_db, layer.isolated_db)),
        *(_ratio_cell(value) for value in (layer.cumulative_db, layer.logits_db)),
        share,
        _ratio_cell(layer.restored_db),
        *_range_cells(worst),
    ]
    return f"<tr id='layer-{layer.position}' data-kind='{kind}'>{''.join(cells)}</tr>"


def _range_cells(found: InputRange | None) -> list[str]:
    """Return the cells about an input's range."""
    if found is None:
        return [_cell(None, "")] * 3
    return [
        _cell(found.reach, f"{found.reach:.2f}"),
        _cell(found.clipped, _percent(found.clipped)),
        _cell(found.codes, f"{found.codes:.0%}"),
    ]


def _ratio_cell(value: float | None) -> str:
    """Return a cell of a ratio; no noise at all sorts above any."""
    if value is not None and math.isinf(value):
        return _cell(1e9, "exact")
    return _cell(value, "" if value is None else f"{value:.1f}")


def _cell(value: float | None, text: str) -> str:
    """Return a number's cell."""
    return f"<td class='number' data-v='{'' if value is None else format(value, '.6g')}'>{text}</td>"


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
    return (
        f"<footer>{_count(weights)} weights, {_count(total)} multiplications an image in the layers above. "
        f"Written by edgecnn {escape(__version__)}.</footer>"
    )


def _breakable(name: str) -> str:
    """Return an operator's name, which may break between its words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "<wbr>", escape(name))


def _count(value: int) -> str:
    """Return a large number with a unit."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return str(value) if value else ""


def _percent(share: float) -> str:
    """Return a share as percent, small ones with the digits that they need."""
    if share == 0:
        return "0%"
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%" if share >= 0.001 else "&lt;0.1%"


def _db(value: float) -> str:
    """Return a ratio as text."""
    return "exact" if math.isinf(value) else f"{value:.1f} dB"
