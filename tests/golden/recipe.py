"""The recipe behind the goldens: weights that depend on names and shapes alone, and one fixed input. numpy only.

Two programs that follow it hold the same bytes without exchanging any file: the one that ran torchvision's and timm's
networks (regenerate.py) and the tests that run ours. Trained weights are not involved.

Every key draws from its own stream, ``Philox(key=crc32(key))``, in float64 and C order; the result is rounded once to
float32. Convolutions and linear layers: normal, variance ``2 / fan_in``. BatchNorm weights and running variances: uniform in
[0.8, 1.2]. Biases and running means: normal, deviation 0.05. The BatchNorm that ends a residual branch is damped by 0.25, or
the logits of a 50-block network reach 1e10 and hide every bias, eps and gate.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

State = Iterable[tuple[str, Sequence[int]]]

RESNET_END = re.compile(r"^(?P<block>layer\d+\.\d+|blocks\.\d+\.[1-9]\d*)\.(?P<norm>bn[23])$")
"""ResNet, SE-ResNet and timm's EfficientNet; a bn2 ends the branch only where its block has no bn3."""

EFFICIENTNET_END = re.compile(r"^(?P<block>features\.\d+\.[1-9]\d*\.block)\.(?P<last>\d+)\.1$")
"""torchvision's EfficientNet: the last layer's BatchNorm, of the blocks after the first of their stage."""

CACHED = 10_000_000
"""Tensors of this many elements are remembered: the eight VGGs share three quarters of their weights."""


def synthetic_state(state: State) -> dict[str, np.ndarray]:
    """Return every key's array (float32; int64 for ``num_batches_tracked``). ``state`` gives keys and shapes."""
    shapes = {key: tuple(shape) for key, shape in state}
    return {key: _array(key, shape, is_damped(key, shapes)) for key, shape in shapes.items()}


def is_damped(key: str, keys: Iterable[str]) -> bool:
    """Return whether the key is the weight of the BatchNorm that ends a residual branch."""
    module, _, leaf = key.rpartition(".")
    if leaf != "weight":
        return False
    if match := RESNET_END.match(module):
        return match["norm"] == "bn3" or f"{match['block']}.bn3.weight" not in keys
    if match := EFFICIENTNET_END.match(module):
        following = f"{match['block']}.{int(match['last']) + 1}."
        return not any(other.startswith(following) for other in keys)
    return False


def stream(key: str) -> np.random.Generator:
    """Return the random stream of that name."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode())))


def _array(key: str, shape: tuple[int, ...], damped: bool) -> np.ndarray:
    return _draw_cached(key, shape, damped) if math.prod(shape) >= CACHED else _draw(key, shape, damped)


def _draw(key: str, shape: tuple[int, ...], damped: bool) -> np.ndarray:
    leaf = key.rpartition(".")[2]
    random = stream(key)
    if leaf == "weight" and len(shape) > 1:
        values = random.standard_normal(shape) * np.sqrt(2 / math.prod(shape[1:]))
    elif leaf == "weight":
        values = random.uniform(0.8, 1.2, shape) * (0.25 if damped else 1.0)
    elif leaf == "running_var":
        values = random.uniform(0.8, 1.2, shape)
    elif leaf in ("running_mean", "bias"):
        values = random.standard_normal(shape) * 0.05
    elif leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    else:
        raise ValueError(f"the recipe has no rule for {key}")
    return values.astype(np.float32)


_draw_cached = lru_cache(maxsize=4)(_draw)


def golden_input(size: int) -> np.ndarray:
    """Return two images of noise, float32 (2, 3, size, size)."""
    return np.random.Generator(np.random.Philox(key=0)).standard_normal((2, 3, size, size)).astype(np.float32)


def state_crc32(state: Mapping[str, np.ndarray]) -> str:
    """Return the checksum of all arrays' bytes, in sorted-key order."""
    crc = 0
    for key in sorted(state):
        crc = zlib.crc32(np.ascontiguousarray(state[key]).data, crc)
    return f"{crc:08x}"


def bytes_crc32(array: np.ndarray) -> str:
    """Return the checksum of one array's bytes."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


def layout_crc32(state: State) -> str:
    """Return the checksum of the keys and shapes, in order: what a compact record holds instead of the list."""
    return f"{zlib.crc32(json.dumps([[key, list(shape)] for key, shape in state], separators=(',', ':')).encode()):08x}"


def describe_logits(logits: np.ndarray) -> dict[str, list[Any]]:
    """Return per image the first 16 logits, the L2 norm, the mean, the winner and its distance to the second."""
    top2 = np.sort(logits, axis=1)[:, -2:]
    return {
        "head16": logits[:, :16].tolist(),
        "l2": np.sqrt((logits**2).sum(1)).tolist(),
        "mean": logits.mean(1).tolist(),
        "argmax": logits.argmax(1).tolist(),
        "argmax_margin": (top2[:, 1] - top2[:, 0]).tolist(),
    }
