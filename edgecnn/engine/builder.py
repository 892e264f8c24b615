"""One ONNX graph to one engine: checked before, audited after, written whole or not at all."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.artifacts import Engine, EngineFacts, Lineage, OnnxModel, sha256_file
from edgecnn.engine.api import Api, Compiled, load
from edgecnn.engine.audit import Audit, audit_engine, audit_network
from edgecnn.engine.capabilities import RTX_DEFAULT_GPUS, check, known_bad
from edgecnn.engine.config import BuildConfig, Flavour
from edgecnn.engine.device import Device, device, memory_available
from edgecnn.engine.preflight import check_memory, check_model
from edgecnn.engine.timing_cache import read_cache, write_cache
from edgecnn.errors import UserError
from edgecnn.onnxio import load_ir, scratch_file
from edgecnn.progress import Progress, silent
from edgecnn.runtime.trt_api import version_numbers
from edgecnn.writing import atomic_file, check_writable

__all__ = ["build", "ready"]

PLUGIN_FIRST = (10, 7)
"""The version from which a registered plugin comes before a function of its name (CHANGELOG.md of NVIDIA/TensorRT, 10.7)."""

JETSON = Path("/etc/nv_tegra_release")
"""Which only JetPack has."""

log = logging.getLogger("edgecnn.engine")


def ready(config: BuildConfig) -> Api:
    """Return the flavour, having checked that it is here and has what the configuration asks for.

    Raises:
        MissingDependencyError: it is not installed. UserError: it, its version or this machine lacks something.
    """
    api = load(config.target)
    check(config, version_numbers(api.version), gpu=device() is not None)
    return api


def build(model: OnnxModel, config: BuildConfig, *, to: Path, progress: Progress = silent) -> Engine:
    """Build an engine.

    Args:
        model: fp32, fp16, int8 or int8-fp16.
        config: what to build it for.
        to: the file to write; the plan is a plain plan, which trtexec loads too.
        progress: told about the builder's phases, as step ``engine``.

    Returns:
        The engine, written also when the audit failed: ``engine.passed`` is then false, and ``engine.facts.audit`` says why.

    Raises:
        MissingDependencyError: the flavour is not installed.
        UserError: something that this flavour, version or device lacks; a model that is gone, changed, or too large.
        OutputError: ``to`` or the timing cache cannot be written.
        GraphError: nodes that it cannot take, all of them. BackendError: the builder failed.
    """
    check_writable(to)
    check_model(model)
    api, here = ready(config), device()
    notes = _warnings(config.target, version_numbers(api.version))
    check_memory(model, config, available=memory_available(), device_memory=here.memory if here else 0)
    key = {"flavour": config.target, "version": api.version, "gpu": _gpu(here), "graph": model.sha256}
    start = b""
    if config.timing_cache is not None:
        check_writable(config.timing_cache)
        start, stale = read_cache(config.timing_cache, key)
        notes += [f"{stale}: kernels were measured anew"] if stale else []
    for note in notes:
        log.warning("%s", note)
    with _for_parser(model, config, version_numbers(api.version)) as file:
        compiled = api.compile(
            file, config, precision=model.precision, timing_cache=start, device=here, progress=progress
        )
    with atomic_file(to) as stream:
        stream.write(compiled.plan)
    cache = ""
    if config.timing_cache is not None:
        cache = write_cache(config.timing_cache, compiled.timing_cache, key)
    return _describe(model, config, api, compiled, to=to, here=here, cache=cache, notes=tuple(notes))


@contextmanager
def _for_parser(model: OnnxModel, config: BuildConfig, version: tuple[int, ...]) -> Iterator[Path]:
    """Give the file that is parsed: the model's own, but where a parser would take a function in it for the plugin's node.

    See :mod:`edgecnn.passes.deform_plugin`. Raises MissingDependencyError where that needs onnx-ir, which is not installed.
    """
    if config.target != "tensorrt" or version >= PLUGIN_FIRST or not config.plugins:
        yield model.path
        return
    from edgecnn.passes.deform_plugin import DropDeformFunction

    graph = load_ir(model.path)
    if not DropDeformFunction().apply(graph):
        yield model.path
        return
    if config.strip_weights:
        raise UserError(
            f"{model.path.name} has deformable convolutions as plugins: before TensorRT 10.7 its weights cannot be put back, so build it "
            "without --strip-weights"
        )
    with scratch_file(graph) as file:
        yield file


def _describe(
    model: OnnxModel,
    config: BuildConfig,
    api: Api,
    compiled: Compiled,
    *,
    to: Path,
    here: Device | None,
    cache: str,
    notes: tuple[str, ...],
) -> Engine:
    """Describe a plan that was just written."""
    facts = EngineFacts(
        flavour=config.target,
        version=api.version,
        cuda=_cuda(config.target, here),
        driver_cuda=here.driver_cuda if here else "",
        driver=here.driver if here else "",
        compute_capabilities=_compute_capabilities(config, here),
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        precision=model.precision,
        profile=compiled.profile,
        options=config.to_json(),
        model_sha256=model.sha256,
        timing_cache_sha256=cache,
        seconds=round(compiled.seconds, 3),
        audit=_audit(compiled, model.precision).to_json(),
    )
    step = Lineage(
        stage="build",
        tools={"edgecnn": __version__, config.target: api.version},
        config=config.to_json(),
        inputs={"model": model.sha256},
        notes=notes,
    )
    return Engine(path=to, sha256=sha256_file(to), bytes=to.stat().st_size, facts=facts, lineage=(*model.lineage, step))


def _audit(compiled: Compiled, precision: str) -> Audit:
    """Audit the plan where it could be loaded and shows its convolutions (they may be hidden in fused blocks), else the parsed network."""
    if compiled.inspection:
        found = audit_engine(compiled.inspection, precision)
        if found.conclusive:
            return found
    return audit_network(compiled.layers, precision)


def _warnings(flavour: Flavour, version: tuple[int, ...]) -> list[str]:
    """Refuse versions that are known not to work here, and return what is known about others. Raises UserError."""
    notes = []
    for bad in known_bad(flavour, version, jetson=JETSON.exists()):
        text = f"{bad.what}: {bad.todo} ({bad.source})"
        if bad.level == "error":
            raise UserError(text)
        notes.append(text)
    return notes


def _gpu(here: Device | None) -> str:
    """Return what kernels were measured on."""
    return f"{here.name} ({here.compute_capability})" if here else ""


def _compute_capabilities(config: BuildConfig, here: Device | None) -> tuple[str, ...]:
    """Return what the plan is for."""
    if config.target == "tensorrt-rtx":
        return config.gpus or RTX_DEFAULT_GPUS
    return (here.compute_capability,) if here else ()


def _cuda(flavour: Flavour, here: Device | None) -> str:
    """Return the CUDA that the package was made for: its wheels are named after it; else the driver's."""
    for major in ("13", "12"):
        with suppress(metadata.PackageNotFoundError):
            metadata.version(f"{flavour}-cu{major}")
            return major
    return here.driver_cuda if here else ""
