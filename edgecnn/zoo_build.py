"""Build a model and give it the weights that were asked for: published, a file, random, or a user's own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgecnn import weights
from edgecnn.errors import HashMismatchError, SpecError, WeightsError
from edgecnn.optional import need
from edgecnn.progress import Progress, silent
from edgecnn.spec import ModelSpec, WeightsEntry
from edgecnn.weights import FitRules, LoadedWeights
from edgecnn.zoo_user import build_user, count_classes, recorded

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Built", "FromFile", "Own", "Published", "Random", "build_model", "build_own", "maker", "parse_weights"]

# What a plain ResNet checkpoint lacks of a deformable one. Zero offsets (and a modulation of one) are the plain network.
OFFSETS = r"\.conv_offset\."
AUXILIARY = r"^(aux1|aux2|AuxLogits)\."


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network ready for export.

    Attributes:
        module: in evaluation mode, on the CPU, float32.
        spec: with the builder arguments, preprocessing, number of classes and labels that these weights need.
        weights: where its parameters came from.
    """

    module: nn.Module
    spec: ModelSpec
    weights: LoadedWeights


@dataclass(frozen=True)
class Published:
    """Weights of one of the model's entries."""

    entry: WeightsEntry


@dataclass(frozen=True)
class FromFile:
    """Weights of a user's own checkpoint."""

    path: Path


@dataclass(frozen=True)
class Random:
    """Untrained He-initialised parameters that follow from the seed."""

    seed: int = 0


@dataclass(frozen=True)
class Own:
    """Whatever parameters a user's callable gives its network."""


Source = Published | FromFile | Random | Own


def parse_weights(spec: ModelSpec, text: str, *, brings_own: bool = False) -> Source:
    """Turn the text of ``--weights`` into what it asks for.

    Args:
        spec: the model.
        text: ``default``, an entry's name, ``package``, a path, ``random`` or ``random:SEED``.
        brings_own: the network has parameters of its own, which are then the default.

    Raises:
        WeightsError: it is none of these; the message lists what the model has. Or the seed is too large.
    """
    kind, colon, seed = text.partition(":")
    if kind == "random" and (seed.isdecimal() or not colon):
        if len(seed) > 18:  # torch takes 64 bits
            raise WeightsError(f"{text!r}: the seed has {len(seed)} digits, at most 18 are taken")
        return Random(int(seed or 0))
    default = text.lower() == "default"
    if default and brings_own:
        return Own()
    wanted = spec.default_weights if default else text
    if entry := next((entry for entry in spec.weights if entry.name == wanted), None):
        return Published(entry)
    path = Path(text).expanduser()
    if not default and (path.suffix in weights.SUFFIXES or os.sep in text or path.exists()):
        return FromFile(path)
    what = "has no default weights" if default else f"has no weights {text!r}"
    raise WeightsError(f"{spec.name} {what}. {_choices(spec)}")


def _choices(spec: ModelSpec) -> str:
    """Say which weights a model can have."""
    entries = ", ".join(entry.name for entry in spec.weights)
    published = f"Published: {entries}. " if entries else "None are published. "
    twin = (
        f"Those are the {spec.weights[0].source.partition(';')[0]}. " if spec.family == "deformable" and entries else ""
    )
    return f"{published}{twin}Otherwise --weights FILE (.pth, .pt, .safetensors), or --weights random for an untrained network"


def build_model(
    spec: ModelSpec,
    text: str,
    num_classes: int | None = None,
    progress: Progress = silent,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Built:
    """Build with explicit builder arguments on top of the spec's and the entry's. See :func:`edgecnn.zoo.build`."""
    need("torch")
    source = parse_weights(spec, text, brings_own=spec.family == "user")
    bound = replace(spec, arguments={**spec.arguments, **arguments})
    if spec.family == "user":
        if num_classes is not None:
            bound = replace(bound, arguments={**bound.arguments, "num_classes": num_classes})
        asked = bound.arguments.get("num_classes")
        if not isinstance(source, Random):
            return _fill_own(build_user(bound), bound, source, asked)
        module = weights.build_seeded(partial(build_user, bound), source.seed)
        return _finish(module, bound, _random(bound, source.seed, module), asked)
    if isinstance(source, Random):
        bound = bound.with_num_classes(num_classes or bound.num_classes)
        module = weights.build_seeded(partial(maker(bound, bound.arguments), bound.num_classes), source.seed)
        return Built(module=module.eval(), spec=bound, weights=_random(bound, source.seed, module))
    assert not isinstance(source, Own)
    return _build_loaded(spec, source, num_classes, progress, arguments)


def build_own(spec: ModelSpec, text: str, num_classes: int | None, module: nn.Module) -> Built:
    """Take a network at hand, with its own parameters or a file's. See :func:`edgecnn.zoo.build`."""
    source = parse_weights(spec, text, brings_own=True)
    if isinstance(source, Random):
        raise WeightsError(f"{spec.name}: weights {text!r} cannot be given to a network that is there already")
    return _fill_own(module, spec, source, num_classes)


def _fill_own(module: nn.Module, spec: ModelSpec, source: Source, asked: int | None) -> Built:
    """Fill a user's network, if a file is given."""
    if isinstance(source, (FromFile, Published)):
        source, path, sha256 = _at_hand(spec, source, silent)
        notes = weights.load(module, weights.read(path), what=str(path))
        loaded = _described(source, path, sha256, notes)
        if isinstance(source, Published):
            spec = spec.with_preprocess(source.entry.preprocess)
    else:
        empty = [name for name, value in module.state_dict().items() if value.is_meta]
        if empty:
            raise WeightsError(
                f"{spec.name}: {empty[0]} and {len(empty) - 1} more are on the meta device and have no values; "
                "build the network on a real device, or give --weights FILE"
            )
        loaded = LoadedWeights(name="as built", source=recorded(spec).builder, sha256=weights.digest(module))
    return _finish(module, spec, loaded, asked)


def _finish(module: nn.Module, spec: ModelSpec, loaded: LoadedWeights, asked: int | None) -> Built:
    """Note how many classes a user's network has, and put it in evaluation mode."""
    count = count_classes(module, spec, asked)
    return Built(module=module.eval(), spec=spec.with_num_classes(count), weights=loaded)


def _random(spec: ModelSpec, seed: int, module: nn.Module) -> LoadedWeights:
    """Describe untrained parameters."""
    source, sha256 = recorded(spec).builder, weights.digest(module)
    return LoadedWeights(name=f"random:{seed}", source=source, sha256=sha256, untrained=True, seed=seed)


def _build_loaded(
    spec: ModelSpec,
    source: Published | FromFile,
    num_classes: int | None,
    progress: Progress,
    arguments: Mapping[str, Any],
) -> Built:
    """Build a zoo model from a file: published, or the user's own."""
    source, path, sha256 = _at_hand(spec, source, progress)
    state = weights.read(path)
    entry = source.entry if isinstance(source, Published) else _variant_of(spec, state)
    needed = {**spec.arguments, **(entry.arguments if entry else {}), **arguments}
    what = f"{path.name} ({source.entry.name})" if isinstance(source, Published) else str(path)
    make = maker(spec, needed)
    count = weights.class_count(make, state, spec.num_classes)
    if num_classes is not None and num_classes != count:
        raise WeightsError(
            f"{what} is for {count} classes, not {num_classes}: give a checkpoint fine-tuned to {num_classes}, "
            "or --weights random for an untrained network"
        )
    rules = FitRules(
        zeros=OFFSETS if spec.family == "deformable" else "",
        ignored=AUXILIARY if needed.get("aux_logits") is False else "",
    )
    module = weights.on_meta(make, count)
    notes = weights.load(module, state, what=what, rules=rules)
    spec = replace(spec, arguments=needed).with_num_classes(count)
    if entry:
        spec = spec.with_preprocess(entry.preprocess)
    return Built(module=module.eval(), spec=spec, weights=_described(source, path, sha256, notes))


def _described(source: Published | FromFile, path: Path, sha256: str, notes: tuple[str, ...]) -> LoadedWeights:
    """Describe parameters that came from a file."""
    if isinstance(source, FromFile):
        return LoadedWeights(name=path.name, source=path.name, sha256=sha256, notes=notes)
    entry = source.entry
    return LoadedWeights(
        name=entry.name,
        source=entry.url or entry.package,
        sha256=sha256,
        licence=entry.licence,
        top1=entry.top1,
        top5=entry.top5,
        notes=notes,
    )


def _at_hand(
    spec: ModelSpec, source: Published | FromFile, progress: Progress
) -> tuple[Published | FromFile, Path, str]:
    """Return where the file is, with its sha256. A local file is compared with the model's published ones.

    By its hash it is one of them; by its name alone it should be one.

    Raises:
        HashMismatchError: the file has a published one's name, but not its content.
        WeightsError, MissingDependencyError, OutputError: there is no such file, or it cannot be fetched.
    """
    if isinstance(source, Published):
        return (source, *weights.locate(source.entry, progress))
    path = source.path
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}. {_choices(spec)}")
    sha256 = weights.verify(path, "", remedy="")
    for entry in spec.weights:
        if entry.sha256 and sha256.startswith(entry.sha256):
            return Published(entry), path, sha256
        if path.name == Path(entry.file).name:
            raise HashMismatchError(
                f"{path} has the name of the published {entry.name}, but its sha256 begins {sha256[:8]}, published is "
                f"{entry.sha256}: fetch it again, or rename it if it is a checkpoint of your own"
            )
    return source, path, sha256


def _variant_of(spec: ModelSpec, state: Mapping[str, Any]) -> WeightsEntry | None:
    """Return the packaged entry when a user's file has the packages' key style, which tells TensorFlow's padding and eps."""
    if not weights.is_packaged_lite(state):
        return None
    return next((entry for entry in spec.weights if entry.package), None)


def maker(spec: ModelSpec, arguments: Mapping[str, Any]) -> Callable[[int], nn.Module]:
    """Return the zoo builder with its arguments bound, to be called with a number of classes."""
    module, _, function = spec.builder.partition(":")
    builder = getattr(importlib.import_module(module), function)

    def make(num_classes: int) -> nn.Module:
        try:
            network: nn.Module = builder(num_classes=num_classes, **arguments)
        except TypeError as error:
            raise SpecError(f"{spec.name}: {error}") from error
        return network

    return make
