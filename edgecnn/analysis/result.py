"""What an analysis found, and what it says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Analysis", "InputRange", "LayerNoise"]

STANDS_OUT = 0.5
"""What the logits must gain, dB, for a layer to be worth returning to float."""


@dataclass(frozen=True, kw_only=True)
class InputRange:
    """One quantized input of a layer, and how its values fill the range.

    Attributes:
        tensor: its name. ``scale``, ``zero_point``: of the quantizer.
        low, high: what the quantizer can express; values beyond are clipped.
        smallest, largest: values seen.
        sqnr_db: of quantizing this tensor, on float values; infinite if that loses nothing.
        clipped: share of the values beyond the range.
        reach: how far the values go, of the range: 1 where they reach its end, more where they are clipped.
        codes: share of the type's 256 codes that occur.
        histogram: counts of the values in equal bins from ``edges[0]`` to ``edges[1]``.
    """

    tensor: str
    scale: float
    zero_point: int
    low: float
    high: float
    smallest: float
    largest: float
    sqnr_db: float
    clipped: float
    reach: float
    codes: float
    histogram: tuple[int, ...]
    edges: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """One layer.

    Attributes:
        position: in the order of computation, from 1.
        node, op, module: the graph's node, and the PyTorch module that it came from.
        quantized, reason: the quantizer's decision.
        output, shape: the tensor that it gives, behind an activation that belongs to it, for one image.
        parameters: weights, without the bias. ``macs``: multiplications for one image; 0 for layers without weights.
        weight_db: SQNR of its weights, None if they are float.
        inputs: its quantized inputs.
        isolated_db: SQNR of its output with float inputs, so that all noise is its own; None if nothing of it is quantized.
        cumulative_db: SQNR of its output in the whole quantized graph.
        logits_db: SQNR of the logits with this layer's own noise alone; None as ``isolated_db``.
        share: of the noise that all layers, one by one, make at the logits.
        restored_db: SQNR of the variant's logits if this layer alone were float; measured for the worst layers, else None.
    """

    position: int
    node: str
    op: str
    module: str
    quantized: bool
    reason: str
    output: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    weight_db: float | None
    inputs: tuple[InputRange, ...]
    isolated_db: float | None
    cumulative_db: float
    logits_db: float | None
    share: float
    restored_db: float | None

    @property
    def input_db(self) -> float | None:
        """SQNR of its worst input, None if none is quantized."""
        return min((found.sqnr_db for found in self.inputs), default=None)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was found.

    Attributes:
        model, variant, precision: what was analysed.
        images, source: how many, and from where.
        logits_db: SQNR of the variant's logits.
        added_db: the same if the noises of single layers added up: near ``logits_db`` where they do.
        layers: in the order of computation.
        notes: what a reader should know.
    """

    model: str
    variant: str
    precision: str
    images: int
    source: str
    logits_db: float
    added_db: float
    layers: tuple[LayerNoise, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> tuple[LayerNoise, ...]:
        """The layers that make noise, the one that costs the logits most first."""
        noisy = [layer for layer in self.layers if layer.logits_db is not None]
        return tuple(sorted(noisy, key=lambda layer: (-layer.share, layer.isolated_db, layer.position)))

    @property
    def best(self) -> LayerNoise:
        """The INT8 layer whose return to float gains most, as far as that was measured."""
        chosen = [layer for layer in self.worst if layer.quantized] or self.worst
        return max(chosen, key=lambda layer: -math.inf if layer.restored_db is None else layer.restored_db)

    @property
    def gain_db(self) -> float:
        """What the logits would gain if :attr:`best` were float; 0 where the variant loses nothing."""
        restored = self.best.restored_db
        return 0.0 if math.isinf(self.logits_db) or restored is None else restored - self.logits_db

    @property
    def keep_float(self) -> str:
        """The pattern that leaves the best layer float, for ``--keep-float``; "" where no layer stands out."""
        return f"^{re.escape(self.best.node)}$" if self.gain_db >= STANDS_OUT else ""

    @property
    def finding(self) -> str:
        """What to leave float, or that no layer stands out."""
        best = self.best
        if math.isinf(self.logits_db):
            return f"No layer of {self.variant} changes the logits: they are fp32's."
        about = (
            f"It makes {best.share:.0%} of the layers' noise there (isolated {_db(best.isolated_db)}; {_mostly(best)})."
        )
        change = f"{self.logits_db:.1f} -> {_db(best.restored_db)} at the logits"
        if self.keep_float:
            return f"Leaving {best.node} float would gain most: {change}. {about}"
        return f"No layer stands out: the most that leaving one float gains is {change}, for {best.node}. {about}"

    @property
    def advice(self) -> str:
        """The finding, and how to act on it."""
        return f"{self.finding} Export with --keep-float '{self.keep_float}'." if self.keep_float else self.finding

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; an infinite ratio is null."""
        plain = _plain(self)
        return {
            **{key: value for key, value in plain.items() if key != "layers"},
            "advice": self.advice,
            "worst": [layer.node for layer in self.worst],
            "layers": [{**_plain(layer), "inputs": [_plain(found) for found in layer.inputs]} for layer in self.layers],
        }


def _mostly(layer: LayerNoise) -> str:
    """Say which half of a layer makes most of its noise."""
    given, weight = layer.input_db, layer.weight_db
    if given is None or weight is None or abs(given - weight) < 3:
        pair = [f"{name} {_db(value)}" for name, value in (("input", given), ("weights", weight)) if value is not None]
        return ", ".join(pair)
    if given < weight:
        return f"mostly its input's, {_db(given)} to the weights' {_db(weight)}"
    return f"mostly its weights', {_db(weight)} to the input's {_db(given)}"


def _db(value: float | None) -> str:
    """Return a ratio as text."""
    return "-" if value is None else f"{value:.1f} dB"


def _plain(item: Any) -> dict[str, Any]:
    """Return a dataclass's fields, JSON-ready but for nested ones."""
    data = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(item).items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in data.items()}
