"""Which range method: each candidate is tried, and the logits of samples that no range was taken from decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.artifacts import OnnxModel
from edgecnn.calib.data import Samples
from edgecnn.calib.methods import Auto, Method
from edgecnn.calib.split import split
from edgecnn.errors import SpecError
from edgecnn.progress import Progress, silent
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.sensitivity import logits_of

if TYPE_CHECKING:
    from edgecnn.calib.statistics import Statistics

__all__ = ["Choice", "Score", "choose"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one method came to.

    Attributes:
        method: the candidate.
        noise: energy of the logits' error over that of the logits.
        agreement: share of the held-out samples with the float network's top-1 class, percent.
    """

    method: Method
    noise: float
    agreement: float

    @property
    def sqnr_db(self) -> float:
        """Of the logits, dB."""
        return float(-10 * np.log10(max(self.noise, 1e-30)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"method": self.method.to_json(), "sqnr_db": round(self.sqnr_db, 3), "agreement": self.agreement}

    def __str__(self) -> str:
        """Return the score in words."""
        return f"{self.method} {self.sqnr_db:.1f}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        method: the chosen one.
        scores: of every candidate, in their order; none where there were too few samples to hold one out.
        images: samples that were held out.
    """

    method: Method
    scores: tuple[Score, ...]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "method": self.method.to_json(),
            "images": self.images,
            "scores": [score.to_json() for score in self.scores],
        }

    def __str__(self) -> str:
        """Return the choice in words."""
        if not self.scores:
            return f"ranges by {self.method}, unmeasured: auto needs at least 2 calibration samples"
        others = ", ".join(str(score) for score in self.scores)
        return f"ranges by {self.method}, the best on {self.images} held-out calibration samples ({others} dB)"


def choose(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    statistics: Statistics,
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> Choice:
    """Quantize with each candidate of ``config.method`` and return the one with the least error of the logits.

    Weights are rounded to the nearest: what the ranges lose shows just as well, in a second.

    Args:
        model: float. ``samples``: all of them.
        config: whose method is an :class:`~edgecnn.calib.methods.Auto`.
        statistics: of :func:`edgecnn.quantize.statistics_for`, so without those that are held out here.
        threads: cores to use; 0 uses all.
        progress: told about candidates.

    Raises:
        SpecError: statistics of other samples. DataError: no sample can be read.
        GraphError: quantized already, or nothing to quantize.
    """
    from edgecnn.quantize.quantizer import quantize

    auto = config.method
    assert isinstance(auto, Auto)
    rest, held_out = split(samples, auto.images)
    if statistics.hashes["data"] != rest.fingerprint():
        raise SpecError(
            "these statistics count the samples that auto holds out: collect them by statistics_for with auto's own config"
        )
    feeds = list(held_out)
    if not feeds:
        return Choice(method=auto.candidates[0], scores=(), images=0)
    wanted = logits_of(model.path, feeds, threads).astype(np.float64)
    scores: list[Score] = []
    with TemporaryDirectory(prefix="edgecnn-") as folder:
        to = Path(folder) / "candidate.onnx"
        for done, method in enumerate(auto.candidates):
            progress("choose", done, len(auto.candidates))
            own = replace(config, method=method, effort="fast")
            quantize(model, samples, own, to=to, statistics=statistics)
            found = logits_of(to, feeds, threads)
            noise = float(np.square(found - wanted).sum() / (np.square(wanted).sum() or 1.0))
            same = float(100 * (found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
            scores.append(Score(method=method, noise=noise, agreement=same))
    progress("choose", len(auto.candidates), len(auto.candidates))
    best = min(scores, key=lambda score: score.noise if np.isfinite(score.noise) else np.inf)
    return Choice(method=best.method, scores=tuple(scores), images=len(feeds))
