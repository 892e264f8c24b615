"""Preprocessing in C++ is Python's: pixels bit for bit with Pillow's, tensors bit for bit with numpy's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from cpp_tools import CppError, Probe
from PIL import Image

from edgecnn.runtime.preprocess import decode, fit, normalize
from edgecnn.spec import Preprocess

ROOT = Path(__file__).parents[1]
CAT = ROOT / "data" / "cat.jpg"
GOLDEN = ROOT / "golden" / "preprocess.npz"
pytestmark = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow before 13 resizes tall pictures in another order"
)
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
ORDERS = ("resize-crop", "crop-resize")


def in_cpp(
    probe: Probe, folder: Path, image: np.ndarray, config: Preprocess, **more: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and the tensor that C++ makes of uint8 (h, w, 3)."""
    (folder / "image").write_bytes(np.ascontiguousarray(image).tobytes())
    files = {name: folder / name for name in ("image", "pixels", "tensor")}
    sizes = {"height": image.shape[0], "width": image.shape[1]}
    probe("fit", preprocess=config.to_json(), **files, **(sizes | more))
    shape = (*config.size, config.channels)
    pixels = np.frombuffer(files["pixels"].read_bytes(), np.uint8).reshape(shape)
    tensor = np.frombuffer(files["tensor"].read_bytes(), np.float32).reshape(1, config.channels, *config.size)
    return pixels, tensor


def check(probe: Probe, folder: Path, image: np.ndarray, config: Preprocess) -> None:
    """Compare both, without any tolerance."""
    pixels, tensor = in_cpp(probe, folder, image, config)
    wanted = fit(image, config)
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(tensor, normalize(wanted, config))


@pytest.mark.parametrize(("order", "interpolation"), list(itertools.product(ORDERS, FILTERS)))
def test_odd_sizes(probe: Probe, tmp_path: Path, order: Any, interpolation: Any) -> None:
    draw = np.random.default_rng(3)
    for height, width in (
        (1, 1),
        (1, 37),
        (53, 1),
        (7, 11),
        (32, 32),
        (33, 47),
        (101, 67),
        (240, 321),
        (577, 433),
        (32, 5000),
    ):
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for size, resize in (((32, 32), 32), ((32, 32), 37), ((17, 29), 45), ((64, 31), 71)):
            check(
                probe, tmp_path, image, Preprocess(size=size, resize=resize, order=order, interpolation=interpolation)
            )


@pytest.mark.parametrize("interpolation", FILTERS)
def test_extremes(probe: Probe, tmp_path: Path, interpolation: Any) -> None:
    """Edges of black and white, where bicubic and lanczos overshoot; a picture so long that only a part of it is resized."""
    stripes = np.zeros((64, 90, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[::3] = 255 - stripes[::3]
    check(probe, tmp_path, stripes, Preprocess(size=(40, 48), resize=50, interpolation=interpolation))
    line = np.random.default_rng(4).integers(0, 256, (2, 60000, 3), dtype=np.uint8)
    for image in (line, line.transpose(1, 0, 2)):
        check(probe, tmp_path, image, Preprocess(size=(32, 32), resize=48, interpolation=interpolation))


@pytest.mark.parametrize(("order", "interpolation"), list(itertools.product(ORDERS, FILTERS)))
def test_a_photo_as_the_zoo_takes_it(probe: Probe, tmp_path: Path, order: Any, interpolation: Any) -> None:
    image = decode(CAT)
    for colour, channels in (("RGB", 3), ("BGR", 3), ("L", 1)):
        mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
        config = Preprocess(order=order, interpolation=interpolation, colour=colour, mean=mean, std=std)
        check(probe, tmp_path, image, config)


def test_a_photo_of_a_camera(probe: Probe, tmp_path: Path) -> None:
    image = np.asarray(Image.open(CAT).convert("RGB").resize((4031, 3023)))
    check(probe, tmp_path, image, Preprocess(interpolation="bicubic"))


@pytest.mark.parametrize("colour", ["RGB", "BGR", "L"])
def test_pictures_of_opencv(probe: Probe, tmp_path: Path, colour: Any) -> None:
    """BGR, in rows that are longer than the picture."""
    image = np.random.default_rng(5).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    channels = 1 if colour == "L" else 3
    config = Preprocess(size=(32, 32), resize=36, colour=colour, mean=(0.5,) * channels, std=(0.5,) * channels)
    padded = np.zeros((50, 64, 3), np.uint8)
    padded[:, :60] = image[..., ::-1]
    pixels, _ = in_cpp(probe, tmp_path, padded, config, width=60, stride=192, bgr=True)
    np.testing.assert_array_equal(pixels, fit(image, config))


def test_equals_the_recorded_torchvision(probe: Probe, tmp_path: Path) -> None:
    """The goldens of tests/golden/regenerate_preprocess.py, without Pillow in between."""
    with np.load(GOLDEN) as arrays:
        about = json.loads(str(arrays["about"]))
        images = [arrays[name] for name in arrays.files if name.startswith("image.")]
        for case, (order, interpolation, size, resize, colour) in enumerate(about["cases"]):
            channels = 1 if colour == "L" else 3
            config = Preprocess(
                order=order, interpolation=interpolation, size=tuple(size), resize=resize, colour=colour,
                mean=about["mean"][:channels], std=about["std"][:channels],
            )  # fmt: skip
            for index, image in enumerate(images):
                pixels, tensor = in_cpp(probe, tmp_path, image, config)
                np.testing.assert_array_equal(pixels, arrays[f"fit.{case}.{index}"])
                if f"tensor.{case}.{index}" in arrays.files:
                    np.testing.assert_array_equal(tensor, arrays[f"tensor.{case}.{index}"])


@pytest.mark.parametrize("sizes", [{"width": 0}, {"height": -1}, {"stride": 5}, {"width": 1 << 25}])
def test_pictures_that_are_none(probe: Probe, tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(CppError) as refused:
        in_cpp(probe, tmp_path, np.zeros((4, 4, 3), np.uint8), Preprocess(size=(2, 2), resize=2), **sizes)
    assert refused.value.kind == "UserError"
