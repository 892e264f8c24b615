"""ONNX files in and out, over onnx-ir: the one place that knows about external data, model metadata and exposing tensors."""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.artifacts import Lineage, OnnxModel, sha256_file
from edgecnn.errors import GraphError, OutputError, UserError
from edgecnn.optional import need
from edgecnn.spec import Dim, TensorSpec
from edgecnn.writing import atomic_file

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "EXTERNAL_DATA_THRESHOLD",
    "add_initializer",
    "data_path",
    "detach",
    "expose",
    "load_ir",
    "open_model",
    "parameter_count",
    "read_metadata",
    "release_memory",
    "save_ir",
    "scratch_file",
    "tag",
    "trim_memory",
    "varint",
]

EXTERNAL_DATA_THRESHOLD = 1_900_000_000
"""Bytes of initializers from which weights go into ``<file>.data``: protobuf cannot hold 2 GiB or more."""


def data_path(path: Path) -> Path:
    """Return where the external data of ``path`` lies."""
    return path.with_name(path.name + ".data")


def load_ir(path: Path) -> ir.Model:
    """Read an ONNX file; weights beside it stay memory-mapped until they are used.

    Nodes without a name, or with one that another has, are named after their first output: decisions are recorded by name.

    Raises:
        UserError: the file is missing, empty, or not ONNX.
    """
    ir = need("onnx_ir")
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): export it again")
    try:
        model = ir.load(path)
    except Exception as error:
        raise UserError(f"{path} is not a readable ONNX model: {_one_line(error)}") from error
    if not len(model.graph.outputs):
        raise UserError(f"{path} is not a usable ONNX model: its graph has no outputs")
    _name_nodes(model.graph)
    return model  # type: ignore[no-any-return]


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node a name of its own."""
    taken = {str(node.name) for node in graph if node.name}
    seen: set[str] = set()
    for node in graph:
        if not node.name or node.name in seen:
            wanted = f"{node.outputs[0].name}/{node.op_type}"
            while wanted in taken:
                wanted += "_"
            node.name = wanted
            taken.add(wanted)
        seen.add(str(node.name))


def detach(model: ir.Model) -> None:
    """Copy a graph's constants out of the file that they were read from, which stays in memory whole while one of them is used.

    For graphs that have got other weights: what was read goes, what was kept is small. Weights that lie in a file of their own
    stay there.
    """
    ir = need("onnx_ir")
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.serde.TensorProtoTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)


def open_model(path: Path, *, precision: str = "fp32", lineage: Sequence[Lineage] = ()) -> OnnxModel:
    """Describe an ONNX file as an artefact. Raises UserError as :func:`load_ir` does."""
    return _describe(path, load_ir(path), precision, lineage)


def save_ir(model: ir.Model, path: Path, *, precision: str = "fp32", lineage: Sequence[Lineage] = ()) -> OnnxModel:
    """Write an onnx-ir model to ``path``, whole or not at all; weights beyond 1.9 GB go to ``<path>.data``.

    Raises:
        OutputError: the folder cannot be written.
        GraphError: the model cannot be serialised.
    """
    need("onnx_ir")
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size >= EXTERNAL_DATA_THRESHOLD:
        _save_external(model, path)
    else:
        try:
            pieces = _serialized(model)
        except Exception as error:
            raise GraphError(f"cannot serialise the model for {path}: {_one_line(error)}") from error
        with atomic_file(path) as stream:
            for piece in pieces:
                stream.write(piece)
        data_path(path).unlink(missing_ok=True)
    return _describe(path, model, precision, lineage)


def _save_external(model: ir.Model, path: Path) -> None:
    """Write a model and its weights side by side: both into a temporary folder, then into place, the weights first."""
    ir = need("onnx_ir")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            written = Path(scratch) / path.name
            ir.save(model, written, external_data=data_path(path).name, size_threshold_bytes=1024)
            data_path(written).replace(data_path(path))
            written.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _serialized(model: ir.Model) -> Iterator[bytes]:
    """Return the model's protobuf bytes in pieces, one weight at a time: two whole copies of the weights are never in memory.

    protobuf's own serialiser needs the weights once as messages and once more as the result (740 MB for ResNet-152). Here the
    graph without weights is serialised by it, and the ``initializer`` fields follow, framed by hand
    (https://protobuf.dev/programming-guides/encoding/: a field is its tag, a length, the content; fields may stand in any order).
    """
    ir = need("onnx_ir")
    frames = [_initializer(value) for value in model.graph.initializers.values() if value.const_value is not None]
    bare = model.clone()
    bare.graph.initializers.clear()
    proto = ir.to_proto(bare)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    head = proto.SerializeToString(deterministic=True)

    def pieces() -> Iterator[bytes]:
        length = len(graph) + sum(len(frame) + size for frame, size, _ in frames)
        yield head + tag(7) + varint(length)  # ModelProto.graph
        yield graph
        for frame, size, tensor in frames:
            yield frame
            if size:
                yield tensor.tobytes()

    return pieces()


def _initializer(value: ir.Value) -> tuple[bytes, int, Any]:
    """Frame one ``GraphProto.initializer``: the bytes up to its raw data, the raw data's length, the tensor that has it."""
    ir, onnx = need("onnx_ir"), need("onnx")
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype == ir.DataType.STRING:
        content = ir.to_proto(tensor).SerializeToString(deterministic=True)
        return tag(5) + varint(len(content)) + content, 0, tensor
    proto = onnx.TensorProto(name=value.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    size = tensor.nbytes
    content = proto.SerializeToString(deterministic=True) + tag(9) + varint(size)  # TensorProto.raw_data
    return tag(5) + varint(len(content) + size) + content, size, tensor


def tag(field: int) -> bytes:
    """Return the tag of a length-delimited protobuf field."""
    return varint(field << 3 | 2)


def varint(number: int) -> bytes:
    """Return a number as a protobuf varint: 7 bits a byte, the lowest first, the high bit set on all but the last."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@contextmanager
def scratch_file(model: ir.Model) -> Iterator[Path]:
    """Write a model for one session, its weights beside it whatever their size, and remove both in the end.

    onnxruntime maps weights that lie in a file of their own; of weights inside the model it holds two copies while it loads. The
    session must be closed first.

    Raises:
        OutputError: no room for temporary files.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgecnn-")
    except OSError as error:
        raise OutputError(f"cannot make a temporary folder: {error.strerror or error}") from error
    with folder:
        path = Path(folder.name) / "model.onnx"
        _save_external(model, path)
        del model
        _owe(sum(file.stat().st_size for file in path.parent.iterdir()))
        yield path


DEBT = 32 << 20
"""Bytes of graphs that may lie about uncollected: a collection takes a quarter of a second in a process that has loaded PyTorch."""

_owed: list[int] = []


def _owe(size: int) -> None:
    """Note that a graph of so many bytes is no longer used, and collect once that adds up."""
    _owed.append(size)
    if sum(_owed) > DEBT:
        release_memory()


def release_memory() -> None:
    """Give the memory of graphs that are no longer used back to the system.

    A graph is a web of references in circles, which holds its weights until they are collected; and glibc keeps what is freed below
    what is not, which is a gigabyte after a few graphs of ResNet-152.
    """
    _owed.clear()
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give what was freed back to the system, where glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def expose(path: Path, tensors: Sequence[str], *, typed: bool = False) -> ir.Model:
    """Return the model with ``tensors`` as additional graph outputs, in the order given after its own.

    Args:
        path: the model.
        tensors: of its graph.
        typed: infer types where the file gives none: TensorRT's parser wants an output's, onnxruntime does not.

    Raises:
        UserError: the model cannot be read. GraphError: a tensor is not in the graph.
    """
    model = load_ir(path)
    values = {value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values()]}
    for node in model.graph:
        values.update({value.name: value for value in node.outputs})
    present = {value.name for value in model.graph.outputs}
    if typed and any(name in values and values[name].type is None for name in tensors):
        need("onnx_ir.passes.common").ShapeInferencePass(strict_mode=False)(model)
    for name in tensors:
        if name not in values:
            raise GraphError(f"{path.name} has no tensor {name!r}")
        if name not in present:
            model.graph.outputs.append(values[name])
            present.add(name)
    return model


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Give a graph a new constant and return it; no other value of the graph has that name."""
    ir = need("onnx_ir")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value  # type: ignore[no-any-return]


def parameter_count(path: Path) -> int:
    """Return how many numbers a float graph holds as weights. Raises UserError as :func:`load_ir`."""
    values = [value.const_value for value in load_ir(path).graph.initializers.values()]
    return int(sum(value.size for value in values if value is not None and value.dtype.is_floating_point()))


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the model's metadata properties. Raises UserError as :func:`load_ir` does."""
    return dict(load_ir(path).metadata_props)


def _describe(path: Path, model: ir.Model, precision: str, lineage: Sequence[Lineage]) -> OnnxModel:
    """Build the artefact of a file that was just read or written."""
    borders = [*model.graph.inputs, *model.graph.outputs]
    if loose := [value.name for value in borders if value.shape is None or value.dtype is None]:
        raise UserError(
            f"{path}: tensor {loose[0]!r} has no fixed rank or no type: export the model again with fixed ranks"
        )
    files = [path, data_path(path)] if data_path(path).exists() else [path]
    return OnnxModel(
        path=path,
        sha256=sha256_file(*files),
        inputs=tuple(_tensor_spec(value) for value in model.graph.inputs),
        outputs=tuple(_tensor_spec(value) for value in model.graph.outputs),
        opset=model.graph.opset_imports.get("", 0),
        precision=precision,
        nodes=sum(1 for _ in model.graph),
        lineage=tuple(lineage),
    )


def _tensor_spec(value: Any) -> TensorSpec:
    """Describe a graph input or output."""
    dims: list[Dim] = []
    for position, dim in enumerate(value.shape):
        dims.append(dim if isinstance(dim, int) else str(dim.value or f"dim{position}"))
    return TensorSpec(name=value.name, shape=tuple(dims), dtype=_dtype(value.dtype))


def _dtype(dtype: Any) -> str:
    """Return numpy's name of an ONNX element type."""
    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    return names.get(dtype.name, str(dtype.name).lower())


def _one_line(error: BaseException) -> str:
    """Return the first non-empty line of a foreign error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
