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

VERIFICATION_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Data:
    """The job's samples.

    Attributes:
        calibration: for the ranges. ``verification``: images that it did not see, where there are such.
        note: what the reader should know of them, or "".
    """

    calibration: Samples
    verification: Samples
    note: str

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes that there are."""
        own = str(self.calibration.describe()["note"])
        return tuple(note for note in (own, self.note) if note)

    def sets(self, spec: ModelSpec) -> list[SampleSet]:
        """Return what to verify on: images, noise, edge inputs."""
        images = real_images(self.verification, limit=VERIFICATION_IMAGES, note=self.note)
        first = spec.inputs[0]
        return [images, gaussian(first), edge_inputs(first, spec.preprocess)]

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
    name, preprocess = spec.inputs[0].name, spec.preprocess
    calibration = open_samples(config.calib, preprocess, config.calib_images, name)
    if config.data is not None:
        chosen: Samples = ImageFolder(config.data, preprocess, limit=VERIFICATION_IMAGES, input_name=name)
        return Data(calibration=calibration, verification=chosen, note="")
    if isinstance(calibration, ImageFolder):
        rest = calibration.rest(VERIFICATION_IMAGES)
        if rest is not None:
            return Data(calibration=calibration, verification=rest, note="")
    photos = Photos(preprocess, limit=VERIFICATION_IMAGES, input_name=name)
    note = ""
    if isinstance(calibration, Photos) and config.int8:
        note = "verified on photos that calibration saw too: give other images with --data for an independent verdict"
    return Data(calibration=calibration, verification=photos, note=note)
