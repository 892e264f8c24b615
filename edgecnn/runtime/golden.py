"""Does this device compute what the bundle's writer saw? Needs no PyTorch and no data but the bundle's own golden images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.errors import BundleCorruptError
from edgecnn.runtime.bundle import GOLDEN, Bundle
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.preprocess import fit, normalize
from edgecnn.runtime.session import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgecnn.runtime.choice import Options

__all__ = ["LOGIT_TOLERANCE", "SelfTest", "selftest"]

LOGIT_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest difference of a logit, relative to the largest logit, by precision; quantized graphs: ``QUANTIZED_TOLERANCE``.

Devices and versions order float sums differently, and a value that then falls on the other side of a rounding step moves a
quantized tensor by a whole step: EfficientNet-Lite0 with and without onnxruntime's optimizer differs by 5e-7 in fp32 and by
2 % in int8 (onnxruntime 1.32, x86-64); the tolerances leave room for other kernels.
"""
QUANTIZED_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """The outcome; truthy when it passed.

    Attributes:
        variant, backend, images: what ran.
        tensor_error, tensor_tolerance: largest difference of a preprocessed value from the golden one, in the input's units;
            one grey level is allowed, which is what resizing may differ by between versions of Pillow.
        logit_error, logit_tolerance: largest difference of a logit, relative to the largest golden logit.
        top1: how many of the images have the golden top-1 class (or one that tied with it within the tolerance).
        seconds: of the runs.
    """

    variant: str
    backend: str
    images: int
    tensor_error: float
    tensor_tolerance: float
    logit_error: float
    logit_tolerance: float
    top1: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether preprocessing, logits and top-1 agree. NaN does not."""
        return (
            self.tensor_error <= self.tensor_tolerance
            and self.logit_error <= self.logit_tolerance
            and self.top1 == self.images
        )

    def __bool__(self) -> bool:
        """Return :attr:`passed`."""
        return self.passed

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; NaN becomes null."""
        data = dict(vars(self)) | {"passed": self.passed}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in data.items()}

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"self-test of {self.variant} on {self.backend}: {'passed' if self.passed else 'FAILED'}; preprocessing differs by "
            f"{self.tensor_error:.2g} (allowed {self.tensor_tolerance:.2g}), logits by {self.logit_error:.2g} "
            f"(allowed {self.logit_tolerance:.2g}), top-1 {self.top1}/{self.images}"
        )


def selftest(
    bundle: Bundle | Path | str,
    variant: str | None = None,
    backend: str | None = None,
    *,
    options: Options | None = None,
) -> SelfTest:
    """Compare golden images -> preprocessed tensors -> logits with what this device computes.

    It works on bundles that failed verification too: it answers another question.

    Args:
        bundle: a folder, or an opened bundle.
        variant, backend, options: as of :func:`edgecnn.runtime.load`.

    Raises:
        BundleMissingError: the bundle has no golden arrays, or none of this variant.
        BundleCorruptError: they do not fit each other.
        BundleError, UserError, BackendError: as :func:`edgecnn.runtime.load`.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=True)
    choice = bundle.choose(variant, backend, options)
    name = choice.variant
    chosen = bundle.variant(name)
    images, tensors, expected = _golden(bundle, name)
    pixels = np.stack([fit(image, bundle.preprocess) for image in images])
    with bundle.session(name, choice.backend, allow_unverified=True, options=options) as session:
        start = perf_counter()
        logits = np.concatenate([run_pixels(session, row[None], bundle.preprocess) for row in pixels])
        seconds = perf_counter() - start
        used = session.backend
    if logits.shape != expected.shape:
        raise BundleCorruptError(f"{bundle.path}: {GOLDEN} has logits {expected.shape}, the model gives {logits.shape}")
    tolerance = LOGIT_TOLERANCE.get(chosen.precision, QUANTIZED_TOLERANCE)
    scale = max(float(np.abs(expected).max()), 1e-6)
    return SelfTest(
        variant=name,
        backend=used,
        images=len(images),
        tensor_error=_largest(normalize(pixels, bundle.preprocess), tensors),
        tensor_tolerance=1.01 / 255 / min(bundle.preprocess.std),
        logit_error=_largest(logits, expected) / scale,
        logit_tolerance=tolerance,
        top1=_agreeing(logits, expected, tolerance * scale),
        seconds=seconds,
    )


def _golden(bundle: Bundle, variant: str) -> tuple[NDArray[np.uint8], Array, Array]:
    """Return images, tensors and a variant's logits, having checked that they fit each other."""
    arrays = bundle.golden()
    key = f"logits.{variant}"
    missing = [name for name in ("images", "tensors", key) if name not in arrays]
    if missing:
        raise BundleCorruptError(f"{bundle.path}: {GOLDEN} has no {', '.join(missing)}; it has {', '.join(arrays)}")
    images, tensors, logits = arrays["images"], arrays["tensors"], arrays[key]
    shape = (len(images) if images.ndim else 0, bundle.preprocess.channels, *bundle.preprocess.size)
    floats = tensors.dtype == np.float32 and logits.dtype.kind == "f"
    fits = images.ndim == 4 and images.dtype == np.uint8 and tensors.shape == shape and logits.ndim == 2
    if not (floats and fits) or not images.size or images.shape[3] != 3 or len(logits) != len(images):
        raise BundleCorruptError(f"{bundle.path}: the arrays of {GOLDEN} do not fit the bundle's preprocessing")
    return images, tensors, logits


def _largest(found: Array, expected: Array) -> float:
    """Return the largest absolute difference; NaN if there is one."""
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())


def _agreeing(logits: Array, expected: Array, tie: float) -> int:
    """Count the images whose best class is the expected one, or was within ``tie`` of it."""
    best = np.nan_to_num(logits, nan=-np.inf).argmax(axis=1)
    rows = np.arange(len(logits))
    return int((expected[rows, best] >= expected.max(axis=1) - tie).sum())
