"""What the job calibrates and verifies on, and keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgecnn import zoo
from edgecnn.artifacts import cache_dir
from edgecnn.calib.data import ImageFolder, Photos, Samples, Together, open_samples
from edgecnn.calib.synthetic import WITH_PHOTOS, parse_synthetic, synthesize
from edgecnn.parity.labelled import read_labelled
from edgecnn.parity.samples import SampleSet, edge_inputs, gaussian, real_images
from edgecnn.pipeline.budget import HeldOut
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.progress import Progress, silent
from edgecnn.spec import ModelSpec
from edgecnn.weights import digest

if TYPE_CHECKING:
    from edgecnn.zoo_build import Built

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

    def held_out(self, spec: ModelSpec, config: PipelineConfig) -> HeldOut:
        """Return the verification images with their classes, where the folder of ``config.data`` has some."""
        if config.data is None or not config.budget:
            return HeldOut(self.verification)
        labelled = read_labelled(config.data, spec.num_classes, zoo.labels(spec)).limited(self.limit)
        return HeldOut(self.verification, labelled if labelled.classes else None)

    def pictures(self, count: int) -> list[Any]:
        """Return a few decoded pictures, for the golden file; from the photos where verification has only tensors."""
        found: Iterator[Any] | None = self.verification.pictures()
        if found is None:
            found = self.calibration.pictures()
        return [] if found is None else list(islice(found, count))


def gather(built: Built, config: PipelineConfig, progress: Progress = silent) -> Data:
    """Open the calibration source, or make it, and find verification images that it does not use.

    These are ``config.data`` where given; else images of the calibration folder beyond those used; else the built-in photos.

    Raises:
        DataError: a source is not usable.
    """
    name, preprocess, limit = built.spec.inputs[0].name, built.spec.preprocess, config.verify_images
    calibration = _calibration(built, config, progress)
    verification: Samples | None = None
    note = ""
    if config.data is not None:
        verification = ImageFolder(config.data, preprocess, limit=limit, input_name=name)
    elif isinstance(calibration, ImageFolder):
        verification = calibration.rest(limit)
    elif config.int8 and any(isinstance(part, Photos) for part in _parts(calibration)):
        note = "verified on photos that calibration saw too: give other images with --data for an independent verdict"
    if verification is None:
        verification = Photos(preprocess, limit=limit, input_name=name)
    return Data(calibration=calibration, verification=verification, quantized=config.int8, limit=limit, note=note)


def _calibration(built: Built, config: PipelineConfig, progress: Progress) -> Samples:
    """Return the calibration samples; synthetic ones are made only for a job that reads them."""
    name, preprocess = built.spec.inputs[0].name, built.spec.preprocess
    recipe = parse_synthetic(config.calib)
    if recipe is None:
        return open_samples(config.calib, preprocess, config.calib_images, name)
    if not (config.int8 or config.fp16):
        return Photos(preprocess, limit=config.calib_images, input_name=name)

    def made(limit: int) -> Samples:
        return synthesize(
            built.module,
            preprocess,
            recipe,
            weights=digest(built.module),
            limit=limit,
            input_name=name,
            cache=cache_dir() / "calibration" if config.use_cache else None,
            progress=progress,
        )

    if not str(config.calib).startswith(WITH_PHOTOS) or config.calib_images == 1:
        return made(config.calib_images)
    count = min(recipe.images, max(1, config.calib_images // 4))
    own = made(count)
    if isinstance(own, Photos):  # in place of images that cannot be made
        return made(config.calib_images)
    return Together([Photos(preprocess, limit=config.calib_images - count, input_name=name), own])


def _parts(samples: Samples) -> tuple[Samples, ...]:
    """Return the sources that samples come from."""
    return samples.parts if isinstance(samples, Together) else (samples,)
