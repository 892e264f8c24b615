"""Where the names of bubbles go, so that none lies on another: tried around each bubble, improved in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bubble", "Placed", "place_labels"]

DIRECTIONS = 16
DISTANCES = (3.0, 9.0, 17.0, 28.0, 42.0, 60.0)
"""From a bubble's rim to its name, pixels."""

LEADER = 12.0
"""From this distance on a thin line leads from the bubble to its name."""

ROUNDS = 8
ON_LABEL, ON_BUBBLE, ON_LINE, OUTSIDE, FAR = 60.0, 2.0, 0.6, 1e4, 2.0
"""Cost of each square pixel on another name, on a bubble, of each pixel of a line that is covered, of being outside, and of distance."""

ASTRAY, CLEAR = 8.0, 5.0
"""Cost of each pixel by which another bubble is nearer to a name than its own one and ``CLEAR`` more."""


@dataclass(frozen=True)
class Bubble:
    """A bubble that wants a name: centre, radius, and the size of the name, pixels; the first ones are served first."""

    x: float
    y: float
    r: float
    width: float
    height: float


@dataclass(frozen=True)
class Placed:
    """Where a name goes: its left edge and middle height; ``leader`` is the line to it, or empty; ``inside`` its own bubble."""

    x: float
    y: float
    leader: tuple[tuple[float, float], ...]
    inside: bool


def place_labels(
    bubbles: Sequence[Bubble],
    box: tuple[float, float, float, float],
    line: Sequence[tuple[float, float]] = (),
) -> list[Placed | None]:
    """Return a place for each bubble's name; None where it would lie on another one that is served first.

    Args:
        bubbles: the most important first.
        box: left, top, right, bottom of the plot; names stay inside.
        line: that names had better not cover.
    """
    if not bubbles:
        return []
    options = [_options(bubble) for bubble in bubbles]
    boxes = [np.array([option[:4] for option in found]) for found in options]
    own = [
        _own_cost(boxes[index], np.array([option[4] for option in options[index]]), index, bubbles, box, line)
        for index in range(len(bubbles))
    ]
    chosen = [int(cost.argmin()) for cost in own]
    for _ in range(ROUNDS):
        moved = False
        for index in range(len(bubbles)):
            others = np.array([boxes[k][chosen[k]] for k in range(len(bubbles)) if k != index])
            cost = own[index] + (ON_LABEL * _overlap(boxes[index], others).sum(axis=1) if len(others) else 0.0)
            best = int(cost.argmin())
            if cost[best] < cost[chosen[index]] - 1e-9:
                chosen[index], moved = best, True
        if not moved:
            break
    return _kept(bubbles, options, boxes, chosen)


def _kept(
    bubbles: Sequence[Bubble],
    options: Sequence[Sequence[tuple[float, ...]]],
    boxes: Sequence[NDArray[np.float64]],
    chosen: Sequence[int],
) -> list[Placed | None]:
    """Give up the names that still lie on those before them."""
    kept: list[NDArray[np.float64]] = []
    placed: list[Placed | None] = []
    for index, bubble in enumerate(bubbles):
        mine = boxes[index][chosen[index]]
        if kept and float(_overlap(mine[None], np.array(kept)).max()) > 1.0:
            placed.append(None)
            continue
        kept.append(mine)
        left, top, right, bottom, distance = options[index][chosen[index]]
        leader: tuple[tuple[float, float], ...] = ()
        if distance >= LEADER:
            near = (min(max(bubble.x, left), right), min(max(bubble.y, top), bottom))
            leader = ((bubble.x, bubble.y), near)
        placed.append(Placed(left, (top + bottom) / 2, leader, distance == 0))
    return placed


def _options(bubble: Bubble) -> list[tuple[float, float, float, float, float]]:
    """Return the places to try: left, top, right, bottom, and the distance from the rim; inside the bubble where there is room."""
    w, h = bubble.width, bubble.height
    found = []
    if math.hypot(w, h) < 1.9 * bubble.r:
        found.append((bubble.x - w / 2, bubble.y - h / 2, bubble.x + w / 2, bubble.y + h / 2, 0.0))
    for distance in DISTANCES:
        for step in range(DIRECTIONS):
            angle = 2 * math.pi * step / DIRECTIONS
            cos, sin = math.cos(angle), math.sin(angle)
            x, y = bubble.x + (bubble.r + distance) * cos, bubble.y + (bubble.r + distance) * sin
            left = x - w * (1 - cos) / 2 if abs(cos) < 0.9 else (x if cos > 0 else x - w)
            top = y - h * (1 - sin) / 2
            found.append((left, top, left + w, top + h, distance))
    return found


def _own_cost(
    boxes: NDArray[np.float64],
    distances: NDArray[np.float64],
    index: int,
    bubbles: Sequence[Bubble],
    box: tuple[float, float, float, float],
    line: Sequence[tuple[float, float]],
) -> NDArray[np.float64]:
    """Return what each place costs, apart from other names."""
    squares = np.array([(b.x - 0.85 * b.r, b.y - 0.85 * b.r, b.x + 0.85 * b.r, b.y + 0.85 * b.r) for b in bubbles])
    weights = np.array([ON_BUBBLE * (0.0 if k == index else min(1.0, 9.0 / b.r)) for k, b in enumerate(bubbles)])
    cost = (_overlap(boxes, squares) * weights).sum(axis=1) + FAR * distances
    cost += ASTRAY * _astray(boxes, distances, index, bubbles)
    outside = np.maximum(box[0] - boxes[:, 0], 0) + np.maximum(boxes[:, 2] - box[2], 0)
    outside += np.maximum(box[1] - boxes[:, 1], 0) + np.maximum(boxes[:, 3] - box[3], 0)
    cost += OUTSIDE * (outside > 0)
    for (x0, y0), (x1, y1) in pairwise(line):
        steps = max(int(math.dist((x0, y0), (x1, y1)) / 4), 1)
        part = (np.arange(steps) + 0.5) / steps
        xs, ys = x0 + (x1 - x0) * part, y0 + (y1 - y0) * part
        inside = (xs >= boxes[:, :1]) & (xs <= boxes[:, 2:3]) & (ys >= boxes[:, 1:2]) & (ys <= boxes[:, 3:4])
        cost += ON_LINE * 4 * inside.sum(axis=1)
    result: NDArray[np.float64] = cost
    return result


def _astray(
    boxes: NDArray[np.float64], distances: NDArray[np.float64], index: int, bubbles: Sequence[Bubble]
) -> NDArray[np.float64]:
    """Return by how many pixels the nearest other bubble is too near to each place, which a reader would take for its name."""
    others = [bubble for k, bubble in enumerate(bubbles) if k != index]
    if not others:
        return np.zeros(len(boxes))
    x, y, r = np.array([(b.x, b.y, b.r) for b in others]).T
    dx = np.maximum(np.maximum(boxes[:, :1] - x, x - boxes[:, 2:3]), 0)
    dy = np.maximum(np.maximum(boxes[:, 1:2] - y, y - boxes[:, 3:4]), 0)
    nearest = np.maximum(np.hypot(dx, dy) - r, 0).min(axis=1)
    short: NDArray[np.float64] = np.maximum(np.minimum(distances, LEADER) + CLEAR - nearest, 0)
    return short


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area that each box of the first (N, 4) shares with each of the second (M, 4): (N, M), square pixels."""
    left = np.maximum(first[:, None, :2], second[None, :, :2])
    right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(right - left, 0, None)
    area: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area
