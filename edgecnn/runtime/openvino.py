"""OpenVINO as a :class:`~edgecnn.runtime.session.Session`: the only module that imports it."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from edgecnn.errors import BackendError, EdgecnnError, UserError
from edgecnn.optional import need
from edgecnn.runtime.cpu import cpu_flags, saturates
from edgecnn.runtime.session import Array, Session, check_count, model_source
from edgecnn.spec import Dim, TensorSpec

__all__ = ["OpenVinoOptions", "OpenVinoSession", "available_devices"]

Hint = Literal["latency", "throughput"]

WITHOUT_INTEGERS = {"LP_TRANSFORMS_MODE": "NO"}
"""Runs a quantized graph as it is written, in float, where the processor's integer kernels would saturate.

A key of OpenVINO's that its documentation does not list; one that no longer knew it would refuse to load a model, with an error.
"""

_LONGEST = 300
_RESULT = "/sink_port_0"  # what OpenVINO's ONNX reader appends to an output's name
_TELEMETRY = "openvino_telemetry"
_DTYPES = {"f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool"} | {
    f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
_NOISE = (
    r"^(Exception from|Check '.*' failed at) \S+:\d+:?|^Model wasn't fully converted\.|^Failed operations detailed log:|^Summary:"
    r"|FrontEnd API failed with \w+:|While validating node '.*' with friendly_name '.*':|Check '.*' failed at \S+:\d+:"
)


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """How OpenVINO runs a model.

    Attributes:
        threads: of one inference; 0 lets OpenVINO choose.
        hint: ``latency`` gives one inference all the threads; ``throughput`` runs several of different threads side by side.
        device: ``CPU``, or another that :func:`available_devices` names.
    """

    threads: int = 0
    hint: Hint = "latency"
    device: str = "CPU"

    def __post_init__(self) -> None:
        """Check the values."""
        check_count("OpenVINO", "threads", self.threads)
        if self.hint not in get_args(Hint):
            raise UserError(f"OpenVINO: hint {self.hint!r} is not one of {', '.join(get_args(Hint))}")
        if not isinstance(self.device, str) or not self.device:
            raise UserError(f"OpenVINO: device must be a name such as 'CPU', found {self.device!r}")


class OpenVinoSession(Session):
    """An ONNX model on OpenVINO. Safe to run from several threads at once.

    Where the model takes any batch it is compiled for a batch of 1, which saves 5 to 8 % of EfficientNet-Lite0's time there and
    nothing at a batch of 8; the first run of another batch compiles it once more, for all of them, and the memory is then that of two.

    Args:
        model: an ``.onnx`` file, or the bytes of a model that holds its own weights.
        options: threads, latency or throughput, device.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        UserError: there is no such file, or it is empty.
        BackendError: OpenVINO refuses the model, lacks one of its operators, or has no such device.
    """

    backend = "openvino"

    def __init__(self, model: Path | str | bytes, options: OpenVinoOptions = OpenVinoOptions()) -> None:
        """Load the model."""
        core = _core()
        self.options = options
        self._where = "the model" if isinstance(model, bytes) else Path(model).name
        source = model_source(model)
        if options.device not in core.available_devices:
            raise BackendError(f"OpenVINO has no device {options.device!r} here; it has {_devices(core)}")
        try:
            self._model: Any = core.read_model(source)
            self._compile: Callable[[Any], _Compiled] = lambda model: _Compiled(
                core.compile_model(model, options.device, _properties(options))
            )
            one = _of_one(self._model)
            self._one = None if one is None else self._compile(one)
            self._any = None if one is not None else self._compile(self._model)
        except Exception as error:
            raise BackendError(f"OpenVINO cannot load {self._where}: {_reason(error)}") from error
        self.inputs = tuple(_spec(self._where, port) for port in self._model.inputs)
        self.outputs = tuple(_spec(self._where, port) for port in self._model.outputs)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the model's memory, once runs in other threads have ended."""
        super().close()
        with self._lock:  # what another thread compiles right now goes too
            self._model = self._one = self._any = None

    def trim(self) -> None:
        """Let go what is compiled for any batch, if there is one for a batch of 1: it has a copy of the weights."""
        with self._lock:
            if self._one is not None:
                self._any = None

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run once on a checked feed."""
        arrays = [feed[spec.name] for spec in self.inputs]
        one = self._one  # one read: another thread may close meanwhile
        try:
            results = (one if one is not None and arrays[0].shape[0] == 1 else self._of_any()).infer(arrays)
        except UserError:
            raise
        except Exception as error:
            raise BackendError(f"OpenVINO failed to run {self._where}: {_reason(error)}") from error
        named = dict(zip((spec.name for spec in self.outputs), results, strict=True))
        return {name: named[name] for name in outputs}

    def _of_any(self) -> _Compiled:
        """Return the model compiled for any batch. Raises UserError when the session is closed."""
        if (found := self._any) is not None:
            return found
        with self._lock:
            if (model := self._model) is None:
                raise UserError("this openvino session is closed")
            if self._any is None:
                self._any = self._compile(model)
            return self._any


class _Compiled:
    """A compiled model and its idle requests: a run takes one, or makes one where all are at work."""

    def __init__(self, compiled: Any) -> None:
        """Hold what OpenVINO compiled."""
        self._compiled = compiled
        self._idle: list[Any] = []

    def infer(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once and return the outputs, in the model's order."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        results: tuple[Array, ...] = request.infer(list(arrays), share_inputs=True).to_tuple()
        self._idle.append(request)
        return results


def available_devices() -> tuple[str, ...]:
    """Return the devices of the installed OpenVINO. Raises MissingDependencyError."""
    return tuple(_core().available_devices)


_one_at_a_time = threading.Lock()
_made: list[Any] = []


def _core() -> Any:
    """Return the process's one Core, which is never let go.

    A Core's CPU plugin gives the thread that makes it a signal stack of its own, and unmaps that when the Core goes. Two Cores that
    do not go in the reverse order leave the thread with a stack that is not there: the next Ctrl-C is a segmentation fault
    (seen with 2026.4; tests/runtime/test_openvino.py).
    """
    with _one_at_a_time:  # of two that threads made at once, one would go
        if not _made:
            _made.append(_openvino().Core())
        return _made[0]


def _openvino() -> ModuleType:
    """Import OpenVINO, whose import otherwise sends an event to Google Analytics and keeps an identifier of the machine on disk.

    It does so through a package that it can do without. That package is hidden while it is imported, and only then: an
    application that wants it can import it, before or afterwards.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return need("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # by the language's definition, None makes an import fail
    try:
        return need("openvino")
    finally:
        sys.modules.pop(_TELEMETRY, None)


def _properties(options: OpenVinoOptions) -> dict[str, Any]:
    """Translate our options."""
    properties: dict[str, Any] = {
        # Left alone, processors with AMX or AVX512-BF16 round every float tensor to 8 bits of mantissa.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": options.hint.upper(),
    }
    if options.device == "CPU":
        # Pinned threads of two sessions meet on the same cores, and wait for whatever else runs there.
        properties["ENABLE_CPU_PINNING"] = False
        if saturates(cpu_flags()):
            properties |= WITHOUT_INTEGERS
        if options.threads:
            properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def _of_one(model: Any) -> Any | None:
    """Return a copy of a model for a batch of 1, None where it has a fixed batch, several inputs, or does not take a batch of 1."""
    if len(model.inputs) != 1 or not (shape := model.inputs[0].get_partial_shape()).rank.is_static:
        return None
    if not len(shape) or shape[0].is_static:
        return None
    copy = model.clone()
    shape[0] = 1
    try:
        copy.reshape(shape)
    except RuntimeError:  # OpenVINO's, for a graph whose shapes do not go with it
        return None
    return copy


def _devices(core: Any) -> str:
    """Name the devices."""
    return ", ".join(core.available_devices) or "none"


def _spec(where: str, port: Any) -> TensorSpec:
    """Describe an input or output. OpenVINO forgets the names of dimensions: the first is called ``batch``."""
    name, kind = str(port.node.friendly_name).removesuffix(_RESULT), str(port.get_element_type().get_type_name())
    dims: list[Dim] = [
        dim.get_length() if dim.is_static else "batch" if position == 0 else f"dim{position}"
        for position, dim in enumerate(port.get_partial_shape())
    ]
    try:
        return TensorSpec(name=name, shape=tuple(dims), dtype=_DTYPES.get(kind, kind))
    except EdgecnnError as error:
        raise BackendError(f"{where}: {name!r} has type {kind}, which a Session cannot carry") from error


def _reason(error: BaseException) -> str:
    """Return OpenVINO's complaint as one line: without source positions, missing operators first."""
    text = str(error)
    if found := re.search(r"No conversion rule found for operations: (.+)", text):
        wanted = found.group(1).strip()
        todo = "export with --deform gridsample, or run it" if "Deform" in wanted else "run it"
        return f"it has no operator {wanted}: {todo} on onnxruntime"
    text = " ".join(re.sub(_NOISE, "", text, flags=re.MULTILINE).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
