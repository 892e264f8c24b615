"""The half of the fakes that runs plans: engines on onnxruntime, contexts over the fake CUDA's memory, refitters, TensorRT-RTX's cache.

See :mod:`fake_tensorrt`, whose builder writes these plans.
"""

from __future__ import annotations

import ast
import hashlib
import re
from typing import Any

import onnx

from edgecnn.runtime import OrtSession


class Guarded:
    """A class with the members that a version has, and no others."""

    _has: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what the version lacks."""
        if not name.startswith("_") and name not in self._has:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        """Refuse what the version lacks."""
        if not name.startswith("_") and name not in object.__getattribute__(self, "_has"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return object.__getattribute__(self, name)


GRAPHS: dict[str, bytes] = {}
"""What the parser read, by digest: the plans name it."""
PLAN = re.compile(rb"plan ([0-9a-f]{64}) \d+ \[.*?\] (\[.*\])")


class Memory(bytes):
    """``IHostMemory``: bytes."""


class ICudaEngine(Guarded):
    """A loaded plan: the graph that it was built from, on onnxruntime, with the shapes that it was built for."""

    def __init__(self, plan: bytes = b"") -> None:
        self._session: Any = None
        found = PLAN.fullmatch(plan)
        if found is None:
            return
        self._digest, self._stripped = found[1].decode(), b"'STRIP_PLAN'" in plan
        self._session = OrtSession(self._module.edit(GRAPHS[self._digest]))
        self._profile = ast.literal_eval(found[2].decode())[0]
        self._ports = {port.name: port for port in (*self._session.inputs, *self._session.outputs)}

    num_io_tensors = property(lambda self: len(self._ports))

    def create_engine_inspector(self) -> Any:
        return self._module.EngineInspector()

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._ports)[index])

    def get_tensor_mode(self, name: str) -> Any:
        return self._module.TensorIOMode.INPUT if name in self._profile else self._module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8"}
        return self._module.DataType[kinds[self._ports[name].dtype]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else -1 for dim in self._ports[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return list(self._profile[name])

    def create_runtime_config(self) -> Any:
        return self._module.IRuntimeConfig()

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        if self._module.no_context:
            self._module.complain("CUDA out of memory in createExecutionContext")
            return None
        self._module.contexts.append(self._module.IExecutionContext(self, runtime_config))
        return self._module.contexts[-1]


class IExecutionContext(Guarded):
    """Runs a plan: what it reads and writes is the fake CUDA's device memory, when the stream gets there.

    A profiler hears of two layers: one of 0.25 ms, one of 0.75 ms.
    """

    profiler: Any = None

    def __init__(self, engine: Any, config: Any) -> None:
        self._engine, self._config = engine, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine._profile[name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0] if self._shapes else -1
        return self._shapes.get(name) or (batch, *self._engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        module, engine = self._module, self._engine
        assert not engine._stripped, "it has no weights"
        assert set(self._addresses) == set(engine._ports), "every tensor must have an address"
        if module.run_failure:
            module.complain(module.run_failure)
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def kernel() -> None:
            module.take_time(GRAPHS[engine._digest])
            ports = engine._ports
            feed = {name: module.cuda.read(addresses[name], shape, ports[name].dtype) for name, shape in shapes.items()}
            for name, result in engine._session.run(feed).items():
                module.cuda.write(addresses[name], module.change(result))
            if self.profiler is not None:
                self.profiler.report_layer_time("conv", 0.25)
                self.profiler.report_layer_time("fc", 0.75)

        module.cuda.enqueue(stream_handle, kernel)
        return True


class Refitter(Guarded):
    """Gives an engine whose plan was stripped its weights back."""

    def __init__(self, engine: Any, logger: Any) -> None:
        assert hasattr(logger, "log")
        if not engine._stripped:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine, self._given = engine, b""

    def get_missing_weights(self) -> list[str]:
        return list(self._module.missing_weights)

    def refit_cuda_engine(self) -> bool:
        self._engine._stripped = not self._given
        return bool(self._given)


class OnnxParserRefitter(Guarded):
    """Takes the weights of the very graph that the plan was built from, and of no other."""

    def __init__(self, refitter: Any, logger: Any) -> None:
        self._refitter, self._errors = refitter, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def refit_from_file(self, model: str) -> bool:
        proto = onnx.shape_inference.infer_shapes(onnx.load(model))
        if hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest() != self._refitter._engine._digest:
            self._errors.append(self._module.ParserError(0, "conv", "Conv"))
            return False
        self._refitter._given = b"weights"
        return True


class IRuntimeCache(Guarded):
    """A cache that grows by an entry a session."""

    def __init__(self) -> None:
        self._content = b"rtx;"

    def serialize(self) -> Memory:
        return Memory(self._content + b"kernel;")

    def deserialize(self, blob: bytes) -> bool:
        if not bytes(blob).startswith(b"rtx;"):
            return False
        self._content = bytes(blob)
        return True


class IRuntimeConfig(Guarded):
    """Holds a cache."""

    def create_runtime_cache(self) -> Any:
        return self._module.IRuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True


class Runtime(Guarded):
    """Loads plans that the fake's builder made."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._module.runtimes.append(self)

    def get_plugin_registry(self) -> Any:
        return self._module.IPluginRegistry()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        plan = bytes(serialized_engine)
        if self._module.inspection:
            return self._module.ICudaEngine()
        if PLAN.fullmatch(plan) is None or self._module.cuda is None:
            self._module.complain("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag mismatch)")
            return None
        return self._module.ICudaEngine(plan)
