"""What a model is, as data: tensors, preprocessing, published weights. No torch, no onnx, no numpy: JSON in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar, get_args

from edgecnn.errors import SpecError

__all__ = ["Colour", "Dim", "Interpolation", "Json", "ModelSpec", "Order", "Preprocess", "TensorSpec", "WeightsEntry"]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Dim = int | str
"""A fixed length, or the name of a dynamic one (``"batch"``)."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Order = Literal["resize-crop", "crop-resize"]
Colour = Literal["RGB", "BGR", "L"]
_T = TypeVar("_T")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool", "float64")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A named tensor at a model's border.

    ``shape`` holds an int for a fixed length and a str for a named dynamic one; ``dtype`` is numpy's name.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.name:
            raise SpecError("a tensor needs a name")
        if self.dtype not in DTYPES:
            raise SpecError(f"tensor {self.name}: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        for dim in self.shape:
            if (
                isinstance(dim, bool)
                or not isinstance(dim, (int, str))
                or (isinstance(dim, int) and dim < 1)
                or dim == ""
            ):
                raise SpecError(
                    f"tensor {self.name}: {dim!r} is neither a positive length nor the name of a dynamic one"
                )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SpecError: a key is missing, unknown, or of a wrong value.
        """
        return _construct(cls, data)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded image to the network's input: pure data, the same for training, calibration, verification and the app.

    The steps, in this order:

    * ``order="resize-crop"`` (torchvision's published transforms): the shorter side is resized to ``resize`` pixels, the
      longer one to ``int(resize * long / short)``, then a centre crop of ``size``.
    * ``order="crop-resize"`` (TensorFlow's EfficientNet): a centre crop of ``size / resize`` of the shorter side, then a
      resize to ``size``.
    * pixels become ``(value / 255 - mean) / std`` per channel, in ``colour`` order, laid out NCHW.

    Resizing antialiases, as Pillow and torchvision's ``antialias=True`` do.

    Attributes:
        size: height and width of the network's input, pixels.
        resize: pixels; see the two orders above.
        mean, std: one value a channel, in units of the [0, 1] range.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    order: Order = "resize-crop"
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    colour: Colour = "RGB"

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if len(self.size) != 2 or any(not isinstance(v, int) or v < 1 for v in self.size):
            raise SpecError(f"preprocess: size {self.size!r} is not (height, width) in pixels")
        if not isinstance(self.resize, int) or self.resize < max(self.size):
            raise SpecError(
                f"preprocess: resize {self.resize!r} must be an integer of at least the input size {self.size}"
            )
        for name, value, allowed in (
            ("order", self.order, get_args(Order)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
            ("colour", self.colour, get_args(Colour)),
        ):
            if value not in allowed:
                raise SpecError(f"preprocess: {name} {value!r} is not one of {', '.join(allowed)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise SpecError(
                f"preprocess: colour {self.colour} has {self.channels} channel(s), but mean has {len(self.mean)} and std {len(self.std)}"
            )
        if not all(v > 0 for v in self.std):
            raise SpecError(f"preprocess: std {self.std} must be positive")
        if not all(math.isfinite(v) for v in (*self.mean, *self.std)):
            raise SpecError(f"preprocess: mean {self.mean} and std {self.std} must be finite numbers")

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 1 if self.colour == "L" else 3

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "size": list(self.size),
            "resize": self.resize,
            "order": self.order,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "colour": self.colour,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SpecError: a key is missing, unknown, or of a wrong value.
        """
        return _construct(cls, data)


@dataclass(frozen=True, kw_only=True)
class WeightsEntry:
    """One published set of weights of one model.

    Attributes:
        name: as the publisher names it (``IMAGENET1K_V2``), or ``package``.
        url: where to download, or "" when a package holds it.
        package: import name of the installed package that holds the file, or "".
        file: file name.
        sha256: published hash, or a prefix of it (torch hub file names carry the first 8 digits).
        licence, source: of the weights; where the facts come from.
        top1, top5: published ImageNet-1k single-crop accuracy, percent; None where none is published.
        preprocess: what these weights were evaluated with.
        arguments: builder arguments that these weights need (``{"tf": True}``), over the model's own.
    """

    name: str
    url: str = ""
    package: str = ""
    file: str = ""
    sha256: str = ""
    licence: str = ""
    source: str = ""
    top1: float | None = None
    top5: float | None = None
    num_classes: int = 1000
    preprocess: Preprocess = field(default_factory=Preprocess)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))
        if not self.name:
            raise SpecError("a weights entry needs a name")
        if bool(self.url) == bool(self.package):
            raise SpecError(f"weights {self.name}: needs a url or a package, and not both")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return data | {"preprocess": self.preprocess.to_json(), "arguments": dict(self.arguments)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SpecError: a key is missing, unknown, or of a wrong value.
        """
        return _construct(cls, data, preprocess=Preprocess.from_json)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything about a classifier but its numbers.

    Attributes:
        name: as the user types it.
        family: for grouping and presets (``resnet``, ``efficientnet``, ``user``).
        builder: ``module:function`` or ``path.py:function``, returning an ``nn.Module``.
        arguments: keyword arguments of the builder.
        inputs, outputs: of the exported graph; a classifier has one of each, ``input`` (N, C, H, W) and ``logits`` (N, classes).
        preprocess: what the network expects; a weights entry's own takes precedence.
        weights: published entries; ``default_weights`` names one of them, or is "" when there is none.
        labels: name of a shipped label set (``imagenet-1k``), or "" for numbered classes.
    """

    name: str
    builder: str
    family: str = "user"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="input", shape=("batch", 3, 224, 224)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="logits", shape=("batch", 1000)),)
    preprocess: Preprocess = field(default_factory=Preprocess)
    weights: tuple[WeightsEntry, ...] = ()
    default_weights: str = ""
    labels: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("inputs", "outputs", "weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))
        if not self.name or ":" not in self.builder:
            raise SpecError(f"model {self.name!r}: builder {self.builder!r} is not 'module:function'")
        if not self.inputs or not self.outputs:
            raise SpecError(f"model {self.name}: needs at least one input and one output")
        if self.num_classes < 1:
            raise SpecError(f"model {self.name}: {self.num_classes} classes")
        if self.default_weights and self.default_weights not in {w.name for w in self.weights}:
            raise SpecError(f"model {self.name}: default weights {self.default_weights!r} are not among its entries")

    def with_preprocess(self, preprocess: Preprocess) -> ModelSpec:
        """Return this model with another preprocessing, its input resized to match."""
        first = self.inputs[0]
        resized = replace(first, shape=(first.shape[0], preprocess.channels, *preprocess.size))
        return replace(self, preprocess=preprocess, inputs=(resized, *self.inputs[1:]))

    def with_num_classes(self, num_classes: int) -> ModelSpec:
        """Return this model with another number of classes; labels of another count are dropped."""
        if num_classes == self.num_classes:
            return self
        first = self.outputs[0]
        resized = replace(first, shape=(first.shape[0], num_classes))
        return replace(self, num_classes=num_classes, outputs=(resized, *self.outputs[1:]), labels="")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "builder": self.builder,
            "family": self.family,
            "arguments": dict(self.arguments),
            "num_classes": self.num_classes,
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            "preprocess": self.preprocess.to_json(),
            "weights": [w.to_json() for w in self.weights],
            "default_weights": self.default_weights,
            "labels": self.labels,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SpecError: a key is missing, unknown, or of a wrong value.
        """

        def tensors(items: Any) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec.from_json(item) for item in items)

        return _construct(
            cls,
            data,
            inputs=tensors,
            outputs=tensors,
            preprocess=Preprocess.from_json,
            weights=lambda items: tuple(WeightsEntry.from_json(item) for item in items),
        )


def _construct(cls: type[_T], data: Any, **convert: Any) -> _T:
    """Build a dataclass from a JSON object, turning every misfit into a SpecError."""
    if not isinstance(data, Mapping):
        raise SpecError(f"{cls.__name__}: expected a JSON object, found {type(data).__name__}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise SpecError(f"{cls.__name__}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return cls(**{key: convert[key](value) if key in convert else value for key, value in data.items()})
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"{cls.__name__}: {error}") from error
