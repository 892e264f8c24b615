"""Write ``preprocess.npz``: tiny synthetic pictures and what torchvision makes of them.

Run with a Python that has torchvision (which edgecnn itself does not need)::

    python tests/golden/regenerate_preprocess.py

Made with torchvision 0.29.1, torch 2.14.1, Pillow 13.0.0. The ``crop-resize`` order is not torchvision's: its crop is computed
here in float, as TensorFlow's EfficientNet does (``preprocessing.py``, ``_decode_and_center_crop``), and resized by torchvision.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = ((1, 1), (9, 7), (31, 47), (48, 33), (40, 40), (64, 65), (12, 90))  # height, width
CASES = (  # order, interpolation, size, resize, colour
    ("resize-crop", "bilinear", (24, 24), 28, "RGB"),
    ("resize-crop", "bicubic", (24, 24), 28, "RGB"),
    ("resize-crop", "bilinear", (24, 24), 24, "BGR"),
    ("resize-crop", "bilinear", (20, 29), 30, "RGB"),
    ("resize-crop", "bicubic", (23, 24), 25, "L"),
    ("resize-crop", "nearest", (16, 16), 17, "RGB"),
    ("resize-crop", "lanczos", (16, 16), 19, "RGB"),
    ("crop-resize", "bicubic", (24, 24), 28, "RGB"),
    ("crop-resize", "bilinear", (24, 24), 27, "BGR"),
    ("crop-resize", "bicubic", (15, 15), 47, "L"),
)


def picture(height: int, width: int) -> np.ndarray:
    """Return blocks of colour with noise: edges for the filters, and no two rows alike."""
    draw = np.random.default_rng(height * 1000 + width)
    blocks = draw.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3))
    image = np.kron(blocks, np.ones((5, 5, 1), int))[:height, :width] + draw.integers(-30, 31, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def fitted(image: Image.Image, order: str, mode: InterpolationMode, size: tuple[int, int], resize: int) -> Image.Image:
    """Resize and crop."""
    if order == "resize-crop":
        return transforms.Compose([transforms.Resize(resize, mode, antialias=True), transforms.CenterCrop(size)])(image)
    width, height = image.size
    side = max(1, int((size[0] / (size[0] + (resize - size[0]))) * min(height, width)))
    top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
    cropped = transforms.functional.crop(image, top, left, side, side)
    return transforms.functional.resize(cropped, list(size), mode, antialias=True)


def main() -> None:
    """Write the file."""
    arrays = {f"image.{i}": picture(*shape) for i, shape in enumerate(IMAGES)}
    for case, (order, interpolation, size, resize, colour) in enumerate(CASES):
        for i in range(len(IMAGES)):
            image = Image.fromarray(arrays[f"image.{i}"])
            if colour == "L":
                image = transforms.Grayscale()(image)
            result = fitted(image, order, InterpolationMode(interpolation), size, resize)
            tensor = transforms.ToTensor()(result)
            if colour == "BGR":
                tensor = tensor.flip(0)
            channels = len(tensor)
            arrays[f"fit.{case}.{i}"] = (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            if i in (2, 6):
                normalised = transforms.Normalize(MEAN[:channels], STD[:channels])(tensor)
                arrays[f"tensor.{case}.{i}"] = normalised[None].numpy()
    about = {
        "cases": CASES,
        "mean": MEAN,
        "std": STD,
        "made_with": {"torchvision": torchvision.__version__, "torch": torch.__version__, "Pillow": PIL.__version__},
    }
    target = Path(__file__).with_name("preprocess.npz")
    np.savez_compressed(target, about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    main()
