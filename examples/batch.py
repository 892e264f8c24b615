"""Classify a folder into a CSV file. Killed at any moment and started again, it goes on where it was.

::

    python -m edgecnn.examples.batch efficientnet_lite0-int8 photos/ photos.csv

One line a picture: ``file,index,label,probability,error``, in the order of the names. A picture that cannot be decoded has its
error there, and is not tried again. Needs edgecnn's runtime and a backend.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import DataError, EdgecnnError
from edgecnn.runtime import Batching, Classifier, Prediction, Service, Wait
from edgecnn.writing import write_bytes

COLUMNS = ["file", "index", "label", "probability", "error"]
ANY_BYTES = "surrogateescape"
"""How names of files that are not UTF-8 go through, and a line that was cut off within a character."""

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Done:
    """What a run did."""

    pictures: int
    failed: int
    skipped: int


def pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder and those below it. Raises DataError where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise DataError(f"{folder}: no pictures in it ({', '.join(sorted(PICTURES))})")
    return found


def resume(table: Path) -> set[str]:
    """Return the files that a table has whole lines for; a line that was cut off is removed, a missing table is begun.

    Raises:
        DataError: it is another kind of file, which is left as it is.
        OutputError: it cannot be written.
    """
    head = ",".join(COLUMNS) + "\n"
    try:
        text = table.read_bytes().decode(errors=ANY_BYTES) if table.exists() else ""
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} is not a table of this job: {error}") from error
    if not text.startswith(head) and not head.startswith(text):  # the second: cut off within the first line
        raise DataError(
            f"{table} is not a table of this job: it does not begin with {head.strip()!r}; it was left alone"
        )
    whole = rows[1:] if text.endswith("\n") and len(rows[-1]) == len(COLUMNS) else rows[1:-1]
    if not rows or len(whole) < len(rows) - 1 or rows[0] != COLUMNS:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *whole])
        write_bytes(table, buffer.getvalue().encode(errors=ANY_BYTES))
    return {row[0] for row in whole}


def classify(service: Service, paths: Iterable[Path]) -> Iterator[tuple[Path, Prediction | DataError]]:
    """Yield every picture with its most probable class, or with what is wrong with it, in order.

    The service's queue is kept full, so that it always has a batch to run, and no fuller: memory does not grow with the folder.

    Raises:
        BackendError: the model failed.
    """
    pending: deque[tuple[Path, Future[list[Prediction]]]] = deque()

    def settle() -> tuple[Path, Prediction | DataError]:
        path, future = pending.popleft()
        try:
            return path, future.result()[0]
        except DataError as error:
            return path, error

    for path in paths:
        pending.append((path, service.submit(path, top=1)))
        if len(pending) > service.capacity:
            yield settle()
    while pending:
        yield settle()


def run(service: Service, folder: Path, table: Path) -> Done:
    """Classify what the table does not have yet. Raises DataError, OutputError, BackendError."""
    found = pictures(folder)
    done = resume(table)
    todo = [path for path in found if path.relative_to(folder).as_posix() not in done]
    failed = 0
    with table.open("a", encoding="utf-8", errors=ANY_BYTES, newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for path, outcome in classify(service, todo):
            name = path.relative_to(folder).as_posix()
            if isinstance(outcome, DataError):
                failed += 1
                writer.writerow([name, "", "", "", str(outcome)])
            else:
                writer.writerow([name, outcome.index, outcome.label, f"{outcome.probability:.6f}", ""])
            stream.flush()
    return Done(pictures=len(todo), failed=failed, skipped=len(found) - len(todo))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 where a picture failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m edgecnn.examples.batch", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path, help="the CSV file; one that is there is continued")
    parser.add_argument("--batch", type=int, default=8, help="pictures to run at once [8]")
    parser.add_argument("--workers", type=int, default=2, help="one decodes while another runs [2]")
    options = parser.parse_args(arguments)
    try:
        classifier, batching = Classifier(options.bundle), Batching(largest=options.batch)
        with Service(
            classifier, batching, capacity=4 * options.batch, when_full=Wait(), workers=options.workers
        ) as service:
            done = run(service, options.folder, options.table)
    except (EdgecnnError, OSError) as error:  # a table that may not be written to, a disk that is full
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(f"{done.pictures} pictures classified, {done.failed} of them unreadable, {done.skipped} were done before")
    return 1 if done.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
