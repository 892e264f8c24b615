"""The golden deformable convolutions of ``deform_conv2d.npz``: arguments drawn by the recipe, outputs read. numpy only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from recipe import bytes_crc32, stream

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((HERE / "deform_conv2d.json").read_text(encoding="utf-8"))["cases"]
}


def arguments(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draw a case's float64 tensors: input, offset, weight, and mask and bias where it has them."""
    kernel, (_, _, *out) = case["kernel"], case["output_shape"]
    maps = case["offset_groups"] * kernel[0] * kernel[1]
    weight = (case["out_channels"], case["in_channels"] // case["groups"], *kernel)

    def draw(tensor: str) -> np.random.Generator:
        return stream(f"deform/{case['id']}/{tensor}")

    found = {
        "input": draw("input").standard_normal((case["batch"], case["in_channels"], case["height"], case["width"])),
        "offset": draw("offset").uniform(-case["offset_range"], case["offset_range"], (case["batch"], 2 * maps, *out)),
        "weight": draw("weight").standard_normal(weight) * math.sqrt(2 / math.prod(weight[1:])),
    }
    if quantum := case["offset_quantum"]:
        found["offset"] = np.rint(found["offset"] / quantum) * quantum
    if case["version"] == 2:
        found["mask"] = draw("mask").uniform(0, 1, (case["batch"], maps, *out))
    if case["bias"]:
        found["bias"] = draw("bias").standard_normal(weight[0]) * 0.05
    assert {name: bytes_crc32(array) for name, array in found.items()} == case["crc32"]
    return found


def expected(case: dict[str, Any]) -> np.ndarray:
    """Return a case's float64 output."""
    with np.load(HERE / "deform_conv2d.npz") as file:
        found: np.ndarray = file[f"case_{case['id']}"]
    return found
