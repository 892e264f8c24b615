"""Engines of a bundle's graphs: as the last step of the main job, or into a bundle that is there already."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecnn.artifacts import Engine, EngineFacts, OnnxModel, cache_dir, cache_folder, sha256_file
from edgecnn.engine import Batch, BuildConfig, build, ready
from edgecnn.engine.device import Device, device
from edgecnn.errors import SpecError, UserError
from edgecnn.onnxio import data_path
from edgecnn.pack import add_engines, check_destination
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.pipeline.gate import LatencyGate, check_gate, engine_gate, gated_variants, timed
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.engines import EngineRecord, engine_file
from edgecnn.runtime.tensorrt import TensorRtOptions
from edgecnn.writing import write_json

__all__ = [
    "EngineOutcome",
    "build_engines",
    "build_into",
    "config_for",
    "engine_config",
    "model_of",
    "rebuilt",
    "unsound",
]

FOR_CPU = "int8-cpu"

log = logging.getLogger("edgecnn.engine")


@dataclass(frozen=True, kw_only=True)
class EngineOutcome:
    """What was built. Truthy when every engine has the precision that was asked for, and INT8 is faster where that was asked for.

    Attributes:
        bundle: with the engines in it.
        engines: variant -> engine; their paths are those in the bundle.
        gate: what was measured, if it was.
    """

    bundle: Bundle
    engines: Mapping[str, Engine]
    gate: LatencyGate | None = None

    def __bool__(self) -> bool:
        """Whether every audit passed, and the gate."""
        return all(engine.passed for engine in self.engines.values()) and (self.gate is None or bool(self.gate))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "bundle": str(self.bundle.path),
            "passed": bool(self),
            "gate": None if self.gate is None else self.gate.to_json(),
            "engines": {name: {"file": engine.path.name, **engine.to_json()} for name, engine in self.engines.items()},
        }


def engine_config(config: PipelineConfig) -> tuple[BuildConfig | None, tuple[str, ...]]:
    """Return how the main job builds engines, None where it does not, and a note why not if they were asked for.

    TensorRT-RTX compiles on any machine, so that its absence is an error. TensorRT builds on the device alone: elsewhere the bundle is
    made ready for it.

    Raises:
        UserError: TensorRT-RTX is asked for, and not there, or its engines are to be measured where there is no GPU.
    """
    if config.target not in ("tensorrt", "tensorrt-rtx"):
        return None, ()
    found = BuildConfig(target=config.target, plugins=config.plugins)
    try:
        ready(found)
        if config.latency_gate:
            check_gate(found)
    except UserError as error:
        if config.target == "tensorrt-rtx":
            raise
        gate = " --gate latency" if config.latency_gate else ""
        return None, (
            f"no engine was built ({error}): on the device, run 'edgecnn build BUNDLE --target tensorrt{gate}'",
        )
    return found, ()


def build_engines(
    models: Mapping[str, OnnxModel], config: BuildConfig, *, to: Path, progress: Progress = silent
) -> dict[str, Engine]:
    """Build an engine of every graph that is not for CPUs into a folder. Raises as :func:`edgecnn.engine.build`."""
    return {
        name: build(model, config, to=to / engine_file(name, config.target), progress=progress)
        for name, model in models.items()
        if name != FOR_CPU
    }


def build_into(
    bundle: Bundle,
    config: BuildConfig,
    *,
    variants: Sequence[str] = (),
    allow_unverified: bool = False,
    latency_gate: bool = False,
    progress: Progress = silent,
) -> EngineOutcome:
    """Build engines of a bundle's variants and put them into it, all or none.

    Args:
        bundle: on disk.
        config: what to build for.
        variants: which; by default every one that is verified and not for CPUs.
        allow_unverified: also build those that failed verification.
        latency_gate: build fp16 too, measure all on this GPU, and make INT8 the default only if it is faster; the manifest tells.
        progress: told about the builder's phases.

    Raises:
        UserError: an unknown variant, one for CPUs or unverified; nothing to build, or to compare; and as :func:`edgecnn.engine.build`.
        OutputError: the bundle cannot be written.
    """
    ready(config)
    models = _models(bundle, variants, allow_unverified)
    if latency_gate:
        check_gate(config)
        models = {name: model_of(bundle, name) for name in gated_variants(bundle, tuple(models))}
    check_destination(bundle.path, force=True)
    gate: LatencyGate | None = None
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch:
        engines = build_engines(models, config, to=Path(scratch), progress=progress)
        if latency_gate:
            engines = timed(engines, models, config, progress=progress)
            gate = engine_gate({name: one for name, one in engines.items() if bundle.variant(name).verified})
        notes = [] if gate is None else [f"latency of {config.target}: {gate}"]
        written = add_engines(bundle, list(engines.items()), notes=notes)
    placed = {name: replace(engine, path=written.path / engine.path.name) for name, engine in engines.items()}
    return EngineOutcome(bundle=written, engines=placed, gate=gate)


def rebuilt(
    folder: Path, variant: str, options: TensorRtOptions, *, say: Callable[[str], object] | None = None
) -> tuple[Path, EngineFacts]:
    """Build an engine of a bundle's graph for this device, because the bundle's does not fit: a value for ``TensorRtOptions.rebuild``.

    The bundle stays as it is. The plan is kept in the cache folder (``EDGECNN_CACHE``) by what decides it: graph, configuration, plugins,
    flavour, version and GPU.

    Args:
        folder: of the bundle.
        variant: one that has an engine of ``options.flavour``, whose batch and limits are taken over.
        options: the flavour, and the libraries of plugins.
        say: told in a sentence what is done; by default a warning is logged.

    Returns:
        The plan, and what is to be said of it.

    Raises:
        MissingDependencyError, UserError, GraphError, BackendError, OutputError: as :func:`edgecnn.engine.build`.
    """
    say = say or log.warning
    bundle = Bundle.open(folder, allow_unverified=True, check="sizes")
    facts = bundle.manifest.engines[f"{variant}.{options.flavour}"].facts
    here, model = device(), model_of(bundle, variant)
    config = config_for(facts, options, here)
    gpu = [here.name, here.compute_capability] if here else []
    libraries = [sha256_file(path) for path in config.plugins if path.is_file()]
    parts = {
        "graph": model.sha256,
        "config": config.to_json(),
        "plugins": libraries,
        "version": ready(config).version,
        "gpu": gpu,
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    plan = cache_dir() / "engines" / key / engine_file(variant, options.flavour)
    kept = _kept(plan)
    if kept is not None:
        say(f"{folder}: the engine of {variant} does not fit here; the one that was built before is taken ({plan})")
        return plan, kept
    say(
        f"{folder}: the engine of {variant} does not fit here, and is built anew for this device into {plan}: this takes minutes"
    )
    cache_folder(plan.parent)
    engine = build(model, config, to=plan)
    for text in unsound({variant: engine}):
        say(text)
    record = EngineRecord(file=plan.name, variant=variant, facts=engine.facts)
    write_json(plan.with_suffix(".json"), {**record.to_json(), "sha256": engine.sha256})
    return plan, engine.facts


def unsound(engines: Mapping[str, Engine]) -> tuple[str, ...]:
    """Return what the audits found wrong, one line each."""
    return tuple(f"engine of {name}: {text}" for name, one in engines.items() for text in one.facts.audit["problems"])


def _models(bundle: Bundle, variants: Sequence[str], allow_unverified: bool) -> dict[str, OnnxModel]:
    """Open the graphs to build."""
    for name in variants:
        if not bundle.variant(name).verified and not allow_unverified:
            raise UserError(
                f"{bundle.path}: {name} failed verification; building it all the same needs --allow-unverified"
            )
        if name == FOR_CPU:
            raise UserError(f"{bundle.path}: {name} is for the kernels of CPUs; build {_others(bundle)}")
    usable = [
        name for name, variant in bundle.variants.items() if name != FOR_CPU and (variant.verified or allow_unverified)
    ]
    if not (variants or usable):
        raise UserError(f"{bundle.path} has no verified variant for TensorRT; it has {', '.join(bundle.variants)}")
    return {name: model_of(bundle, name) for name in variants or usable}


def model_of(bundle: Bundle, name: str) -> OnnxModel:
    """Describe a graph from the manifest, so that a device needs no onnx to build."""
    variant, path = bundle.variant(name), bundle.model_path(name)
    files = [file for file in (path, data_path(path)) if file.exists()]
    return OnnxModel(
        path=path,
        sha256=sha256_file(*files),
        inputs=variant.inputs,
        outputs=variant.outputs,
        opset=variant.opset,
        precision=variant.precision,
        nodes=variant.nodes,
        lineage=variant.lineage,
    )


def _kept(plan: Path) -> EngineFacts | None:
    """Return what was said of a plan in the cache, None where it is not there, or not whole."""
    try:
        data = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))
        whole = data["sha256"] == sha256_file(plan)
        return EngineRecord.from_json(data, str(plan), ()).facts if whole else None
    except (OSError, ValueError, LookupError, TypeError, UserError):
        return None


def config_for(facts: EngineFacts, options: TensorRtOptions, here: Device | None) -> BuildConfig:
    """Return how an engine was built, for this device: batch and limits are taken over, what concerns other devices is not.

    Raises:
        SpecError: the manifest's options are none that an engine can be built with.
    """
    old = facts.options
    batch, dla = old.get("batch"), old.get("dla")
    limits = {name: old.get(name, default) for name, default in (("workspace", 0), ("level", 3))}
    if not all(isinstance(value, int) for value in limits.values()):
        raise SpecError(f"the manifest's options of the engine are not numbers: {limits}: build it again")
    rtx = options.flavour == "tensorrt-rtx"
    return BuildConfig(
        target=options.flavour,
        batch=Batch.parse(batch) if isinstance(batch, str) else None,
        **limits,
        dla=dla if isinstance(dla, int) else None,
        gpus=(here.compute_capability,) if rtx and here else (),
        plugins=options.plugins,
    )


def _others(bundle: Bundle) -> str:
    """Name the variants that can be built."""
    return ", ".join(name for name in bundle.variants if name != FOR_CPU)
