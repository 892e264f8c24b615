"""Latency of the zoo: in turns with the reference, kept, resumed, and what cannot be measured said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.comparison import ZooConfig, compare_zoo, measure
from edgecnn.errors import ExportError
from edgecnn.runtime import FakeSession, Session
from edgecnn.spec import ModelSpec, TensorSpec

MILLISECONDS = {"resnet18": 4.0, "mobilenet_v2": 1.0, "mobilenet_v3_small": 16.0, "mobilenet_v3_large": 4.0}


class Fakes:
    """Stands for the sessions on exported networks: each takes a time of its own."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.sizes: dict[str, tuple[Any, ...]] = {}
        self.fails: dict[str, BaseException] = {}
        self.value = 1.0
        self.now = 0.0

    def perf_counter(self) -> float:
        """Stand for ``time.perf_counter``, so that a busy machine changes no ratio."""
        self.now += 1e-6
        return self.now

    @contextmanager
    def session(self, spec: ModelSpec, threads: int) -> Iterator[Session]:
        if spec.name in self.fails:
            raise self.fails[spec.name]
        self.made.append(spec.name)
        self.sizes[spec.name] = spec.inputs[0].shape

        def answer(_feed: Any) -> dict[str, Any]:
            self.now += MILLISECONDS[spec.name] / 1e3
            return {"logits": np.full((1, 5), self.value, np.float32)}

        with FakeSession(
            [TensorSpec(name="input", shape=(1, 3, 8, 8))], [TensorSpec(name="logits", shape=(1, 5))], answer
        ) as session:
            yield session


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setattr(measure, "_random_session", made.session)
    monkeypatch.setattr("edgecnn.bench.timing.time", made)
    return made


CONFIG = ZooConfig(models="mobilenet*", latency=True, seconds=0.1)


def test_each_is_measured_in_turns_and_kept(fakes: Fakes, own_cache: Path) -> None:
    found = {point.name: point.latency for point in compare_zoo(CONFIG).points}
    assert fakes.made == ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]
    ratios = {name: latency.ratio for name, latency in found.items() if latency}
    assert len(ratios) == 3
    assert ratios == pytest.approx({"mobilenet_v2": 0.25, "mobilenet_v3_small": 4, "mobilenet_v3_large": 1}, rel=1e-3)
    for latency in found.values():
        assert latency is not None
        assert latency.milliseconds / latency.ratio == pytest.approx(
            found["mobilenet_v2"].milliseconds / found["mobilenet_v2"].ratio  # type: ignore[union-attr]
        )
    assert len(list(own_cache.rglob("*.json"))) == 3
    again = compare_zoo(CONFIG)
    assert {point.name: point.latency for point in again.points} == found
    assert len(fakes.made) == 4  # nothing was made anew, not even the reference


def test_other_threads_and_fresh_measure_anew(fakes: Fakes) -> None:
    one = ZooConfig(models="mobilenet_v2", latency=True, seconds=0.1)
    compare_zoo(one)
    compare_zoo(ZooConfig(models="mobilenet_v2", latency=True, seconds=0.1, threads=1))
    compare_zoo(ZooConfig(models="mobilenet_v2", latency=True, seconds=0.1, fresh=True))
    assert fakes.made == ["resnet18", "mobilenet_v2"] * 3


def test_an_interrupted_call_goes_on_where_it_was(fakes: Fakes) -> None:
    fakes.fails["mobilenet_v3_small"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare_zoo(CONFIG)
    fakes.fails.clear()
    fakes.made.clear()
    assert all(point.latency for point in compare_zoo(CONFIG).points)
    assert fakes.made == ["resnet18", "mobilenet_v3_small", "mobilenet_v3_large"]


def test_a_network_that_fails_is_left_out_and_tried_again(fakes: Fakes) -> None:
    fakes.fails["mobilenet_v3_small"] = ExportError("torch.onnx cannot\ntranslate it")
    found = compare_zoo(CONFIG)
    assert [(item.name, item.reason) for item in found.left_out] == [("mobilenet_v3_small", "torch.onnx cannot")]
    assert [point.latency is None for point in found.points] == [False, True, False]
    fakes.fails.clear()
    assert compare_zoo(CONFIG).left_out == ()


def test_numbers_that_say_nothing_about_speed_are_left_out(fakes: Fakes) -> None:
    fakes.value = float("nan")
    found = compare_zoo(ZooConfig(models="mobilenet_v2", latency=True, seconds=0.1))
    assert found.left_out[0].reason == "mobilenet_v2 with random weights gives numbers that say nothing about its speed"
    assert found.axes == ("macs",)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 0, "ratio": 1, "reference_ms": 1, "runs": 5, "spread": 0}',
                                  '{"schema": 1, "ratio": -1, "reference_ms": 1, "runs": 5, "spread": 0}'])  # fmt: skip
def test_a_kept_file_that_is_not_whole_is_measured_again(fakes: Fakes, own_cache: Path, text: str) -> None:
    one = ZooConfig(models="mobilenet_v2", latency=True, seconds=0.1)
    compare_zoo(one)
    (kept,) = own_cache.rglob("*.json")
    kept.write_text(text)
    fakes.made.clear()
    assert all(point.latency for point in compare_zoo(one).points)
    assert fakes.made == ["resnet18", "mobilenet_v2"]


def test_the_size_is_that_of_the_published_accuracy(fakes: Fakes) -> None:
    MILLISECONDS["efficientnet_lite3"] = 1.0
    compare_zoo(ZooConfig(models="efficientnet_lite3", latency=True, seconds=0.1))
    assert fakes.sizes["efficientnet_lite3"][1:] == (3, 300, 300)  # the table's row alone says 280


def test_a_real_network_on_onnxruntime() -> None:
    found = compare_zoo(ZooConfig(models="mobilenet_v3_small", latency=True, threads=1, seconds=0.2))
    (point,) = found.points
    assert point.latency is not None
    assert point.latency.ratio < 0.7  # 30 times less operations than ResNet-18
    assert (point.latency.backend, point.latency.threads) == ("onnxruntime", 1)
    assert point.latency.rounds >= 5
    assert found.reference == "resnet18"
    assert found.device == measure.processor()
