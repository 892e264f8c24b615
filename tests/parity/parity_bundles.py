"""The network of ``parity_nets`` as a bundle, each variant of which can be sabotaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from parity_nets import (
    CLASSES,
    INPUT,
    PREPROCESS,
    Change,
    images,
    network,
    pictures,
    put_inside,
    write_fp16,
    write_fp32,
    write_int8,
)
from PIL import Image

from edgecnn.onnxio import open_model
from edgecnn.pack import BundleContents, VariantContents, make_golden, pack
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.torch_runner import TorchSession
from edgecnn.runtime import Bundle, OrtSession
from edgecnn.runtime.manifest import Embedded
from edgecnn.spec import ModelSpec, TensorSpec

SPEC = ModelSpec(
    name="net",
    builder="parity_nets:network",
    num_classes=CLASSES,
    inputs=(INPUT,),
    outputs=(TensorSpec(name="logits", shape=("batch", CLASSES)),),
    preprocess=PREPROCESS,
)
LABELS = tuple(f"class {letter}" for letter in "abcdefghij")


def write_bundle(
    folder: Path,
    changes: Mapping[str, Change] | None = None,
    *,
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    embedded: bool = False,
    golden: bool = True,
) -> Bundle:
    """Write ``folder/bundle`` as the main job would: verified against PyTorch, and marked by the outcome.

    Args:
        folder: an empty one.
        changes: precision -> the fault to plant in it.
        precisions: of the variants.
        embedded: whether the graphs take pixels and give probabilities.
        golden: whether to write golden arrays.
    """
    changes = changes or {}
    honest = write_fp32(folder / "honest.onnx")
    made = {
        "fp32": lambda path: write_fp32(path, changes.get("fp32")),
        "fp16": lambda path: write_fp16(path, changes.get("fp16")),
        "int8": lambda path: write_int8(path, honest, changes.get("int8")),
    }
    models = {}
    for name in precisions:
        path = made[name](folder / f"plain.{name}.onnx")
        path = put_inside(folder / f"model.{name}.onnx", path, softmax=True) if embedded else path
        models[name] = open_model(path, precision=name)
    reference = TorchSession(network(), (INPUT,))
    sessions = {name: OrtSession(model.path) for name, model in models.items()}
    stages = [Stage("pytorch", "fp32", reference)]
    stages += [
        Stage(name, name, session, after="pytorch" if name == precisions[0] else precisions[0])
        for name, session in sessions.items()
    ]
    report = verify(stages, [images(8)])
    contents: dict[str, Any] = {
        "spec": SPEC,
        "weights": {"entry": "made up", "untrained": False},
        "variants": [
            VariantContents(model=model, verified=report.stage(name).passed) for name, model in models.items()
        ],
        "labels": LABELS,
        "embedded": Embedded(preprocess=embedded, softmax=embedded),
        "golden": make_golden(pictures(4, seed=5), PREPROCESS, sessions | {"pytorch": reference}) if golden else {},
        "parity": report.to_json(),
        "parity_summary": report.summary(),
        "verified": bool(report),
    }
    return pack(folder / "bundle", BundleContents(**contents))


def save_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write pictures as PNG files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for path, picture in zip(paths, pictures(count, seed), strict=True):
        Image.fromarray(picture).save(path)
    return paths


def doubled(name: str) -> Change:
    """Return the fault of an array of twice its size."""

    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = np.asarray(arrays[name] * 2, dtype=arrays[name].dtype)

    return change
