"""Sample sets: deterministic, re-iterable, honest about calibration images, and pixels that give the tensors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from parity_nets import INPUT, PREPROCESS, pictures

from edgecnn.calib.data import InMemory, open_samples
from edgecnn.errors import DataError, UserError
from edgecnn.parity.samples import (
    SampleSet,
    edge_inputs,
    feed_for,
    from_arrays,
    from_pixels,
    gaussian,
    held_out,
    real_images,
)
from edgecnn.runtime.fake import FakeSession
from edgecnn.runtime.preprocess import normalize
from edgecnn.spec import TensorSpec


def tensors(count: int, seed: int = 0) -> list[np.ndarray]:
    return [normalize(picture, PREPROCESS) for picture in pictures(count, seed)]


@pytest.mark.parametrize(
    "made", [gaussian(INPUT), gaussian(INPUT, PREPROCESS), edge_inputs(INPUT), edge_inputs(INPUT, PREPROCESS)]
)
def test_synthetic_sets_give_the_same_valid_inputs_each_time(made: SampleSet) -> None:
    first, second = list(made), list(made)
    assert len(first) >= 6
    for one, two in zip(first, second, strict=True):
        assert one.feed["input"].shape == (1, 3, 32, 32)
        assert one.feed["input"].dtype == np.float32
        assert np.isfinite(one.feed["input"]).all()
        np.testing.assert_array_equal(one.feed["input"], two.feed["input"])


@pytest.mark.parametrize(
    "made", [gaussian(INPUT, PREPROCESS), edge_inputs(INPUT, PREPROCESS), from_pixels(pictures(3), PREPROCESS)]
)
def test_pixels_give_exactly_the_tensor(made: SampleSet) -> None:
    with_pixels = [sample for sample in made if sample.pixels is not None]
    assert len(with_pixels) >= 3
    for sample in with_pixels:
        assert sample.pixels is not None
        np.testing.assert_array_equal(normalize(sample.pixels, PREPROCESS), sample.feed["input"])


def test_noise_is_normal_seeded_and_independent_of_the_count() -> None:
    eight = np.concatenate([sample.feed["input"] for sample in gaussian(INPUT, count=8)])
    assert abs(eight.mean()) < 0.02
    assert abs(eight.std() - 1) < 0.02
    three = np.concatenate([sample.feed["input"] for sample in gaussian(INPUT, count=3)])
    np.testing.assert_array_equal(eight[:3], three)
    other = np.concatenate([sample.feed["input"] for sample in gaussian(INPUT, count=3, seed=1)])
    assert np.abs(other - three).max() > 1


def test_edge_inputs_are_what_they_are_called() -> None:
    found = {sample.name: sample for sample in edge_inputs(INPUT, PREPROCESS)}
    assert set(found) == {"all zeros", "all ones", "one hot pixel", "all black", "all white", "checkerboard"}
    assert not found["all zeros"].feed["input"].any()
    assert (found["all ones"].feed["input"] == 1).all()
    assert found["all zeros"].pixels is None
    assert found["all ones"].pixels is None
    hot = found["one hot pixel"].pixels
    assert hot is not None
    assert (np.count_nonzero(hot), hot.max()) == (3, 255)
    low, high = found["all black"].feed["input"], found["all white"].feed["input"]
    board = found["checkerboard"].feed["input"]
    assert (board.min(axis=(0, 2, 3)) == low.min(axis=(0, 2, 3))).all()
    assert (board.max(axis=(0, 2, 3)) == high.max(axis=(0, 2, 3))).all()


def test_edge_inputs_as_pixels_leave_none_out_and_give_both_forms_the_same_values() -> None:
    found = {sample.name: sample for sample in edge_inputs(INPUT, PREPROCESS, pixels=True)}
    assert list(found) == [sample.name for sample in edge_inputs(INPUT, PREPROCESS)]
    half_a_level = 0.5 / 255 / min(PREPROCESS.std) + 1e-6
    for name, value in (("all zeros", 0), ("all ones", 1)):
        assert np.abs(found[name].feed["input"] - value).max() <= half_a_level
    for sample in found.values():
        assert sample.pixels is not None
        np.testing.assert_array_equal(normalize(sample.pixels, PREPROCESS), sample.feed["input"])
    with pytest.raises(UserError, match="need a preprocessing"):
        edge_inputs(INPUT, pixels=True)


def test_calibration_images_are_left_out_where_others_are_given() -> None:
    every = InMemory(tensors(10))
    used = InMemory(tensors(10)[:6])
    rest = held_out(every, used)
    np.testing.assert_array_equal(np.concatenate([s.feed["input"] for s in rest]), np.concatenate(tensors(10)[6:]))
    assert "none of them was used for calibration" in rest.note
    assert len(list(held_out(every, used, limit=2))) == 2


def test_calibration_images_alone_are_used_and_said_so() -> None:
    every = InMemory(tensors(4))
    same = held_out(every, every)
    assert len(list(same)) == 4
    assert same.note == "calibration images: no others were given"


def test_a_folder_of_images_brings_its_pixels(tmp_path) -> None:
    from PIL import Image

    for index, picture in enumerate(pictures(3)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    found = list(real_images(open_samples(tmp_path, PREPROCESS), limit=2))
    assert len(found) == 2
    for sample in found:
        assert sample.pixels is not None
        np.testing.assert_array_equal(normalize(sample.pixels, PREPROCESS), sample.feed["input"])


def test_a_source_that_loses_pictures_while_it_is_read_is_an_error() -> None:
    class Leaky(list[dict[str, np.ndarray]]):
        def pixels(self) -> Iterator[np.ndarray]:
            return iter(pictures(1))

    with pytest.raises(DataError, match="fewer pictures than tensors"):
        list(real_images(Leaky({"input": t} for t in tensors(2))))


def test_batches_are_cut_into_single_samples() -> None:
    array = np.concatenate(tensors(5))
    found = list(from_arrays([{"input": array[:2]}, {"input": array[2:]}]))
    assert [sample.feed["input"].shape for sample in found] == [(1, 3, 32, 32)] * 5
    np.testing.assert_array_equal(np.concatenate([sample.feed["input"] for sample in found]), array)
    with pytest.raises(UserError, match="different batch sizes"):
        list(from_arrays([{"a": array[:2], "b": array}]))


def test_one_shot_iterators_are_refused() -> None:
    with pytest.raises(UserError, match="read more than once"):
        from_arrays({"input": t} for t in tensors(2))
    with pytest.raises(UserError, match="read more than once"):
        from_pixels(iter(pictures(2)), PREPROCESS)


def test_sets_take_no_memory() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in gaussian(INPUT, count=count):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(300) < peak(10) + 100_000


def test_what_a_session_is_fed() -> None:
    out = [TensorSpec(name="logits", shape=("batch", 2))]
    floats = FakeSession([INPUT], out, {})
    pixels = FakeSession([TensorSpec(name="input", shape=("batch", 32, 32, 3), dtype="uint8")], out, {})
    samples = list(from_pixels(pictures(3), PREPROCESS))
    assert feed_for(floats, samples)["input"].shape == (3, 3, 32, 32)
    assert feed_for(pixels, samples)["input"].shape == (3, 32, 32, 3)
    with pytest.raises(UserError, match="takes pixels"):
        feed_for(pixels, [*samples, *list(gaussian(INPUT, count=1))])
    with pytest.raises(UserError, match="no 'input'; they have \\['x'\\]"):
        feed_for(floats, list(from_arrays([{"x": tensors(1)[0]}])))


@pytest.mark.parametrize("shape", [("batch", 3), ("batch", 3, "height", "width")])
def test_only_images_of_a_known_size_can_be_made(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(UserError, match=r"\(batch, channels, height, width\)"):
        gaussian(TensorSpec(name="input", shape=shape))
