"""Networks whose trained weights are nowhere packaged: what correction gains over plain rounding to the nearest, in one run.

The weights are random, so that dB alone are told: there is no class to agree on. Photos: 24 to calibrate on, 8 other crops to judge by.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from record import UNTRAINED, record

from edgecnn import zoo
from edgecnn.calib import Auto, Photos
from edgecnn.calib.split import Part
from edgecnn.export import export
from edgecnn.parity.metrics import compare
from edgecnn.quantize import QuantizeConfig, Scheme, quantize, statistics_for
from edgecnn.quantize.sensitivity import logits_of
from edgecnn.simplify import simplify

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]

IMAGES, OTHERS = 32, frozenset(range(2, 32, 4))


@pytest.mark.parametrize("name", UNTRAINED)
def test_correction_is_never_worse_than_plain_rounding(name: str, tmp_path: Path) -> None:
    """The same ranges, chosen by measurement; ``plain`` rounds to the nearest and leaves biases alone."""
    built = zoo.build(zoo.find(name), "random")
    exact = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    photos = Photos(built.spec.preprocess, limit=IMAGES)
    calibration, judges = Part(photos, frozenset(range(IMAGES)) - OTHERS), list(Part(photos, OTHERS))
    wanted = logits_of(exact.path, judges)
    found: dict[str, dict[str, float]] = {}
    for scheme in get_args(Scheme):
        configs = {
            "plain": QuantizeConfig(scheme=scheme, method=Auto(), effort="fast", bias_correction=False),
            "fast": QuantizeConfig(scheme=scheme, method=Auto(), effort="fast"),
            "balanced": QuantizeConfig(scheme=scheme, method=Auto()),
        }
        statistics = statistics_for(exact, calibration, configs.values())
        found[scheme] = {}
        for effort, config in configs.items():
            made = quantize(exact, calibration, config, to=tmp_path / "q.onnx", statistics=statistics).model
            found[scheme][effort] = compare(wanted, logits_of(made.path, judges)).sqnr_db
    record(f"untrained_{name}", found)
    for efforts in found.values():
        assert efforts["balanced"] >= efforts["plain"]
        assert efforts["fast"] >= efforts["plain"] - 0.1, "held-out photos decide on biases, not these"
