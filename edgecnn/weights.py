"""Checkpoints: find the file, read it without running code from it, and fill a network with it or say exactly why not."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import MissingDependencyError, WeightsError
from edgecnn.optional import install_line, need
from edgecnn.progress import Progress, silent
from edgecnn.spec import WeightsEntry
from edgecnn.weights_download import download, verify
from edgecnn.weights_keys import is_packaged_lite, rename

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "FitRules",
    "LoadedWeights",
    "build_seeded",
    "class_count",
    "digest",
    "is_packaged_lite",
    "load",
    "locate",
    "on_meta",
    "read",
    "verify",
]

SUFFIXES = (".pth", ".pt", ".safetensors")
NESTED = ("state_dict_ema", "state_dict", "model")
"""Keys under which training scripts keep the parameters; averaged ones first, since those are what they evaluate."""
SHOWN = 5

Make = Callable[[int], "nn.Module"]
"""Makes the network for a number of classes."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Where a network's parameters came from.

    Attributes:
        name: the entry's name, the file's, ``random:SEED``, or ``as built`` for a user's network that brings its own.
        source: url, package, file name or builder.
        sha256: of the file, or of the parameters themselves where there is no file (:func:`digest`).
        licence: of published weights, else "".
        top1, top5: published ImageNet-1k accuracy, percent; None where none is.
        untrained: the parameters are random: the network's answers mean nothing.
        seed: of random parameters, else None.
        notes: what was done to make the file fit.
    """

    name: str
    source: str
    sha256: str
    licence: str = ""
    top1: float | None = None
    top5: float | None = None
    untrained: bool = False
    seed: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "licence": self.licence,
            "top1": self.top1,
            "top5": self.top5,
            "untrained": self.untrained,
            "seed": self.seed,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class FitRules:
    """What a checkpoint may have less or more than the network, as regular expressions on keys ("" matches none).

    Attributes:
        zeros: parameters that may be absent, all of them together, and are then zero (offsets of deformable convolutions).
        ignored: parameters of the file that the network does without (auxiliary heads).
    """

    zeros: str = ""
    ignored: str = ""


def locate(entry: WeightsEntry, progress: Progress = silent) -> tuple[Path, str]:
    """Return (path, sha256) of a published entry's file, from its package or the cache, or downloaded now.

    Raises:
        MissingDependencyError: the package is not installed.
        WeightsError, HashMismatchError, OutputError: as :func:`edgecnn.weights_download.download` says.
    """
    if entry.url:
        return download(entry.url, entry.file, entry.sha256, progress=progress)
    spec = find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"these weights are in {entry.package}, which is not installed: {install_line(entry.package)}"
        )
    path = Path(next(iter(spec.submodule_search_locations)), entry.file)
    return path, verify(path, entry.sha256, remedy=f"install {entry.package} again")


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file onto the CPU. No code of the file is run.

    Parameters nested under ``state_dict_ema``, ``state_dict`` or ``model`` are unwrapped.

    Raises:
        WeightsError: there is no such file, it is not a checkpoint, or it holds anything but tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path}: a weights file ends in {', '.join(SUFFIXES)}")
    data = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    while isinstance(data, Mapping) and (key := next((k for k in NESTED if isinstance(data.get(k), Mapping)), None)):
        data = data[key]
    return _tensors(data, path)


def _tensors(data: Any, path: Path) -> dict[str, Tensor]:
    """Check that ``data`` is a state_dict."""
    import torch

    if not isinstance(data, Mapping) or not data:
        raise WeightsError(f"{path} holds {_described(data)}, not a state_dict of named tensors")
    strange = {
        key: value for key, value in data.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    }
    if strange:
        named = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(strange.items())[:SHOWN])
        raise WeightsError(
            f"{path} is not a state_dict: {len(strange)} of its {len(data)} entries are not named tensors: {named}; "
            f"parameters may also be nested under {', '.join(NESTED)}"
        )
    if unusable := [key for key, value in data.items() if value.is_meta or value.layout != torch.strided]:
        raise WeightsError(
            f"{path} holds {len(unusable)} tensors without values of their own or sparse ones ({_listed(unusable)}): save the "
            "parameters as they are used, dense and on a device"
        )
    broken = [key for key, value in data.items() if not _finite(value)]
    if broken:
        raise WeightsError(f"{path} holds NaN or infinity in {len(broken)} tensors: {_listed(broken)}")
    return dict(data)


def _finite(value: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; types of 8 bits are looked at as float32, which PyTorch can compare."""
    if not value.is_floating_point():
        return True
    return bool((value.float() if value.element_size() == 1 else value).isfinite().all())


def _described(data: Any) -> str:
    if isinstance(data, Mapping):
        return "nothing"
    return f"a {type(data).__module__}.{type(data).__qualname__}"


def _read_safetensors(path: Path) -> Any:
    """Read a safetensors file."""
    module = need("safetensors.torch")
    errors = need("safetensors")
    try:
        return module.load_file(path)
    except (errors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {_first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    """Read a file of torch.save, zip or older, refusing everything but plain tensors and containers."""
    import torch

    try:
        with warnings.catch_warnings():
            # Both end in an error below that says it better.
            warnings.filterwarnings("ignore", message=".*TorchScript archive")
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise WeightsError(f"{path} is not a readable checkpoint: it is no file of torch.save") from error
        raise WeightsError(
            f"{path} holds Python objects ({refused[1]}), which could run code when read, and was refused. "
            "Save the tensors alone: torch.save(network.state_dict(), FILE)"
        ) from error
    except Exception as error:
        if "legacy .tar format" in str(error):
            raise WeightsError(
                f"{path} is in the tar format of PyTorch before 0.1.10, which cannot be read safely; "
                "load it with a PyTorch you trust it to, and save it again: torch.save(state_dict, FILE)"
            ) from error
        if "TorchScript" in str(error):
            raise WeightsError(f"{path} is a TorchScript program, not a checkpoint: give its state_dict") from error
        raise WeightsError(f"{path} is not a readable checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def on_meta(make: Make, num_classes: int) -> nn.Module:
    """Build a network without memory for its parameters, to be filled by :func:`load`."""
    import torch

    with torch.device("meta"):
        return make(num_classes)


def build_seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build an untrained network whose parameters follow from ``seed`` alone; torch's global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a network's state_dict."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def digest(module: nn.Module) -> str:
    """Return the sha256 over a network's state_dict (names, dtypes, shapes, values), 64 hex digits."""
    import hashlib

    import torch

    total = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def class_count(make: Make, state: Mapping[str, Tensor], default: int) -> int:
    """Return the number of classes of a checkpoint, read off the parameters whose shape depends on it.

    They are found by building the network for two numbers of classes, without memory. ``default`` comes back where the
    checkpoint has none of them; :func:`load` will then say what is missing.
    """
    one, other = shapes_of(on_meta(make, default)), shapes_of(on_meta(make, default + 1))
    renamed = {new: old for old, new in rename(state, one).names.items()}
    for key, shape in one.items():
        axis = next((i for i, (a, b) in enumerate(zip(shape, other[key], strict=True)) if a != b), None)
        if axis is not None and key in renamed and state[renamed[key]].dim() == len(shape):
            return int(state[renamed[key]].shape[axis]) - (shape[axis] - default)
    return default


def load(module: nn.Module, state: Mapping[str, Tensor], *, what: str, rules: FitRules = FitRules()) -> tuple[str, ...]:
    """Fill ``module`` with ``state``, key styles remapped; a module on the meta device becomes a real one.

    The meta module's parameters are then the very tensors of ``state``, which saves a copy of a large network.

    Args:
        module: the network.
        state: as :func:`read` returns it.
        what: names the checkpoint in errors.
        rules: what may be absent or superfluous.

    Returns:
        Notes on what was done to make it fit.

    Raises:
        WeightsError: keys are missing or unexpected, or shapes or kinds of number differ; lists the first few and the counts.
    """
    own = module.state_dict()
    renaming = rename(state, own)
    given = {new: state[old] for old, new in renaming.names.items()}
    notes = list(renaming.notes)
    if rules.ignored and (ignored := [key for key in given if key not in own and re.search(rules.ignored, key)]):
        given = {key: value for key, value in given.items() if key not in set(ignored)}
        notes.append(f"ignored {len(ignored)} parameters that the network does without ({_listed(ignored, 1)})")
    notes += _add_zeros(given, own, rules)
    _check_fit(given, own, what)
    meta = any(tensor.is_meta for tensor in own.values())
    if meta:
        given = {key: value.to(own[key].dtype).contiguous() for key, value in given.items()}
    module.load_state_dict(given, strict=True, assign=meta)
    return tuple(notes)


def _add_zeros(given: dict[str, Tensor], own: Mapping[str, Tensor], rules: FitRules) -> list[str]:
    """Add what a checkpoint may lack: BatchNorm's batch counters, and the parameters that ``rules.zeros`` names."""
    import torch

    def add(keys: list[str]) -> None:
        given.update({key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in keys})

    notes = []
    suffix = "num_batches_tracked"
    counters = [
        k for k in own if k.endswith(suffix) and k not in given and f"{k.removesuffix(suffix)}running_mean" in given
    ]
    if counters:
        add(counters)
        notes.append(f"added {len(counters)} batch counters of BatchNorm that the file lacks")
    if rules.zeros:
        wanted = [key for key in own if re.search(rules.zeros, key)]
        if wanted and not any(key in given for key in wanted):
            add(wanted)
            notes.append(f"{len(wanted)} parameters are not in the file and start at zero ({_listed(wanted, 1)})")
    return notes


def _check_fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    """Compare keys, shapes and kinds of number. Raises WeightsError."""
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    wrong = [
        f"{key}: {_shape(given[key])} in the file, {_shape(own[key])} in the network"
        for key in own
        if key in given
        and (given[key].shape != own[key].shape or given[key].is_floating_point() != own[key].is_floating_point())
    ]
    found = [
        f"{len(keys)} {label}: {_listed(keys)}"
        for keys, label in ((missing, "missing"), (unexpected, "unexpected"), (wrong, "of another shape or dtype"))
        if keys
    ]
    if found:
        raise WeightsError(f"{what} does not fit the network ({len(own)} parameters and buffers): {'; '.join(found)}")


def _shape(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'} {str(tensor.dtype).removeprefix('torch.')}"


def _listed(keys: list[str], count: int = SHOWN) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
