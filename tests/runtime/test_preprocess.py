"""Decoding what people really have, and resizing as torchvision does."""

from __future__ import annotations

import io
import json
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.errors import DataError, UserError
from edgecnn.runtime import preprocess as module
from edgecnn.runtime.preprocess import decode, fit, normalize, preprocess
from edgecnn.spec import Preprocess

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.npz"


def golden_cases() -> list[tuple[int, Preprocess]]:
    """Return the recorded cases."""
    with np.load(GOLDEN) as arrays:
        about = json.loads(str(arrays["about"]))
    cases = []
    for index, (order, interpolation, size, resize, colour) in enumerate(about["cases"]):
        channels = 1 if colour == "L" else 3
        cases.append(
            (
                index,
                Preprocess(
                    order=order,
                    interpolation=interpolation,
                    size=tuple(size),
                    resize=resize,
                    colour=colour,
                    mean=about["mean"][:channels],
                    std=about["std"][:channels],
                ),
            )
        )
    return cases


@pytest.mark.parametrize(("case", "config"), golden_cases(), ids=lambda value: value if isinstance(value, int) else "")
def test_equals_torchvision_bit_for_bit(case: int, config: Preprocess) -> None:
    """Accept a change with: python tests/golden/regenerate_preprocess.py (needs torchvision)."""
    tensors = 0
    with np.load(GOLDEN) as arrays:
        for index in range(sum(name.startswith("image.") for name in arrays.files)):
            pixels = fit(arrays[f"image.{index}"], config)
            np.testing.assert_array_equal(pixels, arrays[f"fit.{case}.{index}"], err_msg=f"image {index}")
            if f"tensor.{case}.{index}" in arrays.files:
                expected = arrays[f"tensor.{case}.{index}"]
                np.testing.assert_array_equal(normalize(pixels, config), expected)
                np.testing.assert_array_equal(preprocess(arrays[f"image.{index}"], config), expected)
                tensors += 1
    assert tensors == 2


def test_shapes_and_types() -> None:
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    config = Preprocess(size=(24, 32), resize=36)
    pixels = fit(image, config)
    assert pixels.shape == (24, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    tensor = normalize(np.stack([pixels, pixels]), config)
    assert tensor.shape == (2, 3, 24, 32)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor[:1], normalize(pixels, config))
    bgr = fit(image, Preprocess(size=(24, 32), resize=36, colour="BGR"))
    np.testing.assert_array_equal(bgr[..., ::-1], pixels)
    assert bgr.flags.c_contiguous


def test_wrong_arguments() -> None:
    config = Preprocess(size=(8, 8), resize=8)
    with pytest.raises(UserError, match=r"fit takes .*found float32 \[4, 4, 3\]"):
        fit(np.zeros((4, 4, 3), np.float32), config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"found uint8 \[4, 4\]"):
        fit(np.zeros((4, 4), np.uint8), config)
    with pytest.raises(UserError, match=r"normalize takes uint8 pixels .*, 3\), found uint8 \[8, 8, 1\]"):
        normalize(np.zeros((8, 8, 1), np.uint8), config)


def test_extreme_aspect_ratio_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip would be gigabytes when its shorter side is resized; only what survives the crop is computed."""
    strip = np.random.default_rng(0).integers(0, 256, (1, 60000, 3), dtype=np.uint8)
    assert fit(strip, Preprocess()).shape == (224, 224, 3)
    assert fit(np.ascontiguousarray(strip.transpose(1, 0, 2)), Preprocess()).shape == (224, 224, 3)
    ordinary = np.random.default_rng(1).integers(0, 256, (37, 113, 3), dtype=np.uint8)
    config = Preprocess(size=(48, 64), resize=64, interpolation="bicubic")
    exact = fit(ordinary, config)
    monkeypatch.setattr(module, "_LARGEST_RESIZED", 1)
    assert np.abs(fit(ordinary, config).astype(int) - exact).max() <= 1


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(height: int = 6, width: int = 8) -> np.ndarray:
    """Return an uneven picture."""
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_kind_of_source(tmp_path: Path) -> None:
    pixels = colours()
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as stream:
        sources = [path, str(path), data, bytearray(data), memoryview(data), stream, io.BytesIO(data)]
        sources += [Image.open(path), Image.fromarray(pixels), pixels, np.asfortranarray(pixels), pixels[:, :, :]]
        for source in sources:
            found = decode(source)
            np.testing.assert_array_equal(found, pixels)
            assert found.dtype == np.uint8
            assert found.flags.c_contiguous


def test_arrays() -> None:
    grey = colours()[:, :, 0]
    np.testing.assert_array_equal(decode(grey), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(decode(grey[:, :, None]), np.stack([grey] * 3, axis=2))
    rgba = np.dstack([colours(), grey])
    np.testing.assert_array_equal(decode(rgba), colours())
    np.testing.assert_array_equal(decode(colours().astype(np.uint16) * 257), colours())
    with pytest.raises(DataError, match=r"must be uint8 .* found float32"):
        decode(colours().astype(np.float32) / 255)
    for shape in ((2, 6, 8, 3), (6, 8, 2), (0, 8, 3), (6,)):
        with pytest.raises(DataError, match="an image array must be"):
            decode(np.zeros(shape, np.uint8))


def test_grayscale_one_bit_and_palette() -> None:
    grey = colours()[:, :, 0]
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey))), np.stack([grey] * 3, axis=2))
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decode(encoded(bits))[:, :, 1], (grey > 127) * 255)
    palette = Image.fromarray(colours()).quantize(8)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_transparency_is_dropped_as_pillow_does() -> None:
    alpha = np.dstack([colours(), colours()[:, :, 0]])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(alpha))), colours())
    palette = Image.fromarray(colours()).quantize(8)
    data = encoded(palette, transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode(data), np.asarray(palette.convert("RGB")))
    grey_alpha = np.dstack([colours()[:, :, 0], colours()[:, :, 1]])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey_alpha)))[:, :, 2], colours()[:, :, 0])


def test_cmyk() -> None:
    image = Image.fromarray(np.full((16, 16, 3), (200, 30, 60), np.uint8)).convert("CMYK")
    found = decode(encoded(image, "JPEG", quality=95))
    assert np.abs(found.astype(int) - (200, 30, 60)).max() < 8


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = (np.arange(64, dtype=np.uint32).reshape(8, 8) * 1040).astype(np.uint16)
    for kind, name in (("PNG", "a.png"), ("TIFF", "a.tif")):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(values), kind))
        np.testing.assert_array_equal(decode(tmp_path / name)[:, :, 0], values >> 8)
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I"
    np.testing.assert_array_equal(decode(wide)[:, :, 0], values >> 8)
    with pytest.raises(DataError, match="at most 16 bits"):
        decode(Image.fromarray(values.astype(np.int32) * 100))


def test_float_pictures() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(decode(Image.fromarray(values))[:, :, 0], np.rint(values * 255))
    for bad in (values * 300, values - 0.5, values * np.nan):
        with pytest.raises(DataError, match=r"only \[0, 1\] has a known meaning"):
            decode(Image.fromarray(bad))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    upright = colours(6, 9)
    undo = {  # how a camera that stores this orientation lays the pixels out
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(stored), exif=exif)), upright)


def test_broken_exif_is_no_reason_to_fail_or_warn(recwarn: pytest.WarningsRecorder) -> None:
    data = encoded(Image.fromarray(colours()), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01\x02" * 9)
    assert decode(data).shape == (6, 8, 3)
    assert not recwarn.list


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((5, 5, 3), value, np.uint8)) for value in (10, 200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        np.testing.assert_array_equal(decode(data), np.full((5, 5, 3), 10))


def test_one_pixel() -> None:
    data = encoded(Image.fromarray(np.array([[[255, 0, 128]]], np.uint8)))
    for order in ("resize-crop", "crop-resize"):
        pixels = fit(decode(data), Preprocess(order=order))
        np.testing.assert_array_equal(pixels, np.broadcast_to(np.array([255, 0, 128], np.uint8), (224, 224, 3)))


def test_what_cannot_be_decoded(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(colours(64, 64)), "JPEG")
    png = encoded(Image.fromarray(colours(64, 64)))
    files = {
        "zero.jpg": (b"", "empty"),
        "text.jpg": (b"hello, I am no image", "not an image that Pillow can read"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "cannot be decoded|truncated"),
        "head.jpg": (whole[:20], "cannot be decoded|not an image"),
        "broken.png": (png[:200] + bytes(400) + png[600:], "cannot be decoded"),
    }
    for name, (content, match) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match) as caught:
            decode(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match="image: "):
            decode(content)
    with pytest.raises(DataError, match="no such file"):
        decode(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="a folder, not an image"):
        decode(tmp_path)
    with pytest.raises(DataError, match="binary mode"):
        decode(io.StringIO("text"))
    with pytest.raises(DataError, match="cannot read an image from int"):
        decode(5)


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    data = encoded(Image.fromarray(np.zeros((40, 50, 3), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # 2000 pixels: Pillow warns, and decodes
    assert decode(data).shape == (40, 50, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # more than twice: Pillow refuses
    with pytest.raises(DataError, match="too large to decode safely"):
        decode(data)
    assert not recwarn.list


def test_threads() -> None:
    data = encoded(Image.fromarray(colours(50, 60)))
    expected = decode(data)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(1 for _ in range(30) if not np.array_equal(decode(data), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
