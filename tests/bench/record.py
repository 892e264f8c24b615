"""Where the benchmarks keep what they measured, and how one runs in a process of its own: ``python record.py JOB ARGUMENTS``.

What was measured is kept from one run to the next in docs/benchmarks.json, by kind of processor, with the commit that measured it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.quantize import Scheme
    from edgecnn.quantize.config import Effort

ROOT = Path(__file__).parents[2]
SAMPLE = Path(os.environ.get("EDGECNN_IMAGENET_SAMPLE", ROOT.parent / "shared" / "imagenet-sample"))
RESULTS = ROOT / "build" / "bench"
UNTRAINED = ("seresnet50", "efficientnet_b0", "densenet121", "googlenet", "vgg16", "deform_resnet50_v2")
"""Networks of the zoo without packaged weights that the quantizer is tried on."""


KEPT = ROOT / "docs" / "benchmarks.json"


def record(name: str, found: Any) -> None:
    """Keep a result for :mod:`page`, with where and with what it was measured."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.check_output(command, text=True, cwd=ROOT).strip()
    row = {"kind": kind(), "machine": machine(), "commit": commit, "day": time.strftime("%Y-%m-%d"), "found": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=2))


def kind() -> str:
    """Return what of the processor decides how fast INT8 is there."""
    flags = Path("/proc/cpuinfo").read_text()
    names = {
        "avx512_vnni": "AVX512-VNNI",
        "avx_vnni": "AVX-VNNI",
        "avx512f": "AVX512 without VNNI",
        "avx2": "AVX2 without VNNI",
    }
    return next((name for flag, name in names.items() if flag in flags), platform.machine())


def machine() -> str:
    """Return the processor's name, as Linux tells it, and the versions of what ran on it."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    cpu = found[1] if found else platform.machine()
    return f"{os.cpu_count()} cores, {cpu}, {kind()}, Python {platform.python_version()}, {versions}"


def kept() -> dict[str, dict[str, Any]]:
    """Add what is in ``build/bench`` to what is kept, and return it all: name -> kind of processor -> row."""
    rows: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for file in sorted(RESULTS.glob("*.json")):
        row = json.loads(file.read_text())
        rows.setdefault(file.stem, {})[row["kind"]] = row
    KEPT.write_text(json.dumps({name: rows[name] for name in sorted(rows)}, indent=1) + "\n")
    return rows


def apart(job: str, *arguments: str) -> dict[str, float]:
    """Run a job of :data:`JOBS` in a fresh process and return its wall times and peak memory, MB."""
    command = [sys.executable, __file__, job, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def export_and_quantize(name: str, images: str, effort: Effort) -> dict[str, float]:
    """Export and quantize, with the photos, to both INT8 schemes."""
    import torch

    from edgecnn import zoo
    from edgecnn.calib import Photos
    from edgecnn.export import export
    from edgecnn.quantize import QuantizeConfig, quantize, statistics_for
    from edgecnn.simplify import simplify

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        start = time.perf_counter()
        built = zoo.build(zoo.find(name), "random")
        model = simplify(export(built.module, built.spec, to=scratch / "a.onnx"), to=scratch / "b.onnx").model
        exported = time.perf_counter()
        samples = Photos(built.spec.preprocess, limit=int(images))
        schemes: tuple[Scheme, ...] = ("int8", "int8-cpu")
        configs = [QuantizeConfig(scheme=scheme, effort=effort) for scheme in schemes]
        statistics = statistics_for(model, samples, configs)
        for config in configs:
            quantize(model, samples, config, to=scratch / "q.onnx", statistics=statistics)
        return {"export_s": exported - start, "quantize_s": time.perf_counter() - exported}


def calibrate(path: str, method: str, images: str) -> dict[str, float]:
    """Quantize one ONNX file with one method on images of the sample."""
    from edgecnn.calib import ImageFolder, parse
    from edgecnn.onnxio import open_model
    from edgecnn.quantize import QuantizeConfig, quantize
    from edgecnn.zoo import find

    samples = ImageFolder(SAMPLE, find("efficientnet_lite0").preprocess, limit=int(images))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        config = QuantizeConfig(method=parse(method), effort="fast")  # as the peer, which only calibrates
        quantize(open_model(Path(path)), samples, config, to=Path(folder) / "q.onnx")
        return {"seconds": time.perf_counter() - start}


def correct(path: str) -> dict[str, float]:
    """Quantize one ONNX file with the defaults on 128 images of the sample: wall time, and processor time of all cores."""
    from edgecnn.calib import Auto, ImageFolder
    from edgecnn.onnxio import open_model
    from edgecnn.quantize import QuantizeConfig, quantize
    from edgecnn.zoo import find

    samples = ImageFolder(SAMPLE, find("efficientnet_lite0").preprocess, limit=128)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        quantize(open_model(Path(path)), samples, QuantizeConfig(method=Auto()), to=Path(folder) / "q.onnx", threads=2)
        return {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - used}


def calibrate_peer(path: str, method: str, images: str) -> dict[str, float]:
    """The same with onnxruntime.quantization."""
    from peers import ort_static

    from edgecnn.calib import ImageFolder
    from edgecnn.zoo import find

    samples = ImageFolder(SAMPLE, find("efficientnet_lite0").preprocess, limit=int(images))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ort_static(Path(path), samples, Path(folder) / "q.onnx", method=method)
        return {"seconds": time.perf_counter() - start}


def memory(path: str, images: str) -> dict[str, float]:
    """Calibrate on so many generated images, which cost no memory themselves."""
    from collections.abc import Iterator

    import numpy as np

    from edgecnn.calib.collect import collect
    from edgecnn.calib.data import InMemory
    from edgecnn.onnxio import load_ir, open_model
    from edgecnn.quantize import QuantizeConfig, plan

    count = int(images)

    class Generated(InMemory):
        """Noise, made anew for each sample."""

        def __len__(self) -> int:
            return count

        def __iter__(self) -> Iterator[dict[str, Any]]:
            generator = np.random.default_rng(0)
            for _ in range(count):
                yield {"input": generator.standard_normal((1, 3, 224, 224), dtype=np.float32)}

    model = open_model(Path(path))
    placement = plan(load_ir(model.path), QuantizeConfig())
    start = time.perf_counter()
    samples = Generated(np.zeros((1, 3, 224, 224), np.float32))
    collect(model.path, samples, placement.measured, placement.weight_inputs)
    return {"seconds": time.perf_counter() - start}


def pipeline(name: str, images: str) -> dict[str, float]:
    """Do the whole main job with its defaults, ``export NAME --int8 --calib FOLDER``: untrained weights, shifted copies of the photos."""
    from itertools import cycle, islice

    import numpy as np
    import torch
    from PIL import Image

    from edgecnn import zoo
    from edgecnn.calib import Photos
    from edgecnn.pipeline import PipelineConfig, run

    torch.set_num_threads(2)
    spec, count = zoo.find(name), int(images)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for number, pixels in enumerate(islice(cycle(list(Photos(spec.preprocess).pixels())), count + 32)):
            Image.fromarray(np.roll(pixels, number, axis=1)).save(pictures / f"{number:04}.jpg")
        config = PipelineConfig(
            weights="random", int8=True, target="cpu", calib=str(pictures), calib_images=count, use_cache=False
        )
        start = time.perf_counter()
        outcome = run(spec, config, to=Path(folder) / "bundle")
        return {"seconds": time.perf_counter() - start, "quantize_s": outcome.seconds["quantize"]}


def calibration_beside_inference(path: str, images: str) -> dict[str, float]:
    """Run a network over images, and calibrate on them, in turns; the fastest pass of each, ms an image."""
    import numpy as np

    from edgecnn.calib.collect import collect
    from edgecnn.calib.data import InMemory
    from edgecnn.onnxio import load_ir, open_model
    from edgecnn.quantize import QuantizeConfig, plan
    from edgecnn.runtime.ort import OrtOptions, OrtSession

    model = open_model(Path(path))
    placement = plan(load_ir(model.path), QuantizeConfig())
    arrays = np.random.default_rng(0).standard_normal((int(images), 3, 224, 224), dtype=np.float32)
    samples = InMemory(arrays)
    least = {"inference_ms": float("inf"), "calibration_ms": float("inf")}
    with OrtSession(model.path, OrtOptions(threads=2)) as session:

        def infer() -> None:
            for feed in samples:
                session.run(feed)

        def calibrate() -> None:
            collect(model.path, samples, placement.measured, placement.weight_inputs, threads=2)

        for _ in range(3):
            for key, work in (("inference_ms", infer), ("calibration_ms", calibrate)):
                start = time.perf_counter()
                work()
                least[key] = min(least[key], 1e3 * (time.perf_counter() - start) / len(samples))
    return least


def peak_mb() -> float:
    """Return this program's peak memory. ``ru_maxrss`` would be that of the process it was forked from, where that is larger."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


JOBS = {
    job.__name__: job
    for job in (export_and_quantize, calibrate, correct, calibrate_peer, memory, pipeline, calibration_beside_inference)
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    found = JOBS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(found | {"peak_mb": peak_mb()}))
