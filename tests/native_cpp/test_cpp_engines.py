"""Which of a bundle's engines the C++ runtime runs: the one that Python runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from cpp_tools import CppError, Probe
from tiny_bundle import edit_manifest, write_model, write_tiny

from edgecnn.errors import BundleSchemaError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle

NAMES = ("fp32", "fp16", "int8", "int8-fp16")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle whose manifest has engines of every variant."""
    packed = [VariantContents(model=write_model(tmp_path, name), verified=True) for name in NAMES]
    path = write_tiny(tmp_path, variants=packed, ranges={}).path

    def add(data: dict[str, Any]) -> None:
        for name in NAMES:
            file = f"engine.{name}.tensorrt.plan"
            (path / file).write_bytes(b"plan")
            data["files"][file] = {"bytes": 4, "sha256": "0" * 64}
            data["engines"][f"{name}.tensorrt"] = {
                "file": file, "variant": name, "flavour": "tensorrt", "version": "10.3.0", "cuda": "12", "driver_cuda": "12.6",
                "compute_capabilities": ["8.7"], "platform": "linux-aarch64", "precision": name, "profile": {}, "options": {},
                "model_sha256": "0" * 64, "timing_cache_sha256": "", "seconds": 1, "audit": {}, "lineage": [],
            }  # fmt: skip

    edit_manifest(path, add)
    return path


def measured(ratio: object) -> dict[str, Any]:
    return {"milliseconds": 1.0, "ratio": ratio, "baseline": "fp16", "gpu": "Orin (8.7)"}


def test_the_engine_that_is_run_is_the_one_that_python_runs(probe: Probe, bundle: Path) -> None:
    draw, chosen = random.Random(4), set()
    for _ in range(60):
        ratios = {name: draw.choice([None, 0.5, 0.9, 0.94, 0.96, 1.0, 1.2]) for name in NAMES}
        verified = {name: draw.random() < 0.8 for name in NAMES}

        def change(data: dict[str, Any], ratios: Any = ratios, verified: Any = verified) -> None:
            for name in NAMES:
                ratio = ratios[name]
                data["engines"][f"{name}.tensorrt"]["speed"] = None if ratio is None else measured(ratio)
                data["variants"][name]["verified"] = verified[name]

        edit_manifest(bundle, change)
        wanted = Bundle.open(bundle, allow_unverified=True, check="sizes").choose(backend="tensorrt").variant
        assert probe("choose", bundle=bundle, backend="tensorrt") == [wanted, "tensorrt"], (ratios, verified)
        chosen.add(wanted)
    assert chosen == set(NAMES)
    assert probe("choose", bundle=bundle, backend="tensorrt", variant="fp32") == ["fp32", "tensorrt"]


@pytest.mark.parametrize("speed", [measured(-1), measured("fast"), {"ratio": 1}, 3])
def test_a_speed_that_is_none_is_refused_by_both(probe: Probe, bundle: Path, speed: Any) -> None:
    edit_manifest(bundle, lambda data: data["engines"]["int8.tensorrt"].update(speed=speed))
    with pytest.raises(BundleSchemaError):
        Bundle.open(bundle, check="sizes")
    with pytest.raises(CppError) as caught:
        probe("choose", bundle=bundle, backend="tensorrt")
    assert caught.value.kind == "BundleSchemaError"
