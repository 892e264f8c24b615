"""The main job on small networks: every option, and what happens when a graph departs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from small_job import SPEC
from torch import nn

from edgecnn.calib import Auto, InMemory, MinMax, split
from edgecnn.errors import BundleUnverifiedError, DataError, OutputError, SpecError
from edgecnn.export import ExportConfig
from edgecnn.models.deformable import deform_conv2d
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.pipeline import Outcome, PipelineConfig, run
from edgecnn.pipeline import variants as variants_module
from edgecnn.quantize import QuantizeConfig
from edgecnn.runtime import Bundle, Classifier, load

CAT = Path(__file__).parents[1] / "data" / "cat.jpg"
QUICK = PipelineConfig(int8=True, target="cpu", calib_images=8, verify_images=8, measure_seconds=0, use_cache=False)


class Net(nn.Module):
    """A residual block, with a deformable convolution if asked for."""

    def __init__(self, deform: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 18, 3, padding=1) if deform else None
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weight, bias = self.conv.weight, self.conv.bias
        y = deform_conv2d(x, self.offset(x), weight, bias, padding=1) if self.offset else self.conv(x)
        return self.fc(torch.relu(x + y).mean((2, 3)))


def net(deform: bool = False) -> nn.Module:
    torch.manual_seed(0)
    module = Net(deform)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)  # logits that are apart, so that a top-1 class means something
    return module


def job(to: Path, module: nn.Module | None = None, **changes: Any) -> Outcome:
    return run(SPEC, replace(QUICK, **changes), to=to, module=module or net())


def test_every_variant_is_made_verified_and_traced(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", fp16=True)
    assert outcome, "\n".join(outcome.report.lines())
    manifest = outcome.bundle.manifest
    assert list(manifest.variants) == ["fp32", "int8", "int8-cpu", "fp16", "int8-fp16"]
    assert all(variant.verified and variant.precision == name for name, variant in manifest.variants.items())
    assert [step.stage for step in manifest.variants["int8-fp16"].lineage] == ["export", "simplify", "quantize", "fp16"]
    stages = [stage.name for stage in outcome.report.stages]
    assert stages[0] == "pytorch"
    assert {"fp16-emulated", "int8-fp16-emulated"} <= set(stages), (
        "FP16 is judged with its rounding, not as a CPU runs it"
    )
    assert outcome.to_json()["nodes"] == dict(outcome.nodes) == manifest.lineage[-1].config["nodes"]
    assert outcome.nodes["before"] >= outcome.nodes["after"] == manifest.variants["fp32"].nodes
    with Classifier(tmp_path / "net", "int8") as int8, Classifier(tmp_path / "net", "fp32") as exact:
        assert int8(CAT)[0].index == exact(CAT)[0].index


@pytest.mark.parametrize("alike", [True, False])
def test_what_held_out_samples_say_of_biases_is_done(alike: bool, tmp_path: Path) -> None:
    """Biases make up for the mean error of the samples that were seen; here, those held out have another sign, or not."""
    rng = np.random.default_rng(0)
    arrays = (3 + rng.standard_normal((16, 3, 32, 32)) / 10).astype(np.float32)
    parts = split(InMemory(arrays), 16)
    if not alike:
        for number in (*parts[1].numbers, min(parts[0].numbers)):  # one of those that were seen, for the ranges
            arrays[number] *= -1
    config = QuantizeConfig(method=Auto(candidates=(MinMax(),)), effort="fast")
    manifest = job(tmp_path / "net", calib=list(arrays), calib_images=16, quantize=config).bundle.manifest
    chosen = (manifest.calibration or {})["chosen"]["int8"]
    better = chosen["scores"][0]["sqnr_db"] >= chosen["uncorrected"]["sqnr_db"]
    steps = {step.stage: step for step in manifest.variants["int8"].lineage}
    assert steps["quantize"].config["bias_correction"] == better == alike


def test_preprocessing_and_softmax_inside_the_graph(tmp_path: Path) -> None:
    plain = job(tmp_path / "plain")
    inside = job(tmp_path / "inside", embed_preprocess=True, embed_softmax=True, fp16=True)
    assert inside, "\n".join(inside.report.lines())
    for variant in inside.bundle.manifest.variants.values():
        assert variant.inputs[0].dtype == "uint8"
        assert variant.inputs[0].shape == ("batch", 32, 32, 3)
    for name in plain.bundle.variants:
        with Classifier(tmp_path / "plain", name) as one, Classifier(tmp_path / "inside", name) as two:
            pairs = zip(one(CAT, top=4), two(CAT, top=4), strict=True)
            assert all(a.index == b.index and abs(a.probability - b.probability) < 1e-4 for a, b in pairs)
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    with load(tmp_path / "inside", "fp32") as session:
        probabilities = session.run({"input": pixels})[session.outputs[0].name]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("form", ["standard", "gridsample", "plugin"])
def test_deformable_convolution_in_three_forms(form: str, tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", net(deform=True), deform=form, fp16=True)
    assert outcome, "\n".join(outcome.report.lines())
    for name, variant in outcome.bundle.variants.items():
        operators = {node.op_type for node in onnx.load(tmp_path / "net" / variant.file).graph.node}
        found = operators & {"DeformConv", "GridSample", "DeformConv2d"}
        assert found == {{"standard": "DeformConv", "gridsample": "GridSample", "plugin": "DeformConv2d"}[form]}, name


def test_a_static_batch(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", export=ExportConfig(batch=3), measure_seconds=0.01)
    assert outcome
    assert outcome.bundle.manifest.variants["int8"].inputs[0].shape == (3, 3, 32, 32)
    assert set(outcome.timings) == {"fp32", "int8", "int8-cpu"}


@pytest.mark.parametrize("stage", ["simplify", "quantize"])
def test_a_graph_that_departs_is_named_and_its_bundle_refused(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotaged(*arguments: Any, to: Path, **keywords: Any) -> Any:
        result = original(*arguments, to=to, **keywords)
        graph = load_ir(result.model.path)
        (value,) = (
            v for v in graph.graph.initializers.values() if "bias" in str(v.name) and list(v.shape or ()) == [4]
        )
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() + 3 * np.arange(4, dtype=np.float32), name=value.name)
        broken = save_ir(graph, to, precision=result.model.precision, lineage=result.model.lineage)
        return replace(result, model=broken)

    original = getattr(variants_module, stage)
    monkeypatch.setattr(variants_module, stage, sabotaged)
    outcome = job(tmp_path / "net", target="tensorrt")
    assert not outcome
    first = outcome.report.first_departure
    assert first is not None
    assert first.name == ("int8" if stage == "quantize" else "fp32")
    assert not outcome.bundle.manifest.verified
    with pytest.raises(BundleUnverifiedError):
        load(tmp_path / "net")
    load(tmp_path / "net", allow_unverified=True).close()


def test_a_second_run_reuses_the_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    first = job(tmp_path / "one", use_cache=True)
    second = job(tmp_path / "two", use_cache=True)
    assert first.bundle.manifest.calibration is not None
    assert second.bundle.manifest.calibration is not None
    assert not first.bundle.manifest.calibration["reused"]
    assert second.bundle.manifest.calibration["reused"]
    assert {n: v.sha256 for n, v in first.bundle.manifest.files.items() if n.endswith(".onnx")} == {
        n: v.sha256 for n, v in second.bundle.manifest.files.items() if n.endswith(".onnx")
    }


def test_calibration_on_tensors_at_hand(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    tensors = (draw.standard_normal((3, 32, 32), np.float32) for _ in range(12))
    used = job(tmp_path / "net", calib=tensors, target="tensorrt").bundle.manifest.calibration
    assert used is not None
    assert (used["kind"], used["count"]) == ("tensors", QUICK.calib_images)
    with pytest.raises(DataError, match="calibration source 5 is neither a path nor an iterable of arrays"):
        job(tmp_path / "other", calib=5)


def test_an_existing_destination_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "precious.txt").write_text("mine")
    with pytest.raises(OutputError):
        job(tmp_path / "net")
    assert (tmp_path / "net" / "precious.txt").read_text() == "mine"


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SpecError, match="deform 'dcn' is not one of auto, standard, gridsample, plugin"):
        PipelineConfig(deform="dcn")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="verify_images"):
        PipelineConfig(verify_images=0)
    with pytest.raises(SpecError, match=r"^keep_float, effort: how to quantize is for INT8; ask for int8 too$"):
        PipelineConfig(quantize=QuantizeConfig(method=Auto(), effort="fast", keep_float=("fc",)), fp16=True)
    with pytest.raises(SpecError, match="plugins are libraries of an engine's operators: ask for target tensorrt too"):
        PipelineConfig(plugins=(Path("mine.so"),), target="cpu")
    assert PipelineConfig(plugins=(Path("mine.so"),), target="tensorrt").plugins


def test_the_bundle_opens_as_written(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net")
    again = Bundle.open(tmp_path / "net")
    assert again.manifest.to_json() == outcome.bundle.manifest.to_json()
