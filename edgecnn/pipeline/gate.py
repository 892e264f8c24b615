"""INT8 is worth its loss of accuracy only where it is faster: measured on the device, side by side with the float it would replace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecnn.artifacts import Engine, EngineSpeed, OnnxModel
from edgecnn.bench.timing import interleave
from edgecnn.engine import BuildConfig
from edgecnn.engine.device import device
from edgecnn.errors import UserError
from edgecnn.optional import need
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import fastest_engine
from edgecnn.runtime.session import Array
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession
from edgecnn.runtime.trt_api import spoken

__all__ = ["BASELINE", "SECONDS", "LatencyGate", "check_gate", "cpu_gate", "engine_gate", "gated_variants", "timed"]

BASELINE = "fp16"
"""What INT8 would replace on a GPU."""

SECONDS = 2.0
"""Of measuring, for each engine."""


@dataclass(frozen=True, kw_only=True)
class LatencyGate:
    """What was measured and chosen. Truthy when INT8 is the faster one.

    Attributes:
        winner: what the bundle runs by default.
        ratios: variant -> its time as a multiple of ``baseline``'s, in the same rounds.
        baseline: a float variant.
        where: on what, in words.
    """

    winner: str
    ratios: Mapping[str, float]
    baseline: str
    where: str

    def __bool__(self) -> bool:
        """Whether INT8 won."""
        return self.winner.startswith("int8")

    def __str__(self) -> str:
        """Return the verdict and its reason in one line."""
        found = ", ".join(
            f"{name} {ratio:.2f}" for name, ratio in sorted(self.ratios.items(), key=lambda item: item[1])
        )
        verdict = (
            "INT8 is faster" if self else "INT8 is not clearly faster (it must take less than 0.95 of the float's time)"
        )
        return f"{verdict}, so {self.winner} is the default: times as a fraction of {self.baseline}'s on {self.where}: {found}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "passed": bool(self),
            "winner": self.winner,
            "baseline": self.baseline,
            "ratios": {name: round(ratio, 4) for name, ratio in self.ratios.items()},
            "where": self.where,
            "reason": str(self),
        }


def check_gate(config: BuildConfig) -> None:
    """Refuse to measure where engines can be built but not run, before anything is built.

    Raises:
        UserError: there is no GPU here. MissingDependencyError: cuda-bindings is not installed.
    """
    if device() is None:
        raise UserError(
            f"--gate latency runs the engines of {spoken(config.target)} to measure them, and there is no NVIDIA GPU here: leave it "
            f"out, and on the machine that will run them take 'edgecnn build BUNDLE --target {config.target} --gate latency'"
        )
    need("cuda.bindings.runtime")


def gated_variants(bundle: Bundle, usable: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of a bundle's variants must be built for the gate: these and FP16.

    Raises:
        UserError: there is no FP16 that passed verification, or no INT8.
    """
    if BASELINE not in bundle.variants or not bundle.variants[BASELINE].verified:
        raise UserError(
            f"--gate latency compares INT8 with FP16, and {bundle.path} has no verified fp16: export it with --int8 --fp16"
        )
    if not any(name.startswith("int8") for name in usable):
        raise UserError(f"--gate latency compares INT8 with FP16, and there is no INT8 among {', '.join(usable)}")
    return usable if BASELINE in usable else (*usable, BASELINE)


def timed(
    engines: Mapping[str, Engine],
    models: Mapping[str, OnnxModel],
    config: BuildConfig,
    *,
    progress: Progress = silent,
) -> dict[str, Engine]:
    """Measure engines in turns on this GPU and return them with their speeds.

    Each runs at its profile's best shape, on noise, with the copies from and to the host, as an application runs it.

    Args:
        engines: variant -> engine, built here; one is :data:`BASELINE`.
        models: variant -> graph, for weights that were stripped.
        config: how they were built.
        progress: told about the rounds.

    Raises:
        BackendError: an engine cannot be loaded or run.
    """
    here = device()
    gpu = f"{here.name} ({here.compute_capability})" if here else ""
    options = TensorRtOptions(flavour=config.target, plugins=config.plugins, allow_host_code=config.version_compatible)
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(TensorRtSession(engine.path, options, engine.facts, weights=models[name].path))
            for name, engine in engines.items()
        }
        feeds = {name: _noise(sessions[name], engine) for name, engine in engines.items()}
        found = interleave(sessions, feeds, baseline=BASELINE, seconds=SECONDS, progress=progress)
    speeds = {
        name: EngineSpeed(
            milliseconds=round(timing.median_ms, 4), ratio=round(timing.ratio, 4), baseline=BASELINE, gpu=gpu
        )
        for name, timing in found.items()
    }
    return {name: replace(one, facts=replace(one.facts, speed=speeds[name])) for name, one in engines.items()}


def engine_gate(engines: Mapping[str, Engine]) -> LatencyGate:
    """Judge engines that were measured."""
    facts = {name: engine.facts for name, engine in engines.items() if engine.facts.speed is not None}
    ratios = {name: one.speed.ratio for name, one in facts.items() if one.speed is not None}
    first = next(iter(facts.values()))
    where = f"{first.speed.gpu if first.speed else ''} with {spoken(first.flavour)} {first.version}"
    return LatencyGate(winner=fastest_engine(ratios), ratios=ratios, baseline=BASELINE, where=where)


def cpu_gate(bundle: Bundle) -> LatencyGate:
    """Judge a bundle for CPUs by what was measured when it was written: by what it runs by default here."""
    choice = bundle.choose()
    ratios = {}
    for name, variant in bundle.variants.items():
        if variant.speed is not None:
            ratios[f"{name} on {variant.speed.backend}"] = variant.speed.ratio
            for backend, speed in variant.speed.backends.items():
                ratios[f"{name} on {backend}"] = speed.ratio
    return LatencyGate(winner=choice.variant, ratios=ratios, baseline="fp32", where=f"this machine ({choice.backend})")


def _noise(session: TensorRtSession, engine: Engine) -> dict[str, Array]:
    """Return an input of the profile's best shape: zeros would draw less power than pictures do."""
    draw = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for spec in session.inputs:
        shape = engine.facts.profile[spec.name][1]
        if spec.dtype == "uint8":
            feed[spec.name] = draw.integers(0, 256, shape, dtype=np.uint8)
        else:
            feed[spec.name] = draw.standard_normal(shape).astype(spec.dtype)
    return feed
