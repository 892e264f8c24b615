"""Every model of the zoo through TensorRT-RTX's builder, in four precisions, on a CPU: ``make sweep-engines``.

Networks as in the other sweep: untrained, with statistics of real pictures. Nothing is verified here, since ``make sweep`` does that,
and nothing runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rows import put_row
from untrained import untrained

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.engine import BuildConfig, build
from edgecnn.pipeline import PipelineConfig
from edgecnn.pipeline.samples import gather
from edgecnn.pipeline.variants import make_graphs
from edgecnn.progress import silent
from edgecnn.quantize import QuantizeConfig

pytest.importorskip("tensorrt_rtx")
pytestmark = [pytest.mark.sweep_engines, pytest.mark.timeout(3600)]

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
CONFIG = PipelineConfig(
    int8=True,
    fp16=True,
    target="tensorrt-rtx",
    quantize=QuantizeConfig(effort="fast"),
    calib_images=4,
    verify_images=4,
    use_cache=False,
)


@contextmanager
def untimed(name: str) -> Iterator[None]:
    """Stand for the main job's clock."""
    yield


def graphs_of(name: str, folder: Path) -> Mapping[str, OnnxModel]:
    """Return the main job's graphs of a network, unverified."""
    spec = zoo.find(name)
    built = zoo.build(spec, "default", None, silent, module=untrained(spec))
    data = gather(built, CONFIG)
    made = make_graphs(built, data.calibration, data.held_out(built.spec, CONFIG), CONFIG, folder, untimed, silent)
    return {name: made.stages[name] for name in made.variants}


@pytest.mark.parametrize("name", zoo.names())
def test_it_compiles_in_every_precision(name: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"model": name, "images": CONFIG.calib_images, "engines": {}}
    graphs = graphs_of(name, tmp_path)
    assert set(graphs) == set(PRECISIONS)
    for precision in PRECISIONS:
        engine = build(graphs[precision], BuildConfig(target="tensorrt-rtx"), to=tmp_path / "engine.plan")
        row["engines"][precision] = {
            "onnx_bytes": graphs[precision].path.stat().st_size,
            "bytes": engine.bytes,
            "seconds": engine.facts.seconds,
            "version": engine.facts.version,
            "passed": engine.passed,
            "layers": engine.facts.audit["layers"],
        }
        engine.path.unlink()
    put_row("sweep-engines", row)
    assert all(one["passed"] for one in row["engines"].values()), row
