"""What ``--equalize`` gains: trained networks, judged on images of other classes, and an untrained one with planted uneven channels."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from record import SAMPLE, record

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.calib import ImageFolder, Photos
from edgecnn.calib.data import Samples
from edgecnn.calib.split import Part
from edgecnn.export import export
from edgecnn.onnxio import load_ir
from edgecnn.parity.metrics import compare
from edgecnn.passes.equalize import EqualizeChannels, pairs
from edgecnn.quantize import QuantizeConfig, Scheme, quantize
from edgecnn.quantize.sensitivity import logits_of
from edgecnn.simplify import simplify, transform

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]


def in_float(name: str, weights: str, folder: Path) -> OnnxModel:
    """Return the float graph of a network."""
    built = zoo.build(zoo.find(name), weights)
    return simplify(export(built.module, built.spec, to=folder / "a.onnx"), to=folder / "fp32.onnx").model


def measured(
    exact: OnnxModel, calibration: Samples, judges: Samples, folder: Path
) -> dict[str, dict[str, float | dict[str, float]]]:
    """Return dB of the logits without and with, of both schemes, and what the held-out samples said."""
    feeds = list(judges)
    wanted = logits_of(exact.path, feeds)
    found: dict[str, dict[str, float | dict[str, float]]] = {}
    for scheme in get_args(Scheme):
        found[scheme] = {}
        for key in (False, True):
            config = QuantizeConfig(scheme=scheme, effort="fast", equalize=key)
            made = quantize(exact, calibration, config, to=folder / "q.onnx")
            found[scheme]["equalized" if key else "plain"] = compare(wanted, logits_of(made.model.path, feeds)).sqnr_db
            if made.equalized is not None:
                found[scheme]["held out"] = dict(made.equalized.scores)
    return found


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no sample images at {SAMPLE}: set EDGECNN_IMAGENET_SAMPLE")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_trained_networks_are_no_worse(name: str, tmp_path: Path) -> None:
    preprocess = zoo.build(zoo.find(name)).spec.preprocess  # of the weights, not of the architecture
    calibration = ImageFolder(SAMPLE, preprocess, limit=128)
    others = calibration.rest(93)
    assert others is not None
    found = measured(in_float(name, "default", tmp_path), calibration, others, tmp_path)
    record(f"equalize_{name}", found)
    for row in found.values():
        assert row["equalized"] > row["plain"] - 0.5  # type: ignore[operator]


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn"])
def test_planted_uneven_channels_are_restored(name: str, tmp_path: Path) -> None:
    exact = in_float(name, "random", tmp_path)
    generator = np.random.default_rng(0)
    shapes = {pair.tensor: pair.weight().shape for pair in pairs(load_ir(exact.path).graph)}
    planted = EqualizeChannels({key: 100 ** -generator.random(shape[0] * shape[1]) for key, shape in shapes.items()})
    uneven = transform(exact, [planted], to=tmp_path / "uneven.onnx")
    photos = Photos(zoo.find(name).preprocess, limit=32)
    held = frozenset(range(2, 32, 4))
    found = measured(uneven, Part(photos, frozenset(range(32)) - held), Part(photos, held), tmp_path)
    record(f"equalize_{name}", found)
    assert found["int8"]["equalized"] > found["int8"]["plain"] + 3  # type: ignore[operator]
