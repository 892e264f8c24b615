"""What may differ, by precision and by kind of sample: policies with the arithmetic of their verdict.

Why a policy and not one number. Float stages (fp32, fp16) compute the same function, so photos and noise may be judged tightly.
On flat pictures they differ more: sums of thousands of equal values are all rounded in one direction, and a global average in
another order is off by 1e-4 of itself (EfficientNet-B2 with another kernel for its averages: 67 dB there, 110 dB on photos).
A quantized graph approximates the function *on inputs like its calibration data*: on Gaussian noise its ranges clip, and on an
all-zeros image its logits are a few rounding steps. There it must stay finite and not be grossly wrong, and no more is asked.

Why agreement is counted with a margin. A network with fresh random weights has logits so close to each other that the noise of
any precision reorders them, and a trained one is undecided between two classes on some photos. A flip tells something only
where the reference was surer than the noise that the tolerance allows anyway. See :class:`LogitTolerance`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from edgecnn.errors import UserError
from edgecnn.parity.metrics import Metrics, ratio_db

__all__ = [
    "DEFAULT_TOLERANCES",
    "GrossErrorTolerance",
    "Kind",
    "LogitTolerance",
    "Tolerance",
    "Tolerances",
    "Verdict",
    "tolerances_for",
]

Kind = Literal["images", "noise", "edge"]

SIGNIFICANCE = 0.05
"""A share of flips breaches the tolerance when chance gives that many less often than this."""

NEGLIGIBLE = 1e-6
"""Differences of no output by more than this are no departure, whatever they are relative to: networks that give zeros."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of judging one comparison; truthy when it passed.

    Attributes:
        reasons: what breached the tolerance, one sentence each; empty when it passed.
        would_pass: the tolerance that would have let it pass: the same policy, loosened just enough. None when none would
            (a NaN or an infinity).
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    would_pass: Tolerance | None = None

    def __bool__(self) -> bool:
        """Return ``passed``."""
        return self.passed


class Tolerance(ABC):
    """A policy: metrics in, verdict out. NaN or infinity fails under every one."""

    kind: ClassVar[str]

    def judge(self, metrics: Metrics, scale: float = 0.0) -> Verdict:
        """Judge a comparison.

        Args:
            metrics: of the comparison, made with ``margin=self.margin``.
            scale: root mean square of the reference's outputs on real images, 0 if there were none. What an output on an
                unusual input is off by is weighed against the outputs' usual size too.
        """
        if not metrics.finite:
            return Verdict(passed=False, reasons=(f"{metrics.nonfinite} of {metrics.samples} samples give NaN or Inf",))
        if metrics.max_abs <= NEGLIGIBLE:
            return Verdict(passed=True, would_pass=self)
        reasons, would_pass = self._judge(metrics, scale)
        return Verdict(passed=not reasons, reasons=reasons, would_pass=would_pass if reasons else self)

    @property
    @abstractmethod
    def margin(self) -> float:
        """What :class:`~edgecnn.parity.metrics.Accumulator` is to take as margin for this policy."""

    @abstractmethod
    def _judge(self, metrics: Metrics, scale: float) -> tuple[tuple[str, ...], Tolerance]:
        """Return what is wrong with finite metrics, and the policy that they would pass."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; an infinite limit is null."""
        values = {name: None if math.isinf(value) else value for name, value in asdict(self).items()}  # type: ignore[call-overload]
        return {"type": self.kind} | values

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tolerance:
        """Read what :meth:`to_json` wrote. Raises UserError for a type that this version does not know."""
        known: dict[str, type[Tolerance]] = {cls.kind: cls for cls in (LogitTolerance, GrossErrorTolerance)}
        if data.get("type") not in known:
            raise UserError(f"tolerance type {data.get('type')!r} is not one of {', '.join(known)}")
        values = {name: math.inf if value is None else value for name, value in data.items() if name != "type"}
        return known[data["type"]](**values)


@dataclass(frozen=True, kw_only=True)
class LogitTolerance(Tolerance):
    """Logits must be close, and decisions the same where the reference decides.

    A decision counts when the reference's margin, best minus second-best logit, exceeds ``2 sqrt(2)`` times the noise of one
    logit at ``noise_db``: two standard deviations of the difference of two equally noisy logits. The noise is the one that the
    policy allows, not the candidate's own, so a worse candidate does not get a smaller exam.

    With few images one unlucky flip is a large percentage. Flips breach the policy when that many would come about with a
    probability below 5 % if the true agreement were ``min_agreement`` (one-sided binomial test).

    For a graph with an embedded softmax ``min_sqnr_db`` is shifted, see :func:`relief_db`.

    Attributes:
        min_sqnr_db: least signal-to-noise ratio of the outputs over the samples, dB.
        min_agreement: least top-1 agreement among the decided samples, percent.
        noise_db: the noise at which a decision still counts, dB; normally equal to ``min_sqnr_db``.
        max_kl: largest mean divergence of the softmax, nats. Not judged by default (infinite): it grows with the square of the
            logits' scale, so that no value fits trained and untrained networks alike.
    """

    kind: ClassVar[str] = "logits"
    min_sqnr_db: float
    min_agreement: float = 100.0
    noise_db: float = math.nan
    max_kl: float = math.inf

    def __post_init__(self) -> None:
        """Check the values."""
        if math.isnan(self.noise_db):
            object.__setattr__(self, "noise_db", self.min_sqnr_db)
        if not 0 <= self.min_agreement <= 100:
            raise UserError(f"min_agreement is a percentage, found {self.min_agreement}")
        if math.isnan(self.min_sqnr_db) or not self.max_kl >= 0:
            raise UserError(f"not a tolerance: min_sqnr_db {self.min_sqnr_db}, max_kl {self.max_kl}")

    @property
    def margin(self) -> float:
        """Two standard deviations of the difference of two logits, relative to the logits' root mean square."""
        return float(2 * math.sqrt(2) * 10 ** (-self.noise_db / 20))

    def _judge(self, metrics: Metrics, _scale: float) -> tuple[tuple[str, ...], Tolerance]:
        """Judge SQNR, agreement and KL."""
        reasons: list[str] = []
        would: LogitTolerance = self
        relief = relief_db(metrics)
        if metrics.sqnr_db < self.min_sqnr_db - relief:
            reasons.append(f"SQNR {metrics.sqnr_db:.1f} dB is below {self.min_sqnr_db - relief:.1f} dB")
            would = replace(would, min_sqnr_db=_floor(metrics.sqnr_db + relief))
        if _too_many(metrics.flips, metrics.decided, 1 - self.min_agreement / 100):
            reasons.append(
                f"top-1 agrees on {metrics.decided_top1:.1f} % of {metrics.decided} decided samples, "
                f"below {self.min_agreement:g} %"
            )
            would = replace(would, min_agreement=_floor(metrics.decided_top1))
        if metrics.kl > self.max_kl:
            reasons.append(f"KL {metrics.kl:.3g} nats is above {self.max_kl:g}")
            would = replace(would, max_kl=-_floor(-metrics.kl, 4))
        return tuple(reasons), would


@dataclass(frozen=True, kw_only=True)
class GrossErrorTolerance(Tolerance):
    """Finite, and no sample off by more than its due share of the outputs' usual size, or of its own where that is larger.

    Its own counts because ranges are bounded: an input whose activations lie far beyond all calibrated ones is clipped to them by
    design, and its outputs then miss most of what they should be. A network that answers a checkerboard with fourteen times
    the logits of any photo cannot be followed there in 8 bits; it is off by nearly its own size, and not by more.

    For a graph with an embedded softmax ``min_headroom_db`` is shifted, see :func:`relief_db`.

    Attributes:
        min_headroom_db: the least ``20 log10(size / off)`` of any sample: off is the root mean square of the difference; size
            that of the sample's own reference, of the reference's outputs on all these samples, or on real images, whichever
            is largest. At 0 dB the outputs may be off by as much as they are, or usually are, from zero.
    """

    kind: ClassVar[str] = "gross-error"
    min_headroom_db: float

    @property
    def margin(self) -> float:
        """Decisions are not judged; every one counts in the numbers."""
        return 0.0

    def _judge(self, metrics: Metrics, scale: float) -> tuple[tuple[str, ...], Tolerance]:
        """Judge the worst sample."""
        usual = max(scale, metrics.signal_rms)
        headroom, size, off = min(
            (ratio_db(max(usual, own) ** 2, off**2), max(usual, own), off) for off, own in metrics.worst_samples
        )
        relief = relief_db(metrics)
        if headroom >= self.min_headroom_db - relief:
            return (), self
        reason = (
            f"the worst sample is off by {off:.3g} (rms) where outputs are {size:.3g}: "
            f"{headroom:.1f} dB, below {self.min_headroom_db - relief:.3g} dB"
        )
        return (reason,), replace(self, min_headroom_db=_floor(headroom + relief))


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """A precision's policies.

    Attributes:
        images: for real photos.
        noise: for Gaussian noise.
        edge: for zeros, ones, one hot pixel, the ends of the range.
        same: for the same arithmetic run otherwise: another batch size, another device, or (but for edge inputs) a stage that
            claims to change nothing. Float sums in another order still differ in the last bits, and those can tip a rounding of
            a quantized graph.
    """

    images: Tolerance
    noise: Tolerance
    edge: Tolerance
    same: Tolerance

    def of(self, kind: Kind) -> Tolerance:
        """Return the policy for a kind of samples."""
        return {"images": self.images, "noise": self.noise, "edge": self.edge}[kind]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {name: getattr(self, name).to_json() for name in ("images", "noise", "edge", "same")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{name: Tolerance.from_json(value) for name, value in data.items()})


_INT8 = Tolerances(
    images=LogitTolerance(min_sqnr_db=10, min_agreement=95),
    noise=GrossErrorTolerance(min_headroom_db=0),
    edge=GrossErrorTolerance(min_headroom_db=0),
    same=LogitTolerance(min_sqnr_db=15, min_agreement=98),
)

DEFAULT_TOLERANCES: Mapping[str, Tolerances] = MappingProxyType(
    {
        "fp32": Tolerances(
            images=LogitTolerance(min_sqnr_db=90),
            noise=LogitTolerance(min_sqnr_db=90),
            edge=GrossErrorTolerance(min_headroom_db=40),
            same=LogitTolerance(min_sqnr_db=90),
        ),
        "fp16": Tolerances(
            images=LogitTolerance(min_sqnr_db=40, min_agreement=99.5),
            noise=LogitTolerance(min_sqnr_db=35, min_agreement=99),
            edge=GrossErrorTolerance(min_headroom_db=30),
            same=LogitTolerance(min_sqnr_db=40, min_agreement=99.5),
        ),
        "int8": _INT8,
        "int8-fp16": _INT8,  # float parts in FP16 add noise 25 dB and more below that of 8 bits
        "int8-cpu": _INT8,
    }
)
"""By precision. Float32 kernels of one network differ by 110 to 140 dB, float16 ones by 50 to 65 dB, INT8 graphs of trained
networks by 15 to 30 dB of logit SQNR; a planted error leaves a few dB. The limits stand between."""


def tolerances_for(precision: str, tolerances: Mapping[str, Tolerances] = DEFAULT_TOLERANCES) -> Tolerances:
    """Return a precision's policies. Raises UserError naming those there are."""
    if precision not in tolerances:
        raise UserError(f"no tolerances for precision {precision!r}; there are some for {', '.join(tolerances)}")
    return tolerances[precision]


def relief_db(metrics: Metrics) -> float:
    """Return by how many dB probabilities may be noisier than the logits that they were made of; 0 for logits.

    The noise of a probability relative to its size is the absolute noise of its logit: logits of root mean square r and a given
    relative noise give probabilities that are noisier by up to 20 log10 r. Where the softmax saturates they are less so, and
    decisions tell more than noise. Logits of less than a tenth count as a tenth: beyond, the rounding of the probabilities
    themselves would be judged.
    """
    return 20 * math.log10(max(0.1, metrics.logit_rms)) if metrics.probabilities else 0.0


def _too_many(flips: int, decided: int, rate: float) -> bool:
    """Whether ``flips`` of ``decided`` are significantly more than ``rate`` explains (upper tail of the binomial)."""
    if flips == 0 or flips <= rate * decided:
        return False
    if rate <= 0:
        return True
    logs = [
        math.lgamma(decided + 1)
        - math.lgamma(k + 1)
        - math.lgamma(decided - k + 1)
        + k * math.log(rate)
        + (decided - k) * math.log1p(-rate)
        for k in range(flips, decided + 1)
    ]
    return math.fsum(math.exp(value) for value in logs) < SIGNIFICANCE


def _floor(value: float, digits: int = 2) -> float:
    """Round down, so that what was measured passes."""
    factor = 10.0**digits
    return math.floor(value * factor) / factor
