"""PyTorch to ONNX: one input, one output, named after the network's own modules, auxiliary classifiers gone."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn._version import __version__
from edgecnn.artifacts import Lineage, OnnxModel, canonical_json, sha256_json
from edgecnn.errors import ExportError, SpecError
from edgecnn.onnxio import save_ir
from edgecnn.optional import need
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn

__all__ = ["ExportConfig", "export"]

OPSETS = (19, 23)
"""First and last opset that this stage writes: DeformConv needs 19."""

CHATTY = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export", "onnxscript", "onnx_ir")
"""Loggers that would write to the terminal while a network is exported."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How to export.

    Attributes:
        opset: of the default domain, 19 to 23.
        batch: static batch size; None leaves it dynamic.
        output: of a network that returns several, the main one: a key, a field's name or an index.
    """

    opset: int = 20
    batch: int | None = None
    output: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise SpecError(f"opset {self.opset} is not between {OPSETS[0]} and {OPSETS[1]}")
        if self.batch is not None and self.batch < 1:
            raise SpecError(f"batch {self.batch} must be at least 1, or left out to be dynamic")


def export(
    module: nn.Module,
    spec: ModelSpec,
    config: ExportConfig | None = None,
    *,
    to: Path,
    labels: Sequence[str] = (),
) -> OnnxModel:
    """Export a network in evaluation mode; the caller's module keeps its mode.

    Args:
        module: takes ``spec.inputs[0]``, float32 (N, C, H, W), and returns the logits (N, classes), or a tuple, dict or named
            tuple that holds them.
        spec: names and shapes of input and output, preprocessing for the metadata.
        config: opset, batch, main output.
        to: the file to write.
        labels: class names; their hash goes into the metadata.

    Raises:
        ExportError: the network fails on its input, torch.onnx cannot translate it, or its main output is not clear.
        OutputError: the file cannot be written.
    """
    config = config or ExportConfig()
    with _evaluating(module), _quiet():
        program = _translate(_MainOutput.of(module, spec, config), spec, config)
    model = program.model
    _name_by_module(model)
    model.metadata_props.clear()
    model.metadata_props.update(
        {
            "edgecnn.model": spec.name,
            "edgecnn.preprocess": canonical_json(spec.preprocess.to_json()).decode(),
            "edgecnn.labels_sha256": sha256_json(list(labels)),
            "edgecnn.version": __version__,
            "edgecnn.precision": "fp32",
        }
    )
    model.producer_name, model.producer_version = "edgecnn", __version__
    step = Lineage(
        stage="export",
        tools={name: _version(name) for name in ("torch", "onnx", "onnxscript")},
        config=asdict(config),
    )
    made = save_ir(model, to, lineage=(step,))
    # onnxscript's rewriting rules keep the last graph that they saw: not its weights as well.
    for value in model.graph.initializers.values():
        value.const_value = None
    return made


class _MainOutput:
    """Makes a module that returns the main output alone; made here, since a module class needs torch."""

    @staticmethod
    def of(module: nn.Module, spec: ModelSpec, config: ExportConfig) -> nn.Module:
        """Run the module once, find its main output, and wrap it where it returns more than that."""
        torch = need("torch")
        example = _example(spec, config)
        try:
            with torch.no_grad():
                result = module(example)
        except Exception as error:
            raise ExportError(
                f"{spec.name} fails on an input of shape {list(example.shape)}: {_one_line(error)}"
            ) from error
        choices = _choices(result)
        key = _pick(choices, config.output, spec)
        if isinstance(result, torch.Tensor):
            return module

        class Main(torch.nn.Module):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()
                self.network = module

            def forward(self, x: Any) -> Any:
                return _choices(self.network(x))[key]

        wrapped: nn.Module = Main().eval()
        return wrapped


def _choices(result: Any) -> dict[str, Any]:
    """Return the tensors of a network's result by name."""
    torch = need("torch")
    if isinstance(result, torch.Tensor):
        return {"0": result}
    if isinstance(result, Mapping):
        items = [(str(key), value) for key, value in result.items()]
    elif hasattr(result, "_fields"):
        items = list(zip(result._fields, result, strict=True))
    elif isinstance(result, (tuple, list)):
        items = [(str(index), value) for index, value in enumerate(result)]
    else:
        items = []
    return {key: value for key, value in items if isinstance(value, torch.Tensor)}


def _pick(choices: Mapping[str, Any], asked: str, spec: ModelSpec) -> str:
    """Return the key of the main output. Raises ExportError that lists the choices."""
    listed = ", ".join(f"{key} {list(value.shape)}" for key, value in choices.items()) or "no tensor"
    if asked:
        keys = list(choices)
        if asked in choices:
            return asked
        if asked.isdigit() and int(asked) < len(keys):
            return keys[int(asked)]
        raise ExportError(f"{spec.name} has no output {asked!r}: it returns {listed}")
    if len(choices) == 1:
        return next(iter(choices))
    if "logits" in choices:
        return "logits"
    raise ExportError(f"{spec.name} returns {listed}: say which is the classifier's with --output")


def _translate(module: nn.Module, spec: ModelSpec, config: ExportConfig) -> Any:
    """Call torch.onnx."""
    torch = need("torch")
    dynamic = None if config.batch else ({0: torch.export.Dim("batch")},)
    table = _translations(torch) if hasattr(torch.ops.edgecnn, "deform_conv2d") else None
    try:
        return torch.onnx.export(
            module,
            (_example(spec, config),),
            dynamo=True,
            opset_version=config.opset,
            input_names=[spec.inputs[0].name],
            output_names=[spec.outputs[0].name],
            dynamic_shapes=dynamic,
            custom_translation_table=table,
            verbose=False,
        )
    except Exception as error:
        raise ExportError(f"torch.onnx cannot export {spec.name}: {_one_line(error.__cause__ or error)}") from error


def _translations(torch: Any) -> dict[Any, Any]:
    """Return how our custom operator becomes ONNX's DeformConv (opset 19: input, weight, offset, bias, mask)."""
    from onnxscript import opset19 as op

    def deform_conv2d(
        image: Any, offset: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, mask: Any = None
    ) -> Any:
        kernel = list(weight.shape)[2:]
        taps = 2 * kernel[0] * kernel[1]
        return op.DeformConv(
            image, weight, offset, bias, mask,
            kernel_shape=kernel,
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=image.shape[1] // weight.shape[1],
            offset_group=offset.shape[1] // taps,
        )  # fmt: skip

    return {torch.ops.edgecnn.deform_conv2d.default: deform_conv2d}


def _example(spec: ModelSpec, config: ExportConfig) -> torch.Tensor:
    """Return a fixed input: a batch of 2, so that torch.export does not take the batch for a constant."""
    torch = need("torch")
    shape = tuple(dim for dim in spec.inputs[0].shape[1:] if isinstance(dim, int))
    generator = torch.Generator().manual_seed(0)
    return torch.randn((config.batch or 2, *shape), generator=generator)  # type: ignore[no-any-return]


def _name_by_module(model: ir.Model) -> None:
    """Name nodes ``<module path>/<op>`` and their first output alike; drop torch's traces, which hold the machine's paths.

    A convolution with its BatchNorm folded in is named after the convolution; its metadata name the module whose output it gives.
    """
    used: dict[str, int] = {}
    final = {id(value) for value in model.graph.outputs}
    for node in model.graph:
        path = _module_path(node.metadata_props)
        node.metadata_props.clear()
        node.metadata_props["edgecnn.module"] = path
        owner = _weight_owner(node) or path
        base = f"{owner}/{node.op_type}" if owner else node.op_type
        used[base] = count = used.get(base, -1) + 1
        node.name = f"{base}_{count}" if count else base
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if id(value) not in final:
                value.name = f"{node.name}:{index}" if index else node.name
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _weight_owner(node: ir.Node) -> str:
    """Return the path of the module that owns a node's weight, "" where it has none."""
    owners = [
        str(value.name).rpartition(".")[0]
        for value in node.inputs
        if value is not None and value.const_value is not None and str(value.name).endswith(".weight")
    ]
    return owners[0].removeprefix("network.") if len(owners) == 1 else ""


def _module_path(metadata: Mapping[str, str]) -> str:
    """Read the dotted module path from torch's ``name_scopes``: the last scope that is a module, not an operator."""
    try:
        scopes = json.loads(metadata.get("pkg.torch.onnx.name_scopes", "[]").replace("'", '"'))
    except ValueError:
        return ""
    modules = [str(scope) for scope in scopes[:-1]] if scopes else []
    path = next((scope for scope in reversed(modules) if scope), "")
    return re.sub(r"^network\.?", "", path)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter from the terminal; its errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _version(distribution: str) -> str:
    """Return an installed package's version."""
    from importlib import metadata

    return metadata.version(distribution)


def _one_line(error: BaseException) -> str:
    """Return the first line of a foreign error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
