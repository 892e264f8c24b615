"""Every model of the zoo through the main job: ``make sweep`` runs this, and writes docs/ZOO.md from what it finds.

Published weights cannot be downloaded everywhere, so the networks are untrained: He-initialised, with offset convolutions that
do deform, and with what makes deep networks trainable at all, and trained ones stable: BatchNorm statistics taken from a few photos, so
that activations have the sizes that training would give them, and residual branches that start small (Goyal et al. 2017,
https://arxiv.org/abs/1706.02677, section 5.1, start them at zero). With branches as large as their shortcuts, every block
doubles the noise: two float32 kernels of ResNet-152 then differ by 76 dB, where those of trained networks differ by 110.

What this proves is that every structure exports, simplifies, quantizes and verifies, not how accurate it is.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from rows import put_row
from untrained import untrained

from edgecnn import zoo
from edgecnn.models.layers import count_macs, count_parameters
from edgecnn.pipeline import Outcome, PipelineConfig, run
from edgecnn.quantize import QuantizeConfig
from edgecnn.spec import ModelSpec

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

IMAGES = 16


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
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxsim", "onnxruntime")),
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
        int8=True,
        target="cpu",
        quantize=QuantizeConfig(effort="fast"),  # structures are proven, not accuracy, and in an hour less
        calib_images=IMAGES,
        verify_images=IMAGES,
        measure_seconds=0,
        use_cache=False,
    )
    outcome = run(spec, config, to=tmp_path / "bundle", module=module)
    put_row("sweep", row_of(spec, module, outcome))
    assert outcome, "\n".join(outcome.report.lines())
