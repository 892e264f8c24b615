"""What choosing a range method is worth: each candidate on images that neither its ranges nor the choice have seen.

``python -m pytest -s -m bench tests/bench/test_methods.py`` prints the rows of the table in docs/QUANTIZATION.md, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from record import SAMPLE, record

from edgecnn import zoo
from edgecnn.calib import Auto, Entropy, ImageFolder, split
from edgecnn.export import export
from edgecnn.parity.metrics import compare
from edgecnn.quantize import QuantizeConfig, Scheme, quantize, statistics_for
from edgecnn.quantize.choose import choose
from edgecnn.quantize.sensitivity import logits_of
from edgecnn.simplify import simplify

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no sample images at {SAMPLE}: set EDGECNN_IMAGENET_SAMPLE"),
]

JUDGES = 93


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_choice_is_no_worse_than_the_plain_method(name: str, tmp_path: Path) -> None:
    built = zoo.build(zoo.find(name))
    exact = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    calibration = ImageFolder(SAMPLE, built.spec.preprocess, limit=128)
    judges = calibration.rest(JUDGES)
    assert judges is not None
    feeds = list(judges)
    wanted = logits_of(exact.path, feeds)
    rows = {}
    for scheme in get_args(Scheme):
        config = QuantizeConfig(scheme=scheme, method=Auto(), effort="fast")
        statistics = statistics_for(exact, calibration, [config])
        choice = choose(exact, calibration, config, statistics)
        found = {}
        for score in choice.scores:
            own = replace(config, method=score.method)
            made = quantize(exact, calibration, own, to=tmp_path / "q.onnx", statistics=statistics).model
            metrics = compare(wanted, logits_of(made.path, feeds))
            found[str(score.method)] = {
                "sqnr_db": metrics.sqnr_db,
                "agreement": metrics.top1,
                "choosing_db": score.sqnr_db,
            }
        rows[scheme] = {"chosen": str(choice.method), "methods": found}
        cells = (
            f"**{row['sqnr_db']:.1f}**" if key == str(choice.method) else f"{row['sqnr_db']:.1f}"
            for key, row in found.items()
        )
        print(f"| {name} `{scheme}` | {' | '.join(cells)} |")
        best = max(row["sqnr_db"] for row in found.values())
        assert not isinstance(choice.method, Entropy)
        assert found[str(choice.method)]["sqnr_db"] > best - 0.5, "16 images do not tell less apart"
        assert np.isfinite(best)
    assert len(split(calibration, Auto().images)[1]) == 16
    record(f"methods_{name}", rows)
