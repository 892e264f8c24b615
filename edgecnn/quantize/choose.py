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
from edgecnn.quantize.sensitivity import logit_noise, logits_of

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
        """Return a JSON-ready dict; no dB where the logits were not finite."""
        sqnr = round(self.sqnr_db, 3) if np.isfinite(self.noise) else None
        return {"method": self.method.to_json(), "sqnr_db": sqnr, "agreement": self.agreement}

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
        uncorrected: of the chosen method without bias correction; None where that was not to be tried.
    """

    method: Method
    scores: tuple[Score, ...]
    images: int
    uncorrected: Score | None = None

    @property
    def corrects_biases(self) -> bool:
        """Whether bias correction helps; true where it was not tried without."""
        if self.uncorrected is None:
            return True
        return self.uncorrected.noise >= min(score.noise for score in self.scores if score.method == self.method)

    def applied(self, config: QuantizeConfig) -> QuantizeConfig:
        """Return the configuration with what was chosen."""
        biases = config.bias_correction and self.corrects_biases
        return replace(config, method=self.method, bias_correction=biases)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "method": self.method.to_json(),
            "images": self.images,
            "scores": [score.to_json() for score in self.scores],
            "uncorrected": None if self.uncorrected is None else self.uncorrected.to_json(),
        }

    def __str__(self) -> str:
        """Return the choice in words."""
        if not self.scores:
            return f"ranges by {self.method}, unmeasured: auto needs at least 2 calibration samples"
        others = ", ".join(str(score) for score in self.scores)
        told = f"ranges by {self.method}, the best on {self.images} held-out calibration samples ({others} dB)"
        if self.uncorrected is not None and not self.corrects_biases:
            told += f", biases as they are, which is better there ({self.uncorrected.sqnr_db:.1f} dB)"
        return told


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

    Weights are rounded to the nearest: what the ranges lose shows just as well, in a second. Where they stay so (``fast``), the chosen
    method is tried without bias correction too, which can lose: 0.2 dB on an untrained EfficientNet-B0 with ``int8-cpu`` and ``mse``.

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
    wanted = logits_of(model.path, feeds, threads)
    total = len(auto.candidates) + (config.effort == "fast" and config.bias_correction)
    scores: list[Score] = []
    uncorrected: Score | None = None
    with TemporaryDirectory(prefix="edgecnn-") as folder:

        def score(method: Method, *, biases: bool) -> Score:
            to = Path(folder) / "candidate.onnx"
            own = replace(config, method=method, effort="fast", bias_correction=biases)
            quantize(model, samples, own, to=to, statistics=statistics)
            found = logits_of(to, feeds, threads)
            same = float(100 * (found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
            return Score(method=method, noise=logit_noise(wanted, found), agreement=same)

        for done, method in enumerate(auto.candidates):
            progress("choose", done, total)
            scores.append(score(method, biases=config.bias_correction))
        best = min(scores, key=lambda score: score.noise)
        if total > len(scores):
            uncorrected = score(best.method, biases=False)
    progress("choose", total, total)
    return Choice(method=best.method, scores=tuple(scores), images=len(feeds), uncorrected=uncorrected)
