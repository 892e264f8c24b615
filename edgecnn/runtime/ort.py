"""onnxruntime as a :class:`~edgecnn.runtime.session.Session`: the only module that imports it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, get_args

import numpy as np

from edgecnn.errors import BackendError, EdgecnnError, UserError
from edgecnn.optional import need
from edgecnn.runtime.cpu import EXACT_INSTRUCTIONS, cpu_flags
from edgecnn.runtime.session import Array, Session, check_count, model_source
from edgecnn.spec import Dim, TensorSpec

__all__ = [
    "ALWAYS_DISABLED",
    "EXACT_FLOATS",
    "EXACT_PRODUCTS",
    "OrtBinding",
    "OrtOptions",
    "OrtSession",
    "available_providers",
]

Optimize = Literal["all", "extended", "basic", "disabled"]

ALWAYS_DISABLED = ("WeightBiasQuantization",)
"""Optimizer passes that no session of ours runs.

``WeightBiasQuantization`` quantizes, without being asked, float weights that stand between a DequantizeLinear and a
QuantizeLinear. A layer that was kept in float on purpose (a float island in an INT8 graph) loses its accuracy to it.
"""

EXACT_PRODUCTS = "session.x64quantprecision"
"""What keeps ``int8-cpu`` true on x86 processors without VNNI, set to "1" in every session of ours there.

There onnxruntime adds pairs of uint8 x int8 products in 16 bits, which saturate without an error; with this entry it turns the weights
into uint8 first, whose products it adds in 32. An application that loads the ONNX file by itself must set it too
(onnxruntime_session_options_config_keys.h, ``kOrtSessionOptionsAvx2PrecisionMode``). With VNNI nothing saturates, and the entry is left
out: onnxruntime 1.32 heeds it on some of these processors too, where it costs speed and, by way of :data:`SIGNED_TO_UNSIGNED`, the graph.
"""

SIGNED_TO_UNSIGNED = "QDQS8ToU8Transformer"
"""The optimizer pass that is tried without first where :data:`EXACT_PRODUCTS` is set (onnxruntime 1.32).

There it gives a per-channel weight without zero point a scalar one, and the DequantizeLinear fails when it is run. Without it, a
quantized Gemm with int8 activations has no kernel, which shows when the model is loaded: then it is loaded with the pass.
"""

EXACT_FLOATS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""Provider -> options that it gets unless the caller sets them: by default CUDA rounds what float32 layers multiply to 10 bits of mantissa,
so that an fp32 graph would be no more exact than an fp16 one, and would fail its verification."""

_FATAL = 4  # onnxruntime's log severity: errors come back as exceptions, so nothing below this needs to reach stderr
_LEVELS = {"all": "ENABLE_ALL", "extended": "ENABLE_EXTENDED", "basic": "ENABLE_BASIC", "disabled": "DISABLE_ALL"}
_LONGEST = 300
_MISSING_OPERATOR = (
    (r"No Op registered for (\S+) with domain_version of (\d+)", "there is no operator {0} in opset {1}"),
    (
        r"([\w.]*):(\w+)\(-?\d+\) is not a registered function/op",
        "operator {0}::{1} is not implemented here; if it is one of edgecnn's, export without the plugin option",
    ),
    (
        r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'",
        "operator {0} (opset {1}) of node '{2}' is not implemented for these providers and types",
    ),
)
_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, kw_only=True)
class OrtOptions:
    """How onnxruntime runs a model.

    Attributes:
        threads: within one operator; 0 lets onnxruntime choose (one a physical core).
        inter_threads: operators side by side; 1 runs them in sequence, which is best for one-branch CNNs.
        providers: execution providers in order of preference, each a name or ``(name, {option: value})``. The CPU provider
            takes what the others leave. CUDA computes float32 in float32 (:data:`EXACT_FLOATS`), unless ``use_tf32`` is given.
        optimize: graph optimization level.
        disabled_optimizers: passes to leave out, besides :data:`ALWAYS_DISABLED`.
        spin: whether idle threads spin between operators: faster, at the price of a busy core.
        reuse: whether a run takes its memory in one block, planned by the run before. Faster where runs are short; where many
            tensors are outputs, and runs go side by side, it takes up to twice the memory.
        trace: a folder for onnxruntime's trace of every operator of every run, which :meth:`OrtSession.end_trace` ends; it costs time.
    """

    threads: int = 0
    inter_threads: int = 1
    providers: tuple[str | tuple[str, Mapping[str, Any]], ...] = ("CPUExecutionProvider",)
    optimize: Optimize = "all"
    disabled_optimizers: tuple[str, ...] = ()
    spin: bool = True
    reuse: bool = True
    trace: Path | None = None

    def __post_init__(self) -> None:
        """Check and freeze the values."""
        for name in ("threads", "inter_threads"):
            check_count("onnxruntime", name, getattr(self, name))
        if self.optimize not in get_args(Optimize):
            raise UserError(f"onnxruntime: optimize {self.optimize!r} is not one of {', '.join(get_args(Optimize))}")
        providers: Any = self.providers
        if isinstance(providers, str) or not providers:
            raise UserError(f"onnxruntime: providers must be a tuple of at least one name, found {providers!r}")
        frozen = (p if isinstance(p, str) else (p[0], MappingProxyType(dict(p[1]))) for p in self.providers)
        object.__setattr__(self, "providers", tuple(frozen))
        object.__setattr__(self, "disabled_optimizers", tuple(self.disabled_optimizers))

    @property
    def provider_names(self) -> tuple[str, ...]:
        """The providers without their options."""
        return tuple(p if isinstance(p, str) else p[0] for p in self.providers)


class OrtSession(Session):
    """An ONNX model on onnxruntime. Safe to run from several threads at once.

    Args:
        model: an ``.onnx`` file, or the bytes of a model that holds its own weights.
        options: threads, providers, optimizations.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        UserError: there is no such file, or it is empty.
        BackendError: onnxruntime refuses the model, an operator is not implemented, or a provider is missing.
    """

    backend = "onnxruntime"

    def __init__(self, model: Path | str | bytes, options: OrtOptions = OrtOptions()) -> None:
        """Load the model."""
        ort = _onnxruntime()
        self.options = options
        self._where = "the model" if isinstance(model, bytes) else Path(model).name
        source = model_source(model)
        _check_providers(ort, options)
        try:
            session = _start(ort, source, options)
        except Exception as error:
            raise BackendError(f"onnxruntime cannot load {self._where}: {_reason(error)}") from error
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        lost = [name for name in options.provider_names if name not in self.providers]
        if lost:
            raise BackendError(
                f"onnxruntime could not start {', '.join(lost)} and would run {self._where} on {self.providers[0]}: "
                "check the driver and libraries, or ask for that provider"
            )
        self.inputs = tuple(_spec(self._where, node) for node in session.get_inputs())
        self.outputs = tuple(_spec(self._where, node) for node in session.get_outputs())
        self._session: Any = session

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's metadata properties."""
        return dict(self._open().get_modelmeta().custom_metadata_map)

    def bind(self, dims: Mapping[str, int] | None = None) -> OrtBinding:
        """Fix the shapes and hand out input and output arrays that onnxruntime reads and writes in place.

        Args:
            dims: a length for each named dimension; those left out are 1.

        Raises:
            UserError: a closed session, or a length below 1.
        """
        return OrtBinding(self._open(), self, dims or {})

    def end_trace(self) -> Path:
        """End the trace that :attr:`OrtOptions.trace` asked for, and return its file (JSON, Chrome's trace events).

        Raises:
            UserError: none was asked for, or the session is closed.
        """
        if self.options.trace is None:
            raise UserError("this onnxruntime session keeps no trace: give OrtOptions(trace=FOLDER)")
        return Path(str(self._open().end_profiling()))

    def close(self) -> None:
        """Release the model's memory, once runs in other threads have ended."""
        super().close()
        self._session = None

    def _open(self) -> Any:
        """Return onnxruntime's session."""
        session = self._session  # one read: another thread may close meanwhile
        if session is None:
            raise UserError("this onnxruntime session is closed")
        return session

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run once on a checked feed."""
        if not outputs:
            return {}  # onnxruntime takes an empty list for all of them
        try:
            return dict(zip(outputs, self._open().run(outputs, feed), strict=True))
        except EdgecnnError:
            raise
        except Exception as error:
            raise BackendError(f"onnxruntime failed to run {self._where}: {_reason(error)}") from error


class OrtBinding:
    """A session with fixed buffers: fill :attr:`inputs` in place, call :meth:`run`, read :attr:`outputs`.

    For loops over frames: nothing is allocated, checked or looked up a second time. Made by :meth:`OrtSession.bind`; use one
    in one thread at a time.

    Attributes:
        inputs: name -> array, zeros at first. Write into them; do not replace them.
        outputs: name -> array, overwritten by every run.
    """

    def __init__(self, raw: Any, session: OrtSession, dims: Mapping[str, int]) -> None:
        """Allocate and bind the arrays."""
        self._raw: Any = raw
        self._binding: Any = raw.io_binding()
        self._where = session._where  # noqa: SLF001 -- one module, one class split in two
        self.inputs = {spec.name: np.zeros(_sized(spec, dims), spec.dtype) for spec in session.inputs}
        self.outputs = {spec.name: np.zeros(_sized(spec, dims), spec.dtype) for spec in session.outputs}
        for name, array in self.inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name, array in self.outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)

    def run(self) -> Mapping[str, Array]:
        """Run once on what :attr:`inputs` hold, and return :attr:`outputs`.

        Raises:
            BackendError: onnxruntime failed, or an output has another shape than its spec says.
        """
        try:
            self._raw.run_with_iobinding(self._binding)
        except Exception as error:
            raise BackendError(f"onnxruntime failed to run {self._where}: {_reason(error)}") from error
        return self.outputs


def available_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime. Raises MissingDependencyError."""
    return tuple(_onnxruntime().get_available_providers())


def _onnxruntime() -> ModuleType:
    """Import onnxruntime, which from 1.29 on sends usage data to Microsoft and keeps an identifier of the machine on disk.

    Its API turns that off too late, when the first event is out; the variable works before the import. A user who sets the
    variable to another value keeps it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return need("onnxruntime")


def _check_providers(ort: Any, options: OrtOptions) -> None:
    """Refuse providers that this onnxruntime lacks, and help the CUDA ones find their libraries."""
    present = ort.get_available_providers()
    missing = [name for name in options.provider_names if name not in present]
    if missing:
        raise BackendError(
            f"onnxruntime {ort.__version__} here has no {', '.join(missing)}; available: {', '.join(present)}"
        )


def _start(ort: Any, source: str | bytes, options: OrtOptions) -> Any:
    """Load a model."""
    exact = not cpu_flags() & EXACT_INSTRUCTIONS

    def start(*disabled: str) -> Any:
        return ort.InferenceSession(
            source,
            _session_options(ort, options, exact=exact),
            providers=_providers(options),
            disabled_optimizers=[*ALWAYS_DISABLED, *options.disabled_optimizers, *disabled],
            enable_fallback=0,  # a fallback prints, and hides that the wanted provider is not in use
        )

    if exact:
        with suppress(Exception):
            return start(SIGNED_TO_UNSIGNED)
    return start()


def _providers(options: OrtOptions) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers with the caller's options over ours."""
    given = [(p, {}) if isinstance(p, str) else p for p in options.providers]
    return [(name, {**EXACT_FLOATS.get(name, {}), **own}) for name, own in given]


def _session_options(ort: Any, options: OrtOptions, *, exact: bool) -> Any:
    """Translate our options; ``exact`` asks for :data:`EXACT_PRODUCTS`."""
    result = ort.SessionOptions()
    result.intra_op_num_threads = options.threads
    result.inter_op_num_threads = options.inter_threads
    result.execution_mode = (
        ort.ExecutionMode.ORT_SEQUENTIAL if options.inter_threads == 1 else ort.ExecutionMode.ORT_PARALLEL
    )
    result.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{_LEVELS[options.optimize]}")
    result.log_severity_level = _FATAL
    result.enable_mem_pattern = options.reuse
    if options.trace is not None:
        result.enable_profiling = True
        result.profile_file_prefix = str(options.trace / "onnxruntime")
    if exact:
        result.add_session_config_entry(EXACT_PRODUCTS, "1")
    if not options.spin:
        result.add_session_config_entry("session.intra_op.allow_spinning", "0")
        result.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return result


def _spec(where: str, node: Any) -> TensorSpec:
    """Describe one of onnxruntime's NodeArgs."""
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    dims: list[Dim] = []
    for position, dim in enumerate(node.shape):
        dims.append(dim if isinstance(dim, int) and dim > 0 else (dim or f"dim{position}"))
    try:
        return TensorSpec(name=node.name, shape=tuple(dims), dtype=str(np.dtype(_DTYPES.get(kind, kind))))
    except (EdgecnnError, TypeError) as error:
        raise BackendError(f"{where}: {node.name!r} has type {node.type}, which a Session cannot carry") from error


def _sized(spec: TensorSpec, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return a spec's shape with lengths for its named dimensions."""
    shape = tuple(dims.get(dim, 1) if isinstance(dim, str) else dim for dim in spec.shape)
    if any(length < 1 for length in shape):
        raise UserError(f"tensor {spec.name!r} cannot have the shape {list(shape)}")
    return shape


def _reason(error: BaseException) -> str:
    """Return onnxruntime's complaint as one line: without its code and source position, missing operators first."""
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, message in _MISSING_OPERATOR:
        if found := re.search(pattern, text):
            return message.format(*found.groups())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = re.sub(r"/\S*onnxruntime\S*:\d+ [^()]*\([^()]*\)( const)? ", "", text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
