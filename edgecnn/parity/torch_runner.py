"""PyTorch as a :class:`~edgecnn.runtime.session.Session`: the reference of every verification. All of parity's torch is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from edgecnn.errors import BackendError, UserError
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import TensorSpec

__all__ = ["TorchSession", "is_module", "pick_output", "tiny_module"]

_T = TypeVar("_T")


class TorchSession(Session):
    """A network in evaluation mode, without gradients, float32 at its borders.

    The module's training flags are put back after every run, and its parameters stay on their device.

    Args:
        module: the network.
        inputs: what it takes; by default one float32 ``input`` (batch, 3, 224, 224).
        output: which output to take where it returns several: see :func:`pick_output`.
        output_name: what to call it.

    Raises:
        UserError: the network returns several outputs and ``output`` names none of them.
        BackendError: the network fails on an input of this shape.
    """

    backend = "torch"

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[TensorSpec] = (TensorSpec(name="input", shape=("batch", 3, 224, 224)),),
        *,
        output: str = "",
        output_name: str = "logits",
    ) -> None:
        """Run once on zeros, to learn the output's shape."""
        self.module = module
        self.inputs = tuple(inputs)
        self._output = output
        self._output_name = output_name
        zeros = {
            spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], spec.dtype)
            for spec in inputs
        }
        result = self._forward(zeros)
        batch = self.inputs[0].shape[0]
        self.outputs = (TensorSpec(name=output_name, shape=(batch, *result.shape[1:])),)

    def module_outputs(self, feed: Mapping[str, Array], modules: Sequence[str]) -> dict[str, Array]:
        """Return the float32 outputs of modules by their dotted path, in the order in which they finished.

        Left out are modules that return no single float tensor and those that are called more than once (a shared ReLU), since
        a path then stands for several tensors.

        Args:
            feed: as for :meth:`run`.
            modules: paths. Take a few at a time where memory matters.

        Raises:
            UserError: an unknown path.
            BackendError: the network fails.
        """
        # A copy: the next layer may work in place on it.
        return self._watch(feed, modules, lambda result: result.detach().to("cpu", torch.float32, copy=True).numpy())

    def module_shapes(self, feed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        """Return the output shape of every module but the root, as :meth:`module_outputs` would, without keeping the outputs."""
        every = [name for name, _ in self.module.named_modules() if name]
        return self._watch(feed, every, lambda result: tuple(result.shape))

    def leaves(self) -> frozenset[str]:
        """Return the paths of modules without children."""
        return frozenset(name for name, module in self.module.named_modules() if not any(module.children()))

    def _watch(
        self, feed: Mapping[str, Array], modules: Sequence[str], take: Callable[[torch.Tensor], _T]
    ) -> dict[str, _T]:
        """Run once and return what ``take`` makes of the modules' outputs."""
        known = dict(self.module.named_modules())
        if unknown := [name for name in modules if name not in known]:
            raise UserError(f"the network has no module {unknown[0]!r}")
        found: dict[str, _T] = {}
        calls: Counter[str] = Counter()

        def hook_of(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _arguments: Any, result: Any) -> None:
                calls[name] += 1
                if isinstance(result, torch.Tensor) and result.is_floating_point():
                    found[name] = take(result)

            return hook

        handles = [known[name].register_forward_hook(hook_of(name)) for name in modules]
        try:
            self._forward(feed)
        finally:
            for handle in handles:
                handle.remove()
        return {name: value for name, value in found.items() if calls[name] == 1}

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run once on a checked feed."""
        return {name: self._forward(feed) for name in outputs}

    def _forward(self, feed: Mapping[str, Array]) -> Array:
        """Run the network and return its main output, float32."""
        parameter = next(self.module.parameters(), None)
        tensors = []
        for spec in self.inputs:
            tensor = torch.from_numpy(np.array(feed[spec.name]))  # a copy: torch warns about read-only arrays
            if parameter is not None and tensor.is_floating_point():
                tensor = tensor.to(parameter.device, parameter.dtype)
            tensors.append(tensor)
        with _evaluating(self.module), torch.no_grad():
            try:
                result = self.module(*tensors)
            except Exception as error:
                shapes = [list(tensor.shape) for tensor in tensors]
                raise BackendError(f"{type(self.module).__name__} fails on {shapes}: {error}") from error
        chosen = pick_output(result, self._output)
        array: Array = chosen.detach().to("cpu", torch.float32).numpy()
        return array


def pick_output(result: Any, output: str = "") -> torch.Tensor:
    """Return the main output of what a network returned.

    Args:
        result: a tensor; or a tuple, named tuple, list, dict or object with tensors in it.
        output: key, field name, or position as text; "" for the only tensor, or the one called ``logits``.

    Raises:
        UserError: there are several and none was named, or no such one; the message lists the choices.
    """
    if isinstance(result, torch.Tensor):
        return result
    choices = _choices(result)
    if not output and (len(choices) == 1 or "logits" in choices):
        return choices["logits"] if "logits" in choices else next(iter(choices.values()))
    if output not in choices:
        positions = list(choices.values())
        if output.isdecimal() and int(output) < len(positions):
            return positions[int(output)]
        listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in choices.items()) or "no tensor"
        asked = f"output {output!r} is not among what" if output else "choose one output:"
        raise UserError(f"{asked} the network returns: {listed}")
    return choices[output]


def is_module(candidate: object) -> bool:
    """Whether something is an ``nn.Module``."""
    return isinstance(candidate, nn.Module)


def tiny_module(num_classes: int = 10, size: int = 32, seed: int = 0) -> nn.Module:
    """Return a small real classifier for tests: two convolutions with BatchNorm, a residual add, pooling and a linear layer.

    Its weights and BatchNorm statistics are random but fixed by ``seed``; it takes (N, 3, ``size``, ``size``).
    """
    generator = torch.Generator().manual_seed(seed)
    network = _Tiny(num_classes)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) * 0.4 + 0.8)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)  # type: ignore[union-attr]
                module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) * 0.4 + 0.8)  # type: ignore[union-attr]
    network.eval()
    network(torch.zeros(1, 3, size, size))
    return network


class _Tiny(nn.Module):
    """The network of :func:`tiny_module`."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.widen = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        x = self.stem(x)
        x = x + self.block(x)
        x = torch.relu(self.widen(x))
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every part of it back afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _choices(result: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a structured result by name."""
    if hasattr(result, "_asdict"):
        items = result._asdict()
    elif isinstance(result, Mapping):
        items = dict(result)
    elif isinstance(result, (tuple, list)):
        items = {str(position): value for position, value in enumerate(result)}
    else:
        items = dict(getattr(result, "__dict__", {}))
    return {str(name): value for name, value in items.items() if isinstance(value, torch.Tensor)}
