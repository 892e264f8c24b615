"""The network of ``parity_nets`` quantized by the quantizer itself, as a bundle with decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity_bundles import LABELS, SPEC
from parity_nets import PREPROCESS, images, pictures, put_inside, write_fp32

from edgecnn.calib import InMemory
from edgecnn.fp16 import to_fp16
from edgecnn.onnxio import open_model
from edgecnn.pack import BundleContents, VariantContents, make_golden, pack
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import Bundle, OrtSession
from edgecnn.runtime.manifest import Embedded, Weights

NODES = ["conv1/Conv", "block.conv/Conv", "block/Add", "dw/Conv", "ReduceMean", "logits"]
"""The network's layers; the Gemm is called as its output."""


def write_quantized(
    folder: Path,
    variants: Sequence[str] = ("int8", "int8-cpu"),
    *,
    embedded: bool = False,
    golden: bool = True,
    **config: Any,
) -> Bundle:
    """Write ``folder/bundle`` with fp32 and quantized variants.

    Args:
        folder: an empty one.
        variants: ``int8``, ``int8-cpu``, ``int8-fp16``.
        embedded: whether the graphs take pixels and give probabilities.
        golden: whether to write golden arrays.
        config: of the quantizer; weights are rounded to the nearest, so that layers do not correct each other.
    """
    samples = InMemory([dict(sample.feed) for sample in images(12, seed=99)])
    models = {"fp32": open_model(write_fp32(folder / "plain.fp32.onnx"))}
    placements: dict[str, Any] = {"fp32": None}
    for name in variants:
        scheme = "int8-cpu" if name == "int8-cpu" else "int8"
        options = QuantizeConfig(scheme=scheme, effort="fast", **config)
        made = quantize(models["fp32"], samples, options, to=folder / f"plain.{name}.onnx")
        models[name], placements[name] = made.model, made.placement.to_json()
        if name == "int8-fp16":
            models[name] = to_fp16(made.model, samples, to=folder / "plain.half.onnx").model
    if embedded:
        for name, model in models.items():
            models[name] = open_model(
                put_inside(folder / f"{name}.onnx", model.path, softmax=True), precision=model.precision
            )
    sessions = {name: OrtSession(model.path) for name, model in models.items()}
    items = [VariantContents(model=model, verified=True, placement=placements[name]) for name, model in models.items()]
    contents = BundleContents(
        spec=SPEC,
        weights=Weights(entry="made up"),
        variants=items,
        labels=LABELS,
        embedded=Embedded(preprocess=embedded, softmax=embedded),
        golden=make_golden(pictures(4, seed=5), PREPROCESS, sessions) if golden else {},
        verified=True,
    )
    return pack(folder / "bundle", contents)
