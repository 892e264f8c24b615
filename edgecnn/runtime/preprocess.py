"""From a picture to the network's input: the one implementation that calibration, verification and the app share.

Equal, bit for bit, to torchvision's published transforms on PIL images (``Resize(antialias=True)``, ``CenterCrop``,
``ToTensor``, ``Normalize`` of torchvision 0.29), since both resize with Pillow; the steps are documented in
:class:`edgecnn.spec.Preprocess`. Decoding uses Pillow, here and nowhere else.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, UserError
from edgecnn.optional import need
from edgecnn.spec import Preprocess

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageSource", "decode", "fit", "normalize", "preprocess"]

ImageSource = Any
"""A path, encoded bytes, a binary file, a ``PIL.Image.Image``, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

Pixels = NDArray[np.uint8]
Tensor = NDArray[np.float32]

_LARGEST_RESIZED = 1 << 26
"""Pixels of a resized image from which only the part that survives the crop is computed (a 1 x 60000 image)."""


def decode(source: ImageSource) -> Pixels:
    """Decode a picture to uint8 (H, W, 3), RGB, as it is meant to be seen.

    EXIF rotation is applied; gray, CMYK, palette and other modes are converted as ``Image.convert("RGB")`` does, which drops
    alpha; 16-bit values are scaled to 8 bits (their high byte); of an animation the first frame is taken.

    Args:
        source: see :data:`ImageSource`. Arrays are taken as RGB (gray if they have one channel); uint16 is scaled.

    Raises:
        DataError: it cannot be read, is not a picture, is truncated, or is larger than Pillow's safety limit; one line
            that names the file.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = _name_of(source)
    image_module = need("PIL.Image")
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata and large pictures; neither changes the pixels. Only its own warnings are
            # filtered, so that a race between threads over the filters can silence nothing else.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            if isinstance(source, image_module.Image):
                return _pixels(source, name)
            with _open(source, name) as image:
                return _pixels(image, name)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on bad files
        raise DataError(f"{name}: {_reason(error)}") from error


def fit(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Resize and crop a decoded picture to the network's size and colour order.

    Args:
        image: uint8 (h, w, 3), RGB.
        preprocess: its size, resize, order, interpolation and colour are used.

    Returns:
        uint8 (H, W, C), contiguous.

    Raises:
        UserError: the image is not uint8 (h, w, 3).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(f"fit takes a uint8 image (height, width, 3), found {image.dtype} {list(image.shape)}")
    picture = need("PIL.Image").fromarray(image)
    if preprocess.colour == "L":
        picture = picture.convert("L")
    cut = _crop_resize if preprocess.order == "crop-resize" else _resize_crop
    pixels = np.asarray(cut(picture, preprocess), dtype=np.uint8)
    if preprocess.colour == "L":
        pixels = pixels[:, :, None]
    elif preprocess.colour == "BGR":
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def normalize(pixels: Pixels, preprocess: Preprocess) -> Tensor:
    """Scale fitted pixels to the network's input: ``(value / 255 - mean) / std`` in float32, NHWC to NCHW.

    Args:
        pixels: uint8 (N, H, W, C) or (H, W, C), in the colour order of ``preprocess``.
        preprocess: its mean and std are used.

    Returns:
        float32 (N, C, H, W), contiguous; N is 1 for one image.

    Raises:
        UserError: the pixels are of another type or channel count.
    """
    batch = pixels[None] if pixels.ndim == 3 else pixels
    if batch.ndim != 4 or batch.dtype != np.uint8 or batch.shape[3] != preprocess.channels:
        raise UserError(
            f"normalize takes uint8 pixels (N, height, width, {preprocess.channels}), "
            f"found {pixels.dtype} {list(pixels.shape)}"
        )
    # The order of operations is torchvision's: a multiplication by 1 / 255 or by 1 / std would differ in the last bit.
    out = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)
    out /= np.float32(255)
    out -= np.asarray(preprocess.mean, dtype=np.float32)[:, None, None]
    out /= np.asarray(preprocess.std, dtype=np.float32)[:, None, None]
    return out


def preprocess(image: ImageSource, preprocess: Preprocess) -> Tensor:
    """Decode, fit and normalise one picture: float32 (1, C, H, W). Raises DataError as :func:`decode` does."""
    return normalize(fit(decode(image), preprocess), preprocess)


def _resize_crop(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize the shorter side, then crop the centre; a side shorter than the crop is padded with black.

    The integer rounding is that of torchvision 0.29 (``_compute_resized_output_size`` and ``center_crop``): the longer side
    is truncated, crop offsets are rounded half to even, an odd pixel of padding goes to the right and bottom.
    """
    width, height = picture.size
    crop_h, crop_w = preprocess.size
    short = preprocess.resize
    if width <= height:
        new_w, new_h = short, int(short * height / width)
    else:
        new_w, new_h = int(short * width / height), short
    left, top = round((new_w - crop_w) / 2), round((new_h - crop_h) / 2)
    box = (left, top, left + crop_w, top + crop_h)
    if new_w * new_h > _LARGEST_RESIZED:
        scale_x, scale_y = width / new_w, height / new_h
        source = (box[0] * scale_x, box[1] * scale_y, min(box[2] * scale_x, width), min(box[3] * scale_y, height))
        return picture.resize((crop_w, crop_h), _filter(preprocess), box=source)
    return picture.resize((new_w, new_h), _filter(preprocess)).crop(box)


def _crop_resize(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Crop ``size / resize`` of the shorter side from the centre, then resize to ``size``.

    The rounding is that of TensorFlow's EfficientNet (``preprocessing.py``, ``_decode_and_center_crop``): the side is
    truncated, an odd pixel goes before the crop.
    """
    width, height = picture.size
    out_h, out_w = preprocess.size
    crop_h, crop_w = (max(1, side * min(width, height) // preprocess.resize) for side in (out_h, out_w))
    left, top = (width - crop_w + 1) // 2, (height - crop_h + 1) // 2
    cropped = picture.crop((left, top, left + crop_w, top + crop_h))
    return cropped.resize((out_w, out_h), _filter(preprocess))


def _filter(preprocess: Preprocess) -> Any:
    """Return Pillow's resampling filter; all but nearest antialias when they shrink."""
    return getattr(need("PIL.Image").Resampling, preprocess.interpolation.upper())


def _open(source: ImageSource, name: str) -> Image.Image:
    """Open a file, bytes or stream without decoding it yet."""
    opened = need("PIL.Image").open
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise DataError(f"{name}: empty (0 bytes)")
        return opened(io.BytesIO(source))  # type: ignore[no-any-return]
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise DataError(f"{name}: no such file")
        if path.is_dir():
            raise DataError(f"{name}: a folder, not an image")
        if path.stat().st_size == 0:
            raise DataError(f"{name}: empty (0 bytes)")
        return opened(path)  # type: ignore[no-any-return]
    if hasattr(source, "read"):
        return _open_stream(source, name)
    raise DataError(
        f"cannot read an image from {type(source).__name__}: pass a path, bytes, a file, a PIL image or an array"
    )


def _open_stream(stream: IO[bytes], name: str) -> Image.Image:
    """Open a stream, which need not be seekable."""
    data = stream.read()
    if not isinstance(data, bytes) or not data:
        raise DataError(f"{name}: empty (0 bytes)" if not data else f"{name}: open it in binary mode")
    return need("PIL.Image").open(io.BytesIO(data))  # type: ignore[no-any-return]


def _pixels(image: Image.Image, name: str) -> Pixels:
    """Turn an opened image upright and into RGB."""
    wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    upright = need("PIL.ImageOps").exif_transpose(image)
    if wide:
        return _from_array(_narrow(np.asarray(upright), image, name))
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _narrow(values: NDArray[Any], image: Image.Image, name: str) -> Pixels:
    """Scale an image of more than 8 bits a channel to 8: the high byte of 16, 255 times a float in [0, 1]."""
    if not values.size:
        raise DataError(f"{name}: no pixels")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (low >= 0 and high <= 1):
            raise DataError(f"{name}: float pixels from {low:g} to {high:g}; only [0, 1] has a known meaning")
        return np.asarray(np.rint(values * 255), dtype=np.uint8)
    if low < 0 or high > 0xFFFF:
        raise DataError(f"{name}: integer pixels from {low:g} to {high:g}; at most 16 bits a channel are supported")
    return np.asarray(values.astype(np.uint16) >> 8, dtype=np.uint8)


def _from_array(array: NDArray[Any]) -> Pixels:
    """Return an array of pixels as uint8 (H, W, 3)."""
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"an image array must be uint8 (or uint16) pixels, found {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise DataError(f"an image array must be (height, width, 1, 3 or 4), found {list(array.shape)}")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _name_of(source: ImageSource) -> str:
    """Return what to call a source in an error message."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "image")


def _reason(error: BaseException) -> str:
    """Say in one line why Pillow could not decode."""
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return "not an image that Pillow can read"
    if kind == "DecompressionBombError":
        return "too large to decode safely (raise PIL.Image.MAX_IMAGE_PIXELS if you trust it)"
    text = " ".join(str(error).split())
    if isinstance(error, (PermissionError, IsADirectoryError, FileNotFoundError)):
        return (error.strerror or text).lower()
    return f"cannot be decoded: {text or kind}"
