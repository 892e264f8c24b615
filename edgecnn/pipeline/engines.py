"""Engines of a bundle's graphs: as the last step of the main job, or into a bundle that is there already."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecnn.artifacts import Engine, OnnxModel, sha256_file
from edgecnn.engine import BuildConfig, build, ready
from edgecnn.errors import UserError
from edgecnn.onnxio import data_path
from edgecnn.pack import add_engines, check_destination
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.engines import engine_file

__all__ = ["EngineOutcome", "build_engines", "build_into", "engine_config", "unsound"]

FOR_CPU = "int8-cpu"


@dataclass(frozen=True, kw_only=True)
class EngineOutcome:
    """What was built. Truthy when every engine has the precision that was asked for.

    Attributes:
        bundle: with the engines in it.
        engines: variant -> engine; their paths are those in the bundle.
    """

    bundle: Bundle
    engines: Mapping[str, Engine]

    def __bool__(self) -> bool:
        """Whether every audit passed."""
        return all(engine.passed for engine in self.engines.values())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "bundle": str(self.bundle.path),
            "passed": bool(self),
            "engines": {name: {"file": engine.path.name, **engine.to_json()} for name, engine in self.engines.items()},
        }


def engine_config(config: PipelineConfig) -> tuple[BuildConfig | None, tuple[str, ...]]:
    """Return how the main job builds engines, None where it does not, and a note why not if they were asked for.

    TensorRT-RTX compiles on any machine, so that its absence is an error. TensorRT builds on the device alone: elsewhere the bundle is
    made ready for it.

    Raises:
        UserError: TensorRT-RTX is asked for, and not there.
    """
    if config.target not in ("tensorrt", "tensorrt-rtx"):
        return None, ()
    found = BuildConfig(target=config.target, plugins=config.plugins)
    try:
        ready(found)
    except UserError as error:
        if config.target == "tensorrt-rtx":
            raise
        return None, (f"no engine was built ({error}): on the device, run 'edgecnn build BUNDLE --target tensorrt'",)
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
    progress: Progress = silent,
) -> EngineOutcome:
    """Build engines of a bundle's variants and put them into it, all or none.

    Args:
        bundle: on disk.
        config: what to build for.
        variants: which; by default every one that is verified and not for CPUs.
        allow_unverified: also build those that failed verification.
        progress: told about the builder's phases.

    Raises:
        UserError: an unknown variant, one for CPUs or unverified; nothing to build; and as :func:`edgecnn.engine.build`.
        OutputError: the bundle cannot be written.
    """
    ready(config)
    models = _models(bundle, variants, allow_unverified)
    check_destination(bundle.path, force=True)
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch:
        engines = build_engines(models, config, to=Path(scratch), progress=progress)
        written = add_engines(bundle, list(engines.items()))
    placed = {name: replace(engine, path=written.path / engine.path.name) for name, engine in engines.items()}
    return EngineOutcome(bundle=written, engines=placed)


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
    return {name: _model(bundle, name) for name in variants or usable}


def _model(bundle: Bundle, name: str) -> OnnxModel:
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


def _others(bundle: Bundle) -> str:
    """Name the variants that can be built."""
    return ", ".join(name for name in bundle.variants if name != FOR_CPU)
