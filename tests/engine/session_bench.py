"""A fake TensorRT, a fake CUDA, and plans to run on them: what tests of sessions stand on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda

from edgecnn.artifacts import Engine, OnnxModel
from edgecnn.engine import Batch, BuildConfig, build
from edgecnn.runtime import OrtSession
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession

__all__ = ["Bench", "bench", "images"]

DRAW = np.random.default_rng(3)


def images(count: int) -> np.ndarray:
    return DRAW.standard_normal((count, 3, 16, 16)).astype(np.float32)


class Bench:
    """A fake TensorRT, a fake CUDA, and plans to run on them."""

    def __init__(self, module: Any, cuda: FakeCuda, nets: Mapping[str, OnnxModel], folder: Path) -> None:
        self.module, self.cuda, self.nets, self.folder = module, cuda, nets, folder

    def plan(self, precision: str = "fp32", batch: str = "1:4:8", **options: Any) -> Engine:
        config = BuildConfig(target="tensorrt", batch=Batch.parse(batch), **options)
        return build(self.nets[precision], config, to=self.folder / f"{precision}.plan")

    def session(self, engine: Engine | None = None, **options: Any) -> TensorRtSession:
        engine = engine or self.plan()
        return TensorRtSession(engine.path, TensorRtOptions(**options), engine.facts)

    def expected(self, x: np.ndarray, precision: str = "fp32") -> np.ndarray:
        with OrtSession(self.nets[precision].path) as session:
            return session.run({"input": x})["logits"]


@pytest.fixture(params=["10.3.0"])
def bench(
    request: pytest.FixtureRequest,
    nets: Mapping[str, OnnxModel],
    tensorrt: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    module, cuda = tensorrt(request.param), FakeCuda()
    module.cuda = cuda
    for name, fake in cuda.modules().items():
        monkeypatch.setitem(sys.modules, name, fake)
    return Bench(module, cuda, nets, tmp_path)
