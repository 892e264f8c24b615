"""Every model of the zoo as engines on this GPU: built, audited by the plan, verified beside onnxruntime's CPU, measured in turns."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rows import put_row
from zoo_jobs import PRECISIONS, compared, described, network

from edgecnn import zoo
from edgecnn.engine import Batch, BuildConfig, build
from edgecnn.engine.capabilities import RTX_GPUS
from edgecnn.engine.device import device
from edgecnn.errors import EdgecnnError
from edgecnn.optional import available
from edgecnn.runtime import OrtSession, TensorRtOptions, TensorRtSession
from edgecnn.runtime.trt_api import MODULES

HERE = device()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(HERE is None, reason="there is no NVIDIA GPU with a driver"),
    pytest.mark.skipif(not available("cuda.bindings.runtime"), reason="cuda-bindings is not installed"),
]


def refusal(folder: Path, flavour: Any) -> str:
    """Return why this GPU does not run an engine of the smallest network, "" where it does; the library itself is asked."""
    graph = network("mobilenet_v3_small", folder).graphs["fp16"]
    try:
        engine = build(graph, BuildConfig(target=flavour), to=folder / "probe.plan")
        with TensorRtSession(
            engine.path, TensorRtOptions(flavour=flavour)
        ):  # without facts, which would refuse before it is asked
            return ""
    except EdgecnnError as error:
        return str(error)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a flavour that is installed and runs on this GPU; what it says where it does not is kept."""
    assert HERE is not None
    name: str = request.param
    if not available(MODULES[name]):
        pytest.skip(f"{name} is not installed")
    said = refusal(tmp_path_factory.mktemp("probe"), name)
    put_row(f"gpu/{name}-probe", {"model": "mobilenet_v3_small", **described(HERE), "refusal": said})
    if said:
        assert name == "tensorrt-rtx", said
        assert HERE.compute_capability not in RTX_GPUS, said
        pytest.skip(f"{name} does not run on {HERE.name} ({HERE.compute_capability}): {said}")
    return name


@pytest.mark.parametrize("name", zoo.names())
def test_engines_compute_what_the_cpu_does(name: str, flavour: Any, tmp_path: Path) -> None:
    assert HERE is not None
    found = network(name, tmp_path)
    gpus = (HERE.compute_capability,) if flavour == "tensorrt-rtx" and HERE.compute_capability in RTX_GPUS else ()
    config = BuildConfig(target=flavour, batch=Batch(1, 4, 8), gpus=gpus)
    with ExitStack() as stack:
        reference = stack.enter_context(OrtSession(found.graphs["fp32"].path))
        engines = {one: build(found.graphs[one], config, to=tmp_path / f"{one}.plan") for one in PRECISIONS}
        sessions = {
            one: stack.enter_context(TensorRtSession(engine.path, TensorRtOptions(flavour=flavour), engine.facts))
            for one, engine in engines.items()
        }
        variants = compared(found, reference, sessions)
    for one, engine in engines.items():
        audit = engine.facts.audit
        variants[one] |= {
            "bytes": engine.bytes,
            "seconds": engine.facts.seconds,
            "audit": audit["source"],
            "convolutions": audit["layers"].get("convolution", {}),
            "reformats": audit["reformats"],
            "as_asked": engine.passed,
        }
    put_row(f"gpu/{flavour}", {"model": name, **described(HERE), "variants": variants})
    assert all(one["passed"] and one["as_asked"] for one in variants.values()), variants
