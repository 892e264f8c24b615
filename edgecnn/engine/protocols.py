"""The part of TensorRT's Python API that :mod:`edgecnn.engine.api` touches, as types: every member is in 10, in 11 and in TensorRT-RTX.

The package tensorrt-stubs does not parse (10.8.0.43.1 to 10.13.0.35.1, all that there are: "non-default argument follows default
argument"), so mypy reads these. A test compares them with the names recorded from the sources
of each version; what only one flavour has stands in classes of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = [
    "BuilderLike",
    "ConfigLike",
    "EngineLike",
    "InspectorLike",
    "LayerLike",
    "Module",
    "NetworkLike",
    "ParserErrorLike",
    "ParserLike",
    "ProfileLike",
    "RegistryLike",
    "RtxConfig",
    "RuntimeLike",
    "TensorLike",
    "TimingCacheLike",
]


class TensorLike(Protocol):
    """``ITensor``; open dimensions are -1."""

    name: str
    shape: Any
    dtype: Any


class LayerLike(Protocol):
    """``ILayer``."""

    name: str
    type: Any
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> TensorLike | None: ...
    def get_output(self, index: int) -> TensorLike: ...


class NetworkLike(Protocol):
    """``INetworkDefinition``."""

    num_inputs: int
    num_layers: int

    def get_input(self, index: int) -> TensorLike: ...
    def get_layer(self, index: int) -> LayerLike: ...


class ParserErrorLike(Protocol):
    """``ParserError``."""

    def code(self) -> Any: ...
    def desc(self) -> str: ...
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class ParserLike(Protocol):
    """``OnnxParser``."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...
    def supports_operator(self, op_name: str) -> bool: ...
    def get_error(self, index: int) -> ParserErrorLike: ...


class ProfileLike(Protocol):
    """``IOptimizationProfile``."""

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None: ...  # noqa: A002


class TimingCacheLike(Protocol):
    """``ITimingCache``; what it serializes to has the buffer protocol."""

    def serialize(self) -> Any: ...


class ConfigLike(Protocol):
    """``IBuilderConfig``."""

    builder_optimization_level: int
    profiling_verbosity: Any
    hardware_compatibility_level: Any
    default_device_type: Any
    DLA_core: int
    progress_monitor: Any

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def add_optimization_profile(self, profile: ProfileLike) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCacheLike: ...
    def set_timing_cache(self, cache: TimingCacheLike, ignore_mismatch: bool) -> bool: ...


class RtxConfig(Protocol):
    """What TensorRT-RTX's ``IBuilderConfig`` alone has."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class RegistryLike(Protocol):
    """``IPluginRegistry``."""

    def load_library(self, plugin_path: str) -> Any: ...


class BuilderLike(Protocol):
    """``Builder``; a serialized network has the buffer protocol, and is None where the build failed."""

    num_DLA_cores: int  # noqa: N815 -- theirs

    def create_network(self, flags: int) -> NetworkLike: ...
    def create_builder_config(self) -> ConfigLike: ...
    def create_optimization_profile(self) -> ProfileLike: ...
    def build_serialized_network(self, network: NetworkLike, config: ConfigLike) -> Any: ...
    def get_plugin_registry(self) -> RegistryLike: ...


class InspectorLike(Protocol):
    """``EngineInspector``."""

    def get_engine_information(self, format: Any) -> str: ...  # noqa: A002


class EngineLike(Protocol):
    """``ICudaEngine``."""

    def create_engine_inspector(self) -> InspectorLike: ...


class RuntimeLike(Protocol):
    """``Runtime``."""

    def deserialize_cuda_engine(self, serialized_engine: Any) -> EngineLike | None: ...


class Module(Protocol):
    """``tensorrt`` or ``tensorrt_rtx``: classes that we make or derive from, and enumerations that we read."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    BuilderFlag: Any
    DeviceType: Any
    HardwareCompatibilityLevel: Any
    LayerInformationFormat: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any

    def Builder(self, logger: Any) -> BuilderLike: ...  # noqa: N802
    def OnnxParser(self, network: NetworkLike, logger: Any) -> ParserLike: ...  # noqa: N802
    def Runtime(self, logger: Any) -> RuntimeLike: ...  # noqa: N802
