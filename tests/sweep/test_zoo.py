"""Every model of the zoo through the main job: ``make sweep`` runs this, and writes docs/ZOO.md from what it finds.

Published weights cannot be downloaded everywhere, so the networks are untrained: He-initialised, with BatchNorm statistics
taken from a few photos, so that activations have the sizes that training would give them, and with offset convolutions that
do deform. What this proves is that every structure exports, simplifies, quantizes and verifies, not how accurate it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn import zoo
from edgecnn.calib import Photos
from edgecnn.models.layers import count_macs, count_parameters
from edgecnn.pipeline import Outcome, PipelineConfig, run
from edgecnn.spec import ModelSpec

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

ROWS = Path(__file__).parents[2] / "build" / "sweep"
IMAGES = 16


def untrained(spec: ModelSpec) -> nn.Module:
    """Return the network as it is before training, with the statistics of real pictures in its BatchNorm layers."""
    torch.manual_seed(0)
    module = zoo.create(spec.name).train()
    for name, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean over the batches
        if name.endswith("conv_offset"):
            nn.init.normal_(part.weight, std=0.001)
    photos = [feed["input"] for _, feed in zip(range(8), Photos(spec.preprocess, limit=8), strict=False)]
    with torch.no_grad():
        for start in range(0, 8, 2):
            module(torch.from_numpy(np.concatenate(photos[start : start + 2])))
    return module.eval()


def row_of(spec: ModelSpec, module: nn.Module, outcome: Outcome) -> dict[str, Any]:
    """Return the model's line of the table."""
    manifest = outcome.bundle.manifest
    shape = tuple(dim for dim in spec.inputs[0].shape[1:] if isinstance(dim, int))
    images = {
        name: outcome.report.stage(name).find("first", "images")
        or outcome.report.stage(name).find("predecessor", "images")
        for name in manifest.variants
    }
    return {
        "model": spec.name,
        "params": count_parameters(module),
        "macs": count_macs(module, shape),
        "nodes": {name: variant.nodes for name, variant in manifest.variants.items()},
        "bytes": {name: manifest.files[variant.file].bytes for name, variant in manifest.variants.items()},
        "metrics": {name: found.metrics.to_json() for name, found in images.items() if found is not None},
        "verified": bool(outcome),
        "seconds": dict(outcome.seconds),
        "notes": list(outcome.notes),
    }


@pytest.mark.parametrize("name", zoo.names())
def test_the_main_job(name: str, tmp_path: Path) -> None:
    spec = zoo.find(name)
    module = untrained(spec)
    config = PipelineConfig(
        int8=True, target="cpu", calib_images=IMAGES, verify_images=IMAGES, measure_seconds=0, use_cache=False
    )
    outcome = run(spec, config, to=tmp_path / "bundle", module=module)
    ROWS.mkdir(parents=True, exist_ok=True)
    (ROWS / f"{name}.json").write_text(json.dumps(row_of(spec, module, outcome), indent=2))
    assert outcome, "\n".join(outcome.report.lines())
