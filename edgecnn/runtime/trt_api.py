"""What running a plan touches of TensorRT's Python API, as types, and its one logger. Every member is in 10, in 11 and in TensorRT-RTX.

A test compares these types with the names recorded from each version, and with the real TensorRT-RTX; what RTX alone has stands apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from edgecnn.errors import MissingDependencyError
from edgecnn.optional import install_line, need

__all__ = ["MODULES", "ContextLike", "EngineLike", "ParserRefitterLike", "PluginsLike", "RefitterLike", "RtxEngine",
           "RtxRuntimeCache", "RtxRuntimeConfig", "RuntimeLike", "collected", "layer_profiler", "logger_of", "module_of",
           "refit", "spoken", "version_numbers"]  # fmt: skip

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Flavour -> module."""

log = logging.getLogger("edgecnn.engine")
log.addHandler(logging.NullHandler())  # TensorRT's warnings are for applications that configure logging, not for stderr


class PluginsLike(Protocol):
    """``IPluginRegistry``."""

    def load_library(self, plugin_path: str) -> Any: ...


class ContextLike(Protocol):
    """``IExecutionContext``."""

    profiler: Any

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Any: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class EngineLike(Protocol):
    """``ICudaEngine``; open dimensions are -1."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any: ...
    def create_execution_context(self) -> ContextLike | None: ...


class RefitterLike(Protocol):
    """``Refitter``: gives a loaded engine other weights."""

    def get_missing_weights(self) -> list[str]: ...
    def refit_cuda_engine(self) -> bool: ...


class ParserRefitterLike(Protocol):
    """``OnnxParserRefitter``: takes them from an ONNX file."""

    num_errors: int

    def refit_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> Any: ...


class RuntimeLike(Protocol):
    """``Runtime``."""

    DLA_core: int
    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, serialized_engine: Any) -> EngineLike | None: ...
    def get_plugin_registry(self) -> PluginsLike: ...


class RtxRuntimeCache(Protocol):
    """``IRuntimeCache``: the kernels that TensorRT-RTX compiled on this device."""

    def serialize(self) -> Any: ...
    def deserialize(self, blob: Any) -> bool: ...


class RtxRuntimeConfig(Protocol):
    """``IRuntimeConfig``, as TensorRT-RTX has it."""

    def create_runtime_cache(self) -> RtxRuntimeCache: ...
    def set_runtime_cache(self, cache: RtxRuntimeCache) -> bool: ...


class RtxEngine(Protocol):
    """What TensorRT-RTX's ``ICudaEngine`` has."""

    def create_runtime_config(self) -> RtxRuntimeConfig: ...
    def create_execution_context(self, runtime_config: RtxRuntimeConfig) -> ContextLike | None: ...


def spoken(flavour: str) -> str:
    """Return the name as its makers write it."""
    return "TensorRT" if flavour == "tensorrt" else "TensorRT-RTX"


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``10.3.0`` -> (10, 3, 0)."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def module_of(flavour: str, member: str) -> ModuleType:
    """Import a flavour, which must have ``member``: a package of type stubs leaves a folder that imports as an empty module.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.
    """
    name = MODULES[flavour]
    module = need(name)
    if not hasattr(module, member):
        raise MissingDependencyError(f"this needs {name}, which is not installed: {install_line(name)}")
    return module


_loggers: WeakKeyDictionary[ModuleType, Any] = WeakKeyDictionary()


def logger_of(module: ModuleType) -> Any:
    """Return the module's one logger: TensorRT keeps the first it is given and ignores others (it says so in a warning)."""
    if module not in _loggers:
        _loggers[module] = _make_logger(module)
    return _loggers[module]


@contextmanager
def collected(logger: Any) -> Iterator[list[str]]:
    """Collect the errors that are logged meanwhile."""
    logger.errors, logger.seen = [], set()
    yield logger.errors


def refit(module: ModuleType, engine: EngineLike, graph: str) -> str:
    """Give a stripped engine the weights of the ONNX file that it was built from; return why it cannot be had, "" where it can.

    ``Refitter`` and ``OnnxParserRefitter`` are in 10, 11 and TensorRT-RTX.
    """
    logger = logger_of(module)
    refitter: RefitterLike = module.Refitter(engine, logger)
    parser: ParserRefitterLike = module.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(graph):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        return "; ".join(str(error.desc()) for error in found) or "it gave no reason"
    if missing := refitter.get_missing_weights():
        return f"it has no {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    return "" if refitter.refit_cuda_engine() else "TensorRT refused it"


def layer_profiler(module: ModuleType) -> Any:
    """Return a profiler whose ``times`` are the milliseconds of each layer, a list for each name, one number a run."""
    base: Any = module.IProfiler

    class Profiler(base):  # type: ignore[misc]
        """Keeps what it is told."""

        def __init__(self) -> None:
            base.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()


def _make_logger(module: ModuleType) -> Any:
    """Return a logger that hands TensorRT's messages to ``logging``, and keeps errors for whoever collects them."""
    base: Any = module.ILogger
    levels = {
        "INTERNAL_ERROR": logging.ERROR,
        "ERROR": logging.ERROR,
        "WARNING": logging.WARNING,
        "INFO": logging.DEBUG,
    }

    class Logger(base):  # type: ignore[misc]
        """Routes; TensorRT's information is our debugging, and its verbose messages are left out."""

        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.seen: set[str] = set()

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity.name)
            if level is None or msg in self.seen:  # some are repeated for every layer
                return
            self.seen.add(msg)
            log.log(min(level, logging.WARNING), "%s", msg)  # an error becomes an exception with its text
            if level == logging.ERROR:
                self.errors.append(msg)

    return Logger()
