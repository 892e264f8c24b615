"""Which layer makes the noise, and a budget that returns it to float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory, MinMax
from edgecnn.calib.statistics import Statistics
from edgecnn.errors import DataError
from edgecnn.export import ExportConfig, export
from edgecnn.pipeline.budget import HeldOut, Within, within_budget
from edgecnn.quantize import QuantizeConfig, QuantizeResult, statistics_for
from edgecnn.quantize.known import Known
from edgecnn.quantize.search import Budget, Search
from edgecnn.quantize.sensitivity import cheapest_first, exactly, logits_of, sensitivities
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

SPEC = ModelSpec(
    name="planted",
    builder="net:build",
    family="user",
    num_classes=4,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 16, 16)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 4)),),
    preprocess=Preprocess(size=(16, 16), resize=16),
)
CONFIG = QuantizeConfig(method=MinMax(), bias_correction=False, effort="fast")
BAD = "4/Conv"


def samples(count: int, seed: int) -> InMemory:
    return InMemory(np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Four convolutions; one channel that the third reads is 500 times as large as the others, and nearly ignored by it."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]
    with torch.no_grad():
        convs[1].weight[2] *= 500
        convs[2].weight[:, 2] /= 500
    layers = [part for conv in convs for part in (conv, nn.ReLU())]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    return export(net, SPEC, to=tmp_path_factory.mktemp("planted") / "net.onnx")


@pytest.fixture(scope="module")
def statistics(model: OnnxModel) -> Statistics:
    return statistics_for(model, samples(8, 0), [CONFIG])


def test_the_planted_layer_makes_most_noise_and_returns_first(model: OnnxModel, statistics: Statistics) -> None:
    found = sensitivities(model, samples(4, 1), CONFIG, statistics)
    assert [item.node for item in found] == ["0/Conv", "2/Conv", BAD, "6/Conv", "10/Gemm"], "in graph order"
    noises = {item.node: item.noise for item in found}
    assert noises[BAD] > 10 * max(noise for name, noise in noises.items() if name != BAD)
    assert cheapest_first(found)[0] == BAD
    assert found[1].macs == 8 * 8 * 9 * 12 * 12


def test_a_search_that_was_cut_goes_on_where_it_was(
    model: OnnxModel, statistics: Statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.quantize import sensitivity

    feeds = samples(2, 1)
    whole = sensitivities(model, feeds, CONFIG, statistics)
    asked: list[str] = []
    real = sensitivity._Runner.noise_of

    def cut(self: sensitivity._Runner, name: str) -> float:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(name)
        return real(self, name)

    monkeypatch.setattr(sensitivity._Runner, "noise_of", cut)
    with pytest.raises(KeyboardInterrupt):
        sensitivities(model, feeds, CONFIG, statistics, cache=tmp_path)
    monkeypatch.setattr(sensitivity._Runner, "noise_of", lambda self, name: asked.append(name) or real(self, name))
    assert sensitivities(model, feeds, CONFIG, statistics, cache=tmp_path) == whole
    assert asked == [item.node for item in whole], "none was measured twice"


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_a_budget_returns_the_planted_layer_alone(
    model: OnnxModel, statistics: Statistics, tmp_path: Path, scheme: str
) -> None:
    config = replace(CONFIG, scheme=scheme)
    counted = statistics_for(model, samples(8, 0), [config])

    def attempt(least: float) -> tuple[QuantizeResult, Search]:
        how = Within(budget=Budget(min_sqnr_db=least), held_out=HeldOut(samples(16, 2)))
        return within_budget(model, samples(8, 0), config, how, to=tmp_path / "q.onnx", statistics=counted)

    _, without = attempt(-100)
    assert without.restored == ()
    made, found = attempt(without.best.sqnr_db + 6)
    assert found
    # Where outputs are integer too, the tensor that it reads is float again only when its producer is.
    assert found.restored == ((BAD,) if scheme == "int8" else (BAD, "2/Conv"))
    assert not found.trials[0].holds
    floats = [decision.node for decision in made.placement.decisions if not decision.quantized]
    assert BAD in floats


def test_a_budget_that_cannot_be_kept_is_a_result(model: OnnxModel, statistics: Statistics, tmp_path: Path) -> None:
    how = Within(budget=Budget(min_sqnr_db=140), held_out=HeldOut(samples(4, 2)))
    made, found = within_budget(model, samples(8, 0), CONFIG, how, to=tmp_path / "q.onnx", statistics=statistics)
    assert not found
    assert made.model.path.exists()
    assert found.best.sqnr_db == max(trial.sqnr_db for trial in found.trials)


def test_a_budget_search_that_was_cut_goes_on_where_it_was(
    model: OnnxModel, statistics: Statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.pipeline import budget

    asked: list[Path] = []
    real = budget._Measure.of

    def attempt(most: int) -> tuple[QuantizeResult, Search]:
        def cut(self: budget._Measure, path: Path) -> tuple[float, float]:
            if len(asked) == most:
                raise KeyboardInterrupt
            asked.append(path)
            return real(self, path)

        monkeypatch.setattr(budget._Measure, "of", cut)
        how = Within(budget=Budget(min_sqnr_db=140), held_out=HeldOut(samples(4, 2)), cache=tmp_path)
        return within_budget(model, samples(8, 0), CONFIG, how, to=tmp_path / "q.onnx", statistics=statistics)

    with pytest.raises(KeyboardInterrupt):
        attempt(2)
    _, first = attempt(99)
    assert len(asked) == len(first.trials), "none was measured twice"
    made, again = attempt(0)
    assert again == first, "a second search measures nothing"
    floats = {decision.node for decision in made.placement.decisions if not decision.quantized}
    assert set(again.restored) <= floats, "and makes the graph"


@pytest.mark.parametrize("text", ["[]", '{"a": [1]}', "{", '{"a": "x"}'])
def test_a_damaged_file_of_trials_counts_as_absent(text: str, tmp_path: Path) -> None:
    from edgecnn.pipeline.budget import _measured

    empty = Known(tmp_path, "trials", ["key"], _measured)
    assert empty.path is not None
    empty.path.write_text(text)
    assert not Known(tmp_path, "trials", ["key"], _measured).values
    empty.add("whole", ("0.5", "inf"))
    assert Known(tmp_path, "trials", ["key"], _measured).values == {"whole": ("0.5", "inf")}


def test_a_static_batch_is_filled(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).eval()
    paths = [export(net, SPEC, ExportConfig(batch=batch), to=tmp_path / f"{batch}.onnx").path for batch in (None, 3)]
    dynamic, static = (logits_of(path, samples(4, 5)) for path in paths)
    assert static.shape == (4, 4)
    np.testing.assert_allclose(static, dynamic, rtol=0, atol=1e-6)


def test_no_samples_is_an_error(model: OnnxModel) -> None:
    with pytest.raises(DataError, match="no sample"):
        logits_of(model.path, [])


def test_exact_patterns_find_one_node() -> None:
    assert exactly(["a.b/Conv"]) == (r"^a\.b/Conv$",)
