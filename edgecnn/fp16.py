"""FP16: a graph whose types say where it computes in FP16 and where in FP32, as strongly typed TensorRT 10.3+, 11 and RTX want it.

There is no precision flag anywhere: TensorRT takes each layer's type from the graph. Inputs and outputs stay float32, with a
Cast at the border. A node stays FP32 where FP16 would overflow, lose a weight, or move a coordinate
(:mod:`edgecnn.fp16_rules` decides, and says why); casts stand around such islands, none inside them. In an INT8 graph the float
parts become FP16 and the scales of Q/DQ with them, and no cast comes between a DequantizeLinear and its reader.

Sums: convolutions and matrix products are taken to accumulate in FP32, as tensor cores do and onnxruntime does; the headroom is
there for kernels that do not. Averages are not: a mean that fits can have a sum that overflows, and runtimes differ in what they
sum in. So the guard looks at the *sums* inside averages too, not only at their results.

onnxruntime's own ``float16.convert_float_to_float16`` does the plain conversion, but raises weights below 6e-8 to 6e-8 and cuts
those above 65504 without a word, puts casts between any two neighbours that stay FP32, does not name them after their origin,
and treats Q/DQ as any operator, so that casts can come between a DequantizeLinear and its layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import Lineage, OnnxModel
from edgecnn.calib.data import Samples
from edgecnn.errors import GraphError, SpecError
from edgecnn.fp16_rules import (
    FP16_MAX,
    QDQ,
    Peaks,
    Slots,
    dequantizes_weight,
    is_float,
    kept_nodes,
    measure,
    rounded_scale,
    scale_error,
    scale_fits,
    slots_of,
)
from edgecnn.onnxio import add_initializer, load_ir, save_ir
from edgecnn.optional import need
from edgecnn.progress import Progress, silent

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Fp16Config", "Fp16Result", "to_fp16"]

PRECISIONS = {"fp32": "fp16", "int8": "int8-fp16"}
QDQ_OPSET = 19
"""First opset whose Q/DQ take float16 scales."""


@dataclass(frozen=True, kw_only=True)
class Fp16Config:
    """How to convert.

    Attributes:
        keep_float: regular expressions over node names; a node that one of them finds stays FP32.
        headroom: a tensor may reach 65504 / headroom on the samples; inputs to come may reach more than they did. At least 1.
    """

    keep_float: tuple[str, ...] = ()
    headroom: float = 2.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not (math.isfinite(self.headroom) and self.headroom >= 1):
            raise SpecError(f"fp16: headroom must be a finite number of at least 1, found {self.headroom!r}")
        for pattern in self.keep_float:
            try:
                re.compile(pattern)
            except re.error as error:
                raise SpecError(f"keep_float {pattern!r} is not a regular expression: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Fp16Result:
    """The converted model.

    Attributes:
        model: of precision ``fp16``, or ``int8-fp16`` if it was made from an INT8 model.
        kept: node -> the reason why it stays FP32.
        notes: what a reader should know.
    """

    model: OnnxModel
    kept: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "kept", MappingProxyType(dict(self.kept)))


def to_fp16(
    model: OnnxModel,
    samples: Iterable[Mapping[str, NDArray[Any]]],
    config: Fp16Config | None = None,
    *,
    to: Path,
    threads: int = 0,
    progress: Progress = silent,
) -> Fp16Result:
    """Convert a float32 model, or the float parts of an INT8 one, to FP16.

    Args:
        model: of precision ``fp32``, or ``int8`` with opset 19 or newer.
        samples: feeds on which the largest magnitude of every tensor is measured; read once.
        config: exceptions and headroom.
        to: the file to write.
        threads: of onnxruntime while measuring; 0 lets it choose.
        progress: told of each sample.

    Raises:
        GraphError: FP16 already, too old an opset, another precision, inputs other than float32, or control flow.
        DataError: no samples, or the model makes NaN of one.
        SpecError: a keep_float pattern finds no node.
    """
    config = config or Fp16Config()
    graph = _checked(model)
    slots = {str(node.name): slots_of(node, model.opset) for node in graph.graph}
    peaks = measure(model.path, samples, threads=threads, progress=progress)
    kept = kept_nodes(graph, slots, config.keep_float, config.headroom, peaks)
    slots = {name: Slots() if name in kept else found for name, found in slots.items()}
    converter = _Converter(graph, slots)
    converter.convert()
    graph.graph.sort()
    precision = PRECISIONS[model.precision]
    graph.metadata_props["edgecnn.precision"] = precision
    notes = _notes(graph, kept, peaks, converter.errors)
    hashes = {"model": model.sha256}
    if isinstance(samples, Samples):
        hashes["data"] = samples.fingerprint()
    step = Lineage(stage="fp16", config={**asdict(config), "kept": kept}, inputs=hashes, notes=notes)
    made = save_ir(graph, to, precision=precision, lineage=(*model.lineage, step))
    return Fp16Result(model=made, kept=kept, notes=notes)


def _checked(model: OnnxModel) -> ir.Model:
    """Load the model with the types of all its values. Raises GraphError."""
    name = model.path.name
    if model.precision not in PRECISIONS:
        raise GraphError(f"{name} is {model.precision}: FP16 is made from a model of precision fp32 or int8")
    others = [f"{spec.name} ({spec.dtype})" for spec in model.inputs if spec.dtype != "float32"]
    if others:
        raise GraphError(f"{name}: FP16 is made from a model with float32 inputs, found {', '.join(others)}")
    passes, graph = need("onnx_ir.passes.common"), load_ir(model.path)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    passes.ShapeInferencePass()(graph)
    half = need("onnx_ir").DataType.FLOAT16
    for node in graph.graph:
        if node.op_type in QDQ and model.opset < QDQ_OPSET:
            raise GraphError(
                f"{name} has opset {model.opset}; FP16 scales of Q/DQ need {QDQ_OPSET}: export it again with a newer opset"
            )
        if any(item.type.name in ("GRAPH", "GRAPHS") for item in node.attributes.values()):
            raise GraphError(
                f"{name}: {node.name} ({node.op_type}) holds a graph: control flow is not converted to FP16"
            )
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype == half:
                raise GraphError(f"{name} holds FP16 already ({value.name}): convert the FP32 model it was made from")
            if value is not None and value.dtype is None and value.name:
                raise GraphError(f"{name}: the type of {value.name} is unknown, so FP16 cannot be placed")
    return graph


def _notes(model: ir.Model, kept: Mapping[str, str], peaks: Peaks, errors: Sequence[float]) -> tuple[str, ...]:
    """Say how much stays FP32, how near the rest comes to overflow, and what rounding did to the scales of Q/DQ."""
    notes = []
    counted = [node for node in model.graph if node.op_type not in (*QDQ, "Cast")]
    if kept:
        notes.append(f"{len(kept)} of {len(counted)} nodes stay FP32")
    half = need("onnx_ir").DataType.FLOAT16
    reached = {
        value.name: peaks.tensors.get(str(value.name), 0.0)
        for n in counted
        for value in n.outputs
        if value.dtype == half
    }
    if reached:
        name = max(reached, key=lambda item: reached[item])
        notes.append(f"largest magnitude in FP16: {reached[name]:.4g} in {name}, of {FP16_MAX:g}")
    if errors:
        notes.append(f"scales rounded to FP16 change INT8 weights by at most {max(errors):.2%} (of a layer's norm)")
    return tuple(notes)


class _Converter:
    """Gives every use of a float value its type, and makes what that takes: casts, typed constants, DequantizeLinear twins.

    A node's output has one type, FP16 where its slot says so. A use that wants the other type reads a Cast, one for all such uses.
    Q/DQ are not converted but typed by their neighbours: Q as its input comes, DQ as its readers want it, and where they want
    both, there are two DQ of one integer tensor. So nothing ever stands between a DQ and the layer that fuses with it.
    """

    def __init__(self, model: ir.Model, slots: Mapping[str, Slots]) -> None:
        """Decide the type of every use."""
        self.ir, self.graph = need("onnx_ir"), model.graph
        self.nodes = list(model.graph)
        self.half = {id(node.outputs[index]) for node in self.nodes for index in slots[str(node.name)].outputs}
        self.wanted: dict[int, set[bool]] = {}
        self.uses: list[tuple[ir.Node, int, bool]] = []
        self.made: dict[tuple[int, bool], ir.Value] = {}
        self.scales: dict[int, Any] = {id(node): node.inputs[1] for node in self.nodes if node.op_type in QDQ}
        self.errors: list[float] = []
        for node in self.nodes:
            if node.op_type not in QDQ:
                for index, value in enumerate(node.inputs):
                    if is_float(value):
                        self._want(node, index, half=index in slots[str(node.name)].inputs)
        for output in self.graph.outputs:
            self.wanted.setdefault(id(output), set()).add(False)
        for node in reversed(self.nodes):
            if node.op_type in QDQ:
                self._want_qdq(node)

    def convert(self) -> None:
        """Change the graph in place."""
        for node in self.nodes:
            for value in node.outputs:
                if id(value) in self.half:
                    value.dtype = self.ir.DataType.FLOAT16
        for node, index, half in self.uses:
            given = node.inputs[index]
            assert given is not None
            node.replace_input_with(index, self._typed(given, half=half))
        for position, value in enumerate(list(self.graph.outputs)):
            if is_float(value) or id(value) in self.half:
                typed = self._typed(value, half=False)
                if typed is not value:
                    typed.name, value.name = value.name, f"{value.name}_fp16"
                    self.graph.outputs[position] = typed
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and value not in self.graph.outputs:
                del self.graph.initializers[name]

    def _want(self, node: ir.Node, index: int, *, half: bool) -> None:
        """Take note of the type of one use."""
        self.uses.append((node, index, half))
        self.wanted.setdefault(id(node.inputs[index]), set()).add(half)

    def _want_qdq(self, node: ir.Node) -> None:
        """Type a Q as its input comes, a DQ as its readers want it; readers have been seen before."""
        if node.op_type == "QuantizeLinear":
            value = node.inputs[0]
            assert value is not None
            source = value.producer()
            comes_half = id(value) in self.half or (source is not None and source.op_type in QDQ)
            half = comes_half and scale_fits(node)
            self._want(node, 0, half=half)
            self._want(node, 1, half=half)
            return
        output = node.outputs[0]
        wanted = self.wanted.get(id(output), set())
        if True in wanted:
            self.half.add(id(output))
            if dequantizes_weight(node):
                self.errors.append(scale_error(node))
        self._want(node, 1, half=True in wanted)
        if wanted == {True, False}:
            self.wanted[id(node.inputs[1])].add(False)

    def _typed(self, value: ir.Value, *, half: bool) -> ir.Value:
        """Return a value in the type that a use wants."""
        key = (id(value), half)
        if key not in self.made:
            source = value.producer()
            if value.is_initializer():
                self.made[key] = self._constant(value, half=half)
            elif (id(value) in self.half) == half:
                self.made[key] = value
            elif source is not None and source.op_type == "DequantizeLinear":
                self.made[key] = self._twin(source)
            else:
                self.made[key] = self._cast(value, half=half)
        return self.made[key]

    def _constant(self, value: ir.Value, *, half: bool) -> ir.Value:
        """Return an initializer in the type wanted: itself where all uses want one type, else FP16 has a copy of its own."""
        assert value.const_value is not None
        array, name = np.asarray(value.const_value.numpy()), str(value.name)
        wanted = self.wanted[id(value)]
        if True in wanted and any(value is scale for scale in self.scales.values()):
            array = rounded_scale(array)  # in FP32 uses too: a Q and its DQ share one scale
        array = array.astype(np.float16 if half else np.float32)
        if half and False in wanted:
            return add_initializer(self.graph, f"{name}_fp16", array)
        value.const_value = self.ir.tensor(array, name=name)
        value.dtype = value.const_value.dtype
        return value

    def _twin(self, node: ir.Node) -> ir.Value:
        """Return the FP32 output of a second DequantizeLinear beside an FP16 one."""
        inputs = [node.inputs[0], self._typed(self.scales[id(node)], half=False), *node.inputs[2:]]
        twin = self.ir.node(node.op_type, inputs, attributes=dict(node.attributes), name=f"{node.name}/fp32")
        return self._placed(twin, node, node.outputs[0], half=False)

    def _cast(self, value: ir.Value, *, half: bool) -> ir.Value:
        """Return a value of the other type, behind a Cast."""
        dtype = self.ir.DataType.FLOAT16 if half else self.ir.DataType.FLOAT
        name = f"{value.name}/Cast_{'fp16' if half else 'fp32'}"
        cast = self.ir.node("Cast", [value], attributes={"to": int(dtype)}, name=name)
        return self._placed(cast, value.producer(), value, half=half)

    def _placed(self, node: ir.Node, behind: ir.Node | None, like: ir.Value, *, half: bool) -> ir.Value:
        """Put a node behind another, or first, and return its output: ``like`` another value but for the type."""
        output = node.outputs[0]
        output.name = f"{like.name}_{'fp16' if half else 'fp32'}"
        output.shape = like.shape
        output.dtype = self.ir.DataType.FLOAT16 if half else self.ir.DataType.FLOAT
        if behind is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(behind, node)
        return output
