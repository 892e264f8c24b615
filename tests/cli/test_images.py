"""Odd pictures through ``edgecnn predict``: what is classified is what Pillow shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli
from PIL import Image, ImageOps
from tiny_bundle import photos

from edgecnn.runtime import Classifier

COLOURS = photos(1)[0]
GREY = COLOURS[:, :, 0]
ALPHA = COLOURS[:, :, 1]


def save_rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(path, exif=exif)


def save_palette(path: Path) -> None:
    Image.fromarray(COLOURS).quantize(16).save(path, transparency=bytes(range(0, 256, 16)))


def save_animation(path: Path, **options: Any) -> None:
    frames = [Image.fromarray(pixels) for pixels in photos(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)


SAVE: dict[str, Callable[[Path], None]] = {
    "grey.png": lambda path: Image.fromarray(GREY).save(path),
    "grey-alpha.png": lambda path: Image.fromarray(np.dstack([GREY, ALPHA])).save(path),
    "one-bit.png": lambda path: Image.fromarray(GREY > 100).save(path),
    "palette-with-transparency.png": save_palette,
    "cmyk.jpg": lambda path: Image.fromarray(COLOURS).convert("CMYK").save(path, quality=95),
    "rgba.png": lambda path: Image.fromarray(np.dstack([COLOURS, ALPHA])).save(path),
    "rotated.jpg": save_rotated,
    "animated.gif": save_animation,
    "animated.webp": lambda path: save_animation(path, lossless=True),
    "one-pixel.png": lambda path: Image.fromarray(COLOURS[:1, :1]).save(path),
}
MODES = {
    "grey-alpha.png": "LA",
    "palette-with-transparency.png": "P",
    "cmyk.jpg": "CMYK",
    "rgba.png": "RGBA",
    "one-bit.png": "1",
}


def predicted(cli: Cli, bundle: Path, image: Path) -> list[float]:
    """Return the probabilities that the command line gives, in the order of the classes."""
    result = cli("predict", bundle, image, "--top", "5", "--json")
    assert (result.code, result.err) == (0, "")
    return by_class(result.document["results"][0]["predictions"])


def by_class(rows: list[dict[str, Any]]) -> list[float]:
    return [row["probability"] for row in sorted(rows, key=lambda row: row["index"])]


def expected(bundle: Path, pixels: np.ndarray) -> list[float]:
    """Return the probabilities of plain pixels."""
    with Classifier(bundle) as classify:
        found = classify.predict(pixels, 5)
    return by_class([{"index": p.index, "probability": round(p.probability, 6)} for p in found])


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's word to the test, not to the user
@pytest.mark.parametrize("name", SAVE)
def test_an_odd_picture_is_seen_as_pillow_shows_it(cli: Cli, tiny: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    SAVE[name](path)
    with Image.open(path) as image:
        assert image.mode == MODES.get(name, image.mode)
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert predicted(cli, tiny, path) == expected(tiny, shown)


def test_rotation_is_undone(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    save_rotated(tmp_path / "rotated.jpg")
    with Image.open(tmp_path / "rotated.jpg") as image:
        stored = np.asarray(image)
    found = predicted(cli, tiny, tmp_path / "rotated.jpg")
    assert found == expected(tiny, np.rot90(stored, -1))
    assert found != expected(tiny, stored)


def test_an_animation_is_its_first_frame(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    save_animation(tmp_path / "a.webp", lossless=True)
    assert predicted(cli, tiny, tmp_path / "a.webp") == expected(tiny, photos(3)[0])


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_keep_their_high_byte(cli: Cli, tiny: Path, tmp_path: Path, name: str) -> None:
    """Pillow's own conversion of such pictures clips everything above 255 to white in older versions."""
    values = GREY.astype(np.uint16) << 8 | 0x7F
    Image.fromarray(values).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode.startswith("I")
    assert predicted(cli, tiny, tmp_path / name) == expected(tiny, GREY)


def test_a_picture_wider_than_the_network_by_far(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    Image.fromarray(np.repeat(COLOURS[:1], 2, axis=0)[:, :60]).resize((3000, 2)).save(tmp_path / "strip.png")
    assert sum(predicted(cli, tiny, tmp_path / "strip.png")) == pytest.approx(1, abs=1e-5)
