"""Which variant of a bundle runs, on which backend, when the caller leaves it open: what was measured decides."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgecnn.errors import UserError
from edgecnn.optional import available
from edgecnn.runtime.engines import EngineRecord
from edgecnn.runtime.manifest import Variant
from edgecnn.runtime.openvino import OpenVinoOptions
from edgecnn.runtime.ort import OrtOptions
from edgecnn.runtime.session import check_count
from edgecnn.runtime.tensorrt import TensorRtOptions

__all__ = ["BACKENDS", "ENGINE_BACKENDS", "AutoOptions", "Choice", "Options", "Target", "choose", "choose_engine", "default_variant",
           "fastest_engine", "slower", "target_of"]  # fmt: skip

BACKENDS = ("onnxruntime", "openvino")
"""Those that run a bundle's graphs, most preferred first."""

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Those that run its engines: never chosen unless they are asked for."""

_PREFERENCE = {
    "cpu": ("int8-cpu", "fp32", "fp16", "int8", "int8-fp16"),
    "gpu": ("fp16", "fp32", "int8-fp16", "int8", "int8-cpu"),
    "engine": ("int8-fp16", "int8", "fp16", "fp32"),
    "measured": ("fp16", "fp32", "int8-fp16", "int8"),
}
_EXACT_FIRST = ("fp32", "fp16", "int8", "int8-cpu", "int8-fp16")
_CLEARLY = 0.95
"""A candidate must take less than this share of a preferred one's time; less is what measurements scatter by."""

Target = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """What every backend can be told, for a backend that is chosen by what was measured.

    Attributes:
        threads: 0 lets the backend choose.
    """

    threads: int = 0

    def __post_init__(self) -> None:
        """Check the value."""
        check_count("any backend", "threads", self.threads)


Options = OrtOptions | OpenVinoOptions | TensorRtOptions | AutoOptions
"""Options of one backend choose that backend."""


@dataclass(frozen=True)
class Choice:
    """What to run, on what."""

    variant: str
    backend: str

    def __str__(self) -> str:
        """Return both in words."""
        return f"{self.variant} on {self.backend}"


def choose(
    variants: Mapping[str, Variant],
    variant: str | None = None,
    backend: str | None = None,
    options: Options | None = None,
) -> Choice:
    """Choose what the caller left open.

    Among the installed backends and the variants that passed verification there, the fastest is taken, by what was measured
    when the bundle was written. Within 5 % the preferred one stays: onnxruntime's default variant before its others, these before
    OpenVINO, fp32 before others. Without measurements, or where they were taken on another processor architecture, that is onnxruntime
    and its :func:`default_variant`; OpenVINO, if asked for, then runs fp32.

    Args:
        variants: of the bundle; ``variant`` is one of them.
        variant: the caller's, if any.
        backend: ``onnxruntime``, ``openvino``, or ``auto``, also the default.
        options: those of one backend choose it.

    Raises:
        UserError: an unknown backend, or options of another one.
    """
    backends = _backends(backend, options)
    target = target_of(options.provider_names) if isinstance(options, OrtOptions) else "cpu"
    names = [variant] if variant else [name for name in _EXACT_FIRST if name in variants]
    candidates: list[Choice] = []
    if "onnxruntime" in backends:
        candidates = [Choice(variant or default_variant(variants, target), "onnxruntime")]
        names = names if _ratio(variants, candidates[0]) is not None else []
        if target == "cpu":  # where it was measured
            found = (Choice(name, "onnxruntime") for name in names if name != candidates[0].variant)
            candidates += [one for one in found if _ratio(variants, one) is not None]
    if "openvino" in backends:
        found = (Choice(name, "openvino") for name in names)
        candidates += [one for one in found if _ratio(variants, one) is not None]
    if not candidates:
        return Choice(variant or ("fp32" if "fp32" in variants else next(iter(variants))), backends[0])
    best = min(_ratio(variants, one) or 0.0 for one in candidates)
    return next(one for one in candidates if _CLEARLY * (_ratio(variants, one) or 0.0) <= best)


def choose_engine(
    variants: Mapping[str, Variant],
    engines: Mapping[str, EngineRecord],
    variant: str | None = None,
    backend: str | None = None,
    options: Options | None = None,
) -> Choice | None:
    """Choose among a bundle's engines, if an engine's backend or its options ask for one; None leaves it to :func:`choose`.

    Without a variant it is the verified one that was measured to be the fastest (:func:`fastest_engine`); where fewer than two were
    measured, the one of the lowest precision, since that is what was exported for.

    Args:
        variants: of the bundle; ``variant`` is one of them.
        engines: ``<variant>.<flavour>`` -> plan.
        variant, backend, options: the caller's.

    Raises:
        UserError: options of another backend, or no such engine.
    """
    wanted = options.flavour if isinstance(options, TensorRtOptions) else backend
    if wanted not in ENGINE_BACKENDS:
        return None
    if backend not in (None, "auto", wanted) or not isinstance(options, TensorRtOptions | AutoOptions | None):
        raise UserError(f"backend {backend!r} was given {type(options).__name__}, which are another one's options")
    there = [name for name in (*_PREFERENCE["engine"], *variants) if f"{name}.{wanted}" in engines]
    if variant in there or (there and variant is None):
        verified = [name for name in there if variants[name].verified] or there
        speeds = {name: engines[f"{name}.{wanted}"].facts.speed for name in verified}
        ratios = {name: speed.ratio for name, speed in speeds.items() if speed is not None}
        return Choice(variant or (fastest_engine(ratios) if len(ratios) > 1 else verified[0]), wanted)
    asked = "no engine" if variant is None else f"no engine of {variant}"
    held = f"; it has {', '.join(engines)}" if engines else ""
    more = f" --variant {variant}" if variant else ""
    raise UserError(
        f"the bundle has {asked} for {wanted}{held}: build one with 'edgecnn build BUNDLE --target {wanted}{more}'"
    )


def fastest_engine(ratios: Mapping[str, float]) -> str:
    """Return the variant whose engine takes the least time; an INT8 one must take less than 95 % of what each float one does.

    Args:
        ratios: variant -> its time as a multiple of one that all are compared with; at least one.
    """
    order = [name for name in _PREFERENCE["measured"] if name in ratios] or list(ratios)
    best = min(ratios[name] for name in order)
    return next(name for name in order if _CLEARLY * ratios[name] <= best)


def default_variant(variants: Mapping[str, Variant], target: Target = "cpu") -> str:
    """Return the variant to run on onnxruntime when none was asked for.

    On a CPU that is ``int8-cpu`` if there is one, it is verified, and it was not measured to be slower than fp32; else
    ``fp32``. The TensorRT-valid ``int8`` is never preferred there: onnxruntime's CPU kernels run it slower than fp32. On a GPU
    it is ``fp16`` under the same conditions, else ``fp32``. Without fp32 it is the first of these that there is, verified ones
    before others.
    """
    order = [name for name in _PREFERENCE[target] if name in variants]
    order += [name for name in variants if name not in order]
    verified = [name for name in order if variants[name].verified]
    usable = [name for name in verified if not slower(variants, name)]
    last = ["fp32"] if "fp32" in variants else order
    return (usable or verified or last)[0]


def slower(variants: Mapping[str, Variant], name: str, backend: str = "onnxruntime") -> float | None:
    """Return a variant's time as a multiple of fp32's on the same backend, if it was measured to be no faster."""
    own, base = (_measured(variants[key], backend) if key in variants else None for key in (name, "fp32"))
    if name == "fp32" or own is None:
        return None
    ratio = own / base if base else own
    return ratio if ratio >= 1 else None


def target_of(providers: Iterable[str]) -> Target:
    """Return what kind of device the first execution provider stands for."""
    first = next(iter(providers), "")
    return "gpu" if any(word in first for word in ("CUDA", "Tensor", "ROCM", "MIGraphX", "Dml", "WebGpu")) else "cpu"


def _backends(backend: str | None, options: Options | None) -> Sequence[str]:
    """Return the backends to choose from: the one that was asked for, or those that are installed."""
    if backend not in (None, "auto", *BACKENDS):
        raise UserError(f"backend {backend!r} is not one of {', '.join((*BACKENDS, *ENGINE_BACKENDS))}, auto")
    wanted = None if backend == "auto" else backend
    own = "onnxruntime" if isinstance(options, OrtOptions) else "openvino"
    if options is not None and not isinstance(options, AutoOptions):
        if wanted not in (None, own):
            raise UserError(f"backend {backend!r} was given {type(options).__name__}, which are {own}'s options")
        wanted = own
    return [wanted] if wanted else [name for name in BACKENDS if available(name)] or BACKENDS[:1]


def _measured(variant: Variant, backend: str) -> float | None:
    """Return the time of one image on a backend relative to that of fp32 on onnxruntime, if it was measured."""
    speed = variant.speed
    if speed is None:
        return None
    if backend == speed.backend:
        return speed.ratio
    other = speed.backends.get(backend)
    return None if other is None else other.ratio


def _ratio(variants: Mapping[str, Variant], choice: Choice) -> float | None:
    """Return the measured time of a choice, if it was verified and measured on a processor like this one."""
    variant = variants[choice.variant]
    speed = variant.speed
    if speed is None or speed.machine not in ("", platform.machine()) or not variant.verified_on(choice.backend):
        return None
    return _measured(variant, choice.backend)
