"""Images made from a network: their statistics are the BatchNorms', the seed settles them, their content is the cache's key."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.calib import Photos, Samples, Synthetic, SyntheticConfig, synthesize, synthetic
from edgecnn.calib.synthetic import parse_synthetic, pink_noise
from edgecnn.errors import DataError, SpecError
from edgecnn.runtime.preprocess import normalize
from edgecnn.spec import Preprocess
from edgecnn.weights import digest

SMALL = Preprocess(size=(32, 32), resize=36)
CONFIG = SyntheticConfig(images=16, half_steps=12, full_steps=16)
BRIEF = SyntheticConfig(images=4, half_steps=2, full_steps=1)


def net(seed: int = 0) -> nn.Sequential:
    """Return a network whose BatchNorms keep the statistics of the photos."""
    torch.manual_seed(seed)
    widths = (3, 8, 16, 16)
    module = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o, momentum=None), nn.ReLU())
            for i, o in pairwise(widths)
        )
    )
    photos = np.concatenate([feed["input"] for feed in Photos(SMALL)])
    with torch.no_grad():
        module.train()(torch.from_numpy(photos))
    return module.eval()


def departures(module: nn.Module, batch: np.ndarray) -> list[float]:
    """Return how far the channel means and spreads at every BatchNorm are from those it keeps, in its standard deviations."""
    found: list[float] = []

    def look(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        spread = norm.running_var.sqrt()
        mean = (inputs[0].mean((0, 2, 3)) - norm.running_mean) / spread
        scale = inputs[0].std((0, 2, 3)) / spread - 1
        found.append(float(mean.square().mean() + scale.square().mean()))

    module = copy.deepcopy(module)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(look)
    with torch.no_grad():
        module(torch.from_numpy(batch))
    return found


def made(module: nn.Module, config: SyntheticConfig = BRIEF, cache: Path | None = None) -> Samples:
    return synthesize(module, SMALL, config, weights=digest(module), cache=cache)


def pixels(samples: Samples) -> np.ndarray:
    assert isinstance(samples, Synthetic)
    return samples.images


def test_images_have_the_statistics_that_every_batchnorm_keeps() -> None:
    module = net()
    before = digest(module)
    samples = made(module, CONFIG)
    noise = pink_noise(16, (32, 32), 3, 0).transpose(0, 2, 3, 1)
    first = departures(module, normalize((noise * 255).astype(np.uint8), SMALL))
    last = departures(module, np.concatenate([feed["input"] for feed in samples]))
    assert len(last) == 3
    assert max(last) < 0.05, (first, last)
    assert sum(last) < 0.1 * sum(first), (first, last)
    assert digest(module) == before
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_the_seed_settles_the_images() -> None:
    module = net()
    torch.manual_seed(1)
    one = made(module)
    torch.manual_seed(2)
    two, other = made(module), made(module, replace(BRIEF, seed=1))
    np.testing.assert_array_equal(pixels(one), pixels(two))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert pixels(one).shape == (4, 32, 32, 3)
    assert np.array_equal(next(iter(one))["input"], normalize(pixels(one)[0], SMALL))


def test_the_cache_is_hit_by_the_same_content_alone(tmp_path: Path) -> None:
    module = net()
    steps: list[int] = []

    def count(step: str, done: int, total: int) -> None:
        assert (step, total) == ("synthesize", 3)
        steps.append(done)

    def make(config: SyntheticConfig = BRIEF, preprocess: Preprocess = SMALL) -> int:
        steps.clear()
        synthesize(module, preprocess, config, weights=digest(module), cache=tmp_path, progress=count)
        return len(steps)

    assert make() == 3
    first = pixels(made(module, cache=tmp_path))
    assert make() == 0
    assert make(replace(BRIEF, seed=1)) == 3
    assert make(preprocess=replace(SMALL, std=(0.5, 0.5, 0.5))) == 3
    (kept,) = (path for path in tmp_path.iterdir() if np.array_equal(np.load(path), first))
    kept.write_bytes(kept.read_bytes()[:100])
    assert make() == 3, "a damaged file counts as absent"
    assert make() == 0
    with torch.no_grad():
        next(module.parameters())[0, 0, 0, 0] += 1e-3
    assert make() == 3, "one changed weight"


@pytest.mark.parametrize(("pace", "done"), [(20, 4), (40, 1)])
def test_a_run_that_time_cuts_says_so_and_is_not_kept(
    pace: int, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, pace))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    samples = made(net(), replace(BRIEF, full_steps=3), tmp_path)
    described = samples.describe()
    assert described["steps"] == done
    assert f"the limit of 90 s left time for {done} of 5 steps" in described["note"]
    assert not list(tmp_path.iterdir())


def test_the_description_tells_source_number_seed_and_bound() -> None:
    described = made(net()).describe()
    note = described.pop("note")
    assert "made from the network itself" in note
    assert "limit" not in note
    assert described == {
        "kind": "synthetic", "name": "synthetic", "count": 4, "skipped": 0, "seed": 0, "steps": 3, "seconds": 90.0,
    }  # fmt: skip


def test_a_network_without_batchnorm_is_calibrated_on_the_photos(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    samples = synthesize(module, SMALL, weights=digest(module), limit=8, cache=tmp_path)
    assert isinstance(samples, Photos)
    assert len(samples) == 8
    assert samples.describe()["note"].startswith(
        "the network has no BatchNorm statistics to make synthetic images from"
    )


def test_a_network_for_one_size_alone_gets_every_step_at_that_size() -> None:
    module = nn.Sequential(*net(), nn.Flatten(), nn.Linear(16 * 4 * 4, 3)).eval()
    samples = made(module, CONFIG)
    assert samples.describe()["steps"] == 28
    assert max(departures(module, np.concatenate([feed["input"] for feed in samples]))) < 0.05


def test_a_large_network_gets_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval()
    none = SyntheticConfig(half_steps=0, full_steps=0)
    values = 32 * 32 * (8 + 8 * 3 / 256)  # at the BatchNorm, and the multiplications' worth

    def count(images: float) -> int:
        monkeypatch.setattr(synthetic, "WORK", images * values)
        return len(synthesize(module, SMALL, none, weights=""))

    assert [count(images) for images in (50, 20.5, 2)] == [32, 20, 8]


def test_gray_networks() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    gray = replace(SMALL, colour="L", mean=(0.5,), std=(0.5,))
    samples = synthesize(module, gray, BRIEF, weights=digest(module), limit=2)
    assert [feed["input"].shape for feed in samples] == [(1, 1, 32, 32)] * 2


def test_broken_weights_are_told() -> None:
    module = net()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="NaN or infinity of its images: check the weights"):
        made(module)


def test_sources() -> None:
    assert parse_synthetic("photos") is None
    assert parse_synthetic(Path("synthetic")) is None
    assert parse_synthetic("synthetic") == SyntheticConfig()
    fast = parse_synthetic("synthetic:fast")
    assert fast is not None
    assert (fast.name, fast.images) == ("synthetic:fast", 8)
    assert parse_synthetic("photos+synthetic:fast") == fast
    assert parse_synthetic("photos+chelsea") is None
    with pytest.raises(SpecError, match=r"is not one of .*photos\+synthetic, photos\+synthetic:fast"):
        parse_synthetic("photos+synthetic:slow")
    with pytest.raises(SpecError, match="'synthetic:slow' is not one of synthetic, synthetic:fast"):
        parse_synthetic("synthetic:slow")
    with pytest.raises(SpecError, match="images must be at least 1"):
        SyntheticConfig(images=0)
    with pytest.raises(SpecError, match="rate and seconds must be above 0"):
        SyntheticConfig(seconds=0)
