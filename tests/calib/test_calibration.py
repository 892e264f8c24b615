"""Samples, histograms, methods and the content-keyed ranges, on real pictures and a real graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgecnn.calib import (
    ArrayFile,
    Entropy,
    Histogram,
    ImageFolder,
    InMemory,
    MinMax,
    Mse,
    Percentile,
    Photos,
    Together,
    calibrate,
    parse,
)
from edgecnn.calib.histogram import BINS
from edgecnn.errors import DataError, SpecError
from edgecnn.onnxio import open_model
from edgecnn.spec import Preprocess

SMALL = Preprocess(size=(16, 16), resize=18)


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """Write noisy pictures."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (count, 24, 30, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def graph(path: Path, seed: int = 0) -> Path:
    """Write a convolution with a ReLU."""
    weight = np.random.default_rng(seed).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["out"], "out"),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 14, 14])]
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_histogram_that_grows_counts_as_numpy_does() -> None:
    values = [np.random.default_rng(i).standard_normal(5000).astype(np.float32) * 3**i for i in range(4)]
    histogram = Histogram()
    for part in values:
        histogram.add(part)
    every = np.concatenate(values)
    expected, _ = np.histogram(every, BINS, (-histogram.reach, histogram.reach))
    assert histogram.total == every.size == histogram.counts.sum()
    assert (histogram.low, histogram.high) == (every.min(), every.max())
    # float32 rounds a value at a border to the other side of it now and then
    assert np.abs(histogram.counts - expected).sum() <= 0.001 * every.size


def test_nan_is_named() -> None:
    with pytest.raises(DataError, match="relu holds NaN"):
        Histogram().add(np.array([1.0, np.nan], np.float32), "relu")


def test_mse_is_near_the_best_clip_by_brute_force() -> None:
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)

    def error(peak: float) -> float:
        scale = peak / 127
        return float(np.mean((values - np.clip(np.rint(values / scale), -127, 127) * scale) ** 2))

    found = Mse().range_of(histogram, symmetric=True)[1]
    best = min(error(histogram.high * share) for share in np.linspace(0.1, 1, 181))
    assert error(found) <= 1.02 * best
    assert error(found) < error(MinMax().range_of(histogram, symmetric=True)[1])


def test_percentile_leaves_a_heavy_tail_out_and_minmax_keeps_it() -> None:
    values = np.append(np.random.default_rng(0).random(100_000), 1000.0).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    assert MinMax().range_of(histogram, symmetric=False) == (0.0, 1000.0)
    assert Percentile(99.9).range_of(histogram, symmetric=False)[1] < 2


@pytest.mark.parametrize("zeros", [0, 200_000])
def test_entropy_clips_a_tail_whatever_the_share_of_zeros(zeros: int) -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=50_000)).astype(np.float32)
    histogram = Histogram()
    histogram.add(np.concatenate([values, np.zeros(zeros, np.float32)]))
    low, high = Entropy().range_of(histogram, symmetric=True)
    assert -low == high
    # it keeps the bulk, and gives up a few of the largest for finer steps
    assert np.quantile(values, 0.98) < high < values.max()


@pytest.mark.parametrize("text", ["mean", "percentile:x", "percentile:10", "entropy:3"])
def test_an_unknown_method_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)


def test_the_cache_misses_on_one_pixel_one_weight_and_one_mean(tmp_path: Path) -> None:
    folder, model = pictures(tmp_path / "p", 3), open_model(graph(tmp_path / "a.onnx"))

    def reused(preprocess: Preprocess = SMALL, of: object = model) -> bool:
        samples = ImageFolder(folder, preprocess)
        return calibrate(of, samples, ["conv"], Mse(), symmetric=True, cache=tmp_path / "cache").reused  # type: ignore[arg-type]

    assert [reused(), reused()] == [False, True]
    assert not reused(replace(SMALL, mean=(0.485, 0.456, 0.407)))
    assert not reused(of=open_model(graph(tmp_path / "b.onnx", seed=1)))
    pixels = np.array(Image.open(folder / "001.png"))
    pixels[3, 4, 0] ^= 1
    Image.fromarray(pixels).save(folder / "001.png")
    assert [reused(), reused()] == [False, True]
    for file in (tmp_path / "cache").iterdir():
        file.write_text("{")
    assert not reused()


def test_corrupt_pictures_are_skipped_up_to_a_tenth(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 19)
    (folder / "900.png").write_bytes(b"no picture")
    samples = ImageFolder(folder, SMALL)
    assert (len(list(samples)), samples.skipped, len(samples)) == (19, 1, 20)
    for index in range(901, 904):
        (folder / f"{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match="more than 10 %"):
        list(ImageFolder(folder, SMALL))


def test_folders_without_pictures_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        ImageFolder(tmp_path, SMALL)
    with pytest.raises(DataError, match="not there"):
        ImageFolder(tmp_path / "none", SMALL)


def test_what_calibration_leaves_out_is_the_rest(tmp_path: Path) -> None:
    samples = ImageFolder(pictures(tmp_path / "p", 10), SMALL, limit=4)
    rest = samples.rest()
    assert rest is not None
    assert len(samples) == 4
    assert not set(samples.paths) & set(rest.paths)
    assert len(rest) == 6
    assert ImageFolder(tmp_path / "p", SMALL).rest() is None


def test_the_photos_are_the_same_each_time() -> None:
    first, second = Photos(SMALL, limit=7), Photos(SMALL, limit=7)
    assert first.fingerprint() == second.fingerprint()
    tensors = [feed["input"] for feed in first]
    assert len(tensors) == 7
    assert tensors[0].shape == (1, 3, 16, 16)
    assert all(np.array_equal(a, b["input"]) for a, b in zip(tensors, second, strict=True))


def test_array_files(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", input=array)
    for name in ("x.npy", "x.npz"):
        assert np.array_equal(np.concatenate([feed["input"] for feed in ArrayFile(tmp_path / name)]), array)
    np.save(tmp_path / "bad.npy", array.astype(np.float64))
    with pytest.raises(DataError, match="must hold float32"):
        ArrayFile(tmp_path / "bad.npy")


def test_a_damaged_array_file_is_named_whatever_numpy_raises(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", input=np.random.default_rng(0).random((4, 3, 8, 8), np.float32))
    whole = (tmp_path / "x.npz").read_bytes()
    header = b"\x93NUMPY\x01\x00\x10\x00{'a':((((((((((\n"
    damaged = {
        "cut.npz": whole[:-30],
        "bit.npz": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        "x.npy": header,
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} cannot be read as \.npy or \.npz: "):
            ArrayFile(tmp_path / name)


def test_sources_together_are_one_source() -> None:
    first, second = (
        InMemory([np.zeros((3, 4, 4), np.float32)], name="a"),
        InMemory(np.ones((2, 3, 4, 4), np.float32), name="b"),
    )
    both = Together([first, second])
    assert (both.name, len(both), both.skipped) == ("a+b", 3, 0)
    assert [float(feed["input"].mean()) for feed in both] == [0, 1, 1]
    assert len(list(both)) == 3, "read again with each iteration"
    assert both.fingerprint() != Together([second, first]).fingerprint() != first.fingerprint()
    assert both.describe()["count"] == 3
    assert both.pictures() is None
    assert both.pixels() is None
