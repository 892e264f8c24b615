"""``tensorrt`` 10 and 11 as recorded: their names, from the sources of their bindings, over a builder that builds nothing.

A name that a version does not have raises AttributeError, and so does setting it, as pybind11's classes do. What the fake cannot
show is how TensorRT behaves: which kernels it takes, and what its plans hold.
"""
# ruff: noqa: A002 -- the names of parameters are theirs

from __future__ import annotations

import enum
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints

import onnx
from fake_runtime import (
    GRAPHS,
    Guarded,
    ICudaEngine,
    IExecutionContext,
    IRuntimeCache,
    IRuntimeConfig,
    Memory,
    OnnxParserRefitter,
    Refitter,
    Runtime,
)

HERE = Path(__file__).parent
VERSIONS = tuple(sorted(path.stem.removeprefix("tensorrt-") for path in (HERE / "api").glob("*.json")))


def recorded(version: str) -> dict[str, set[str]]:
    """Return class or enumeration -> its names in a version."""
    data = json.loads((HERE / "api" / f"tensorrt-{version}.json").read_text())
    return {name: set(own) for name, own in data["names"].items()}


def members(protocol: type) -> Iterator[str]:
    """Yield what one of our protocols asks of their class."""
    yield from get_type_hints(protocol)
    yield from (name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_"))


class ITensor(Guarded):
    """A tensor."""

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class ILayer(Guarded):
    """A layer."""

    def __init__(self, name: str, kind: Any, inputs: list[Any], outputs: list[Any]) -> None:
        self.name, self.type = name, kind
        self._inputs, self._outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class INetworkDefinition(Guarded):
    """A network, filled by the parser."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._inputs: list[Any] = []
        self._layers: list[Any] = []
        self._digest = ""

    num_inputs = property(lambda self: len(self._inputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


class IOptimizationProfile(Guarded):
    """A profile."""

    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache(Guarded):
    """A cache that grows by one entry a build."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> Memory:
        return Memory(self._content)


class IBuilderConfig(Guarded):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self._flags: list[Any] = []
        self._cleared: list[Any] = []
        self._pools: dict[Any, int] = {}
        self._profiles: list[Any] = []
        self._cache: Any = None
        for name, value in (("builder_optimization_level", 3), ("DLA_core", -1), ("progress_monitor", None)):
            setattr(self, name, value)

    def set_flag(self, flag: Any) -> None:
        self._flags.append(flag)

    def clear_flag(self, flag: Any) -> None:
        self._cleared.append(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self._module.ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return not ignore_mismatch


class ParserError(Guarded):
    """What a node is refused for."""

    def __init__(self, index: int, name: str, operator: str) -> None:
        self._values = (index, name, operator)

    def code(self) -> Any:
        return SimpleNamespace(name="UNSUPPORTED_NODE")

    def desc(self) -> str:
        return 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'

    def node(self) -> int:
        return int(self._values[0])

    def node_name(self) -> str:
        return str(self._values[1])

    def node_operator(self) -> str:
        return str(self._values[2])


KINDS = {"Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Gemm": "MATRIX_MULTIPLY",
         "MatMul": "MATRIX_MULTIPLY", "Cast": "CAST", "Relu": "ACTIVATION", "Clip": "ACTIVATION", "Add": "ELEMENTWISE",
         "ReduceMean": "REDUCE", "GlobalAveragePool": "REDUCE", "Reshape": "SHUFFLE", "Flatten": "SHUFFLE",
         "MaxPool": "POOLING", "Constant": "CONSTANT"}  # fmt: skip
TYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8"}


class OnnxParser(Guarded):
    """Makes one layer a node; refuses operators that are not in KINDS, all at once."""

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def supports_operator(self, op_name: str) -> bool:
        return op_name in KINDS

    def parse_from_file(self, model: str) -> bool:
        proto = onnx.shape_inference.infer_shapes(onnx.load(model))
        module = self._module
        for index, node in enumerate(proto.graph.node):
            if node.op_type not in KINDS:
                self._errors.append(module.ParserError(index, node.name, node.op_type))
        if self._errors:
            return False
        values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
        types = {value.name: value.type.tensor_type for value in values}
        tensors: dict[str, Any] = {}

        def tensor(name: str, elem: int | None = None) -> Any:
            if name not in tensors:
                dims = [dim.dim_value or -1 for dim in types[name].shape.dim] if name in types else []
                kind = TYPES.get(elem or (types[name].elem_type if name in types else 0), "FLOAT")
                tensors[name] = module.ITensor(name, getattr(module.DataType, kind), tuple(dims))
            return tensors[name]

        for constant in proto.graph.initializer:
            tensor(constant.name, constant.data_type)
        self._network._inputs = [tensor(value.name) for value in proto.graph.input]
        for node in proto.graph.node:
            kind = getattr(module.LayerType, KINDS[node.op_type])
            reads = [tensor(name) if name else None for name in node.input[:2]]
            self._network._layers.append(module.ILayer(node.name, kind, reads, [tensor(node.output[0])]))
        beside = (
            Path(model).with_name(Path(model).name + ".data").exists()
        )  # weights of a file of its own go with the graph
        content = onnx.load(model).SerializeToString() if beside else Path(model).read_bytes()
        GRAPHS[hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()] = content
        self._network._digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
        return True


class IPluginRegistry(Guarded):
    """Loads any library but one that is called broken."""

    def load_library(self, plugin_path: str) -> Any:
        self._module.loaded.append(plugin_path)
        return None if "broken" in plugin_path else object()


class Builder(Guarded):
    """Gives a plan that names the graph and what it was told."""

    num_DLA_cores = 2

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if self._module.no_gpu:
            logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        return self._module.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        self._module.configs.append(self._module.IBuilderConfig())
        return self._module.configs[-1]

    def create_optimization_profile(self) -> Any:
        return self._module.IOptimizationProfile()

    def get_plugin_registry(self) -> Any:
        return self._module.IPluginRegistry()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 3)
        for step in range(3):
            if not monitor.step_complete("Building engine", step):
                return None
        monitor.phase_finish("Building engine")
        self._logger.log(SimpleNamespace(name="WARNING"), "a warning")
        if self._module.failure:
            self._logger.log(SimpleNamespace(name="ERROR"), self._module.failure)
            return None
        if config._cache is not None:
            config._cache._content += b"entry;"
        flags = sorted(flag.name for flag in config._flags)
        shapes = [profile._shapes for profile in config._profiles]
        return Memory(f"plan {network._digest} {network.flags} {flags} {shapes}".encode())


class EngineInspector(Guarded):
    """Says what the test wants."""

    def get_engine_information(self, format: Any) -> str:
        assert format is self._module.LayerInformationFormat.JSON
        return str(self._module.inspection)


class ILogger:
    """Base of the application's logger."""


class IProfiler:
    """Base of the application's profiler."""


class IProgressMonitor:
    """Base of the application's monitor."""


CLASSES = (ITensor, ILayer, INetworkDefinition, IOptimizationProfile, ITimingCache, IBuilderConfig, ParserError, OnnxParser,
           IPluginRegistry, Builder, EngineInspector, ICudaEngine, IExecutionContext, OnnxParserRefitter, Refitter, Runtime)  # fmt: skip
ENUMERATIONS = ("BuilderFlag", "DataType", "DeviceType", "HardwareCompatibilityLevel", "LayerInformationFormat", "LayerType",
                "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TensorIOMode")  # fmt: skip


def fake(version: str, *, inspection: Mapping[str, Any] | str = "", failure: str = "", no_gpu: bool = False) -> Any:
    """Return the module of a version.

    Args:
        version: a recorded one.
        inspection: what the engine inspector says.
        failure: what the builder logs before it gives up; "" lets it build.
        no_gpu: whether making a builder fails, as it does without a driver.
    """
    names = recorded(version)
    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    module.ILogger, module.IProgressMonitor, module.IProfiler = ILogger, IProgressMonitor, IProfiler
    module.__spec__ = ModuleSpec("tensorrt", None)  # torch looks for it
    for base in CLASSES:
        has = frozenset(names[base.__name__])
        setattr(module, base.__name__, type(base.__name__, (base,), {"_has": has, "_module": module}))
    for name in ENUMERATIONS:
        setattr(module, name, enum.IntEnum(name, sorted(names[name]), start=0))
    module.inspection = json.dumps(inspection) if isinstance(inspection, Mapping) else inspection
    module.failure, module.no_gpu, module.configs, module.loaded = failure, no_gpu, [], []
    module.cuda, module.runtimes, module.contexts, module.no_context, module.run_failure = None, [], [], False, ""
    module.change, module.edit, module.missing_weights = (lambda array: array), (lambda graph: graph), ()
    module.take_time = lambda graph: None  # what a run of a graph does besides
    module.complain = lambda text: module.runtimes[-1]._logger.log(SimpleNamespace(name="ERROR"), text)
    return module


def fake_rtx() -> Any:
    """Return TensorRT-RTX's runtime: the names of the real module, which must be installed, over the same fakes."""
    import tensorrt_rtx

    module = fake(VERSIONS[-1])
    module.__name__, module.__version__ = "tensorrt_rtx", tensorrt_rtx.__version__
    for base in (*CLASSES, IRuntimeCache, IRuntimeConfig):
        has = frozenset(dir(getattr(tensorrt_rtx, base.__name__)))
        setattr(module, base.__name__, type(base.__name__, (base,), {"_has": has, "_module": module}))
    return module
