"""What is finished of an evaluation: one small file a shard, written whole or not at all, kept by what decides its numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from edgecnn.artifacts import cache_dir, sha256_json
from edgecnn.errors import OutputError, UserError
from edgecnn.parity.tally import Tally
from edgecnn.writing import write_json

__all__ = ["Store"]

_SHARD = re.compile(r"(\d+)-(\d+)\.json")


class Store:
    """The finished shards of one variant on one backend over one listing, in the cache folder (``EDGECNN_CACHE``). A context manager.

    It is one process's at a time: the lock ends with the process, however it ends.

    Args:
        key: JSON of everything that decides the numbers; another key is another folder.

    Attributes:
        total: the sum over the finished shards. ``done``: where they start.

    Raises:
        OutputError: the folder cannot be written.
        UserError: another process is at the same evaluation.
    """

    def __init__(self, key: Mapping[str, Any]) -> None:
        """Open or make the folder, and add up what is finished."""
        self.path = cache_dir() / "evaluations" / sha256_json(key)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; EDGECNN_CACHE names another folder"
            ) from error
        self.total, self.done = Tally(), set[int]()
        try:
            self._hold()
            write_json(self.path / "key.json", dict(key))
            for file in self.path.iterdir():
                if found := _SHARD.fullmatch(file.name):
                    self._read(file, int(found[1]), int(found[2]))
        except BaseException:
            os.close(self._lock)
            raise

    def put(self, start: int, stop: int, tally: Tally) -> None:
        """Keep a finished shard. Raises OutputError."""
        if start not in self.done:
            write_json(self.path / f"{start}-{stop}.json", tally.to_json())
            self._take(start, tally)

    def clear(self) -> None:
        """Remove the folder: the result is delivered."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder."""
        self.close()

    def _hold(self) -> None:
        """Lock the folder. Where there are no locks, two processes do the same work twice, with the same results."""
        try:
            import fcntl

            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the same evaluation is running in another process (it holds {self.path})") from None
        except (ImportError, OSError):
            return

    def _read(self, file: Path, start: int, stop: int) -> None:
        """Add a finished shard; one that does not read is done again."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            tally = Tally.from_json(json.loads(file.read_text(encoding="utf-8")))
            if tally.images + tally.unreadable == stop - start:
                self._take(start, tally)

    def _take(self, start: int, tally: Tally) -> None:
        """Count a finished shard."""
        self.total.merge(tally)
        self.done.add(start)
