"""What the GPU's tests of the zoo do to one network: its graphs, its sessions side by side, and its row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from untrained import untrained

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.bench.timing import interleave
from edgecnn.engine.device import Device
from edgecnn.parity.samples import SampleSet, feed_for
from edgecnn.parity.stages import Stage, verify
from edgecnn.pipeline import PipelineConfig
from edgecnn.pipeline.samples import gather
from edgecnn.pipeline.variants import make_graphs
from edgecnn.progress import silent
from edgecnn.quantize import QuantizeConfig
from edgecnn.runtime.session import Session

__all__ = ["PRECISIONS", "Network", "compared", "described", "network"]

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
PACKAGES = (
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "tensorrt-rtx-cu12",
    "cuda-bindings",
    "torch",
)
IMAGES = 8


@dataclass(frozen=True)
class Network:
    """A network's graphs, by precision, and what to compare them on."""

    graphs: Mapping[str, OnnxModel]
    sets: Sequence[SampleSet]


@contextmanager
def _untimed(name: str) -> Iterator[None]:
    """Stand for the main job's clock."""
    yield


def network(name: str, folder: Path) -> Network:
    """Make the graphs of a network of the zoo, untrained, as the sweeps do; deformable convolutions as GridSample."""
    config = PipelineConfig(
        int8=True,
        fp16=True,
        target="tensorrt-rtx",
        quantize=QuantizeConfig(effort="fast"),
        calib_images=IMAGES,
        verify_images=IMAGES,
        use_cache=False,
    )
    spec = zoo.find(name)
    built = zoo.build(spec, "default", None, silent, module=untrained(spec))
    data = gather(built, config)
    made = make_graphs(built, data.calibration, data.held_out(built.spec, config), config, folder, _untimed, silent)
    return Network({precision: made.stages[precision] for precision in PRECISIONS}, data.sets(built.spec))


def compared(
    found: Network, reference: Session, sessions: Mapping[str, Session], seconds: float = 0.5
) -> dict[str, Any]:
    """Compare sessions with fp32 on a CPU, and measure them in turns.

    Args:
        found: the network.
        reference: fp32 on the CPU.
        sessions: precision -> session on the GPU; fp32 is what times are relative to.
        seconds: of measuring, for each.

    Returns:
        Precision -> passed, SQNR of the logits and agreement on photos, milliseconds of one image, and time as a share of fp32's.
    """
    stages = [Stage("cpu", "fp32", reference)]
    stages += [Stage(name, found.graphs[name].precision, session, after="cpu") for name, session in sessions.items()]
    report = verify(stages, found.sets)
    summary = report.summary()["stages"]
    sample = next(iter(found.sets[0]))
    feeds = {name: feed_for(session, [sample]) for name, session in sessions.items()}
    times = interleave(sessions, feeds, baseline="fp32", seconds=seconds)
    return {
        name: {
            "passed": summary[name]["passed"],
            "sqnr_db": summary[name].get("sqnr_db"),
            "top1": summary[name].get("top1"),
            "milliseconds": round(times[name].median_ms, 4),
            "ratio": round(times[name].ratio, 4),
            "spread": round(times[name].spread, 4),
        }
        for name in sessions
    }


def described(here: Device) -> dict[str, str]:
    """Return the device and the versions that a row was measured with."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": f"{here.name} ({here.compute_capability}), driver for CUDA {here.driver_cuda}",
        "versions": ", ".join(versions),
    }
