"""The Pareto front, and what can be drawn."""

from __future__ import annotations

import json
from typing import Any

from edgecnn.comparison import Comparison, Measured, Point, front


def point(name: str, macs: int | None, top1: float | None, **changes: Any) -> Point:
    return Point(
        **({"name": name, "label": name, "family": "resnet", "params": 10**6, "macs": macs, "top1": top1} | changes)
    )


def latency(milliseconds: float) -> Measured:
    return Measured(
        milliseconds=milliseconds, ratio=milliseconds / 10, spread=0.1, rounds=7, backend="onnxruntime", threads=1
    )


def names(points: tuple[Point, ...]) -> list[str]:
    return [item.name for item in points]


def test_the_front_holds_what_no_other_point_beats() -> None:
    points = [point("dear", 90, 70.0), point("best", 50, 80.0), point("cheap", 10, 60.0), point("beaten", 60, 79.9)]
    assert names(front(points, "macs")) == ["cheap", "best"]
    for item in points:
        beaten = any(
            other.macs <= item.macs and other.top1 >= item.top1 and (other.macs, other.top1) != (item.macs, item.top1)
            for other in points
            if other.macs is not None and item.macs is not None and other.top1 is not None and item.top1 is not None
        )
        assert beaten == (item not in front(points, "macs"))


def test_of_equal_points_the_first_and_of_as_cheap_ones_the_better() -> None:
    assert names(front([point("a", 10, 60.0), point("b", 10, 60.0)], "macs")) == ["a"]
    assert names(front([point("worse", 10, 59.0), point("better", 10, 60.0)], "macs")) == ["better"]
    assert names(front([point("cheap", 9, 60.0), point("dear", 10, 60.0)], "macs")) == ["cheap"]


def test_a_graph_with_another_ones_accuracy_is_on_no_front() -> None:
    points = [point("fp32", 10, 70.0), point("int8", 5, 70.0, accuracy="published for fp32")]
    assert points[1].drawn("macs")
    assert names(front(points, "macs")) == ["fp32"]


def test_points_without_a_number_are_passed_over() -> None:
    points = [point("a", 10, None), point("b", None, 70.0), point("c", 10, 60.0, params=None)]
    assert front(points, "macs") == ()
    assert Comparison(points=tuple(points), title="t").axes == ()


def test_latency_has_a_front_of_its_own() -> None:
    points = (
        point("small but slow", 10, 60.0, latency=latency(30)),
        point("large but quick", 90, 70.0, latency=latency(20)),
        point("not measured", 5, 50.0),
    )
    found = Comparison(points=points, title="t")
    assert found.axes == ("macs", "latency")
    document = json.loads(json.dumps(found.to_json()))
    assert document["front"] == {
        "macs": ["not measured", "small but slow", "large but quick"],
        "latency": ["large but quick"],
    }
    assert document["points"][0]["latency"]["milliseconds"] == 30
    assert document["points"][2]["latency"] is None
