"""The choice of a range method: by measurement, on samples that no range was taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest
from onnx import TensorProto

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import Auto, Entropy, ImageFolder, InMemory, Method, MinMax, Mse, Percentile, PNorm, split
from edgecnn.errors import SpecError
from edgecnn.onnxio import open_model, save_ir
from edgecnn.quantize import QuantizeConfig, quantize, statistics_for
from edgecnn.spec import Preprocess

CHANNELS, CLASSES, SIZE = 8, 16, 32


def network(path: Path, activation: str, rng: np.random.Generator) -> OnnxModel:
    """Write two convolutions with an activation between them, a mean over the positions, and a classifier."""
    import onnx_ir as ir

    def constant(shape: tuple[int, ...], name: str) -> Any:
        return nh.from_array((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name)

    act = {
        "relu6": [oh.make_node("Clip", ["a", "zero", "six"], ["b"], "act")],
        "silu": [oh.make_node("Sigmoid", ["a"], ["s"], "gate"), oh.make_node("Mul", ["a", "s"], ["b"], "act")],
    }[activation]
    nodes = [
        oh.make_node("Conv", ["input", "w1"], ["a"], "first"),
        *act,
        oh.make_node("Conv", ["b", "w2"], ["c"], "second"),
        oh.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        oh.make_node("Flatten", ["p"], ["f"], "flat"),
        oh.make_node("Gemm", ["f", "w3"], ["logits"], "fc", transB=1),
    ]
    weights = [constant((CHANNELS, 3, 1, 1), "w1"), constant((CHANNELS, CHANNELS, 1, 1), "w2")]
    weights += [constant((CLASSES, CHANNELS), "w3")]
    weights += [nh.from_array(np.float32(0), "zero"), nh.from_array(np.float32(6), "six")]
    graph = oh.make_graph(
        nodes,
        "net",
        [oh.make_tensor_value_info("input", TensorProto.FLOAT, ("batch", 3, SIZE, SIZE))],
        [oh.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", CLASSES))],
        weights,
    )
    made = ir.from_proto(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10))
    save_ir(made, path)
    return open_model(path)


def quiet_with_a_spike(rng: np.random.Generator) -> InMemory:
    """Return inputs of which one value in a hundred thousand is a thousand times as large as the others."""
    arrays = rng.standard_normal((32, 3, SIZE, SIZE)).astype(np.float32)
    arrays[0, 1, 7, 9] = 3000
    return InMemory(arrays)


def loud(rng: np.random.Generator) -> InMemory:
    """Return inputs whose few large values carry all the meaning: a dark picture with bright squares."""
    arrays = np.abs(rng.standard_normal((32, 3, SIZE, SIZE))).astype(np.float32) * 0.02
    for array in arrays:
        y, x = rng.integers(0, SIZE - 6, 2)
        array[:, y : y + 6, x : x + 6] = rng.uniform(2, 12, (3, 1, 1))
    return InMemory(arrays)


def chosen(model: OnnxModel, samples: InMemory, to: Path, method: Auto | None = None) -> Any:
    """Quantize with a choice and return it."""
    config = QuantizeConfig(method=method or Auto(), effort="fast")
    result = quantize(model, samples, config, to=to)
    assert result.choice is not None
    assert result.ranges.method == result.choice.method.to_json()
    return result.choice


def scores(choice: Any) -> dict[str, float]:
    """Return method -> dB."""
    return {str(score.method): score.sqnr_db for score in choice.scores}


def test_entropy_is_not_chosen_where_it_cuts_off_what_matters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    choice = chosen(network(tmp_path / "net.onnx", "relu6", rng), loud(rng), tmp_path / "q.onnx")
    found = scores(choice)
    assert found["entropy"] < max(found.values()) - 6
    assert not isinstance(choice.method, Entropy)


def test_minmax_is_not_chosen_where_a_spike_takes_all_its_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model, samples = network(tmp_path / "net.onnx", "silu", rng), quiet_with_a_spike(rng)
    choice = chosen(model, samples, tmp_path / "q.onnx")
    found = scores(choice)
    assert found["minmax"] < max(found.values()) - 6
    assert not isinstance(choice.method, MinMax)


def test_what_is_measured_best_is_chosen_whatever_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    model, samples = network(tmp_path / "net.onnx", "relu6", rng), loud(rng)
    bad: tuple[Method, ...] = (Percentile(60), Entropy())
    for candidates in ((*bad, MinMax()), (MinMax(), *bad)):
        choice = chosen(model, samples, tmp_path / "q.onnx", Auto(candidates=candidates))
        assert choice.method == MinMax()
        assert [score.method for score in choice.scores] == list(candidates)
        assert scores(choice)["minmax"] == max(scores(choice).values())


@pytest.mark.parametrize("alike", [True, False])
def test_biases_stay_where_held_out_samples_say_that_correcting_them_loses(alike: bool, tmp_path: Path) -> None:
    """Biases make up for the mean error of the samples that were seen; here, those held out have another sign, or not."""
    rng = np.random.default_rng(7)
    model = network(tmp_path / "net.onnx", "relu6", rng)
    arrays = (3 + rng.standard_normal((16, 3, SIZE, SIZE)) / 10).astype(np.float32)
    if not alike:
        parts = split(InMemory(arrays), 16)
        for number in (*parts[1].numbers, min(parts[0].numbers)):  # one of those that were seen, for the ranges
            arrays[number] *= -1
    config = QuantizeConfig(method=Auto(candidates=(MinMax(),)), effort="fast")
    result = quantize(model, InMemory(arrays), config, to=tmp_path / "q.onnx")
    assert (choice := result.choice) is not None
    assert choice.uncorrected is not None
    assert (scores(choice)["minmax"] > choice.uncorrected.sqnr_db) == choice.corrects_biases == alike
    assert ("biases as they are" in str(choice)) != alike
    assert result.model.lineage[-1].config["bias_correction"] == alike


def test_ranges_are_not_taken_from_what_judges_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    model = network(tmp_path / "net.onnx", "relu6", rng)
    arrays = rng.standard_normal((16, 3, SIZE, SIZE)).astype(np.float32)
    _, held_out = split(InMemory(arrays), 16)
    assert len(held_out) == 2
    for number in held_out.numbers:
        arrays[number] *= 50
    samples, config = InMemory(arrays), QuantizeConfig(method=Auto())
    without = statistics_for(model, samples, [config])
    everything = statistics_for(model, samples, [QuantizeConfig()])
    assert without.histograms["input"].high < 10 < everything.histograms["input"].high


def test_statistics_of_what_is_held_out_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    model = network(tmp_path / "net.onnx", "relu6", rng)
    samples = InMemory(rng.standard_normal((16, 3, SIZE, SIZE)).astype(np.float32))
    everything = statistics_for(model, samples, [QuantizeConfig()])
    config = QuantizeConfig(method=Auto(), effort="fast")
    with pytest.raises(SpecError, match="count the samples that auto holds out"):
        quantize(model, samples, config, to=tmp_path / "q.onnx", statistics=everything)
    assert not (tmp_path / "q.onnx").exists()


def test_a_single_sample_is_not_held_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    model = network(tmp_path / "net.onnx", "relu6", rng)
    choice = chosen(model, InMemory(rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)), tmp_path / "q.onnx")
    assert (choice.method, choice.scores) == (Mse(), ())
    assert "unmeasured" in str(choice)


def test_a_split_keeps_everything_once() -> None:
    samples = InMemory(np.arange(20 * 12, dtype=np.float32).reshape(20, 3, 2, 2))
    rest, held_out = split(samples, 16)
    parts = [{float(feed["input"].flat[0]) for feed in part} for part in (rest, held_out)]
    assert [len(part) for part in parts] == [len(rest), len(held_out)] == [18, 2]
    assert not parts[0] & parts[1]
    assert len({part.fingerprint() for part in (rest, held_out, samples)}) == 3


def test_what_cannot_be_read_is_counted_for_the_whole(tmp_path: Path) -> None:
    from PIL import Image

    for index in range(16):
        Image.fromarray(np.full((40, 40, 3), index, np.uint8)).save(tmp_path / f"{index:02}.png")
    (tmp_path / "05.png").write_bytes(b"no picture")
    samples = ImageFolder(tmp_path, Preprocess(size=(32, 32), resize=36))
    rest, held_out = split(samples, 16)
    assert len(list(rest)) + len(list(held_out)) == 15
    assert rest.skipped == held_out.skipped == samples.skipped == 1


def test_a_p_norm_of_two_is_the_mean_square_and_more_clips_less(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    model = network(tmp_path / "net.onnx", "silu", rng)
    samples = InMemory(rng.laplace(size=(16, 3, SIZE, SIZE)).astype(np.float32))
    statistics = statistics_for(model, samples, [QuantizeConfig()])
    peaks = [
        statistics.ranges(["input"], method, symmetric=True).tensors["input"][1]
        for method in (PNorm(1), PNorm(2), Mse(), PNorm(4), PNorm(16), MinMax())
    ]
    assert peaks[1] == peaks[2]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2] < peaks[3] <= peaks[5]


@pytest.mark.parametrize("bad", [{"candidates": ()}, {"images": 0}])
def test_a_choice_without_candidates_or_images_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Auto(**bad)
