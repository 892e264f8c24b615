"""The one file that touches TensorRT's Python API, written once over ``tensorrt`` 10, ``tensorrt`` 11 and ``tensorrt_rtx``.

Only names that all three have are used (:mod:`edgecnn.engine.protocols` lists them), but for those that the capability table grants to one.
Never a precision flag: networks are strongly typed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from edgecnn.engine.config import Batch, BuildConfig, Flavour
from edgecnn.engine.device import Device
from edgecnn.engine.interrupts import held_back
from edgecnn.engine.problems import NodeProblem, alike, batch_misfit, not_built, not_parsed
from edgecnn.engine.protocols import (
    BuilderLike,
    ConfigLike,
    Module,
    NetworkLike,
    ParserErrorLike,
    RtxConfig,
    TimingCacheLike,
)
from edgecnn.errors import BackendError, UserError
from edgecnn.progress import Progress
from edgecnn.runtime.trt_api import collected, logger_of, module_of, spoken

__all__ = ["Api", "Compiled", "Layer", "Operand", "Shapes", "load"]

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Least, best and largest shape of an input."""


@dataclass(frozen=True)
class Operand:
    """A tensor that a layer reads: its type (``int8``, ``fp16``, ``fp32``), and that of what was dequantized into it, or ""."""

    dtype: str
    dequantized_from: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer of the parsed network: its name, kind (``CONVOLUTION``), what it reads, and the type of what it gives."""

    name: str
    kind: str
    reads: tuple[Operand, ...]
    gives: str


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the builder gave.

    Attributes:
        plan: the bytes, as a buffer.
        layers: of the parsed network, before the builder fused them.
        profile: input -> shapes.
        timing_cache: the new content of the cache, empty where there is none.
        seconds: from the parser to the plan.
        inspection: the engine inspector's JSON; "" where there is no GPU to load the plan on.
    """

    plan: memoryview
    layers: tuple[Layer, ...]
    profile: Mapping[str, Shapes]
    timing_cache: bytes
    seconds: float
    inspection: str


def load(flavour: Flavour) -> Api:
    """Import a flavour.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.
    """
    return Api(module_of(flavour, "Builder"), flavour)


class Api:
    """TensorRT, whichever of its flavours.

    Attributes:
        flavour: which.
        version: as the module says it (``10.3.0``, ``1.7.1.116``).
    """

    def __init__(self, module: ModuleType, flavour: Flavour) -> None:
        """Hold the module."""
        self._module = module
        self._trt = cast("Module", module)
        self.flavour = flavour
        self.version = str(module.__version__)

    def compile(
        self,
        model: Path,
        config: BuildConfig,
        *,
        precision: str,
        timing_cache: bytes = b"",
        device: Device | None = None,
        progress: Progress,
    ) -> Compiled:
        """Parse an ONNX file and build a plan.

        Args:
            model: with external data beside it, if it has any.
            config: checked against the capability table before.
            precision: of the graph, for messages.
            timing_cache: content to start from.
            device: the GPU that the plan can be inspected on.
            progress: told about the builder's phases.

        Raises:
            GraphError: nodes that this flavour cannot take, all of them.
            UserError: a batch that the graph does not take.
            BackendError: the builder failed.
        """
        with _alone, collected(self._logger()) as errors:
            started = time.perf_counter()
            builder = self._start(device, errors)
            network = builder.create_network(self._network_flags())
            self._load_plugins(builder, config)
            with held_back():
                self._parse(network, model)
            settings = builder.create_builder_config()
            self._configure(builder, settings, config)
            profile = self._add_profile(builder, settings, network, config.batch)
            cache: TimingCacheLike | None = None
            if config.timing_cache is not None:
                cache = settings.create_timing_cache(timing_cache)
                settings.set_timing_cache(cache, ignore_mismatch=False)
            with held_back() as pressed:
                monitor = self._monitor(progress, pressed)
                settings.progress_monitor = monitor
                plan = builder.build_serialized_network(network, settings)
            if monitor.interrupted is not None:
                raise monitor.interrupted
            if plan is None:
                raise not_built(f"{spoken(self.flavour)} {self.version}", model.name, precision, errors)
            return Compiled(
                plan=memoryview(plan),
                layers=tuple(self._layers(network)),
                profile=profile,
                timing_cache=b"" if cache is None else bytes(memoryview(cache.serialize())),
                seconds=time.perf_counter() - started,
                inspection="" if device is None else self._inspect(plan),
            )

    def _start(self, device: Device | None, errors: list[str]) -> BuilderLike:
        """Make a builder, which TensorRT does only where there is a GPU."""
        try:
            builder = self._trt.Builder(self._logger())
        except Exception as error:
            on = device.name if device else "no NVIDIA GPU"
            reason = "; ".join(errors) or str(error)
            raise BackendError(
                f"{spoken(self.flavour)} {self.version} cannot start here ({on}): {reason}; see 'edgecnn doctor'"
            ) from error
        return builder

    def _network_flags(self) -> int:
        """Return the creation flags: strongly typed, wherever there is such a flag (11 builds nothing else, and accepts it)."""
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def _load_plugins(self, builder: BuilderLike, config: BuildConfig) -> None:
        """Load the libraries of the graph's own operators."""
        for library in config.plugins:
            if not library.is_file():
                raise UserError(f"no plugin library at {library}: 'edgecnn plugin build' compiles edgecnn's own")
            handle = builder.get_plugin_registry().load_library(str(library.resolve()))
            if handle is None:
                raise BackendError(f"{spoken(self.flavour)} {self.version} cannot load the plugin library {library}")

    def _parse(self, network: NetworkLike, model: Path) -> None:
        """Fill a network from an ONNX file."""
        parser = self._trt.OnnxParser(network, self._logger())
        if not parser.parse_from_file(str(model)):
            found = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
            known = {
                problem.operator: parser.supports_operator(problem.operator) for problem in found if problem.operator
            }
            found += alike(model, found, unknown={operator for operator, supported in known.items() if not supported})
            raise not_parsed(self.flavour, f"{spoken(self.flavour)} {self.version}", model.name, found)

    def _configure(self, builder: BuilderLike, settings: ConfigLike, config: BuildConfig) -> None:
        """Hand the configuration on; the capability table has passed it."""
        module = self._trt
        settings.builder_optimization_level = config.level
        settings.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # so that the inspector can tell precisions
        if config.workspace:
            settings.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, config.workspace)
        settings.clear_flag(module.BuilderFlag.TF32)  # on by default: fp32 would have fp16's mantissa
        if config.strip_weights:
            settings.set_flag(module.BuilderFlag.STRIP_PLAN)
            settings.set_flag(
                module.BuilderFlag.REFIT_IDENTICAL
            )  # stripped is what may be refitted, and alone that is nothing
        if config.version_compatible:
            settings.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
        if config.hardware != "this":
            levels = module.HardwareCompatibilityLevel
            level = levels.AMPERE_PLUS if config.hardware == "ampere+" else levels.SAME_COMPUTE_CAPABILITY
            settings.hardware_compatibility_level = level
        if config.gpus:
            rtx = cast("RtxConfig", settings)
            rtx.num_compute_capabilities = len(config.gpus)
            for index, gpu in enumerate(config.gpus):
                rtx.set_compute_capability(getattr(self._module.ComputeCapability, "SM" + gpu.replace(".", "")), index)
        if config.dla is not None:
            if config.dla >= builder.num_DLA_cores:
                raise UserError(f"DLA core {config.dla} was asked for, and this device has {builder.num_DLA_cores}")
            settings.default_device_type = module.DeviceType.DLA
            settings.DLA_core = config.dla
            settings.set_flag(module.BuilderFlag.GPU_FALLBACK)

    def _add_profile(
        self, builder: BuilderLike, settings: ConfigLike, network: NetworkLike, batch: Batch | None
    ) -> dict[str, Shapes]:
        """Say which shapes the engine takes: the first dimension is the batch, and no other may be open."""
        profile = builder.create_optimization_profile()
        shapes: dict[str, Shapes] = {}
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            own = tuple(int(dim) for dim in tensor.shape)
            if refusal := batch_misfit(tensor.name, own, batch):
                raise refusal
            sizes = batch or (Batch(1, 1, 1) if own[0] < 0 else Batch(own[0], own[0], own[0]))
            low, best, high = ((size, *own[1:]) for size in (sizes.low, sizes.best, sizes.high))
            shapes[tensor.name] = low, best, high
            profile.set_shape(tensor.name, low, best, high)
        settings.add_optimization_profile(profile)
        return shapes

    def _layers(self, network: NetworkLike) -> Iterator[Layer]:
        """Describe the parsed network's layers."""
        origin: dict[str, str] = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            kind = str(layer.type.name)
            found = [layer.get_input(position) for position in range(layer.num_inputs)]
            tensors = [tensor for tensor in found if tensor is not None]
            if kind == "DEQUANTIZE":
                origin[layer.get_output(0).name] = _dtype(tensors[0].dtype)
            reads = tuple(Operand(_dtype(tensor.dtype), origin.get(tensor.name, "")) for tensor in tensors)
            yield Layer(layer.name, kind, reads, _dtype(layer.get_output(0).dtype) if layer.num_outputs else "")

    def _inspect(self, plan: Any) -> str:
        """Load a plan and return what the engine inspector says of it, JSON; "" where it cannot be loaded here."""
        runtime = self._trt.Runtime(self._logger())
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return ""
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _logger(self) -> Any:
        """Return the module's one logger, which sessions share."""
        return logger_of(self._module)

    def _monitor(self, progress: Progress, pressed: Callable[[], bool]) -> Any:
        """Return a progress monitor that reports the outermost phase, and cancels the build once Ctrl-C was pressed."""
        base: Any = self._trt.IProgressMonitor

        class Monitor(base):  # type: ignore[misc]
            """Counts the steps of the phase without a parent. What the caller raises cancels the build, and is raised after it."""

            def __init__(self) -> None:
                base.__init__(self)
                self.interrupted: BaseException | None = None
                self.outer: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                if not parent_phase:
                    self.outer[phase_name] = num_steps
                    self.tell(0, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                if phase_name in self.outer:
                    self.tell(step + 1, self.outer[phase_name])
                return self.interrupted is None and not pressed()

            def phase_finish(self, phase_name: str) -> None:
                if total := self.outer.pop(phase_name, 0):
                    self.tell(total, total)

            def tell(self, done: int, total: int) -> None:
                try:
                    if self.interrupted is None:
                        progress("engine", done, total)
                except BaseException as error:  # noqa: BLE001 -- it must not fly through C++
                    self.interrupted = error

        return Monitor()


_alone = threading.Lock()
"""One build at a time: the logger is TensorRT's, not a builder's."""


def _problem(error: ParserErrorLike) -> NodeProblem:
    """Read a parser error; which node it is about stands in fields that came after 10.0."""
    texts = {name: getattr(error, name, lambda: "")() for name in ("node_name", "node_operator", "desc")}
    return NodeProblem(
        node=str(texts["node_name"] or f"node {error.node()}"),
        operator=str(texts["node_operator"]),
        code=str(error.code().name),
        text=str(texts["desc"]),
    )


_NAMES = {"FLOAT": "fp32", "HALF": "fp16"}


def _dtype(dtype: Any) -> str:
    """Return ``fp32``, ``fp16``, ``int8`` ..."""
    name = str(dtype.name)
    return _NAMES.get(name, name.lower())
