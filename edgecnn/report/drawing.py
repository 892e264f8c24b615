"""A drawing as a list of shapes, so that one layout becomes SVG, part of a page, or pixels; and its colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["FONT", "LIGHT", "Anchor", "Disc", "Drawing", "Line", "Shape", "Text", "svg"]

Anchor = Literal["start", "middle", "end"]

FONT = 'Helvetica, Arial, "Liberation Sans", sans-serif'

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "ink": "#1c2024",
    "soft": "#667079",
    "hair": "#e4e4e0",
    "front": "#1c2024",
    "alexnet": "#6b7280",
    "vgg": "#c8352b",
    "googlenet": "#b8860b",
    "inception": "#8a6d1d",
    "resnet": "#2563c9",
    "densenet": "#2a8c55",
    "senet": "#7551c9",
    "efficientnet": "#d0307f",
    "mobilenet": "#0b8ea0",
    "deformable": "#8a4b2f",
    "user": "#1c2024",
}
"""Role -> colour on paper; the page's style sheet has the same roles, for dark screens too."""


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A bubble.

    Attributes:
        x, y, r: centre and radius, pixels.
        role: of its colour.
        key: what it stands for, for scripts; "" in a legend.
        title: what a pointer over it says.
        hollow: drawn as a ring.
    """

    x: float
    y: float
    r: float
    role: str
    key: str = ""
    title: str = ""
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points."""

    points: Sequence[tuple[float, float]]
    role: str
    width: float = 1.0
    dashed: bool = False
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of text; ``y`` is its baseline. ``halo`` sets it off from what lies below, ``upright`` turns it by 90 degrees."""

    x: float
    y: float
    text: str
    role: str = "soft"
    size: float = 13
    anchor: Anchor = "start"
    bold: bool = False
    halo: bool = False
    upright: bool = False
    key: str = ""


Shape = Disc | Line | Text


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Shapes on paper, the lowest first; ``label`` says to those who cannot see it what it shows."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    label: str


def svg(drawing: Drawing, *, alone: bool = False) -> str:
    """Return SVG text.

    Args:
        drawing: what to write.
        alone: with paper, fonts and colours, as a file of its own; otherwise they are the page's, by class name.
    """
    body = "".join(_shape(shape) for shape in drawing.shapes)
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img" aria-label="{escape(drawing.label)}"'
    if not alone:
        return f'<svg class="plot" {box}>{body}</svg>'
    size = f'xmlns="http://www.w3.org/2000/svg" width="{drawing.width:g}" height="{drawing.height:g}"'
    paper = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    return f"<svg {size} {box}>\n<title>{escape(drawing.label)}</title>\n<style>{_style()}</style>\n{paper}{body}\n</svg>\n"


def _style() -> str:
    """Return the style sheet of a drawing that stands alone: what the page's own says of these classes, in light."""
    rules = [
        f"text{{font-family:{FONT};fill:{LIGHT['soft']}}}",
        ".halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}",
        ".line{fill:none;stroke-linejoin:round}",
        ".disc{fill-opacity:.5;stroke-width:1.3}",
        ".hollow{fill-opacity:.08;stroke-width:2}",
    ]
    rules += [
        f".disc.{role}{{fill:{colour};stroke:{colour}}}text.{role}{{fill:{colour}}}.line.{role}{{stroke:{colour}}}"
        for role, colour in LIGHT.items()
    ]
    return "".join(rules)


def _shape(shape: Shape) -> str:
    """Return one shape."""
    key = f' data-key="{escape(shape.key)}"' if shape.key else ""
    if isinstance(shape, Disc):
        title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        kind = f"disc hollow {shape.role}" if shape.hollow else f"disc {shape.role}"
        return f'<circle class="{kind}"{key} cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.r:.1f}">{title}</circle>'
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        dashed = ' stroke-dasharray="5 4"' if shape.dashed else ""
        return f'<polyline class="line {shape.role}"{key} stroke-width="{shape.width:g}"{dashed} points="{points}"/>'
    halo = " halo" if shape.halo else ""
    bold = ' font-weight="600"' if shape.bold else ""
    turned = f' transform="rotate(-90 {shape.x:.1f} {shape.y:.1f})"' if shape.upright else ""
    anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    return (
        f'<text class="{shape.role}{halo}"{key} x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}"'
        f"{anchor}{bold}{turned}>{escape(shape.text)}</text>"
    )
