"""Models by name: the zoo's own, or a user's ``path.py:function``. The only importer of :mod:`edgecnn.models`.

torch is imported when a network is built, not before.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import models
from edgecnn.errors import SpecError
from edgecnn.optional import need
from edgecnn.progress import Progress, silent
from edgecnn.spec import ModelSpec, WeightsEntry
from edgecnn.zoo_build import Built, build_model, build_own, maker
from edgecnn.zoo_user import build_user, is_target, recorded, user_spec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Built", "build", "create", "find", "labels", "names", "recorded", "table", "user_spec"]


def names() -> tuple[str, ...]:
    """Return the names of the zoo's models, in the table's order."""
    return tuple(models.specs())


def find(name: str) -> ModelSpec:
    """Return a model's description.

    Args:
        name: a zoo name, ``path/to/net.py:build``, or ``package.module:build`` (with :func:`user_spec`'s defaults).

    Raises:
        SpecError: there is no such model; the message holds the nearest names.
    """
    if is_target(name):
        return user_spec(name)
    known = models.specs()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=4, cutoff=0.6)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise SpecError(
        f"no model is named {name!r}.{hint} `edgecnn models` lists all {len(known)}; a network of your own is path/to/net.py:build"
    )


def table() -> list[dict[str, Any]]:
    """Return one JSON-ready dict a zoo model: what ``edgecnn models --json`` prints. ``input_size`` is (C, H, W) of the default weights."""
    rows = []
    for spec in models.specs().values():
        size = models.facts(spec.name)
        default = next((entry for entry in spec.weights if entry.name == spec.default_weights), None)
        preprocess = default.preprocess if default else spec.preprocess
        rows.append(
            {
                "name": spec.name,
                "family": spec.family,
                "input_size": [preprocess.channels, *preprocess.size],
                "num_classes": spec.num_classes,
                "num_params": size.params,
                "macs": size.macs,
                "default_weights": spec.default_weights,
                "weights": [_entry_row(entry) for entry in spec.weights],
            }
        )
    return rows


def _entry_row(entry: WeightsEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "top1": entry.top1,
        "top5": entry.top5,
        "input_size": [entry.preprocess.channels, *entry.preprocess.size],
        "url": entry.url,
        "package": entry.package,
        "licence": entry.licence,
        "source": entry.source,
    }


def labels(spec: ModelSpec) -> tuple[str, ...]:
    """Return a name for each class: of a shipped set, of the file that ``spec.labels`` names, or ``class 0``, ``class 1``, ...

    Raises:
        SpecError: the file cannot be read, or does not hold one name a class.
    """
    if not spec.labels:
        return tuple(f"class {index}" for index in range(spec.num_classes))
    if spec.labels in models.LABEL_SETS:
        found = models.labels(spec.labels)
    else:
        try:
            found = tuple(Path(spec.labels).read_text(encoding="utf-8-sig").rstrip().splitlines())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"labels {spec.labels}: neither a shipped set nor a readable text file ({reason})"
            ) from error
        found = tuple(name.strip() for name in found)
    if len(found) != spec.num_classes or not all(found):
        raise SpecError(
            f"labels {spec.labels}: {len(found)} lines, {sum(not name for name in found)} of them empty, "
            f"but the model has {spec.num_classes} classes; write one class name a line, in index order"
        )
    return found


def create(name: str, num_classes: int = 1000, weights: str | None = None, **arguments: Any) -> nn.Module:
    """Build a network, as torchvision's model functions do.

    Args:
        name: as for :func:`find`.
        num_classes: length of the logits. With the default of 1000, a checkpoint's or a user's callable's own count wins.
        weights: as for :func:`build`; None leaves it untrained, from torch's global random generator.
        **arguments: of the model's builder (``aux_logits=False``); they go before what the weights entry asks for.

    Returns:
        The network in training mode, as constructors do.

    Raises:
        SpecError, WeightsError: as :func:`find` and :func:`build`; an argument that the builder does not know.
    """
    spec = find(name)
    classes = None if num_classes == 1000 else num_classes
    if weights is not None:
        return build_model(spec, weights, classes, arguments=arguments).module.train()
    need("torch")
    if spec.family == "user":
        given = arguments if classes is None else {**arguments, "num_classes": classes}
        return build_user(replace(spec, arguments=given))
    return maker(spec, {**spec.arguments, **arguments})(num_classes)


def build(
    spec: ModelSpec,
    weights: str = "default",
    num_classes: int | None = None,
    progress: Progress = silent,
    *,
    module: nn.Module | None = None,
) -> Built:
    """Build a model and fill it with weights.

    Args:
        spec: from :func:`find` or :func:`user_spec`.
        weights: ``default`` (the best published entry; for a user's network whatever its callable returns), the name of an
            entry of ``spec.weights``, ``package``, a ``.pth``/``.pt``/``.safetensors`` file, or ``random[:SEED]``. A file
            whose sha256 is a published entry's counts as that entry.
        num_classes: None takes the checkpoint's, or the model's own for random weights.
        progress: of a download, in bytes.
        module: a network at hand, taken in place of what the spec's builder makes. It is put in evaluation mode and keeps
            its parameters, unless ``weights`` names a file.

    Raises:
        SpecError: a user's network cannot be built or is no classifier; ``spec.labels`` names a file that does not fit.
        WeightsError: no such weights, or they do not fit (among them HashMismatchError).
        MissingDependencyError: torch, or the package with the weights, is not installed.
        OutputError: a download cannot be stored.
    """
    built = (
        build_own(spec, weights, num_classes, module)
        if module is not None
        else build_model(spec, weights, num_classes, progress)
    )
    if spec.family == "user" or spec.labels not in models.LABEL_SETS:  # the user's own choice: right, or an error
        built = replace(built, spec=replace(built.spec, labels=spec.labels))
    labels(built.spec)
    return built
