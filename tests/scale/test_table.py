"""Tables as CSV and Parquet: what is put in comes out, rows are replaced by key, other files are left alone."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from edgecnn.comparison import Score
from edgecnn.errors import MissingDependencyError, OutputError, UserError
from edgecnn.scale.table import COLUMNS, Row, check_table, put_rows, read_rows, scores_of

FORMATS = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


def row(variant: str, **changes: Any) -> Row:
    values: Row = {name: "" if kind is str else None for name, kind in COLUMNS.items()}
    fixed = {
        "bundle": 'a "b", c',
        "backend": "openvino",
        "data": "line\nbreak",
        "images": 3,
        "top1": 1 / 3,
        "mean_kl": 5e-324,
    }
    return values | fixed | {"variant": variant} | changes


@FORMATS
def test_rows_come_back_as_they_were_and_are_replaced_in_place(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"results{suffix}"
    put_rows(table, [row("fp32"), row("int8")])
    put_rows(table, [row("fp16", error="no such luck"), row("fp32", top1=70.5, limit=None), row("fp32", limit=10)])
    expected = [row("fp32", top1=70.5), row("int8"), row("fp16", error="no such luck"), row("fp32", limit=10)]
    assert read_rows(table) == expected
    assert [path.name for path in tmp_path.iterdir()] == [table.name]


def test_a_bundle_that_can_be_used_by_now_loses_the_row_that_it_could_not(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    put_rows(table, [row("", error="no bundle"), row("", error="no bundle", backend="onnxruntime")])
    put_rows(table, [row("fp32")])
    assert read_rows(table) == [row("", error="no bundle", backend="onnxruntime"), row("fp32")]


@FORMATS
def test_a_file_that_is_something_else_stays(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"results{suffix}"
    table.write_bytes(b"name,value\n1,2\n")
    with pytest.raises(OutputError, match="is not a table of `edgecnn sweep`: choose another file"):
        check_table(table)
    with pytest.raises(OutputError, match="is not a table"):
        put_rows(table, [row("fp32")])
    assert table.read_bytes() == b"name,value\n1,2\n"


def test_a_cut_off_csv_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    put_rows(table, [row("fp32")])
    table.write_text(table.read_text()[:-30])
    with pytest.raises(OutputError, match="a row is cut off"):
        read_rows(table)


def test_accuracies_are_those_of_rows_that_have_one(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    put_rows(table, [row("fp32", error="no such luck"), row("fp16", top1=None)])
    with pytest.raises(UserError, match="holds no accuracy: every row failed, or its images had no labels"):
        scores_of(table)
    put_rows(table, [row("int8", bundle_sha256="ab" * 32, top1=70.5)])
    (found,) = scores_of(table)
    assert found == Score(bundle="ab" * 32, variant="int8", backend="openvino", top1=70.5, images=3, data="line\nbreak")


def test_what_cannot_be_written_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"a table ends in \.csv or \.parquet"):
        check_table(tmp_path / "results.xlsx")
    with pytest.raises(OutputError, match="is not a folder"):
        check_table(tmp_path / "absent" / "results.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgecnn\[parquet\]'"):
        check_table(tmp_path / "results.parquet")


def _put(table: Path, name: str) -> None:
    put_rows(table, [row(name)])


def test_processes_that_write_at_once_lose_no_row(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(_put, [table] * 20, map(str, range(20))))
    assert sorted(int(one["variant"]) for one in read_rows(table)) == list(range(20))
