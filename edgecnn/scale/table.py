"""The table of a sweep: one row a combination, as CSV or Parquet, replaced by key, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgecnn.comparison import Score
from edgecnn.errors import OutputError, UserError
from edgecnn.optional import need
from edgecnn.writing import check_writable, write_bytes

__all__ = ["COLUMNS", "KEY", "Row", "check_table", "key_of", "put_rows", "read_rows", "scores_of"]

Row = dict[str, Any]

COLUMNS: Mapping[str, type] = {
    "bundle": str,
    "model": str,
    "weights": str,
    "variant": str,
    "backend": str,
    "data": str,
    "limit": int,
    "images": int,
    "unreadable": int,
    "top1": float,
    "top5": float,
    "agreement": float,
    "sqnr_db": float,
    "mean_kl": float,
    "images_per_s": float,
    "error": str,
    "settings": str,
    "versions": str,
    "bundle_sha256": str,
    "data_sha256": str,
    "finished": str,
}
"""Column -> type; every cell may be empty."""

KEY = ("bundle", "variant", "backend", "data", "limit")
"""Rows that agree in these are of the same combination: the later one replaces the earlier."""

SUFFIXES = (".csv", ".parquet")


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is replaced by."""
    return tuple(row[name] for name in KEY)


def check_table(path: Path) -> None:
    """Refuse a file that cannot be written, or holds something else, before hours of work.

    Raises:
        UserError: neither CSV nor Parquet. MissingDependencyError: Parquet without pyarrow.
        OutputError: no such folder, or another file is there.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a table ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        need("pyarrow")
    check_writable(path)
    read_rows(path)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table, none where there is no file.

    Raises:
        OutputError: it is not a table of ours.
    """
    if not path.exists():
        return []
    try:
        return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise OutputError(f"{path} is not a table of `edgecnn sweep`: choose another file ({error})") from error


def scores_of(path: Path) -> tuple[Score, ...]:
    """Return the accuracies in a table, for a comparison.

    Raises:
        UserError: there is no such file, or no row with an accuracy. OutputError: it is not a table of ours.
    """
    if not path.is_file():
        raise UserError(f"there is no table at {path}: 'edgecnn sweep ... -o {path}' makes one")
    found = tuple(
        Score(
            bundle=row["bundle_sha256"],
            variant=row["variant"],
            backend=row["backend"],
            top1=row["top1"],
            images=row["images"],
            data=row["data"],
        )
        for row in read_rows(path)
        if not row["error"] and row["top1"] is not None
    )
    if not found:
        raise UserError(f"{path} holds no accuracy: every row failed, or its images had no labels")
    return found


def put_rows(path: Path, rows: Sequence[Row]) -> None:
    """Put rows into a table, each in the place of the one with its key, else at the end. Two processes may do so at once.

    A row without a variant says that a bundle could not be used at all; it goes when one with a variant comes.

    Raises:
        OutputError: it cannot be written, or is not a table of ours.
    """
    with _one_at_a_time(path.parent):
        usable = {key_of({**row, "variant": ""}) for row in rows if row["variant"]}
        table = {key: row for row in read_rows(path) if (key := key_of(row)) not in usable}
        table.update({key_of(row): row for row in rows})
        write = _parquet if path.suffix == ".parquet" else _csv
        write_bytes(path, write(list(table.values())))


def _csv(rows: Sequence[Row]) -> bytes:
    """Return rows as CSV; floats in the shortest form that reads back the same."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if row[name] is None else row[name] for name in COLUMNS} for row in rows)
    return text.getvalue().encode()


def _read_csv(path: Path) -> list[Row]:
    """Read what :func:`_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != tuple(COLUMNS):
            raise ValueError("it has other columns")
        return [{name: _cell(row[name], kind) for name, kind in COLUMNS.items()} for row in reader]


def _cell(text: str | None, kind: type) -> Any:
    """Return a cell's value; a row that is too short raises TypeError."""
    if text is None:
        raise TypeError("a row is cut off")
    return kind(text) if text else ("" if kind is str else None)


def _parquet(rows: Sequence[Row]) -> bytes:
    """Return rows as Parquet."""
    pa: Any = need("pyarrow")
    pq: Any = need("pyarrow.parquet")
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink)
    return sink.getvalue()


def _read_parquet(path: Path) -> list[Row]:
    """Read what :func:`_parquet` wrote."""
    pq: Any = need("pyarrow.parquet")
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    if tuple(table.column_names) != tuple(COLUMNS):
        raise ValueError("it has other columns")
    rows: list[Row] = table.to_pylist()
    return rows


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a folder while a file in it is read and written anew, where the platform has locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror or error}") from error
    try:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
