"""Writing a comparison as pictures and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from edgecnn.comparison import AXES, Axis, Comparison
from edgecnn.errors import UserError
from edgecnn.report.compare_page import comparison_page
from edgecnn.report.drawing import svg
from edgecnn.report.html import write_text
from edgecnn.report.raster import png
from edgecnn.report.scatter import Frame, scatter
from edgecnn.writing import check_writable, write_bytes

__all__ = ["write_comparison"]


def write_comparison(
    comparison: Comparison, places: Mapping[str, Path], *, axis: str = "", log: bool = True
) -> list[Path]:
    """Write a comparison, each file whole or not at all.

    Args:
        comparison: what to show.
        places: ``png``, ``svg`` and ``html``, each to a file; those that are absent are not written.
        axis: of the pictures: ``macs`` or ``latency``; "" takes latency where it was measured.
        log: whether the pictures' axis is logarithmic.

    Returns:
        The files, in that order.

    Raises:
        UserError: an unknown kind or axis, or nothing to draw on it.
        OutputError: a place cannot be written.
        MissingDependencyError: ``png`` needs a Pillow with FreeType.
    """
    if unknown := sorted(set(places) - {"png", "svg", "html"}):
        raise UserError(f"a comparison is written as png, svg or html, not as {unknown[0]}")
    if axis not in ("", *AXES):
        raise UserError(f"axis {axis!r} is not one of {', '.join(AXES)}")
    for path in places.values():
        check_writable(path)
    chosen = cast("Axis", axis) if axis else "latency" if "latency" in comparison.axes else "macs"
    drawing = scatter(comparison, Frame(axis=chosen, log=log)) if {"png", "svg"} & set(places) else None
    written = []
    if drawing is not None and "png" in places:
        write_bytes(places["png"], png(drawing))
        written.append(places["png"])
    if drawing is not None and "svg" in places:
        write_text(svg(drawing, alone=True), places["svg"])
        written.append(places["svg"])
    if "html" in places:
        write_text(comparison_page(comparison), places["html"])
        written.append(places["html"])
    return written
