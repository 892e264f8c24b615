"""What in Triton runs a graph: one class a backend, which holds its part of the configuration and what a user must know of it.

Facts about the backends are from their sources: onnxruntime_backend 00fd3e8 (June 2026), openvino_backend db19304 (August 2026),
tensorrt_backend's and python_backend's README of the same months.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifacts import EngineFacts
from edgecnn.errors import UserError
from edgecnn.onnxio import data_path, load_ir
from edgecnn.package.pbtxt import Enum
from edgecnn.runtime import Bundle

__all__ = [
    "BACKENDS",
    "OnnxRuntime",
    "OpenVino",
    "TensorRt",
    "TritonBackend",
    "float_behind_quantized",
    "instance_kind",
]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, kw_only=True)
class TritonBackend(ABC):
    """How Triton runs a variant.

    Attributes:
        gpu: on GPUs, rather than on the CPU.
    """

    gpu: bool = False

    name = ""
    """Of ours, as ``--backend`` takes it."""

    default_batch = 8
    """Pictures in a run, at most, where the caller names no number."""

    @abstractmethod
    def config(self, bundle: Bundle, variant: str, max_batch: int) -> dict[str, Any]:
        """Return the backend's own fields of ``config.pbtxt``. Raises UserError where it cannot run the variant."""

    @abstractmethod
    def put(self, bundle: Bundle, variant: str, folder: Path) -> None:
        """Copy the variant into a version's folder. Raises UserError, OutputError."""

    @abstractmethod
    def notes(self, bundle: Bundle, variant: str) -> tuple[str, ...]:
        """Return what whoever runs the repository must know, one line each."""

    def largest_batch(self, bundle: Bundle, variant: str) -> int:  # noqa: ARG002
        """Return the largest batch that it takes; 0 is any. Raises UserError."""
        return 0


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(TritonBackend):
    """Triton's onnxruntime backend, on a CPU or through CUDA.

    It has no parameter for single optimizer passes or session entries, so that ``WeightBiasQuantization`` and
    ``session.x64quantprecision`` (see :mod:`edgecnn.runtime.ort`) stay as onnxruntime has them. A graph that the pass could change is
    run without any optimization.
    """

    name = "onnxruntime"

    def config(self, bundle: Bundle, variant: str, max_batch: int) -> dict[str, Any]:  # noqa: ARG002
        """Return platform and, where the pass must not run, the optimization level 2, which means none."""
        fields: dict[str, Any] = {"platform": "onnxruntime_onnx", "default_model_filename": "model.onnx"}
        if self.unoptimized(bundle, variant):
            fields["optimization"] = {"graph": {"level": 2}}
        return fields

    def put(self, bundle: Bundle, variant: str, folder: Path) -> None:
        """Copy the graph."""
        _put_graph(bundle, variant, folder)

    def notes(self, bundle: Bundle, variant: str) -> tuple[str, ...]:
        """Say what cannot be switched off."""
        if not _quantized(bundle, variant):
            return ()
        found = []
        if self.unoptimized(bundle, variant):
            found.append(
                "onnxruntime's optimizer is off (`optimization { graph { level: 2 } }`): it would quantize layers that were left in "
                "float, and Triton's backend cannot switch that one pass off; the numbers are right, and it is slow"
            )
        elif not self.gpu:
            found.append(_saturates("onnxruntime"))
        return tuple(found)

    @staticmethod
    def unoptimized(bundle: Bundle, variant: str) -> bool:
        """Whether the graph has anything for ``WeightBiasQuantization`` to quantize."""
        return _quantized(bundle, variant) and bool(float_behind_quantized(bundle.model_path(variant)))


@dataclass(frozen=True, kw_only=True)
class OpenVino(TritonBackend):
    """Triton's OpenVINO backend, which reads the ONNX file as it is, on a CPU."""

    name = "openvino"
    default_batch = 1  # it fixes the graph's batch at max_batch_size, and fills every run up to that

    def __post_init__(self) -> None:
        """Refuse GPUs."""
        if self.gpu:
            raise UserError("Triton's OpenVINO backend runs on the CPU: leave out --gpu, or take --backend onnxruntime")

    def config(self, bundle: Bundle, variant: str, max_batch: int) -> dict[str, Any]:  # noqa: ARG002
        """Return backend, file, and padding where runs may be smaller than the batch."""
        parameters = {"PERFORMANCE_HINT": "LATENCY"} | ({"ENABLE_BATCH_PADDING": "YES"} if max_batch > 1 else {})
        return {
            "backend": "openvino",
            "default_model_filename": "model.onnx",
            "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
        }

    def put(self, bundle: Bundle, variant: str, folder: Path) -> None:
        """Copy the graph."""
        _put_graph(bundle, variant, folder)

    def notes(self, bundle: Bundle, variant: str) -> tuple[str, ...]:
        """Say what edgecnn's sessions set and Triton's backend has no parameter for."""
        rounding = (
            "on processors with AMX or AVX512-BF16, OpenVINO computes float layers in bfloat16; edgecnn's sessions ask for FP32, Triton's "
            "backend has no parameter for it: compare its answers with `edgecnn predict --backend openvino` there"
        )
        return (rounding, _saturates("OpenVINO")) if _quantized(bundle, variant) else (rounding,)


@dataclass(frozen=True, kw_only=True)
class TensorRt(TritonBackend):
    """Triton's TensorRT backend, which loads the bundle's plan."""

    gpu: bool = True

    name = "tensorrt"

    def __post_init__(self) -> None:
        """Refuse CPUs."""
        if not self.gpu:
            raise UserError("a TensorRT engine runs on a GPU alone")

    def config(self, bundle: Bundle, variant: str, max_batch: int) -> dict[str, Any]:  # noqa: ARG002
        """Return platform and file."""
        if self._facts(bundle, variant).options.get("strip_weights"):
            raise UserError(
                "the engine was built with --strip-weights, and Triton puts no weights back: build it without"
            )
        return {"platform": "tensorrt_plan", "default_model_filename": "model.plan"}

    def put(self, bundle: Bundle, variant: str, folder: Path) -> None:
        """Copy the plan."""
        shutil.copyfile(bundle.path / bundle.manifest.engines[f"{variant}.tensorrt"].file, folder / "model.plan")

    def notes(self, bundle: Bundle, variant: str) -> tuple[str, ...]:
        """Say what the plan was built for."""
        facts = self._facts(bundle, variant)
        gpus = ", ".join(facts.compute_capabilities)
        needs = (
            f"the plan needs TensorRT {facts.version}, {facts.platform} and a GPU of compute capability {gpus}: take the Triton release "
            "with that TensorRT (NVIDIA's support matrix), or build the engine anew in its container"
        )
        flags = ["version-compatible=true"] if facts.options.get("version_compatible") else []
        if plugins := facts.options.get("plugins"):
            flags.append(f"plugins={';'.join(f'/PATH/{name}' for name in plugins)}")
        return (needs, *(f"start the server with --backend-config=tensorrt,{flag}" for flag in flags))

    def largest_batch(self, bundle: Bundle, variant: str) -> int:
        """Return the top of the plan's profile."""
        ((least, _, largest),) = self._facts(bundle, variant).profile.values()
        if least[0] > 1:
            raise UserError(
                f"the engine takes {least[0]} pictures at least, and Triton may run one: build it with --batch 1:{largest[0]}:{largest[0]}"
            )
        return largest[0]

    @staticmethod
    def _facts(bundle: Bundle, variant: str) -> EngineFacts:
        """Return what the manifest says of the plan. Raises UserError where there is none."""
        name = f"{variant}.tensorrt"
        if name not in bundle.manifest.engines:
            held = ", ".join(bundle.manifest.engines) or "none"
            raise UserError(
                f"{bundle.path} has no TensorRT engine of {variant} (engines: {held}; Triton runs none of TensorRT-RTX): "
                f"build one with 'edgecnn build BUNDLE --target tensorrt --variant {variant}'"
            )
        return bundle.manifest.engines[name].facts


BACKENDS: Mapping[str, type[TritonBackend]] = {kind.name: kind for kind in (OnnxRuntime, OpenVino, TensorRt)}
"""Name -> class."""


def float_behind_quantized(path: Path) -> list[str]:
    """Return the layers whose input is quantized and whose weight or bias is a float constant.

    These are what onnxruntime's ``WeightBiasQuantization`` may quantize (tried on 1.32: it does where a QuantizeLinear follows, also with
    optimization level "basic"; float bias alone too). Whether one follows is left out: this names too many rather than too few.

    Raises:
        MissingDependencyError: onnx-ir is not installed.
        UserError: not an ONNX file.
    """
    found = []
    for node in load_ir(path).graph:
        given = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.op_type not in _WEIGHTED or given is None or given.op_type != "DequantizeLinear":
            continue
        if any(value is not None and value.producer() is None for value in node.inputs[1:]):
            found.append(str(node.name))
    return found


def _saturates(backend: str) -> str:
    """Say what a backend's integer kernels do on older processors."""
    return (
        f"on x86 processors without VNNI, {backend}'s integer kernels saturate without an error; edgecnn's sessions turn that off, "
        "Triton's backend cannot (`grep -c vnni /proc/cpuinfo` tells)"
    )


def instance_kind(backend: TritonBackend) -> Enum:
    """Return where instances run, as ``config.pbtxt`` names it."""
    return Enum("KIND_GPU" if backend.gpu else "KIND_CPU")


def _quantized(bundle: Bundle, variant: str) -> bool:
    """Whether a variant has Q/DQ."""
    return "int8" in bundle.variant(variant).precision


def _put_graph(bundle: Bundle, variant: str, folder: Path) -> None:
    """Copy an ONNX file, which must hold its weights: one beside it would have to be renamed inside the graph."""
    source = bundle.model_path(variant)
    if data_path(source).exists():
        raise UserError(f"{source} keeps its weights in a second file (over 2 GB), which is not packaged for Triton")
    shutil.copyfile(source, folder / "model.onnx")
