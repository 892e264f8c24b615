"""The pictures of a folder, however many: their listing lies on the disk, in order, and is read in parts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from edgecnn.errors import DataError
from edgecnn.parity.labelled import Entry, Row, evenly, fingerprint, scan

__all__ = ["Listing", "Pictures"]

_BATCH = 100


class Pictures(Protocol):
    """What evaluation needs of pictures: a :class:`Listing`, or :class:`~edgecnn.parity.labelled.LabelledImages`."""

    @property
    def how(self) -> str:
        """Where the classes come from, in words."""

    def __len__(self) -> int:
        """Return how many there are."""

    def rows(self, start: int, stop: int) -> list[Row]:
        """Return those at some positions."""

    def fingerprint(self) -> str:
        """Return a sha256 that is another one where a picture, its class or the order is."""


class Listing:
    """The pictures of a folder and their classes, as :func:`~edgecnn.parity.labelled.scan` finds them, sorted on the disk.

    It is a temporary database of SQLite without a name, which goes with the process however that ends. Memory does not grow with the
    number of pictures.

    Args:
        folder: to read.
        num_classes: of the model.
        labels: its class names, if they have any.
        limit: take so many pictures, spread evenly.

    Attributes:
        folder: absolute.
        how: where the classes come from, in words.

    Raises:
        DataError: as :func:`~edgecnn.parity.labelled.scan`.
    """

    def __init__(self, folder: Path, num_classes: int, labels: Sequence[str] = (), limit: int | None = None) -> None:
        """List the folder."""
        self.folder = folder.absolute()
        self.how, entries = scan(folder, num_classes, labels)
        # joblib takes the next tasks in a thread of its own, one at a time.
        self._data = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            self._fill(entries)
            (count,) = self._data.execute("SELECT count(*) FROM pictures").fetchone()
            self._picked = evenly(count, limit)
        except sqlite3.Error as error:
            self.close()
            raise DataError(f"{folder} cannot be listed: {error} (a full disk for temporary files?)") from error
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._picked)

    def rows(self, start: int, stop: int) -> list[Row]:
        """Return the pictures at some positions: absolute file, class."""
        return [(str(self.folder / file), label) for file, label in self._rows(start, stop)]

    def fingerprint(self) -> str:
        """Return the sha256 of the listing; see :func:`~edgecnn.parity.labelled.fingerprint`. The folder may lie elsewhere."""
        parts = (self._rows(start, start + _BATCH) for start in range(0, len(self), _BATCH))
        return fingerprint((row for part in parts for row in part), str(self.folder))

    def close(self) -> None:
        """Remove the listing from the disk."""
        self._data.close()

    def __enter__(self) -> Self:
        """Return the listing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _fill(self, entries: Iterator[Entry]) -> None:
        """Write the pictures in order. File names are bytes, which need not be text."""
        run = self._data.execute
        run("PRAGMA temp_store = FILE")
        run("BEGIN")
        run("CREATE TABLE found (part INTEGER, file BLOB, label INTEGER)")
        rows = ((part, os.fsencode(file), label) for part, file, label in entries)
        self._data.executemany("INSERT INTO found VALUES (?, ?, ?)", rows)
        run("CREATE TABLE pictures (position INTEGER PRIMARY KEY, file BLOB, label INTEGER)")
        run("INSERT INTO pictures (file, label) SELECT file, label FROM found ORDER BY part, file")
        run("DROP TABLE found")
        run("COMMIT")

    def _rows(self, start: int, stop: int) -> list[Row]:
        """Return the pictures at some positions, files within the folder. Positions on the disk begin with 1."""
        found = []
        for position in self._picked[start:stop]:
            query = "SELECT file, label FROM pictures WHERE position = ?"
            file, label = self._data.execute(query, (position + 1,)).fetchone()
            found.append((os.fsdecode(file), label))
        return found
