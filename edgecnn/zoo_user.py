"""Users' own networks: ``path/to/net.py:build`` or ``package.module:build``, a callable that returns an ``nn.Module``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from edgecnn.errors import SpecError
from edgecnn.optional import need
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_user", "count_classes", "is_target", "recorded", "user_spec"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def is_target(name: str) -> bool:
    """Whether ``name`` is ``file.py:function`` or ``module:function`` and not a zoo name."""
    return ":" in name or name.endswith(".py")


def user_spec(
    target: str,
    *,
    input_size: tuple[int, int, int] = (3, 224, 224),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: str = "",
    num_classes: int | None = None,
) -> ModelSpec:
    """Describe a user's network. Nothing is imported yet.

    Args:
        target: ``path/to/net.py:build`` or ``package.module:build``.
        input_size: (channels, height, width); 3 channels are RGB, 1 is grey.
        mean, std: one value a channel in units of the [0, 1] range; ImageNet's for RGB when not given.
        labels: text file with one class name a line, or a shipped set (``imagenet-1k``); "" numbers the classes.
        num_classes: handed to the callable when it has such a parameter; what it returns is checked against it.
            None takes what the network returns.

    Returns:
        A ModelSpec whose images are resized to 256/224 of the input's longer side and centre-cropped.

    Raises:
        SpecError: the target, the input size or the normalisation is not usable.
    """
    path, function = _split(target)
    channels, height, width = input_size
    if channels not in (1, 3):
        raise SpecError(f"{target}: input size {input_size}: images have 3 channels (RGB) or 1 (grey), not {channels}")
    if channels == 1 and (mean is None or std is None):
        raise SpecError(f"{target}: a grey input has no customary normalisation: give its mean and std")
    preprocess = Preprocess(
        size=(height, width),
        resize=round(max(height, width) * 256 / 224),
        mean=mean if mean is not None else IMAGENET_MEAN,
        std=std if std is not None else IMAGENET_STD,
        colour="RGB" if channels == 3 else "L",
    )
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(path).stem if path.endswith(".py") else path.rpartition(".")[2])
    spec = ModelSpec(
        name=stem if function == "build" else f"{stem}_{function}",
        builder=target,
        arguments={} if num_classes is None else {"num_classes": num_classes},
        inputs=(TensorSpec(name="input", shape=("batch", channels, height, width)),),
        preprocess=preprocess,
    )
    return replace(spec if num_classes is None else spec.with_num_classes(num_classes), labels=labels)


def recorded(spec: ModelSpec) -> ModelSpec:
    """Return a description as a bundle keeps it: files by their names alone, since their folders are this machine's affair."""
    path, _, function = spec.builder.rpartition(":")
    builder = f"{Path(path).name}:{function}" if path.endswith(".py") else spec.builder
    return replace(spec, builder=builder, labels=Path(spec.labels).name)


def _split(target: str) -> tuple[str, str]:
    """Split a target at its last colon. Raises SpecError when it has no function, or names a file that is not there."""
    path, colon, function = target.rpartition(":")
    if not colon or not path or not function.isidentifier():
        file = target.rstrip(":")
        hint = (
            f"; {file} defines {', '.join(_functions_of(file))}" if file.endswith(".py") and _functions_of(file) else ""
        )
        raise SpecError(f"{target!r} names no function: write path/to/net.py:build or package.module:build{hint}")
    if path.endswith(".py") and not Path(path).is_file():
        raise SpecError(f"{target}: there is no file {path}")
    return path, function


def _functions_of(path: str) -> list[str]:
    """List the functions and classes that a file defines, without running it."""
    import ast

    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
    ]


def build_user(spec: ModelSpec) -> nn.Module:
    """Import a user's callable, call it, and return its network.

    ``num_classes`` is handed over when the callable takes it.

    Raises:
        SpecError: the module cannot be imported, has no such callable, or the callable fails or returns no ``nn.Module``.
    """
    torch = need("torch")
    path, function = _split(spec.builder)
    with _importable(path):
        builder = _lookup(_import(spec.builder, path), spec.builder, function)
        if isinstance(builder, torch.nn.Module):  # a network made at import time; calling it would run it
            return cast("nn.Module", builder)
        arguments = _accepted(builder, spec.arguments)
        try:
            made = builder(**arguments)
        except Exception as error:
            shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise SpecError(f"{spec.builder}: {function}({shown}) raised {_raised(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise SpecError(f"{spec.builder} returned {type(made).__qualname__}, not a torch.nn.Module")
    return cast("nn.Module", made)


def _raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _accepted(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Drop ``num_classes`` for a callable that does not take it; other arguments are the caller's to get right."""
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):
        return dict(arguments)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {key: value for key, value in arguments.items() if takes_any or key in parameters or key != "num_classes"}


@contextmanager
def _importable(path: str) -> Iterator[None]:
    """Let a file import its neighbours, and a module be found in the working directory, as ``python`` does."""
    folder = str(Path(path).resolve().parent if path.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _import(target: str, path: str) -> ModuleType:
    """Import a file or a dotted module."""
    try:
        if not path.endswith(".py"):
            return importlib.import_module(path)
        resolved = Path(path).resolve()
        name = f"edgecnn_user_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
        spec = spec_from_file_location(name, resolved)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except (Exception, SystemExit) as error:
        raise SpecError(f"{target}: importing {path} raised {_raised(error)}") from error


def _lookup(module: ModuleType, target: str, function: str) -> Any:
    """Return the named callable of a module, or raise with the ones that it has."""
    found = getattr(module, function, None)
    if callable(found):
        return found
    candidates = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    what = "is not callable" if hasattr(module, function) else "does not exist"
    raise SpecError(f"{target}: {function} {what}; the module defines {', '.join(candidates) or 'nothing callable'}")


def count_classes(network: nn.Module, spec: ModelSpec, asked: int | None = None) -> int:
    """Run the network once on zeros (1, C, H, W), in evaluation mode, and return the length of its logits.

    Args:
        network: on any device.
        spec: names it and says what its input is.
        asked: the number of classes that it should have; picks one where outputs have several lengths.

    Raises:
        SpecError: the network fails on that input, returns nothing of shape (1, classes) or not the length asked for, or
            returns several lengths and none is asked for.
    """
    torch = need("torch")
    shape = (1, *spec.inputs[0].shape[1:])
    like = next(iter(network.parameters()), torch.zeros(()))
    was_training = [module for module in network.modules() if module.training]
    try:
        network.eval()
        with torch.no_grad():
            output = network(torch.zeros(shape, dtype=like.dtype, device=like.device))
    except Exception as error:
        raise SpecError(f"{spec.builder}: the network on an input of shape {shape} raised {_raised(error)}") from error
    finally:
        for module in was_training:
            module.training = True
    shapes = [tuple(value.shape) for value in _leaves(output) if isinstance(value, torch.Tensor)]
    lengths = {s[1] for s in shapes if len(s) == 2 and s[0] == 1}
    returned = (
        f"for an input of shape {shape} the network returned {', '.join(map(str, shapes)) or type(output).__qualname__}"
    )
    if not lengths:
        raise SpecError(f"{spec.builder}: a classifier returns logits of shape (N, classes); {returned}")
    if asked is not None and asked not in lengths:
        raise SpecError(f"{spec.builder}: the network does not have the {asked} classes asked for; {returned}")
    if asked is None and len(lengths) > 1:
        raise SpecError(f"{spec.builder}: say which length is the number of classes (--num-classes); {returned}")
    return asked if asked is not None else int(lengths.pop())


def _leaves(output: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists and dicts hold."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        for item in output:
            yield from _leaves(item)
    else:
        yield output
