"""What each flavour and version of TensorRT has, as data with sources. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgecnn.engine.config import FLAVOURS, BuildConfig, Flavour
from edgecnn.errors import UserError
from edgecnn.runtime.trt_api import spoken

__all__ = [
    "FACTS",
    "FEATURES",
    "KNOWN_BAD",
    "RTX_DEFAULT_GPUS",
    "RTX_GPUS",
    "Fact",
    "Feature",
    "KnownBad",
    "check",
    "known_bad",
    "look_up",
]

Feature = Literal[
    "dla",
    "strip_weights",
    "version_compatible",
    "hardware_compatibility",
    "same_compute_capability",
    "gpu_targets",
    "timing_cache",
    "plugins",
    "deform_conv",
    "build_without_gpu",
]
FEATURES: tuple[Feature, ...] = get_args(Feature)

Version = tuple[int, ...]
_ANY: Version = (0,)
_END: Version = (1000,)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Whether a feature is there, from version ``since`` to below ``before``.

    Attributes:
        needs_gpu: it is there, but works only where there is a GPU, whatever else the flavour can do without one.
        why: the reason, as a refusal says it; what to do instead.
    """

    flavour: Flavour
    feature: Feature
    has: bool
    since: Version = _ANY
    before: Version = _END
    needs_gpu: bool = False
    why: str = ""
    source: str


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """Versions that are known to go wrong, from ``since`` to below ``before``; ``jetson``: only there."""

    flavour: Flavour
    since: Version
    before: Version
    level: Literal["error", "warning"]
    what: str
    todo: str
    source: str
    jetson: bool = False


_TRIED = "tried with TensorRT-RTX 1.7.1 on a CPU"
_RTX_SUPPORT = "TensorRT-RTX support matrix"

FACTS = (
    Fact(flavour="tensorrt", feature="dla", has=True, before=(10, 8), source="TensorRT 10.7 release notes"),
    Fact(
        flavour="tensorrt",
        feature="dla",
        has=False,
        since=(10, 8),
        before=(11, 4, 1),
        why="the last TensorRT 10 with DLA is 10.7 (JetPack 6), the first TensorRT 11 with it 11.4.1 (JetPack 7.2.2, AGX Orin)",
        source="TensorRT 11.4.1 release notes",
    ),
    Fact(flavour="tensorrt", feature="dla", has=True, since=(11, 4, 1), source="TensorRT 11.4.1 release notes"),
    Fact(
        flavour="tensorrt-rtx",
        feature="dla",
        has=False,
        why="TensorRT-RTX is for the GPUs of desktops, which have no DLA; build with --target tensorrt on the Jetson",
        source=_RTX_SUPPORT,
    ),
    Fact(flavour="tensorrt", feature="strip_weights", has=True, source="BuilderFlag::kSTRIP_PLAN in v10.0.0 to v11.1"),
    Fact(
        flavour="tensorrt-rtx",
        feature="strip_weights",
        has=True,
        needs_gpu=True,
        why="TensorRT-RTX strips weights only where it finds a GPU: without one its compiler stops with 'CUDA_SUCCESS failed'",
        source=_TRIED,
    ),
    Fact(
        flavour="tensorrt",
        feature="version_compatible",
        has=True,
        source="BuilderFlag::kVERSION_COMPATIBLE in v10.0.0 to v11.1",
    ),
    Fact(
        flavour="tensorrt-rtx",
        feature="version_compatible",
        has=False,
        why="TensorRT-RTX ships no lean runtime (libnvinfer_lean), without which such a plan cannot be written",
        source=_TRIED,
    ),
    Fact(
        flavour="tensorrt",
        feature="hardware_compatibility",
        has=True,
        source="HardwareCompatibilityLevel in v10.0.0 to v11.1",
    ),
    Fact(
        flavour="tensorrt-rtx",
        feature="hardware_compatibility",
        has=False,
        why="TensorRT-RTX ignores the level; name the GPUs to build for with --gpu",
        source=_TRIED + ": the bytes do not change",
    ),
    Fact(
        flavour="tensorrt",
        feature="same_compute_capability",
        has=False,
        before=(10, 9),
        why="it came with TensorRT 10.9; older ones have --hardware ampere+",
        source="HardwareCompatibilityLevel in v10.8.0 and v10.9.0",
    ),
    Fact(
        flavour="tensorrt",
        feature="same_compute_capability",
        has=True,
        since=(10, 9),
        source="HardwareCompatibilityLevel in v10.9.0 to v11.1",
    ),
    Fact(
        flavour="tensorrt-rtx",
        feature="same_compute_capability",
        has=False,
        why="TensorRT-RTX ignores the level; name the GPUs to build for with --gpu",
        source=_TRIED + ": the bytes do not change",
    ),
    Fact(
        flavour="tensorrt",
        feature="gpu_targets",
        has=False,
        why="TensorRT builds for the GPU that it runs on; widen that with --hardware ampere+",
        source="no ComputeCapability in v10.0.0 to v11.1",
    ),
    Fact(flavour="tensorrt-rtx", feature="gpu_targets", has=True, source="ComputeCapability of TensorRT-RTX 1.7.1"),
    Fact(flavour="tensorrt", feature="timing_cache", has=True, source="ITimingCache in v10.0.0 to v11.1"),
    Fact(
        flavour="tensorrt-rtx",
        feature="timing_cache",
        has=False,
        why="TensorRT-RTX times nothing while it builds, so its timing cache does nothing (deprecated since 1.2): leave it out",
        source="deprecation warning of TensorRT-RTX 1.7.1",
    ),
    Fact(flavour="tensorrt", feature="plugins", has=True, source="IPluginRegistry::loadLibrary in v10.0.0 to v11.1"),
    Fact(
        flavour="tensorrt-rtx",
        feature="plugins",
        has=False,
        why="nobody has proven a plugin on TensorRT-RTX; export with --deform gridsample, which needs none",
        source="tensorrt_rtx.plugin cannot be imported (1.7.1): it has no plugin bindings",
    ),
    Fact(
        flavour="tensorrt",
        feature="deform_conv",
        has=False,
        before=(10, 1),
        why="TensorRT takes ONNX's DeformConv from 10.1 on; export with --deform gridsample",
        source="TensorRT 10.1 release notes",
    ),
    Fact(flavour="tensorrt", feature="deform_conv", has=True, since=(10, 1), source="TensorRT 10.1 release notes"),
    Fact(
        flavour="tensorrt-rtx",
        feature="deform_conv",
        has=False,
        why="TensorRT-RTX has no DeformConv; export with --deform gridsample (--deform auto does, with --target tensorrt-rtx)",
        source=_TRIED + ": Plugin not found",
    ),
    Fact(
        flavour="tensorrt",
        feature="build_without_gpu",
        has=False,
        why="TensorRT measures kernels on the GPU while it builds: build on the device, or for tensorrt-rtx, which needs none",
        source="TensorRT documentation, How TensorRT Works",
    ),
    Fact(flavour="tensorrt-rtx", feature="build_without_gpu", has=True, source=_TRIED),
)
"""One row that holds for every feature, flavour and version from 10.0 (TensorRT) or 1.0 (TensorRT-RTX) on."""

RTX_GPUS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX 1.7.1 builds for (its ComputeCapability enumeration): no Orin, no Hopper, no Thor."""

RTX_DEFAULT_GPUS = ("8.0", "8.6", "8.9", "12.0")
"""What it builds for when none is named (TensorRT-RTX documentation: "and later"); Turing (7.5) must be named."""

KNOWN_BAD = (
    KnownBad(
        flavour="tensorrt",
        since=(10, 2),
        before=(10, 2, 1),
        level="warning",
        what="TensorRT 10.2.0 is a release that other exporters refuse as faulty",
        todo="pip install -U 'tensorrt>=10.3'",
        source="version guard of the Ultralytics exporter 8.4",
    ),
    KnownBad(
        flavour="tensorrt",
        since=(11,),
        before=(11, 4, 1),
        level="error",
        what="TensorRT 11.0 to 11.4.0 does not support JetPack, and has no DLA",
        todo="use the TensorRT 10 of JetPack 6, or TensorRT 11.4.1 with JetPack 7.2.2 or newer",
        source="TensorRT 11.4.1 release notes",
        jetson=True,
    ),
    KnownBad(
        flavour="tensorrt",
        since=(0,),
        before=(10,),
        level="error",
        what="TensorRT before 10 has no strongly typed networks with INT8",
        todo="pip install -U 'tensorrt>=10.3', or JetPack 6",
        source="NetworkDefinitionCreationFlag.STRONGLY_TYPED, v10.0.0",
    ),
)
"""Versions with a known fault, each with its source."""


def look_up(flavour: Flavour, version: Version, feature: Feature) -> Fact:
    """Return the row that holds for a version, such as ``(10, 3, 0)``."""
    for fact in FACTS:
        if (fact.flavour, fact.feature) == (flavour, feature) and fact.since <= version < fact.before:
            return fact
    raise LookupError(f"no fact about {feature} of {flavour} {version}")


def known_bad(flavour: Flavour, version: Version, *, jetson: bool) -> tuple[KnownBad, ...]:
    """Return what is known to be wrong with a version."""
    return tuple(
        bad
        for bad in KNOWN_BAD
        if bad.flavour == flavour and bad.since <= version < bad.before and (jetson or not bad.jetson)
    )


def check(config: BuildConfig, version: Version, *, gpu: bool) -> None:
    """Refuse what this flavour and version cannot do, with the reason and a way out.

    Args:
        config: what is asked for.
        version: of the installed package.
        gpu: whether there is one here.

    Raises:
        UserError: the first thing that it lacks.
    """
    assert config.target in FLAVOURS
    name = f"{spoken(config.target)} {'.'.join(map(str, version))}"
    asked: dict[Feature, bool] = {
        "build_without_gpu": not gpu,
        "dla": config.dla is not None,
        "strip_weights": config.strip_weights,
        "version_compatible": config.version_compatible,
        "hardware_compatibility": config.hardware != "this",
        "same_compute_capability": config.hardware == "same-compute-capability",
        "gpu_targets": bool(config.gpus),
        "timing_cache": config.timing_cache is not None,
        "plugins": bool(config.plugins),
    }
    for feature, wanted in asked.items():
        fact = look_up(config.target, version, feature)
        if wanted and not fact.has:
            raise UserError(f"{name} has no {_SPOKEN[feature]}: {fact.why}")
        if wanted and fact.needs_gpu and not gpu:
            raise UserError(f"{_SPOKEN[feature]} needs an NVIDIA GPU, and there is none here: {fact.why}")
    unknown = [gpu_ for gpu_ in config.gpus if gpu_ not in RTX_GPUS]
    if unknown:
        raise UserError(f"{name} cannot build for compute capability {unknown[0]}; it can for {', '.join(RTX_GPUS)}")


_SPOKEN: dict[Feature, str] = {
    "dla": "DLA",
    "strip_weights": "stripping of weights",
    "version_compatible": "version-compatible plans",
    "hardware_compatibility": "hardware compatibility levels",
    "same_compute_capability": "plans for every GPU of the same compute capability",
    "gpu_targets": "choice of GPUs",
    "timing_cache": "timing cache",
    "plugins": "plugins",
    "deform_conv": "DeformConv",
    "build_without_gpu": "way to build without an NVIDIA GPU",
}
