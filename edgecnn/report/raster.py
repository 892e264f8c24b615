"""A drawing as pixels, and how wide text is: Pillow, with the font that it brings along."""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgecnn.errors import MissingDependencyError
from edgecnn.report.drawing import LIGHT, Disc, Drawing, Line, Text

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = ["png", "text_width"]

FINE = 2
"""Pixels drawn for each one of the result, in both directions: Pillow's shapes have hard edges."""

FILLED, HOLLOW = 128, 20
"""Opacity of bubbles, of 255."""


def text_width(text: str, size: float) -> float:
    """Return the width of a line of text in pixels; Helvetica and Arial are about as wide."""
    try:
        return float(_font(100).getlength(text)) * size / 100
    except MissingDependencyError:
        return 0.56 * size * len(text)


def png(drawing: Drawing, scale: float = 2.0) -> bytes:
    """Return a PNG file.

    Args:
        drawing: what to draw.
        scale: pixels for each pixel of the drawing.

    Raises:
        MissingDependencyError: Pillow has no FreeType.
    """
    from PIL import Image

    factor = scale * FINE
    size = (round(drawing.width * factor), round(drawing.height * factor))
    image = Image.new("RGB", size, LIGHT["paper"])
    for shape in drawing.shapes:
        if isinstance(shape, Disc):
            _disc(image, shape, factor)
        elif isinstance(shape, Line):
            _line(image, shape, factor)
        else:
            _text(image, shape, factor)
    image = image.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, dpi=(96 * scale, 96 * scale))
    return out.getvalue()


@cache
def _font(size: int) -> FreeTypeFont:
    """Return Pillow's own font. Raises MissingDependencyError."""
    from PIL import ImageFont

    font: Any = ImageFont.load_default(size)
    if not hasattr(font, "getlength") or not isinstance(font, ImageFont.FreeTypeFont):
        raise MissingDependencyError(
            "drawing text needs a Pillow with FreeType, which its wheels have: pip install Pillow"
        )
    return font


def _rgb(role: str) -> tuple[int, int, int]:
    """Return a role's colour."""
    colour = LIGHT[role]
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _disc(image: Image, shape: Disc, factor: float) -> None:
    """Draw a bubble: a translucent inside, and a solid rim."""
    from PIL import Image, ImageDraw

    rim = 2.0 if shape.hollow else 1.3
    left, top = ((value - shape.r - rim) * factor for value in (shape.x, shape.y))
    corner = (int(left), int(top))
    side = int((2 * shape.r + 2 * rim) * factor) + 2
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    inner = [(shape.x - shape.r) * factor - corner[0], (shape.y - shape.r) * factor - corner[1]]
    box = [*inner, inner[0] + 2 * shape.r * factor, inner[1] + 2 * shape.r * factor]
    draw.ellipse(box, fill=HOLLOW if shape.hollow else FILLED, outline=255, width=max(round(rim * factor), 1))
    image.paste(Image.new("RGB", (side, side), _rgb(shape.role)), corner, mask)


def _line(image: Image, shape: Line, factor: float) -> None:
    """Draw a line, dashed by hand."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    width = max(round(shape.width * factor), 1)
    points = [(x * factor, y * factor) for x, y in shape.points]
    if not shape.dashed:
        draw.line(points, fill=_rgb(shape.role), width=width, joint="curve")
        return
    for (x0, y0), (x1, y1) in pairwise(points):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        at = 0.0
        while at < length:
            ends = [
                (x0 + (x1 - x0) * part / length, y0 + (y1 - y0) * part / length)
                for part in (at, min(at + 5 * factor, length))
            ]
            draw.line(ends, fill=_rgb(shape.role), width=width)
            at += 9 * factor


def _text(image: Image, shape: Text, factor: float) -> None:
    """Draw a line of text."""
    from PIL import Image, ImageDraw

    font = _font(round(shape.size * factor))
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
    # Pillow's font has one weight: a hairline around the letters makes the other.
    stroke = round(0.03 * shape.size * factor) if shape.bold else 0
    if not shape.upright:
        draw = ImageDraw.Draw(image)
        place = (shape.x * factor, shape.y * factor)
        if shape.halo:
            draw.text(
                place,
                shape.text,
                font=font,
                anchor=anchor,
                fill="white",
                stroke_width=round(1.5 * factor),
                stroke_fill="white",
            )
        draw.text(place, shape.text, font=font, anchor=anchor, fill=_rgb(shape.role), stroke_width=stroke)
        return
    left, top, right, bottom = font.getbbox(shape.text, anchor="ls")
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    ImageDraw.Draw(mask).text((-left, -top), shape.text, font=font, anchor="ls", fill=255)
    turned = mask.rotate(90, expand=True)
    along = {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor]
    corner = (round(shape.x * factor + top), round(shape.y * factor - turned.height * (1 - along)))
    image.paste(Image.new("RGB", turned.size, _rgb(shape.role)), corner, turned)
