"""Which layers really have which precision: from the parsed network, or from what the engine inspector says of the finished plan.

Without this, ``--int8`` that left every convolution in float, or FP16 that became FP32, would pass in silence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgecnn.engine.api import Layer
from edgecnn.errors import BackendError

__all__ = ["Audit", "audit_engine", "audit_network"]

Source = Literal["network", "engine"]
CONVOLUTION, MATRIX, QUANTIZE, CAST, OTHER = "convolution", "matrix product", "quantize", "cast", "other"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found. Truthy when the layers have the precision that was asked for.

    Attributes:
        source: ``network``: as parsed, before the builder chose; ``engine``: as the plan runs.
        precision: of the graph (``int8-fp16``).
        layers: kind -> precision -> how many: of convolutions, matrix products, quantize, cast and all other layers.
        reformats: layers that only change a tensor's layout or type; None where only the plan would tell.
        left_float: convolutions and matrix products of a quantized graph that are not INT8.
        problems: why it is not what was asked for; empty when it is.
    """

    source: Source
    precision: str
    layers: Mapping[str, Mapping[str, int]]
    reformats: int | None
    left_float: tuple[str, ...]
    problems: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    @property
    def conclusive(self) -> bool:
        """Whether there are convolutions or matrix products to judge by."""
        return bool({CONVOLUTION, MATRIX} & set(self.layers))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "passed": bool(self),
            "source": self.source,
            "precision": self.precision,
            "layers": {kind: dict(counts) for kind, counts in self.layers.items()},
            "reformats": self.reformats,
            "left_float": list(self.left_float),
            "problems": list(self.problems),
        }


def audit_network(layers: Iterable[Layer], precision: str) -> Audit:
    """Audit the parsed network.

    A convolution or matrix product is INT8 when both operands come out of DequantizeLinear from int8: a strongly typed builder must then
    choose an INT8 kernel, or convert.
    """
    found = [(layer.name, *_network_kind(layer)) for layer in layers]
    return _audit("network", [item for item in found if item[1]], None, precision)


def audit_engine(text: str, precision: str) -> Audit:
    """Audit a plan from ``IEngineInspector::getEngineInformation(kJSON)``, of TensorRT 10 or 11, built with detailed verbosity.

    TensorRT 10 writes ``"Format/Datatype"`` and ``"Bindings"``; 11 writes ``"Format"``, ``"DataType"`` and ``"I/O Tensors"``
    (TensorRT 11.0, Migrating IEngineInspector Usage).

    Raises:
        BackendError: it is no such JSON.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BackendError(f"the engine inspector's answer is not the JSON of an engine: {error!r}") from error
    if (
        not isinstance(layers, Sequence)
        or isinstance(layers, str)
        or not all(isinstance(one, Mapping) for one in layers)
    ):
        raise BackendError("the engine inspector gives names alone: build with ProfilingVerbosity.DETAILED")
    reformats = sum(1 for layer in layers if layer.get("LayerType") == "Reformat" and layer.get("Origin") != "QDQ")
    return _audit("engine", list(_engine_layers(layers)), reformats, precision)


def _audit(source: Source, found: list[tuple[str, str, str]], reformats: int | None, precision: str) -> Audit:
    """Count (name, kind, precision) and compare with what was asked for."""
    kinds: dict[str, Counter[str]] = {}
    for _, kind, own in found:
        kinds.setdefault(kind, Counter())[own] += 1
    heavy = [item for item in found if item[1] in (CONVOLUTION, MATRIX)]
    quantized = precision.startswith("int8")
    return Audit(
        source=source,
        precision=precision,
        layers={kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        reformats=reformats,
        left_float=tuple(name for name, _, own in heavy if own != "int8") if quantized else (),
        problems=tuple(_problems(precision, found, heavy)),
    )


def _problems(precision: str, found: list[tuple[str, str, str]], heavy: list[tuple[str, str, str]]) -> Iterator[str]:
    """Say what is not as asked for."""
    convolutions = [own for _, kind, own in heavy if kind == CONVOLUTION] or [own for _, _, own in heavy]
    if precision.startswith("int8") and convolutions.count("int8") == 0:
        yield (
            f"INT8 was asked for, and none of {len(convolutions)} convolutions is INT8: the graph has no Q/DQ around them, or the "
            "builder moved it away"
        )
    floats = heavy if precision == "fp16" else found
    if "fp16" in precision and all(own != "fp16" for _, _, own in floats):
        yield f"FP16 was asked for, and none of {len(floats)} layers is FP16"


def _network_kind(layer: Layer) -> tuple[str, str]:
    """Return (kind, precision) of a parsed layer; an empty kind for one that computes nothing."""
    if layer.kind in ("CONSTANT", "SHAPE", "SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY"):
        return "", ""
    if layer.kind in ("QUANTIZE", "DEQUANTIZE"):
        return QUANTIZE, layer.gives
    if layer.kind == "CAST":
        return CAST, layer.gives
    kinds = {"CONVOLUTION": CONVOLUTION, "DECONVOLUTION": CONVOLUTION, "MATRIX_MULTIPLY": MATRIX}
    kind = kinds.get(layer.kind, OTHER)
    operands = layer.reads[:2]
    if kind != OTHER and len(operands) == 2 and all(one.dequantized_from == "int8" for one in operands):
        return kind, "int8"
    return kind, layer.gives


def _engine_layers(layers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, kind, precision) of what computes in a plan."""
    for layer in layers:
        type_, name = str(layer.get("LayerType", "")), str(layer.get("Name", ""))
        if type_ in ("NoOp", "Constant", "Shuffle", "signal", "wait", "shape_call"):
            continue
        reads = [_tensor_precision(tensor) for tensor in layer.get("Inputs", ())]
        gives = [_tensor_precision(tensor) for tensor in layer.get("Outputs", ())]
        own = (reads or gives or ["?"])[0]
        if type_ == "Reformat":
            if layer.get("Origin") == "QDQ":
                yield name, QUANTIZE, (gives or ["?"])[0]
        elif layer.get("ParameterType") == "Convolution" or "conv" in type_.lower():
            yield name, CONVOLUTION, own
        elif type_.lower() in ("matrixmultiply", "gemm", "caskgemmmatrixmultiply", "fullyconnected"):
            yield name, MATRIX, own
        else:
            yield name, OTHER, (gives or reads or ["?"])[0]


_WORDS = (
    ("int8", "int8"),
    ("bf16", "bf16"),
    ("bfloat16", "bf16"),
    ("fp16", "fp16"),
    ("float16", "fp16"),
    ("half", "fp16"),
    ("fp8", "fp8"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)


def _tensor_precision(tensor: Any) -> str:
    """Return the precision of an inspected tensor; both majors' fields, and both spellings that 11 has."""
    if not isinstance(tensor, Mapping):
        return "?"
    text = str(tensor.get("DataType") or tensor.get("Datatype") or tensor.get("Format/Datatype") or "").lower()
    return next((precision for word, precision in _WORDS if word in text), text or "?")
