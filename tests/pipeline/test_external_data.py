"""Networks beyond 2 GB, played by a small one: above a lowered threshold its weights lie beside the graph, as above the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_job import SPEC
from torch import nn

from edgecnn import onnxio
from edgecnn.calib import InMemory
from edgecnn.errors import BundleCorruptError
from edgecnn.export import export
from edgecnn.onnxio import data_path, load_ir, save_ir
from edgecnn.parity.bisect import bisect
from edgecnn.parity.samples import gaussian
from edgecnn.pipeline import PipelineConfig, run
from edgecnn.quantize import quantize
from edgecnn.runtime import load


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(onnxio, "EXTERNAL_DATA_THRESHOLD", 10_000)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)).eval()
    nn.init.normal_(module[-1].weight)  # logits that are apart
    return module


def test_the_main_job(net: nn.Module, tmp_path: Path) -> None:
    config = PipelineConfig(
        int8=True, fp16=True, target="cpu", calib_images=8, verify_images=8, measure_seconds=0, use_cache=False
    )
    outcome = run(SPEC, config, to=tmp_path / "wide", module=net)
    assert outcome, "\n".join(outcome.report.lines())
    manifest = outcome.bundle.manifest
    assert {"model.fp32.onnx", "model.fp32.onnx.data"} <= set(manifest.files), "hashed as every other file"
    assert (tmp_path / "wide" / "model.fp32.onnx").stat().st_size < 10_000
    moved = (tmp_path / "wide").rename(tmp_path / "moved")
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with load(moved, "fp32") as session, torch.no_grad():
        np.testing.assert_allclose(
            session.run({"input": x})["logits"], net(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-5
        )
    (moved / "model.fp32.onnx.data").write_bytes(b"\0" * 80_000)
    with pytest.raises(BundleCorruptError, match=r"model\.fp32\.onnx\.data"):
        load(moved, "fp32")


def test_one_change_of_a_weight_is_found_by_bisecting(net: nn.Module, tmp_path: Path) -> None:
    exported = export(net, SPEC, to=tmp_path / "good.onnx")
    assert data_path(exported.path).exists()
    graph = load_ir(exported.path)
    name = next(name for name, value in graph.graph.initializers.items() if value.const_value.shape[:2] == (64, 32))
    planted = graph.graph.initializers[name].const_value.numpy().copy()
    planted[5] *= -1
    graph.graph.initializers[name].const_value = onnxio.need("onnx_ir").tensor(planted, name=name)
    bad = save_ir(graph, tmp_path / "bad.onnx")
    found = bisect(exported, bad, gaussian(SPEC.inputs[0], count=2))
    assert found.first is not None
    assert found.first.module == "3"


def test_quantizing_reads_the_weights_beside(net: nn.Module, tmp_path: Path) -> None:
    exported = export(net, SPEC, to=tmp_path / "good.onnx")
    samples = InMemory(np.random.default_rng(1).standard_normal((8, 3, 32, 32)).astype(np.float32))
    made = quantize(exported, samples, to=tmp_path / "int8.onnx").model
    assert any(node.op_type == "QuantizeLinear" for node in load_ir(made.path).graph)
