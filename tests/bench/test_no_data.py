"""Calibration without images of the application: photos and images made from the network, beside real ones.

Each source calibrates and corrects with the defaults of ``export --int8``, and is judged on images of other classes than the real
calibration's. What is measured here decides what ``--calib`` takes by default.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from record import SAMPLE, record
from test_accuracy import compare

from edgecnn import zoo
from edgecnn.calib import ImageFolder, Photos, Together, synthesize
from edgecnn.calib.data import Samples
from edgecnn.calib.synthetic import parse_synthetic
from edgecnn.export import export
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.simplify import simplify
from edgecnn.weights import digest

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no sample images at {SAMPLE}: set EDGECNN_IMAGENET_SAMPLE"),
]

MADE = ("synthetic", "synthetic:fast")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_without_images(name: str, tmp_path: Path) -> None:
    built = zoo.build(zoo.find(name))
    exact = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    preprocess = built.spec.preprocess
    real = ImageFolder(SAMPLE, preprocess, limit=128)
    held_out = real.rest()
    assert held_out is not None
    sources: dict[str, Samples] = {"real images": real, "photos": Photos(preprocess, limit=128)}
    seconds: dict[str, float] = {}
    for source in MADE:
        start = time.perf_counter()
        made = synthesize(built.module, preprocess, parse_synthetic(source), weights=digest(built.module))
        sources[source], seconds[source] = made, time.perf_counter() - start
    sources["photos and synthetic"] = Together([sources["photos"], sources["synthetic"]])
    candidates = {
        source: quantize(exact, samples, QuantizeConfig(), to=tmp_path / f"{number}.onnx").model.path
        for number, (source, samples) in enumerate(sources.items())
    }
    found = compare(exact, candidates, held_out, zoo.labels(built.spec))
    for source, took in seconds.items():
        found[source]["seconds"] = took
    record(f"no_data_{name}", found)
    best = max(found[source]["sqnr_db"] for source in ("photos", *MADE))
    assert best > found["real images"]["sqnr_db"] - 3
    assert seconds["synthetic"] < 120, "no step begins after 90 s"
