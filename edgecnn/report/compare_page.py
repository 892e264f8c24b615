"""The page of a comparison: the picture with switches, and the table behind it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgecnn.comparison import Comparison, Point, front
from edgecnn.comparison.names import FAMILIES
from edgecnn.report import html
from edgecnn.report.drawing import svg
from edgecnn.report.html import Column, Row, Table, cell, text_cell
from edgecnn.report.scatter import Frame, scatter

__all__ = ["comparison_page"]

COLUMNS = (
    Column("Network", "The model, or the bundle and its variant"),
    Column("Family"),
    Column("Top-1 %", "Accuracy; below it where it comes from", number=True),
    Column("GMACs", "Multiply-adds for one image, 10^9", number=True),
    Column("Mparams", "Parameters, 10^6", number=True),
    Column("ms", "Latency of one image on this device", number=True),
    Column("Ratio", "Latency over that of the reference, and half the interquartile range of the rounds", number=True),
    Column("Input", "Channels, height, width"),
    Column("Weights", "Whose accuracy it is"),
)
LATENCY = ("ms", "Ratio")


def comparison_page(comparison: Comparison) -> str:
    """Return the page's HTML; where there is nothing to draw, the table alone."""
    body = [*_head(comparison), *_plot(comparison), _table(comparison), *_left_out(comparison), *_terms(comparison)]
    title = f"{comparison.title}: accuracy against cost"
    return html.document(title, [*body, html.footer()], scripts=("page.js", "compare.js"), styles=("compare.css",))


def _head(comparison: Comparison) -> Iterator[str]:
    """Yield the title and the notes."""
    told = f"{len(comparison.points)} networks"
    if comparison.device:
        told += f", latency measured on {comparison.device}"
    yield (
        f"<header><p class='kicker'>Accuracy against cost</p><h1>{escape(comparison.title)}</h1>"
        f"<p class='source'>{escape(told)}</p></header>"
    )
    for note in comparison.notes:
        yield f"<p class='note'>{escape(note)}</p>"


def _plot(comparison: Comparison) -> Iterator[str]:
    """Yield the picture: one panel an axis and scale, of which the script shows one at a time."""
    axes = tuple(reversed(comparison.axes))  # measured latency first, where there is any
    if not axes:
        yield html.section(
            "Picture", "<p class='hint'>No network has both an accuracy and a cost to draw it against.</p>"
        )
        return
    panels: list[str] = []
    for axis in axes:
        for scale in ("log", "linear"):
            drawn = svg(scatter(comparison, Frame(axis=axis, log=scale == "log", headed=False)))
            hidden = " hidden" if panels else ""
            panels.append(f"<div class='panel scroll' data-axis='{axis}' data-scale='{scale}'{hidden}>{drawn}</div>")
    present = {point.family for point in comparison.points if any(point.drawn(axis) for axis in axes)}
    chips = "".join(
        f"<button type='button' class='chip' aria-pressed='true' data-family='{name}'><i class='{name}'></i>{FAMILIES[name]}</button>"
        for name in FAMILIES
        if name in present
    )
    names = {"macs": "Operations", "latency": "Latency"}
    radios = "".join(
        f"<label><input type='radio' name='axis' value='{axis}'{' checked' if axis == axes[0] else ''}> {names[axis]}</label>"
        for axis in axes
    )
    picker = f"<span role='group' aria-label='Across'>{radios}</span>" if len(axes) > 1 else ""
    switches = f"<p class='controls switches' hidden>{picker}<label><input id='log' type='checkbox' checked> Log scale</label></p>"
    legend = f"<div class='chips' role='group' aria-label='Families'>{chips}</div>"
    hollow = any(not point.own_accuracy for point in comparison.points)
    told = "Area of a bubble: parameters. Dashed: Pareto front of what is shown."
    hint = f"<p class='hint'>{told}{' Hollow: the accuracy is that of the fp32 network.' if hollow else ''}</p>"
    yield html.section("Picture", legend, *panels, hint, "<div id='tip' role='status' hidden></div>", beside=switches)


def _table(comparison: Comparison) -> str:
    """Return the table, the most accurate first."""
    timed = any(point.latency for point in comparison.points)
    columns = [column for column in COLUMNS if timed or column.name not in LATENCY]
    fronts = {axis: {point.name for point in front(comparison.points, axis)} for axis in comparison.axes}
    ranked = sorted(comparison.points, key=lambda point: -(point.top1 or 0.0))
    rows = [_row(point, any(point.name in names for names in fronts.values()), timed=timed) for point in ranked]
    found = Table(
        ident="points",
        caption="Every network with its accuracy, operations, parameters and latency",
        columns=columns,
        rows=rows,
        ordered="Top-1 %",
    )
    beside = html.controls("points", "name, family or weights", kind="front", label="On a Pareto front only")
    return html.section("Every network", html.table(found), beside=beside)


def _row(point: Point, best: bool, *, timed: bool) -> Row:
    """Return one network's row."""
    name = f"<span class='name'><i class='swatch {point.family}'></i>{escape(point.name)}</span>"
    accuracy = html.number(point.top1)
    if point.accuracy and point.accuracy != "published":
        accuracy += f"<small>{escape(point.accuracy)}</small>"
    timing = []
    if timed:
        latency = point.latency
        if latency is None:
            timing = [cell(None, ""), cell(None, "")]
        else:
            where = f"<small>{escape(latency.backend)}</small>"
            ratio = f"{latency.ratio:.3g}<small>± {latency.spread:.2g}</small>"
            timing = [cell(latency.milliseconds, f"{latency.milliseconds:.3g}{where}"), cell(latency.ratio, ratio)]
    cells = [
        text_cell(point.name, name),
        text_cell(FAMILIES[point.family]),
        cell(point.top1, accuracy),
        cell(point.macs, html.number(None if point.macs is None else point.macs / 1e9)),
        cell(point.params, html.number(None if point.params is None else point.params / 1e6, 1)),
        *timing,
        text_cell("x".join(map(str, point.size))),
        text_cell(point.weights, small=html.source_link(point.source)),
    ]
    return Row(cells=cells, key=point.name, kind="front" if best else "beaten")


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Yield what is not compared, and why."""
    if comparison.left_out:
        items = "".join(f"<li><b>{escape(item.name)}</b>: {escape(item.reason)}</li>" for item in comparison.left_out)
        yield html.section("Left out", f"<ul>{items}</ul>")


def _terms(comparison: Comparison) -> Iterator[str]:
    """Yield what the words mean."""
    terms = [
        ("Top-1", "share of ImageNet-1k's validation images whose most probable class is right, as the weights' publisher states it."),
        ("Operations", "multiply-adds of convolutions and linear layers for one image of the input size in the table."),
        ("Pareto front", "networks that no other one beats: none is at least as accurate and costs less."),
    ]  # fmt: skip
    if comparison.reference:
        text = (
            f"each network runs in turns with {comparison.reference}, and its ratio to it is scaled by that network's time over the "
            "whole comparison: a busy moment of the machine disturbs both alike. A ratio within ± of another one says nothing."
        )
        terms.append(("Latency", text))
    yield "<section class='terms'><h2>How to read this</h2><dl>"
    for name, text in terms:
        yield f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
    yield "</dl></section>"
