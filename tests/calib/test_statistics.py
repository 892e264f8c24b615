"""One pass over the samples: what it counts, what it holds in memory, and what the cache keeps of it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import Histogram, ImageFolder, InMemory, MinMax, Mse, Statistics, collect_statistics
from edgecnn.calib.collect import COUNTED, collect
from edgecnn.errors import DataError
from edgecnn.onnxio import expose, open_model, scratch_file
from edgecnn.runtime import OrtSession
from edgecnn.spec import Preprocess


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Write a convolution with a ReLU, for maps of any size."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["out"], "out"),
    ]
    borders = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, f"{name}h", f"{name}w"])]
        for name, channels in (("input", 3), ("out", 4))
    ]
    graph = helper.make_graph(nodes, "g", *borders, [numpy_helper.from_array(weight, "w")])
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return open_model(path)


def noise(count: int, size: int = 16, seed: int = 0) -> InMemory:
    """Return noisy samples."""
    return InMemory(np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32))


def expected(model: OnnxModel, samples: InMemory, name: str) -> np.ndarray:
    """Return every value of a tensor over the samples, (N, C, H, W)."""
    with scratch_file(expose(model.path, [name])) as file, OrtSession(file) as session:
        return np.concatenate([session.run(feed)[name] for feed in samples])


def test_small_tensors_are_counted_whole_and_averaged_exactly(model: OnnxModel) -> None:
    samples = noise(9)
    found = collect(model.path, samples, ["conv", "input"], ["conv", "input"])
    for name in ("conv", "input"):
        values = expected(model, samples, "conv") if name == "conv" else np.concatenate([f["input"] for f in samples])
        whole = Histogram()
        whole.add(values)
        histogram = found.histograms[name]
        assert (histogram.total, histogram.low, histogram.high) == (values.size, values.min(), values.max())
        assert np.abs(histogram.counts - whole.counts).sum() <= 0.001 * values.size
        assert np.allclose(found.means[name], values.mean(axis=(0, 2, 3), dtype=np.float64), atol=1e-7)


def test_large_tensors_are_thinned(model: OnnxModel) -> None:
    samples = noise(6, size=202)
    found = collect(model.path, samples, ["conv"], ["conv"])
    values = expected(model, samples, "conv")
    histogram, whole = found.histograms["conv"], Histogram()
    whole.add(values)
    assert 0.5 * COUNTED < histogram.total / len(samples) < 2 * COUNTED < values[0].size
    assert np.allclose(found.means["conv"], values.mean(axis=(0, 2, 3)), atol=0.1)
    ranges = [Mse().range_of(item, symmetric=True)[1] for item in (histogram, whole)]
    assert abs(ranges[0] / ranges[1] - 1) < 0.03


def test_extremes_are_those_of_all_values(model: OnnxModel) -> None:
    samples = noise(6, size=202)
    samples.items[3]["input"][0, 1, 77, 91] = 40.0  # one value among 700 thousand
    histogram = collect(model.path, samples, ["conv"]).histograms["conv"]
    values = expected(model, samples, "conv")
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert MinMax().range_of(histogram, symmetric=False) == (values.min(), values.max())


def test_thinning_sees_every_position_over_the_samples(model: OnnxModel) -> None:
    from edgecnn.calib.collect import _thinned

    value = np.arange(4 * 200 * 200, dtype=np.float32).reshape(1, 4, 200, 200)
    seen = np.concatenate([np.ravel(_thinned(value, index)) for index in range(11)])
    assert np.array_equal(np.unique(seen), np.ravel(value))


def test_the_result_does_not_depend_on_the_number_of_threads(model: OnnxModel) -> None:
    one, three = (collect(model.path, noise(10, size=40), ["conv"], ["conv"], threads=n) for n in (1, 3))
    assert np.array_equal(one.histograms["conv"].counts, three.histograms["conv"].counts)
    assert np.array_equal(one.means["conv"], three.means["conv"])


def test_merged_histograms_count_as_one(model: OnnxModel) -> None:
    parts = [np.random.default_rng(i).standard_normal(4000).astype(np.float32) * 5**i for i in (2, 0, 3, 1)]
    whole, merged = Histogram(), Histogram()
    for part in parts:
        whole.add(part)
        other = Histogram()
        other.add(part)
        merged.merge(other)
    merged.merge(Histogram())
    assert (merged.low, merged.high, merged.reach, merged.total) == (whole.low, whole.high, whole.reach, whole.total)
    assert np.abs(merged.counts - whole.counts).sum() <= 0.001 * whole.total


def test_few_samples_are_held_at_once(model: OnnxModel) -> None:
    held: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Stream(InMemory):
        def __len__(self) -> int:
            return 200

        def __iter__(self) -> Iterator[dict[str, Any]]:
            nonlocal most
            for _ in range(200):
                array = np.ones((1, 3, 16, 16), np.float32)
                held.append(weakref.ref(array))
                most = max(most, sum(ref() is not None for ref in held))
                yield {"input": array}
                del array

    collect(model.path, Stream([np.zeros((3, 16, 16), np.float32)]), ["conv"], ["conv"], threads=2)
    assert len(held) == 200
    assert most <= 6  # two in work, one waiting, one being read, and what the threads have not let go of yet


def test_a_failing_sample_ends_the_pass(model: OnnxModel) -> None:
    samples = noise(12)
    samples.items[5]["input"][0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="conv holds NaN"):
        collect(model.path, samples, ["conv"])


def test_the_file_gives_back_what_was_saved(model: OnnxModel, tmp_path: Path) -> None:
    first = collect_statistics(model, noise(5), ["conv", "out"], ["conv"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    again = Statistics.load(file)
    assert again.hashes == first.hashes
    assert again.ranges(["conv", "out"], Mse(), symmetric=False) == first.ranges(
        ["conv", "out"], Mse(), symmetric=False
    )
    assert np.array_equal(again.means["conv"], first.means["conv"])
    assert (again.reused, first.reused) == (True, False)


def test_what_the_file_lacks_is_collected_and_added(model: OnnxModel, tmp_path: Path, monkeypatch: Any) -> None:
    from edgecnn.calib import statistics as module

    asked: list[tuple[list[str], list[str]]] = []

    def spy(path: Path, samples: Any, tensors: list[str], means: list[str], **options: Any) -> Any:
        asked.append((list(tensors), list(means)))
        return collect(path, samples, tensors, means, **options)

    monkeypatch.setattr(module, "collect", spy)
    for tensors, means in ((["conv"], []), (["out", "conv"], []), (["out"], ["out"]), (["conv", "out"], ["out"])):
        collect_statistics(model, noise(3), tensors, means, cache=tmp_path)
    assert asked == [(["conv"], []), (["out"], []), ([], ["out"])]
    assert len(list(tmp_path.iterdir())) == 1


def test_other_samples_and_other_models_miss(model: OnnxModel, tmp_path: Path) -> None:
    collect_statistics(model, noise(3), ["conv"], cache=tmp_path)
    assert not collect_statistics(model, noise(3, seed=1), ["conv"], cache=tmp_path).reused
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_counts_as_absent(model: OnnxModel, tmp_path: Path) -> None:
    right = collect_statistics(model, noise(3), ["conv"], ["conv"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    for damage in range(150):
        data = bytearray(whole)
        position = int(generator.integers(len(data)))
        if damage % 3 == 0:
            del data[position:]
        else:
            data[position] ^= int(generator.integers(1, 256))
        file.write_bytes(data)
        try:
            found = Statistics.load(file)
        except DataError:
            continue
        # What a flipped bit in a zip's time stamps leaves whole.
        assert np.array_equal(found.histograms["conv"].counts, right.histograms["conv"].counts)
        assert np.array_equal(found.means["conv"], right.means["conv"])
    file.write_bytes(whole[:-20])
    assert not collect_statistics(model, noise(3), ["conv"], cache=tmp_path).reused
    assert collect_statistics(model, noise(3), ["conv"], cache=tmp_path).reused


def test_a_file_whose_content_is_not_statistics_is_refused(model: OnnxModel, tmp_path: Path) -> None:
    collect_statistics(model, noise(3), ["conv"], ["conv"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    with np.load(file) as loaded:
        parts = dict(loaded)

    def refused(**changes: Any) -> bool:
        np.savez(file, **(parts | changes))
        try:
            Statistics.load(file)
        except DataError:
            return True
        return False

    header = json.loads(parts["header"].tobytes())
    assert not refused()
    assert refused(counts=parts["counts"] - 1)
    assert refused(counts=parts["counts"][:, :100])
    assert refused(bounds=parts["bounds"] * np.nan)
    assert refused(bounds=parts["bounds"][:, ::-1])
    assert refused(means=parts["means"][1:])
    assert refused(header=np.frombuffer(json.dumps(header | {"format": 0}).encode(), np.uint8))
    assert refused(header=np.array([object()]))


def test_how_many_pictures_were_skipped_is_kept(model: OnnxModel, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for index in range(19):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    (folder / "900.png").write_bytes(b"no picture")
    for reused in (False, True):
        samples = ImageFolder(folder, Preprocess(size=(16, 16), resize=18))
        found = collect_statistics(model, samples, ["conv"], cache=tmp_path / "cache")
        assert (found.reused, found.skipped, samples.describe()["skipped"]) == (reused, 1, 1)


def test_a_tensor_that_was_not_counted_is_named(model: OnnxModel) -> None:
    found = collect_statistics(model, noise(2), ["conv"])
    with pytest.raises(DataError, match="no histogram of tensor 'out'"):
        found.ranges(["out"], MinMax(), symmetric=True)
    with pytest.raises(DataError, match="no mean of tensor 'conv'"):
        found.means_of(["conv"])
