"""What can be asked for, and how bad requests are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.engine import Batch, BuildConfig, parse_bytes
from edgecnn.errors import SpecError


@pytest.mark.parametrize(
    ("text", "sizes", "shown"),
    [("1", (1, 1, 1), "1"), ("8", (8, 8, 8), "8"), ("1:8:32", (1, 8, 32), "1:8:32"), ("4:4:4", (4, 4, 4), "4")],
)
def test_batches(text: str, sizes: tuple[int, int, int], shown: str) -> None:
    batch = Batch.parse(text)
    assert (batch.low, batch.best, batch.high) == sizes
    assert str(batch) == shown
    assert batch.fixed == (sizes[0] == sizes[2])


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1:8", "1:8:32:64", "8:1:32", "1:64:32", "a", "1:b:3", "1.5", " 1", "٣", "9" * 30]
)
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="batch"):
        Batch.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("512M", 512 << 20), ("1G", 1 << 30), ("1.5GiB", 3 << 29), ("2kb", 2048), (" 1 G ", 1 << 30)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "1T", "-1G", "1,5G", "0x10", "1e9"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="is not an amount of memory, such as 512M or 1G"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "tensor-rt"}, "target 'tensor-rt' is not one of tensorrt, tensorrt-rtx"),
        ({"hardware": "hopper"}, "hardware 'hopper' is not one of this, ampere"),
        ({"level": 6}, "level must be between 0 and 5, asked for 6"),
        ({"dla": -1}, "dla must be the number of a core"),
        ({"workspace": -1}, "workspace must be a number of bytes"),
        ({"gpus": ("86",)}, "gpu '86' is not a compute capability, such as 8.6"),
    ],
)
def test_configurations_that_are_none(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        BuildConfig(**{"target": "tensorrt", **options})  # type: ignore[arg-type]


def test_paths_stay_out_of_the_record() -> None:
    config = BuildConfig(target="tensorrt", timing_cache=Path("/home/me/x"), plugins=(Path("/home/me/p.so"),))
    assert "/home" not in str(config.to_json())
    assert config.to_json()["plugins"] == ["p.so"]
