"""The benchmark's document: out to JSON and in again, and refused where it is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_results import whole_result

from edgecnn.bench.result import BenchResult, read_result
from edgecnn.errors import DataError


def test_everything_survives_the_way_through_a_file(tmp_path: Path) -> None:
    result = whole_result()
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(result.to_json(), allow_nan=False))
    assert read_result(path) == result


def test_unknown_keys_are_ignored_and_absent_optional_ones_take_their_defaults() -> None:
    data = whole_result().to_json() | {"colour": "blue"}
    del data["comparisons"]
    del data["runs"][0]["telemetry"]
    data["runs"][0]["memory"] = {}
    read = BenchResult.from_json(data)
    assert read.comparisons == ()
    assert read.runs[0].telemetry is None
    assert read.runs[0].memory.rss_peak_mb is None


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("kind",), "other", "not a result"),
        (("schema",), 99, "update edgecnn"),
        (("schema",), True, "schema True"),
        (("runs",), {}, "runs must be a list"),
        (("runs", 0, "latency"), 3, "latency: expected a JSON object"),
        (("runs", 0, "latency", "p50_ms"), "fast", "p50_ms must be a number"),
        (("runs", 0, "latency", "p50_ms"), True, "p50_ms must be a number"),
        (("runs", 0, "batch"), 1.5, "batch must be a whole number"),
        (("runs", 0, "end_to_end"), 1, "end_to_end must be true or false"),
        (("runs", 0, "stages"), [], "stages must be an object"),
        (("runs", 0, "telemetry", "joules_per_inference"), "x", "joules_per_inference must be a number"),
        (("comparisons", 0, "verdict"), "maybe", "verdict must be 'faster' or 'slower' or 'none'"),
    ],
)
def test_what_is_no_result_is_refused(where: tuple[Any, ...], value: Any, message: str) -> None:
    data: Any = whole_result().to_json()
    part = data
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    with pytest.raises(DataError, match=message):
        BenchResult.from_json(data)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_result(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is not JSON"):
        read_result(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(DataError, match="not a result"):
        read_result(tmp_path / "b.json")
