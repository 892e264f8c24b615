"""The main job within an accuracy budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_job import SPEC
from torch import nn

from edgecnn.errors import SpecError
from edgecnn.pipeline import PipelineConfig, run
from edgecnn.quantize import QuantizeConfig
from edgecnn.quantize.search import Budget

QUICK = PipelineConfig(
    int8=True,
    target="tensorrt",
    quantize=QuantizeConfig(effort="fast"),
    calib_images=8,
    verify_images=8,
    measure_seconds=0,
    use_cache=False,
)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    nn.init.normal_(module[-1].weight)
    return module


def test_layers_return_to_float_until_the_budget_holds(tmp_path: Path) -> None:
    plain = run(SPEC, replace(QUICK, budget=Budget(min_sqnr_db=-50)), to=tmp_path / "plain", module=net())
    assert plain.searches["int8"].restored == ()
    wanted = plain.searches["int8"].best.sqnr_db + 3
    outcome = run(SPEC, replace(QUICK, budget=Budget(min_sqnr_db=wanted)), to=tmp_path / "kept", module=net())
    assert outcome, outcome.notes
    placement = outcome.bundle.manifest.variants["int8"].placement
    assert placement is not None
    restored = set(placement["budget"]["restored"])
    assert restored
    assert restored <= {decision["node"] for decision in placement["decisions"] if not decision["quantized"]}
    images = outcome.report.stage("int8").find("predecessor", "images")
    assert images is not None
    assert images.metrics.sqnr_db == pytest.approx(outcome.searches["int8"].best.sqnr_db, abs=0.01), (
        "the graph in the bundle is the one that was measured"
    )
    assert any("stay float" in note for note in outcome.notes)


def test_a_budget_out_of_reach_is_a_breach_that_says_what_was_reached(tmp_path: Path) -> None:
    outcome = run(SPEC, replace(QUICK, budget=Budget(min_sqnr_db=190)), to=tmp_path / "out", module=net())
    assert not outcome
    assert outcome.report, "it is not unverified for that"
    assert any("NOT reached" in note for note in outcome.notes)


def test_labels_make_the_drop_one_of_top1(tmp_path: Path) -> None:
    folder = tmp_path / "labelled"
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = ["file,label"]
    for index in range(8):
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{index % 4}")
    (folder / "labels.csv").write_text("\n".join(rows))
    outcome = run(SPEC, replace(QUICK, budget=Budget(max_drop=100), data=folder), to=tmp_path / "out", module=net())
    assert outcome.searches["int8"].best.drop % 12.5 == 0, "of eight images"
    assert any("points of top-1 and" in note for note in outcome.notes), "not of agreement"


def test_a_budget_without_int8_is_refused() -> None:
    with pytest.raises(SpecError, match="ask for int8"):
        PipelineConfig(budget=Budget(max_drop=1))
