"""A plan of TensorRT or TensorRT-RTX as a :class:`~edgecnn.runtime.session.Session`: no PyTorch, CUDA through ``cuda.bindings`` alone."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

import numpy as np

from edgecnn.artifacts import EngineFacts
from edgecnn.errors import BackendError, OutputError, UserError
from edgecnn.runtime.cuda import Cuda, is_foreign
from edgecnn.runtime.device_array import Pool
from edgecnn.runtime.plan import check_device, check_package, check_plugins, check_weights, rebuild_line, shape_misfit
from edgecnn.runtime.session import Array, Session, check_count
from edgecnn.runtime.trt_api import (
    ContextLike,
    EngineLike,
    RtxEngine,
    RtxRuntimeCache,
    RtxRuntimeConfig,
    RuntimeLike,
    collected,
    layer_profiler,
    logger_of,
    module_of,
    refit,
    spoken,
)
from edgecnn.runtime.trt_slot import Port, Slot
from edgecnn.spec import Dim, TensorSpec
from edgecnn.writing import atomic_file

__all__ = ["Rebuild", "TensorRtFlavour", "TensorRtOptions", "TensorRtSession"]

TensorRtFlavour = Literal["tensorrt", "tensorrt-rtx"]
Rebuild = Callable[[Path, str, "TensorRtOptions"], tuple[Path, EngineFacts]]
"""From a bundle's folder, a variant and the options to a plan that fits this device."""

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"} | {
    name.upper(): name for name in ("int8", "int32", "int64", "uint8")
}
_LONGEST = 300

log = logging.getLogger("edgecnn.runtime")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """How a plan runs.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        device: number of the GPU.
        contexts: how many runs may go side by side; each has its own stream and buffers. Further ones wait.
        cuda_graph: launch all the work of a run as one CUDA graph, captured when a shape is run for the second time in a row. What
            cannot be captured runs as without it, and a warning says so.
        check_finite: refuse outputs with NaN or infinity.
        device_outputs: outputs stay on the GPU, as :class:`~edgecnn.runtime.device_array.DeviceArray`, which PyTorch, CuPy ... read
            there without a copy. Not together with ``cuda_graph`` or ``check_finite``.
        plugins: shared libraries of operators that the plan was built with.
        runtime_cache: file of the kernels that TensorRT-RTX compiled on this device, read when the session starts and written when it
            is closed; one of another device or version is ignored.
        allow_host_code: run the host code that a version-compatible plan brings.
        rebuild: called when a bundle's plan does not fit this device, such as :func:`edgecnn.pipeline.engines.rebuilt`. None raises.
    """

    flavour: TensorRtFlavour = "tensorrt"
    device: int = 0
    contexts: int = 1
    cuda_graph: bool = False
    check_finite: bool = False
    device_outputs: bool = False
    plugins: tuple[Path, ...] = ()
    runtime_cache: Path | None = None
    allow_host_code: bool = False
    rebuild: Rebuild | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.flavour not in get_args(TensorRtFlavour):
            raise UserError(f"flavour {self.flavour!r} is not one of {', '.join(get_args(TensorRtFlavour))}")
        for name in ("device", "contexts"):
            check_count(spoken(self.flavour), name, getattr(self, name))
        if self.contexts < 1:
            raise UserError(f"{spoken(self.flavour)}: contexts must be at least 1, found {self.contexts}")
        if self.runtime_cache is not None and self.flavour == "tensorrt":
            raise UserError("TensorRT has no runtime cache, whose plans hold their kernels: leave runtime_cache out")
        if self.device_outputs and (self.cuda_graph or self.check_finite):
            other = (
                "cuda_graph, whose graph writes to one place"
                if self.cuda_graph
                else "check_finite, which looks on the host"
            )
            raise UserError(f"{spoken(self.flavour)}: device_outputs does not go with {other}: leave one out")
        object.__setattr__(self, "plugins", tuple(Path(path) for path in self.plugins))

    @property
    def threads(self) -> int:
        """Of the host: as the backend chooses."""
        return 0


class TensorRtSession(Session):
    """A plan on a GPU. Safe to run from several threads; as many runs go side by side as there are contexts.

    An input is a numpy array, or an array on the same GPU that offers DLPack or ``__cuda_array_interface__``, which is read where it
    is. Outputs are numpy arrays, or with ``device_outputs`` arrays on the GPU. **It has never run on a GPU**: see docs/ENGINES.md.

    Args:
        plan: a file.
        options: flavour, contexts, CUDA graph ...
        facts: what the manifest says of the plan, checked before it is loaded; None leaves that to TensorRT.
        weights: the ONNX file that the plan was built from, for one with stripped weights; a bundle gives its own.

    Raises:
        MissingDependencyError: the flavour, or cuda-bindings, is not installed.
        EngineMisfitError: the plan is of another version, GPU or platform.
        UserError: no such file, a plugin library that is missing, another graph's weights, an option that does not go with the plan.
        BackendError: no driver, no memory, or TensorRT refuses the plan or the weights.
    """

    def __init__(
        self,
        plan: Path | str,
        options: TensorRtOptions = TensorRtOptions(),
        facts: EngineFacts | None = None,
        *,
        weights: Path | None = None,
    ) -> None:
        """Check, load the plan, and get the buffers."""
        self.backend = options.flavour
        self.options = options
        path = Path(plan)
        self._where = path.name
        if not path.is_file():
            raise UserError(f"no plan at {path}")
        self._slots: list[Slot] = []
        self._idle: queue.LifoQueue[Slot | None] = queue.LifoQueue()
        self._cache: RtxRuntimeCache | None = None
        self._engine: EngineLike | None = None
        self._runtime_here: RuntimeLike | None = None  # must outlive the engine
        self._profiler: Any = None
        self._module: ModuleType = module_of(options.flavour, "Runtime")
        self._rebuild = f"edgecnn build BUNDLE --target {options.flavour} --batch LEAST:BEST:MOST"
        if facts is not None:
            check_package(facts, str(self._module.__version__), self._where, host_code=options.allow_host_code)
            check_plugins(facts, options.plugins, self._where)
            check_weights(facts, weights, self._where)
            weights = weights if facts.options.get("strip_weights") else None
            self._rebuild = f"{rebuild_line(facts).partition(' --batch')[0]} --batch LEAST:BEST:MOST"
        self._cuda = Cuda(options.device)
        if facts is not None:
            check_device(facts, self._cuda.compute_capability(), self._where)
        self._pool = Pool(self._cuda) if options.device_outputs else None
        try:
            self._start(path, facts, weights)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Wait for runs in other threads, and release what the session holds on the GPU and the host."""
        if getattr(self, "_closed", False):
            return
        super().close()
        for _ in self._slots:
            self._idle.get()
        self._cuda.use()
        for slot in self._slots:
            slot.close()
        self._slots = []
        if self._pool is not None:
            self._pool.close()
        self._idle.put(None)  # for those that wait for a slot
        self._save_cache()
        self._engine = self._runtime_here = None

    def _start(self, path: Path, facts: EngineFacts | None, weights: Path | None) -> None:
        """Load the plan and make the contexts."""
        with collected(logger_of(self._module)) as errors:
            runtime = self._runtime(facts, errors)
            engine = runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise BackendError(f"{self._name()} cannot load {self._where}: {_reason(errors)}")
            self._runtime_here = runtime
            self._engine = engine
            if weights is not None:
                self._refit(engine, weights, errors)
            ports = [self._port(engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
            config = self._runtime_config(engine)
            for _ in range(self.options.contexts):
                slot = Slot(self._context(engine, config, errors), ports, self._cuda, self._where, self._last_error)
                self._slots.append(slot)
                self._idle.put(slot)
                slot.open()
        self._describe(self._slots[0])

    def _runtime(self, facts: EngineFacts | None, errors: list[str]) -> RuntimeLike:
        """Make a runtime that may load this plan."""
        try:
            runtime: RuntimeLike = self._module.Runtime(logger_of(self._module))
        except Exception as error:
            raise BackendError(
                f"{self._name()} cannot start here: {_reason(errors) or error}; see 'edgecnn doctor'"
            ) from error
        options = facts.options if facts else {}
        if isinstance(core := options.get("dla"), int):
            runtime.DLA_core = core
        if self.options.allow_host_code:
            runtime.engine_host_code_allowed = True
        for library in self.options.plugins:
            if runtime.get_plugin_registry().load_library(str(library.resolve())) is None:
                raise BackendError(f"{self._name()} cannot load the plugin library {library}: {_reason(errors)}")
        return runtime

    def _refit(self, engine: EngineLike, weights: Path, errors: list[str]) -> None:
        """Put back the weights that were stripped."""
        try:
            refused = refit(self._module, engine, str(weights))
        except Exception as error:
            raise self._not_refitted(weights, [str(error), *errors]) from error
        if refused:
            raise self._not_refitted(weights, [refused, *errors])

    def _not_refitted(self, weights: Path, reasons: list[str]) -> BackendError:
        """Say that weights cannot be put back, and why."""
        what = f"cannot give {self._where} the weights of {weights.name}"
        return BackendError(f"{self._name()} {what}: {_reason(reasons)}; build it without --strip-weights")

    def _runtime_config(self, engine: EngineLike) -> RtxRuntimeConfig | None:
        """Make the configuration that holds TensorRT-RTX's cache, where one is asked for."""
        file = self.options.runtime_cache
        if file is None:
            return None
        config = _rtx(engine).create_runtime_config()
        cache = config.create_runtime_cache()
        try:
            known = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise UserError(f"the runtime cache {file} cannot be read: {error.strerror or error}") from error
        if known and not cache.deserialize(known):
            log.warning("%s is of another device or version, or damaged: kernels are compiled anew", file)
        config.set_runtime_cache(cache)
        self._cache = cache
        return config

    def _context(self, engine: EngineLike, config: RtxRuntimeConfig | None, errors: list[str]) -> ContextLike:
        """Make an execution context."""
        made = engine.create_execution_context() if config is None else _rtx(engine).create_execution_context(config)
        if made is None:
            raise BackendError(
                f"{self._name()} cannot make an execution context for {self._where}: {_reason(errors)}; where memory is short, take "
                "fewer contexts, or build with a smaller --batch"
            )
        return made

    def _port(self, engine: EngineLike, name: str) -> Port:
        """Describe an input or output."""
        kind = str(engine.get_tensor_dtype(name).name)
        if kind not in _DTYPES:
            raise BackendError(f"{self._where}: {name!r} has type {kind}, which a Session cannot carry")
        reads = str(engine.get_tensor_mode(name).name) == "INPUT"
        profile = tuple(_dims(shape) for shape in engine.get_tensor_profile_shape(name, 0)) if reads else ()
        return Port(name, np.dtype(_DTYPES[kind]), reads, _dims(engine.get_tensor_shape(name)), profile)

    def _describe(self, slot: Slot) -> None:
        """Say what the session takes and gives: what the profile fixes is fixed, the rest has names."""
        fixed = all(port.profile[0] == port.profile[2] for port in slot.inputs)
        self.inputs = tuple(_spec(port, _union(port.profile)) for port in slot.inputs)
        self.outputs = tuple(_spec(port, slot.largest[port.name] if fixed else port.shape) for port in slot.outputs)
        self.least_batch = max(port.profile[0][0] for port in slot.inputs)
        self.best_batch = slot.inputs[0].profile[1][0]
        self.largest_batch = min(port.profile[2][0] for port in slot.inputs)

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run once on a checked feed."""
        with self._taken(feed) as slot:
            found = slot.run(feed, outputs, graph=self.options.cuda_graph, pool=self._pool)
        if self.options.check_finite:
            for name, array in found.items():
                bad = int(array.size - np.count_nonzero(np.isfinite(array)))
                if bad:
                    raise BackendError(
                        f"{self._where}: output {name!r} has NaN or infinity in {bad} of {array.size} values"
                    )
        return found

    def run_apart(self, feed: Mapping[str, Array]) -> tuple[int, int]:
        """Run once, waiting after every step, which takes longer than :meth:`run`; for measurements.

        Args:
            feed: as of :meth:`run`, numpy arrays.

        Returns:
            Nanoseconds of the copies between host and device, both ways, and of the plan's work.

        Raises:
            UserError, BackendError: as :meth:`run`.
        """
        with self._taken(feed) as slot:
            return slot.run_apart(feed)

    def layer_times(self, feed: Mapping[str, Array], runs: int) -> dict[str, list[float]]:
        """Run under TensorRT's profiler, which stays with one context of this session and makes it slower: close it afterwards.

        Returns:
            Layer -> milliseconds of each run, in the order of the plan. Names are as detailed as the plan was built to tell.

        Raises:
            UserError, BackendError: as :meth:`run`.
        """
        with self._taken(feed) as slot:
            self._profiler = layer_profiler(self._module)  # TensorRT keeps no reference
            slot.attach(self._profiler)
            for _ in range(runs):
                slot.run(feed, tuple(port.name for port in slot.outputs), graph=False)
            return dict(self._profiler.times)

    @contextmanager
    def _taken(self, feed: Mapping[str, Array]) -> Iterator[Slot]:
        """Yield a slot of one's own, once there is one, for a feed that fits the profile; this thread uses the device."""
        slot = self._idle.get()
        if slot is None:
            self._idle.put(None)
            raise UserError(f"this {self.backend} session is closed")
        try:
            for port in slot.inputs:
                shape = tuple(feed[port.name].shape)
                if refusal := shape_misfit(port.name, shape, port.profile, where=self._where, rebuild=self._rebuild):
                    raise refusal
            self._cuda.use()
            yield slot
        finally:
            self._idle.put(slot)

    @staticmethod
    def _check(spec: TensorSpec, array: Any) -> None:
        """Check one array; those on a GPU once they are looked at."""
        if not is_foreign(array):
            Session._check(spec, array)  # noqa: SLF001 -- the class's own
        elif len(array.shape) != len(spec.shape):
            raise UserError(f"input {spec.name!r} must have shape {list(spec.shape)}, found {list(array.shape)}")

    def _save_cache(self) -> None:
        """Write TensorRT-RTX's cache; a session that ran is worth more than the file."""
        cache, file, self._cache = self._cache, self.options.runtime_cache, None
        if cache is None or file is None:
            return
        try:
            content = bytes(memoryview(cache.serialize()))
            with atomic_file(file) as stream:
                stream.write(content)
        except (OSError, OutputError) as error:
            log.warning("the runtime cache was not written: %s", error)

    def _last_error(self) -> str:
        """Return what TensorRT complained of last."""
        return _reason(logger_of(self._module).errors[-1:])

    def _name(self) -> str:
        """Return the flavour and its version."""
        return f"{spoken(self.options.flavour)} {self._module.__version__}"


def _rtx(engine: EngineLike) -> RtxEngine:
    """Return an engine of TensorRT-RTX as what it is."""
    return cast("RtxEngine", engine)


def _dims(shape: Any) -> tuple[int, ...]:
    """Return the numbers of a ``Dims``."""
    return tuple(int(dim) for dim in shape)


def _union(profile: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Return the shape that a profile fixes, -1 where it leaves a choice."""
    return tuple(low if low == high else -1 for low, high in zip(profile[0], profile[2], strict=True))


def _spec(port: Port, shape: tuple[int, ...]) -> TensorSpec:
    """Describe a port; TensorRT forgets the names of dimensions: the first is called ``batch``."""
    dims: list[Dim] = [
        dim if dim >= 0 else "batch" if position == 0 else f"dim{position}" for position, dim in enumerate(shape)
    ]
    return TensorSpec(name=port.name, shape=tuple(dims), dtype=str(port.dtype))


def _reason(errors: list[str]) -> str:
    """Return TensorRT's complaints as one line."""
    text = " ".join("; ".join(errors).split()) or "it gave no reason"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
