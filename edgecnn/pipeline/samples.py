"""What the job calibrates and verifies on, and keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from edgecnn.calib.data import ImageFolder, Photos, Samples, open_samples
from edgecnn.parity.samples import SampleSet, edge_inputs, gaussian, real_images
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.spec import ModelSpec

__all__ = ["Data", "gather"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The job's samples.

    Attributes:
        calibration: for the ranges. ``verification``: images that it did not see, where there are such.
        quantized: whether ranges are taken from ``calibration`` at all.
        limit: how many images to verify on.
        note: what the reader should know of them, or "".
    """

    calibration: Samples
    verification: Samples
    quantized: bool
    limit: int
    note: str

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes that there are."""
        own = str(self.calibration.describe()["note"]) if self.quantized else ""
        return tuple(note for note in (own, self.note) if note)

    def sets(self, spec: ModelSpec, *, pixels: bool = False) -> list[SampleSet]:
        """Return what to verify on: images, noise, edge inputs; with ``pixels`` such noise and edges as uint8 can hold."""
        images = real_images(self.verification, limit=self.limit, note=self.note)
        first, preprocess = spec.inputs[0], spec.preprocess
        noise = gaussian(first, preprocess if pixels else None)
        return [images, noise, edge_inputs(first, preprocess, pixels=pixels)]

    def pictures(self, count: int) -> list[Any]:
        """Return a few decoded pictures, for the golden file; from the photos where verification has only tensors."""
        found: Iterator[Any] | None = self.verification.pictures()
        if found is None:
            found = self.calibration.pictures()
        return [] if found is None else list(islice(found, count))


def gather(spec: ModelSpec, config: PipelineConfig) -> Data:
    """Open the calibration source, and find verification images that it does not use.

    These are ``config.data`` where given; else images of the calibration folder beyond those used; else the built-in photos.

    Raises:
        DataError: a source is not usable.
    """
    name, preprocess, limit = spec.inputs[0].name, spec.preprocess, config.verify_images
    calibration = open_samples(config.calib, preprocess, config.calib_images, name)
    verification: Samples | None = None
    note = ""
    if config.data is not None:
        verification = ImageFolder(config.data, preprocess, limit=limit, input_name=name)
    elif isinstance(calibration, ImageFolder):
        verification = calibration.rest(limit)
    elif isinstance(calibration, Photos) and config.int8:
        note = "verified on photos that calibration saw too: give other images with --data for an independent verdict"
    if verification is None:
        verification = Photos(preprocess, limit=limit, input_name=name)
    return Data(calibration=calibration, verification=verification, quantized=config.int8, limit=limit, note=note)
