"""What the main job is asked to do, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgecnn.calib.methods import Auto
from edgecnn.calib.synthetic import parse_synthetic
from edgecnn.doctor import machine
from edgecnn.errors import SpecError
from edgecnn.export import ExportConfig
from edgecnn.quantize.config import QuantizeConfig
from edgecnn.quantize.search import Budget, Search

if TYPE_CHECKING:
    from edgecnn.artifacts import Engine
    from edgecnn.bench.timing import Timing
    from edgecnn.parity.report import ParityReport
    from edgecnn.pipeline.gate import LatencyGate
    from edgecnn.runtime.bundle import Bundle

__all__ = ["Deform", "Outcome", "PipelineConfig", "Target"]

Target = Literal["auto", "cpu", "tensorrt", "tensorrt-rtx"]
Form = Literal["standard", "gridsample", "plugin"]
Deform = Literal["auto", Form]


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The main job.

    Attributes:
        weights: ``default``, an entry's name, ``package``, a file, or ``random[:SEED]``.
        num_classes: None takes the checkpoint's.
        export: opset, batch, main output.
        simplify: simplify the exported graph, verified.
        int8, fp16: make INT8 and FP16 variants beside fp32; both together also an ``int8-fp16`` for TensorRT.
        target: ``cpu`` adds ``int8-cpu`` for onnxruntime's integer kernels to the TensorRT-valid ``int8``; ``auto`` is
            ``cpu`` on a machine without an NVIDIA GPU. ``tensorrt-rtx`` also compiles engines, on any machine; ``tensorrt`` where
            TensorRT and a GPU are.
        quantize: method, placement, correction; its scheme is chosen by ``target``.
        budget: what quantization may cost: layers return to float until it holds. Measured on the verification images.
        calib: a folder of images, an .npz or .npy of preprocessed tensors, an iterable of such tensors, ``photos``, or images made from
            the network itself: ``synthetic`` (at most 90 s) or ``synthetic:fast``; or ``photos+synthetic``, a quarter of them made.
        calib_images: how many of them at most.
        deform: how deformable convolutions are written: ``standard`` (ONNX's DeformConv), ``gridsample`` (GridSample and MatMul,
            for runtimes that lack it) or ``plugin`` (``edgecnn::DeformConv2d``, for a TensorRT plugin). ``auto`` is ``gridsample``
            for ``tensorrt-rtx``, ``plugin`` for ``tensorrt``, else ``standard``.
        plugins: shared libraries with operators that the engines need.
        embed_preprocess: the graphs take uint8 (N, H, W, C) pixels at network size and normalise inside.
        embed_softmax: the graphs give probabilities.
        data: images to verify on; None takes calibration images that calibration left out, else the photos.
        verify_images: how many images to verify on at most.
        threads: of calibration, verification and measurement; 0 lets onnxruntime choose.
        measure_seconds: of latency measurement for each variant; 0 leaves it out.
        latency_gate: whether INT8 must be faster to become the default: than FP16 where engines are built, which is then made too and both
            are measured on this GPU; than FP32 on a CPU. If it is not, the outcome is false, and the bundle runs the faster one.
        use_cache: reuse and keep calibration results.
        force: replace an existing bundle.
    """

    weights: str = "default"
    num_classes: int | None = None
    export: ExportConfig = field(default_factory=ExportConfig)
    simplify: bool = True
    int8: bool = False
    fp16: bool = False
    target: Target = "auto"
    quantize: QuantizeConfig = field(default_factory=lambda: QuantizeConfig(method=Auto()))
    budget: Budget = field(default_factory=Budget)
    calib: str | Path | Iterable[Any] = "photos"
    calib_images: int = 128
    deform: Deform = "auto"
    plugins: tuple[Path, ...] = ()
    embed_preprocess: bool = False
    embed_softmax: bool = False
    data: Path | None = None
    verify_images: int = 32
    threads: int = 0
    measure_seconds: float = 0.5
    latency_gate: bool = False
    use_cache: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name, choices in (("target", get_args(Target)), ("deform", ("auto", *get_args(Form)))):
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("calib_images", "verify_images"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, asked for {getattr(self, name)}")
        parse_synthetic(self.calib)
        if self.budget and not self.int8:
            raise SpecError(f"{self.budget}: an accuracy budget is for INT8; ask for int8 too")
        default = QuantizeConfig(method=Auto())
        idle = [one.name for one in fields(default) if getattr(self.quantize, one.name) != getattr(default, one.name)]
        if idle and not self.int8:
            raise SpecError(f"{', '.join(idle)}: how to quantize is for INT8; ask for int8 too")
        if self.plugins and self.target not in ("tensorrt", "tensorrt-rtx"):
            raise SpecError("plugins are libraries of an engine's operators: ask for target tensorrt too")
        if self.latency_gate:
            self._check_gate()

    def _check_gate(self) -> None:
        """Check that there is something to compare, and have it made."""
        if not self.int8:
            raise SpecError("the latency gate is for INT8; ask for int8 too")
        if self.target in ("tensorrt", "tensorrt-rtx"):
            object.__setattr__(self, "fp16", True)  # what INT8 would replace
        elif not self.for_cpu:
            raise SpecError("the latency gate measures engines, or a CPU: ask for target tensorrt, tensorrt-rtx or cpu")
        elif self.measure_seconds <= 0:
            raise SpecError("the latency gate needs measurements, and measure_seconds is 0")

    @property
    def for_cpu(self) -> bool:
        """Whether a CPU is to run the bundle."""
        return self.target == "cpu" or (self.target == "auto" and not machine().nvidia)

    @property
    def deform_form(self) -> Form:
        """How deformable convolutions are written, ``auto`` resolved."""
        if self.deform != "auto":
            return self.deform
        return "gridsample" if self.target == "tensorrt-rtx" else "plugin" if self.target == "tensorrt" else "standard"

    @property
    def precision(self) -> str:
        """The precision the job is about: names the default output folder."""
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the main job made. Truthy when every stage passed verification, every accuracy budget holds, every engine has the
    precision that was asked for, and INT8 is faster where that was asked for.

    Attributes:
        bundle: written and readable.
        report: the verification.
        timings: variant -> latency on this machine, ratios to fp32; empty where it was not measured.
        seconds: step -> wall time.
        notes: what the reader should know.
        searches: INT8 variant -> how its budget was kept, or what was reached; empty without a budget.
        engines: variant -> engine, where the target is one of TensorRT's.
        gate: what the latency gate found, where there is one and the device to measure on is here.
    """

    bundle: Bundle
    report: ParityReport
    timings: Mapping[str, Timing]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    searches: Mapping[str, Search] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    gate: LatencyGate | None = None

    def __bool__(self) -> bool:
        """Whether verification passed, budgets hold, engines are what they should be, and INT8 is worth it."""
        sound = all(engine.passed for engine in self.engines.values())
        faster = self.gate is None or bool(self.gate)
        return bool(self.report) and all(self.searches.values()) and sound and faster

    @property
    def nodes(self) -> Mapping[str, int]:
        """Nodes of the graph ``before`` and ``after`` simplification; empty where that was left out."""
        steps = [step for step in self.bundle.manifest.lineage if step.stage == "simplify"]
        return dict(steps[-1].config["nodes"]) if steps else {}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        manifest = self.bundle.manifest
        return {
            "bundle": str(self.bundle.path),
            "model": manifest.model.name,
            "weights": manifest.weights.entry,
            "untrained": self.bundle.untrained,
            "verified": bool(self.report),
            "variants": {
                name: {
                    "file": variant.file,
                    "bytes": manifest.files[variant.file].bytes,
                    "nodes": variant.nodes,
                    "verified": variant.verified,
                    "speed": self.timings[name].to_json() if name in self.timings else None,
                }
                for name, variant in manifest.variants.items()
            },
            "nodes": dict(self.nodes),
            "parity": self.report.to_json(),
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
            "notes": list(self.notes),
            "searches": {name: found.to_json() for name, found in self.searches.items()},
            "gate": None if self.gate is None else self.gate.to_json(),
            "engines": {
                name: {"file": record.file, "bytes": manifest.files[record.file].bytes, **record.facts.to_json()}
                for name, record in manifest.engines.items()
            },
        }
