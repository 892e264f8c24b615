"""The loop over the layers: run both graphs up to a layer, choose its integers and its bias, go on with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.calib.data import Samples
from edgecnn.errors import DataError
from edgecnn.onnxio import load_ir, release_memory, scratch_file
from edgecnn.optional import need
from edgecnn.progress import Progress, silent
from edgecnn.quantize.config import Effort
from edgecnn.quantize.correct.bias import MatchedBias
from edgecnn.quantize.correct.layer import Layer, read_layer
from edgecnn.quantize.correct.rounding import ErrorFeedback
from edgecnn.quantize.correct.segments import BUDGET, Walk, batches
from edgecnn.quantize.correct.target import Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Correction"]

Array = NDArray[Any]
WORKERS = 8
"""Samples in work at once, at most."""

WIDEST = 8192
"""Inputs of a layer above which it stays rounded to nearest: a matrix of so many squared takes 270 MB."""

SMALL = 64
"""Inputs of a group below which its products are too small for BLAS: in threads it took up to 50 times as long."""

CUT_OFF = 0.02
"""Weight of a position whose output the activation cuts off, against 1: it counts only if the noise lets it pass."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """How weights are corrected.

    Attributes:
        rounding: chooses the integers. ``bias``: chooses the biases.
        images: samples to look at, at most; fewer where the activations of so many would not fit into ``budget``.
        budget: bytes that the activations of one graph between two layers may take, about.
        values: of a layer's input, patched, that are looked at, about, 4 bytes each.
        positions: the least and the most that are looked at in one sample.
    """

    rounding: ErrorFeedback = field(default_factory=ErrorFeedback)
    bias: MatchedBias = field(default_factory=MatchedBias)
    images: int = 128
    budget: int = BUDGET
    values: int = 1 << 23
    positions: tuple[int, int] = (16, 128)

    @classmethod
    def of(cls, effort: Effort) -> Self:
        """Return what ``balanced`` and ``max`` mean: the latter looks at more of everything, which takes several times as long."""
        if effort != "max":
            return cls()
        rounding = ErrorFeedback(scales=12, low=0.7, sweeps=4)
        return cls(rounding=rounding, images=512, budget=3 * BUDGET, values=1 << 25, positions=(32, 512))

    def apply(
        self,
        model: ir.Model,
        exact: Path,
        layers: Sequence[str],
        samples: Samples,
        *,
        biases: bool = True,
        threads: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Change weights, their scales and biases of a quantized graph in place.

        Args:
            model: with Q/DQ, in topological order. ``exact``: the float graph that it was made from.
            layers: names of the nodes with int8 weights, in that order.
            samples: read once.
            biases: whether biases may change.
            threads: cores to use; 0 uses all.
            progress: told about layers.

        Raises:
            DataError: no sample could be read. OutputError: no room for a temporary copy of the float graph.
        """
        release_memory()
        with scratch_file(load_ir(exact)) as file:  # its weights stay in the file but for those of the layer at work
            self._each_layer(model, load_ir(file), layers, samples, biases, threads, progress)

    def _each_layer(
        self,
        model: ir.Model,
        plain: ir.Model,
        layers: Sequence[str],
        samples: Samples,
        biases: bool,
        threads: int,
        progress: Progress,
    ) -> None:
        """See :meth:`apply`."""
        workers = min(threads or os.cpu_count() or 1, WORKERS)
        first = plain.graph.inputs[0].shape
        size = int(first[0]) if first is not None and isinstance(first[0], int) else 1
        step = max(1, len(samples) // self.images)
        feeds = list(batches(islice(samples, 0, step * self.images, step), size))
        if not feeds:
            raise DataError(f"{samples.name}: no sample could be read")
        walks = tuple(Walk(graph, layers, feeds, workers, self.budget) for graph in (plain, model))
        del feeds
        sources, targets = ({str(node.name): node for node in graph.graph} for graph in (plain, model))
        for index, name in enumerate(layers):
            for walk in walks:
                walk.run(index)
            layer = read_layer(sources[name])
            if layer is not None and layer.weight.shape[2] <= WIDEST:
                self._correct(layer, Target(targets[name]), walks, index, biases)
            del layer
            _let_go(sources[name])
            progress("correct", index + 1, len(layers))

    def _correct(self, layer: Layer, target: Target, walks: tuple[Walk, ...], index: int, biases: bool) -> None:
        """Choose the integers and the bias of one layer."""
        given, noisy = self._patches(layer, target, walks, index)
        wanted = layer.weight @ given
        wanted += layer.bias[:, :, None]
        del given
        gram, mean = _moments(noisy, _importance(layer, wanted), centred=biases)
        integers, scale = self.rounding.round(layer.weight, gram)
        del gram
        made = integers * scale[:, :, None]
        bias = None
        if biases:
            start = layer.bias + ((layer.weight - made) @ mean)[:, :, 0]
            np.clip(wanted, layer.low, layer.high, out=wanted)
            bias = self.bias.fit(wanted, made @ noisy, start, layer.low, layer.high)
        target.write(layer, integers, scale, bias)

    def _patches(self, layer: Layer, target: Target, walks: tuple[Walk, ...], index: int) -> tuple[Array, Array]:
        """Return patches of a layer's float and of its quantized input, at the same positions, float32 (G, K, positions)."""
        groups, outputs, inputs = layer.weight.shape
        exact, rounded = walks[0].held[layer.source], walks[1].held[target.source]
        feeds = min(len(exact), len(rounded))  # one may have had room for more
        count = int(
            np.clip(self.values // (groups * max(outputs, inputs) * feeds * exact[0].shape[0]), *self.positions)
        )
        given: list[Array] = []
        noisy: list[Array] = []
        for number in range(feeds):
            seed = index << 32 | number
            given.append(layer.patches(exact[number], count, seed))
            noisy.append(layer.patches(target.centred(rounded[number]), count, seed))
        joined = _joined(noisy)
        joined *= target.scale
        return _joined(given), joined


def _let_go(node: ir.Node) -> None:
    """Unmap the weights of a node that lie in a file."""
    for value in node.inputs:
        tensor = value.const_value if value is not None else None
        if isinstance(tensor, need("onnx_ir").ExternalTensor):
            tensor.release()


def _joined(patches: list[Array]) -> Array:
    """Return (G, K, positions) arrays one after the other, float32."""
    return np.concatenate(patches, axis=2, dtype=np.float32, casting="unsafe")


def _importance(layer: Layer, wanted: Array) -> Array | None:
    """Return the weight of each position, (G, 1, positions), where a group has one output, whose activation tells; else None."""
    if wanted.shape[1] > 1 or (layer.low == -np.inf and np.all(layer.high == np.inf)):
        return None
    passes = ((wanted > layer.low) & (wanted < layer.high)).astype(np.float32) + np.float32(CUT_OFF)
    return passes / passes.mean(axis=2, keepdims=True)  # type: ignore[no-any-return]


def _moments(noisy: Array, importance: Array | None, *, centred: bool) -> tuple[Array, Array]:
    """Return the second moments (G, K, K), about the mean where a bias will take care of it, and the mean (G, K, 1)."""
    groups, inputs, count = noisy.shape
    mean = (noisy if importance is None else noisy * importance).mean(axis=2, keepdims=True)
    values = noisy - mean if centred else noisy
    weighted = values if importance is None else values * importance
    if groups == 1 or inputs >= SMALL:
        gram = weighted @ values.transpose(0, 2, 1)
        gram /= count
        return gram, mean
    return np.einsum("gkn,gln->gkl", weighted, values) / count, mean
