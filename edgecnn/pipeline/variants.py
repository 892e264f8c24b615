"""The graphs of the main job: exported, simplified, quantized, in half precision, and finished for the application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import zoo
from edgecnn.artifacts import Engine, OnnxModel, cache_dir
from edgecnn.calib.data import Samples
from edgecnn.calib.methods import Auto
from edgecnn.export import export
from edgecnn.pipeline.budget import HeldOut, Within, told, within_budget
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.progress import Progress
from edgecnn.quantize import equalize, quantize, statistics_for
from edgecnn.quantize.choose import choose
from edgecnn.simplify import simplify, transform

if TYPE_CHECKING:
    from edgecnn.passes import Pass
    from edgecnn.quantize import QuantizeConfig, Scheme
    from edgecnn.quantize.search import Search
    from edgecnn.spec import ModelSpec
    from edgecnn.zoo_build import Built

__all__ = ["EMULATED", "Graphs", "Step", "make_graphs"]

MADE_FROM = {"int8-fp16": "int8"}
"""Variants that are not made from fp32."""

EMULATED = "emulated"
"""Suffix of the stages that round as FP16 does: onnxruntime computes FP16 graphs in FP32 on most CPUs, which proves little."""

Step = Callable[[str], AbstractContextManager[None]]


@dataclass
class Graphs:
    """What was made.

    Attributes:
        stages: every graph that verification looks at, in the order of the work; variants and what they came from.
        after: stage -> the stage that it was made from.
        variants: names of those that go into the bundle.
        placements, ranges: of the quantized variants, JSON.
        calibration: where the ranges came from, JSON; None without INT8.
        notes: what the reader should know.
        searches: quantized variant -> how its accuracy budget was kept.
        choices: quantized variant -> how the method of its ranges was chosen, JSON.
        equalized: quantized variant -> whose channels were scaled first, and why, JSON.
        engines: variant -> engine, where the target has such.
    """

    stages: dict[str, OnnxModel] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)
    placements: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranges: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    searches: dict[str, Search] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    equalized: dict[str, dict[str, Any]] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)


def make_graphs(
    built: Built,
    samples: Samples,
    held_out: HeldOut,
    config: PipelineConfig,
    scratch: Path,
    step: Step,
    progress: Progress,
) -> Graphs:
    """Make the graphs that the configuration asks for, in ``scratch``; budgets are measured on ``held_out``."""
    graphs = Graphs()
    with step("export"):
        exported = export(
            built.module, built.spec, config.export, to=scratch / "exported.onnx", labels=zoo.labels(built.spec)
        )
    plain = exported
    if config.simplify:
        with step("simplify"):
            made = simplify(exported, to=scratch / "simplified.onnx", progress=progress)
        plain = made.model
        graphs.notes += made.notes
    variants = {"fp32": plain}
    if config.int8:
        with step("quantize"):
            variants |= _quantized(graphs, plain, samples, held_out, config, scratch, progress)
    if config.fp16:
        with step("fp16"):
            variants |= _halved(graphs, variants, samples, config, scratch, progress)
    graphs.variants = list(variants)
    passes = _finishing(built.spec, config)
    if passes:
        for name, model in variants.items():
            variants[name] = transform(model, passes, to=scratch / f"model.{name}.onnx")
    _order(graphs, [("onnx", exported), ("simplified", plain), ("fp32", variants.pop("fp32"))], variants)
    return graphs


def _order(graphs: Graphs, chain: list[tuple[str, OnnxModel]], variants: Mapping[str, OnnxModel]) -> None:
    """Record the graphs as stages; one of the chain that is its successor byte for byte is left out."""
    before = "pytorch"
    for (name, model), after in zip(chain, [*chain[1:], None], strict=True):
        if after is None or after[1].sha256 != model.sha256:
            graphs.stages[name], graphs.after[name], before = model, before, name
    for name, model in variants.items():
        graphs.stages[name], graphs.after[name] = model, MADE_FROM.get(name, "fp32")
        if "fp16" in model.precision:
            from edgecnn.fp16_emulate import emulate

            rounded = emulate(model, to=model.path.with_suffix(f".{EMULATED}.onnx"))
            graphs.stages[f"{name}-{EMULATED}"], graphs.after[f"{name}-{EMULATED}"] = rounded, graphs.after[name]


def _quantized(
    graphs: Graphs,
    model: OnnxModel,
    samples: Samples,
    held_out: HeldOut,
    config: PipelineConfig,
    scratch: Path,
    progress: Progress,
) -> dict[str, OnnxModel]:
    """Return the INT8 graphs: ``int8`` always, ``int8-cpu`` where a CPU is the target."""
    schemes: tuple[Scheme, ...] = ("int8", "int8-cpu") if config.for_cpu else ("int8",)
    configs = {scheme: replace(config.quantize, scheme=scheme) for scheme in schemes}
    cache = cache_dir() / "calibration" if config.use_cache else None
    seen = partial(statistics_for, samples=samples, cache=cache, threads=config.threads, progress=progress)
    plain = model
    statistics = None if config.quantize.equalize else seen(plain, configs=configs.values())
    made: dict[str, OnnxModel] = {}
    for scheme, asked in configs.items():
        own, to = asked, scratch / f"quantized.{scheme}.onnx"
        if statistics is None or own.equalize:
            model = _even(graphs, plain, samples, own, scratch / f"even.{scheme}.onnx", config.threads, progress)
            statistics = seen(model, configs=[own])
        if isinstance(own.method, Auto):  # once, not for every mixture that a budget tries
            choice = choose(model, samples, own, statistics, threads=config.threads, progress=progress)
            own = choice.applied(own)
            graphs.choices[scheme] = choice.to_json()
            graphs.notes.append(f"{scheme}: {choice}")
        if config.budget:
            how = Within(budget=config.budget, held_out=held_out, cache=cache, threads=config.threads)
            result, found = within_budget(model, samples, own, how, to=to, statistics=statistics, progress=progress)
            graphs.searches[scheme] = found
            graphs.notes.append(told(scheme, found, config.budget, held_out))
        else:
            threads = config.threads
            result = quantize(
                model, samples, own, to=to, statistics=statistics, cache=cache, threads=threads, progress=progress
            )
        made[scheme] = result.model
        graphs.placements[scheme] = result.placement.to_json()
        if scheme in graphs.searches:
            graphs.placements[scheme] |= {"budget": graphs.searches[scheme].to_json()}
        if own.equalize:
            graphs.placements[scheme] |= {"equalized": graphs.equalized[scheme]}
        graphs.ranges[scheme] = result.ranges.to_json()
        graphs.calibration = {
            **samples.describe(),
            "hash": result.ranges.hashes["data"],
            "method": config.quantize.method.to_json(),
            "chosen": graphs.choices,
            "effort": own.effort,
            "reused": result.ranges.reused,
        }
    return made


def _even(
    graphs: Graphs,
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    to: Path,
    threads: int,
    progress: Progress,
) -> OnnxModel:
    """Return the float model with its channels scaled."""
    even = equalize(model, samples, config, to=to, threads=threads, progress=progress)
    graphs.equalized[config.scheme] = even.to_json()
    graphs.notes.append(f"{config.scheme}: {even}")
    return even.model


def _halved(
    graphs: Graphs,
    variants: Mapping[str, OnnxModel],
    samples: Samples,
    config: PipelineConfig,
    scratch: Path,
    progress: Progress,
) -> dict[str, OnnxModel]:
    """Return the FP16 graphs: ``fp16``, and beside ``int8`` an ``int8-fp16`` whose float parts are FP16."""
    from edgecnn.fp16 import to_fp16

    made: dict[str, OnnxModel] = {}
    for name, source in (("fp16", "fp32"), ("int8-fp16", "int8")):
        if source in variants:
            to = scratch / f"half.{name}.onnx"
            result = to_fp16(variants[source], samples, to=to, threads=config.threads, progress=progress)
            made[name] = result.model
            for node, reason in list(result.kept.items())[:1]:
                graphs.notes.append(f"{name}: {len(result.kept)} nodes stay FP32, such as {node}: {reason}")
            if source in graphs.placements:
                graphs.placements[name] = graphs.placements[source]
    return made


def _finishing(spec: ModelSpec, config: PipelineConfig) -> list[Pass]:
    """Return the passes that fit every variant to where it will run."""
    passes: list[Pass] = []
    if config.deform_form == "gridsample":
        from edgecnn.passes.deform_gridsample import DeformGridSample

        passes.append(DeformGridSample())
    if config.deform_form == "plugin":
        from edgecnn.passes.deform_plugin import DeformPlugin

        passes.append(DeformPlugin())
    if config.embed_preprocess:
        from edgecnn.passes.embed_preprocess import EmbedPreprocess

        passes.append(EmbedPreprocess(spec.preprocess))
    if config.embed_softmax:
        from edgecnn.passes.embed_softmax import EmbedSoftmax

        passes.append(EmbedSoftmax())
    return passes
