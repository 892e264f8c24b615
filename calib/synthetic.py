"""Calibration images made from the network itself, where there are none of the application.

The statistics that every BatchNorm keeps describe what its training images looked like at its input. Noise with the spectrum
of photographs (amplitude falls with frequency; Field 1987, doi:10.1364/JOSAA.4.002379) is moved by gradient descent until it has
the same statistics there (Cai et al. 2020, ZeroQ, arXiv:2001.00281, sec. 3.1), at half size first, where a step costs a quarter.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import cache_folder, canonical_json, sha256_json
from edgecnn.calib.data import Photos, Samples
from edgecnn.errors import DataError, SpecError
from edgecnn.optional import need
from edgecnn.progress import Progress, silent
from edgecnn.runtime.preprocess import normalize
from edgecnn.spec import Preprocess
from edgecnn.writing import atomic_file

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SYNTHETIC", "WITH_PHOTOS", "Synthetic", "SyntheticConfig", "parse_synthetic", "synthesize"]

Pixels = NDArray[np.uint8]

SYNTHETIC = "synthetic"
"""What the source is called on the command line."""

WITH_PHOTOS = "photos+"
"""Before it: the built-in photos as well."""

FORMAT = 1
"""Version of the arithmetic; part of the cache's key."""

FALL = 1.3
"""Amplitude of the first noise falls with this power of the frequency. Measured on Lite0 before any step: 1.0 gave 1.5 dB less."""

COLOURS = ((1.0, 0.25, 0.1), (1.0, 0.0, -0.2), (1.0, -0.25, 0.1))
"""How much lightness, red-blue and green-magenta go into R, G and B: the channels of photographs are almost equal."""

FEWEST = 8
"""Images of a network that is too large for more."""

WORK = 5.6e8
"""What a step may cost at all of the size, in values at BatchNorms' inputs: sets the number of images of a large network."""

MACS = 256
"""Multiplications that take as long as one value of a BatchNorm's input, forward and back on a CPU."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How images are made.

    Attributes:
        images: at most; fewer of a large network, at least 8.
        half_steps, full_steps: of gradient descent at half the network's input size, then at all of it.
        rate: of Adam, in units of the pixels' range; falls to a tenth over the steps of a size.
        seed: of the noise.
        seconds: no step begins later, at half the size none after half of them; fewer steps are noted, and nothing is kept.
        name: what the source is called.
    """

    images: int = 32
    half_steps: int = 24
    full_steps: int = 8
    rate: float = 0.04
    seed: int = 0
    seconds: float = 90.0
    name: str = SYNTHETIC

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("images", 1), ("half_steps", 0), ("full_steps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} must be at least {least}, asked for {getattr(self, name)}")
        if not self.rate > 0 or not self.seconds > 0:
            raise SpecError(f"rate and seconds must be above 0, asked for {self.rate} and {self.seconds}")


FAST = SyntheticConfig(images=8, half_steps=12, full_steps=2, name=f"{SYNTHETIC}:fast")
SPEEDS = {config.name: config for config in (SyntheticConfig(), FAST)}


def parse_synthetic(source: object) -> SyntheticConfig | None:
    """Return the configuration of ``synthetic`` or ``synthetic:fast``, ``photos+`` before it or not; None of any other source.

    Raises:
        SpecError: another word behind ``synthetic:``.
    """
    own = source.removeprefix(WITH_PHOTOS) if isinstance(source, str) else ""
    if own.partition(":")[0] != SYNTHETIC:
        return None
    if own not in SPEEDS:
        known = ", ".join([*SPEEDS, *(WITH_PHOTOS + name for name in SPEEDS)])
        raise SpecError(f"calibration source {source!r} is not one of {known}")
    return SPEEDS[own]


class Synthetic(Samples):
    """Images made from a network.

    Attributes:
        images: uint8 (N, H, W, C), in the colour order of the preprocessing.
        config: how they were made.
        steps: that were done.
    """

    def __init__(
        self, images: Pixels, preprocess: Preprocess, config: SyntheticConfig, steps: int, input_name: str = "input"
    ) -> None:
        """Take the images."""
        self.name = config.name
        self.images, self.preprocess, self.config, self.steps = images, preprocess, config, steps
        self.input_name = input_name

    @property
    def cut(self) -> bool:
        """Whether the time was up before the last step."""
        return self.steps < self.config.half_steps + self.config.full_steps

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def pixels(self) -> Iterator[Pixels]:
        """Yield the images."""
        yield from self.images

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield network inputs."""
        for pixels in self.images:
            yield {self.input_name: normalize(pixels, self.preprocess)}

    def fingerprint(self) -> str:
        """Return the sha256 over the images and the preprocessing."""
        digest = hashlib.sha256(canonical_json([self.preprocess.to_json(), list(self.images.shape)]))
        digest.update(self.images.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        note = (
            "calibrated on images made from the network itself: images of your own application are better (--calib DIR)"
        )
        if self.cut:
            asked = self.config.half_steps + self.config.full_steps
            note += (
                f"; the limit of {self.config.seconds:g} s left time for {self.steps} of {asked} steps, so the next run can differ: "
                "repeat it on an idle or faster machine, or take --calib synthetic:fast"
            )
        return {
            "kind": SYNTHETIC,
            "name": self.config.name,
            "count": len(self),
            "skipped": 0,
            "seed": self.config.seed,
            "steps": self.steps,
            "seconds": self.config.seconds,
            "note": note,
        }


class _FallBack(Photos):
    """The photos, in place of images that cannot be made."""

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says."""
        told = super().describe()
        why = "the network has no BatchNorm statistics to make synthetic images from"
        return {**told, "note": f"{why}: {told['note']}"}


def synthesize(
    module: nn.Module,
    preprocess: Preprocess,
    config: SyntheticConfig | None = None,
    *,
    weights: str,
    limit: int | None = None,
    input_name: str = "input",
    cache: Path | None = None,
    progress: Progress = silent,
) -> Samples:
    """Make calibration images from a network, or read those made of it before.

    Args:
        module: float32, on the CPU; not changed.
        preprocess: of the network; images have its size and channels.
        config: how many, and how long.
        weights: sha256 over the network's parameters, such as :func:`edgecnn.weights.digest`; part of the cache's key.
        limit: images at most.
        input_name: of the feeds.
        cache: folder; None makes them anew and keeps nothing.
        progress: told about steps.

    Returns:
        The images; the built-in photos where no BatchNorm2d of the network keeps statistics.

    Raises:
        DataError: the network makes NaN or infinity of its images. OutputError: the cache cannot be written.
    """
    config = config or SyntheticConfig()
    if not _norms(module):
        return _FallBack(preprocess, limit=limit, input_name=input_name)
    config = config if limit is None else replace(config, images=min(config.images, limit))
    key = sha256_json([FORMAT, weights, repr(module), preprocess.to_json(), asdict(config)])
    place = None if cache is None else cache / f"synthetic-{key}.npy"
    planned = config.half_steps + config.full_steps
    found = None if place is None else _read(place, preprocess)
    if found is not None:
        return Synthetic(found, preprocess, config, planned, input_name)
    images, steps = _Distiller(module, preprocess, config, progress).run()
    made = Synthetic(images, preprocess, config, steps, input_name)
    if place is not None and not made.cut:
        cache_folder(place.parent)
        with atomic_file(place) as stream:
            np.save(stream, images, allow_pickle=False)
    return made


def pink_noise(count: int, size: tuple[int, int], channels: int, seed: int) -> NDArray[np.float32]:
    """Return smooth noise, float32 (count, channels, H, W) in [0, 1], each image of its own lightness and contrast."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    fall = np.maximum(frequency, 1 / max(size)) ** -FALL
    white = generator.standard_normal((2, count, channels, *fall.shape))
    noise = np.fft.irfft2((white[0] + 1j * white[1]) * fall, s=size)
    if channels == 3:
        noise = np.einsum("dc,nchw->ndhw", np.array(COLOURS), noise)
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    noise /= noise.std(axis=(1, 2, 3), keepdims=True)
    lightness, contrast = (generator.uniform(*span, (count, 1, 1, 1)) for span in ((0.25, 0.65), (0.12, 0.33)))
    return np.asarray(np.clip(noise * contrast + lightness, 0, 1), dtype=np.float32)


class _Distiller:
    """Moves noise until the inputs of BatchNorms have the statistics that those keep."""

    def __init__(self, module: nn.Module, preprocess: Preprocess, config: SyntheticConfig, progress: Progress) -> None:
        """Watch a copy of the network."""
        self.torch = need("torch")
        self.preprocess, self.config, self.progress = preprocess, config, progress
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.departures: list[Tensor] = []
        for norm in _norms(self.module):
            norm.register_forward_pre_hook(self._observe)
        self.mean, self.std = (
            self.torch.tensor(values, dtype=self.torch.float32).view(1, -1, 1, 1)
            for values in (preprocess.mean, preprocess.std)
        )
        self.started = time.monotonic()
        self.done = 0

    def run(self) -> tuple[Pixels, int]:
        """Return the images, uint8 (N, H, W, C), and the number of steps done."""
        size, channels = self.preprocess.size, self.preprocess.channels
        count = self._count()
        images = self.torch.from_numpy(pink_noise(count, size, channels, self.config.seed))
        half = (size[0] // 2, size[1] // 2)
        if not self._takes(half):
            half = size  # all steps of a network for one size are at that size, as many as the time allows
        # Resizing undoes part of the work, so that time is left for steps behind it.
        images = self._descend(self._resized(images, half), self.config.half_steps, self.config.seconds / 2)
        images = self._descend(self._resized(images, size), self.config.full_steps, self.config.seconds)
        pixels = (images * 255).round().to(self.torch.uint8)
        return np.ascontiguousarray(pixels.numpy().transpose(0, 2, 3, 1)), self.done

    def _descend(self, images: Tensor, steps: int, until: float) -> Tensor:
        """Return the images after some steps of Adam, none of which begins later than ``until`` seconds from the start."""
        images = images.clone().requires_grad_(True)
        optimizer = self.torch.optim.Adam([images], betas=(0.9, 0.95))
        planned = self.config.half_steps + self.config.full_steps
        for step in range(steps):
            if time.monotonic() - self.started > until:
                break
            for group in optimizer.param_groups:
                group["lr"] = self.config.rate * _share(step, steps)
            optimizer.zero_grad()
            departure = self._departure(images)
            if not self.torch.isfinite(departure):
                raise DataError(
                    "synthetic calibration: the network makes NaN or infinity of its images: check the weights"
                )
            self.torch.autograd.backward(departure)
            optimizer.step()
            with self.torch.no_grad():
                images.clamp_(0, 1)
            self.done += 1
            self.progress("synthesize", self.done, planned)
        return images.detach()

    def _departure(self, images: Tensor) -> Tensor:
        """Return how far the statistics of a batch are from those that are kept, averaged over BatchNorms and channels."""
        self.departures.clear()
        self.module((images - self.mean) / self.std)
        mean: Tensor = self.torch.stack(self.departures).mean()
        return mean

    def _observe(self, norm: Any, inputs: tuple[Tensor, ...]) -> None:
        """Note how far a BatchNorm's input is from its statistics, in units of the standard deviation that it keeps."""
        variance, mean = self.torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        kept = norm.running_var + norm.eps
        spread = ((variance + norm.eps) / kept).sqrt() - 1
        self.departures.append(((mean - norm.running_mean).square() / kept).mean() + spread.square().mean())

    def _resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the images at another size."""
        if tuple(images.shape[2:]) == size:
            return images
        resize = self.torch.nn.functional.interpolate
        resized: Tensor = resize(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return resized

    def _takes(self, size: tuple[int, int]) -> bool:
        """Whether the network runs at a size that is not its own."""
        try:
            with self.torch.no_grad():
                self._departure(self.torch.zeros(1, self.preprocess.channels, *size))
        except RuntimeError:
            return False
        return True

    def _count(self) -> int:
        """Return how many images the network is small enough for. It follows from the network, not from the machine."""
        total = 0.0

        def weigh(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            if isinstance(layer, self.torch.nn.BatchNorm2d):
                total += inputs[0].numel()
            else:
                total += output.numel() * layer.weight[0].numel() / MACS

        kinds = (self.torch.nn.BatchNorm2d, self.torch.nn.Conv2d)
        hooks = [layer.register_forward_hook(weigh) for layer in self.module.modules() if isinstance(layer, kinds)]
        with self.torch.no_grad():
            self._departure(self.torch.zeros(1, self.preprocess.channels, *self.preprocess.size))
        for hook in hooks:
            hook.remove()
        return min(self.config.images, max(FEWEST, int(WORK / total)))


def _share(step: int, steps: int) -> float:
    """Return a step's share of the learning rate: up over three steps, then along a cosine down to a tenth."""
    return min(1.0, (step + 1) / 3) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))


def _norms(module: nn.Module) -> list[Any]:
    """Return the BatchNorms of images that keep statistics."""
    kind = need("torch").nn.BatchNorm2d
    return [layer for layer in module.modules() if isinstance(layer, kind) and layer.running_mean is not None]


def _read(place: Path, preprocess: Preprocess) -> Pixels | None:
    """Read kept images; None where they are absent or damaged."""
    try:
        images = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = images.dtype == np.uint8 and images.shape[1:] == (*preprocess.size, preprocess.channels) and len(images)
    return images if whole else None
