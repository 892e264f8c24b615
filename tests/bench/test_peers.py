"""NNCF and ModelOpt, each in an environment of its own (``make bench-peers``), by the protocol of ``test_accuracy.py``."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from record import ROOT, SAMPLE, record
from test_accuracy import compare

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.bench.timing import interleave
from edgecnn.calib import Auto, ImageFolder, Photos
from edgecnn.calib.data import Samples
from edgecnn.export import export
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import OpenVinoOptions, OpenVinoSession, OrtOptions, OrtSession
from edgecnn.runtime.session import Session
from edgecnn.simplify import simplify
from edgecnn.zoo_build import Built

pytestmark = [pytest.mark.bench_peers, pytest.mark.timeout(6000)]

THREADS = 2
PEERS = ROOT / "build" / "peers"
JOBS = {
    "NNCF, default": "nncf_default",
    "NNCF, per tensor, accurate bias correction": "nncf_accurate",
    "NNCF, the same, signed": "nncf_signed",
    "ModelOpt, max": "modelopt_max",
    "ModelOpt, entropy": "modelopt_entropy",
}


def by_peer(job: str, model: Path, samples: Path, to: Path) -> float:
    """Quantize in the peer's environment and return the seconds it took; skip where it is not installed."""
    python = PEERS / job.partition("_")[0] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python}: make bench-peers sets it up")
    command = [str(python), str(Path(__file__).with_name("peer_jobs.py")), job, str(model), str(samples), str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000, cwd=to.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def in_float(name: str, weights: str, folder: Path) -> tuple[Built, OnnxModel]:
    """Return a network and its float graph."""
    built = zoo.build(zoo.find(name), weights)
    return built, simplify(export(built.module, built.spec, to=folder / "a.onnx"), to=folder / "fp32.onnx").model


def saved(samples: Samples, folder: Path) -> Path:
    """Write samples as one array."""
    np.save(folder / "samples.npy", np.concatenate([feed["input"] for feed in samples]))
    return folder / "samples.npy"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no sample images at {SAMPLE}: set EDGECNN_IMAGENET_SAMPLE")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_accuracy_beside_peers(name: str, tmp_path: Path) -> None:
    built, exact = in_float(name, "default", tmp_path)
    calibration = ImageFolder(SAMPLE, built.spec.preprocess, limit=128)
    held_out = calibration.rest()
    assert held_out is not None
    samples = saved(calibration, tmp_path)
    candidates, seconds = {}, {}
    for number, (label, job) in enumerate(JOBS.items()):
        candidates[label] = tmp_path / f"peer{number}.onnx"
        seconds[label] = by_peer(job, exact.path, samples, candidates[label])
    for scheme in ("int8", "int8-cpu"):
        start = time.perf_counter()
        config = QuantizeConfig(scheme=scheme, method=Auto())  # type: ignore[arg-type]
        candidates[scheme] = quantize(exact, calibration, config, to=tmp_path / f"{scheme}.onnx").model.path
        seconds[scheme] = time.perf_counter() - start
    found = compare(exact, candidates, held_out, zoo.labels(built.spec))
    for label, took in seconds.items():
        found[label]["seconds"] = took
    record(f"peers_{name}", found)
    valid = ("NNCF, the same, signed", "ModelOpt, max", "ModelOpt, entropy")
    assert found["int8"]["sqnr_db"] > max(found[label]["sqnr_db"] for label in valid)
    assert found["int8-cpu"]["sqnr_db"] > max(found[label]["sqnr_db"] for label in JOBS)


@pytest.mark.parametrize(("name", "weights"), [("resnet50", "random"), ("efficientnet_lite0", "package")])
def test_openvino_runs_our_graphs_as_fast_as_its_own(name: str, weights: str, tmp_path: Path) -> None:
    """Batch 1, 2 threads, in turns, as shares of fp32 on onnxruntime."""
    built, exact = in_float(name, weights, tmp_path)
    photos = Photos(built.spec.preprocess, limit=8)
    by_peer("nncf_openvino", exact.path, saved(photos, tmp_path), tmp_path / "nncf.xml")
    paths = {"NNCF": tmp_path / "nncf.xml"}
    for scheme in ("int8", "int8-cpu"):
        config = QuantizeConfig(scheme=scheme, effort="fast")  # type: ignore[arg-type]
        paths[scheme] = quantize(exact, photos, config, to=tmp_path / f"{scheme}.onnx").model.path
    sessions: dict[str, Session] = {"fp32": OrtSession(exact.path, OrtOptions(threads=THREADS, spin=False))}
    sessions |= {key: OpenVinoSession(path, OpenVinoOptions(threads=THREADS)) for key, path in paths.items()}
    feed = next(iter(photos))["input"]
    feeds = {key: {session.inputs[0].name: feed} for key, session in sessions.items()}
    timings = interleave(sessions, feeds, baseline="fp32", seconds=6)
    record(f"peers_speed_{name}", {key: timing.to_json() for key, timing in timings.items()})
    assert min(timings[key].min_ms for key in ("int8", "int8-cpu")) < 1.1 * timings["NNCF"].min_ms
