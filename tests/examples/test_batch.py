"""The job over a folder: whole, resumable after a kill at any byte, and one bad picture stops nothing."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_bundle import photos

from edgecnn.errors import DataError
from edgecnn.examples import batch
from edgecnn.runtime import Batching, Classifier, OrtOptions, Service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return eight pictures, two of them in a folder below and with odd names, and one that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    names = ["a.png", "b.png", "c.jpg", "d.png", "e.PNG", "more/f, g.png", 'more/h "i"\nj.png', "k.png"]
    for name, picture in zip(names, photos(8), strict=True):
        Image.fromarray(picture).save(folder / name)
    (folder / "c.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("x")
    return folder


def service(bundle: Path) -> Service:
    return Service(Classifier(bundle, options=OrtOptions(threads=1)), Batching(largest=3), capacity=4, workers=2)


def rows(table: Path) -> list[list[str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_one_line_a_picture(tiny: Path, folder: Path, tmp_path: Path) -> None:
    with service(tiny) as running:
        assert batch.run(running, folder, tmp_path / "t.csv") == batch.Done(pictures=8, failed=1, skipped=0)
    header, *found = rows(tmp_path / "t.csv")
    assert header == ["file", "index", "label", "probability", "error"]
    assert [row[0] for row in found] == [path.relative_to(folder).as_posix() for path in batch.pictures(folder)]
    with Classifier(tiny, options=OrtOptions(threads=1)) as classify:
        for name, index, label, probability, error in found:
            if name == "c.jpg":
                assert (index, label, probability) == ("", "", "")
                assert "not an image" in error
                continue
            best = classify(folder / name)[0]
            assert (index, label, error) == (str(best.index), best.label, "")
            assert float(probability) == pytest.approx(best.probability, abs=1e-4)


def test_goes_on_after_a_kill_at_any_byte(tiny: Path, folder: Path, tmp_path: Path) -> None:
    whole, table = tmp_path / "whole.csv", tmp_path / "cut.csv"
    with service(tiny) as running:
        batch.run(running, folder, whole)
        expected, content = rows(whole), whole.read_bytes()
        for cut in range(len(content)):
            table.write_bytes(content[:cut])
            done = batch.resume(table)
            kept = rows(table)
            assert kept == expected[: len(kept)], cut
            assert done == {row[0] for row in kept[1:]}
            assert len(kept) >= max(1, content[:cut].count(b"\n") - 1), "only the line that was cut off is lost"
        for cut in (0, 3, 60, len(content) // 2, len(content) - 1, len(content)):
            table.write_bytes(content[:cut])
            done_now = batch.run(running, folder, table)
            assert done_now.pictures + done_now.skipped == 8
            assert sorted(rows(table)) == sorted(expected), cut
            assert batch.run(running, folder, table).pictures == 0


def test_a_name_that_is_not_utf8(tiny: Path, folder: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    (folder / odd).write_bytes((folder / "a.png").read_bytes())
    with service(tiny) as running:
        batch.run(running, folder, tmp_path / "t.csv")
        assert b"caf\xe9.png" in (tmp_path / "t.csv").read_bytes()
        assert batch.run(running, folder, tmp_path / "t.csv") == batch.Done(pictures=0, failed=0, skipped=9)


FOREIGN = {
    "whole": b"name,price\nx,3\n",
    "no end of the last line": b"name,price\nx,3",
    "one line": b"name",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0",
    "a long field": b"x" * 200_000,
    "more columns": b"file,index,label,probability,error,note\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_not_touched(content: bytes, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match="not a table of this job"):
        batch.resume(table)
    assert table.read_bytes() == content


def test_nothing_is_begun_in_vain(tiny: Path, folder: Path, tmp_path: Path) -> None:
    with service(tiny) as running:
        with pytest.raises(DataError, match=r"not a table of this job.*directory"):
            batch.run(running, folder, folder)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no pictures in it"):
            batch.run(running, tmp_path / "empty", tmp_path / "u.csv")
    assert not (tmp_path / "u.csv").exists()


def test_memory_does_not_grow_with_the_folder(tiny: Path, folder: Path) -> None:
    with service(tiny) as running:
        outstanding, most = 0, 0

        def paths() -> Any:
            nonlocal outstanding, most
            for path in [*batch.pictures(folder)] * 10:
                outstanding += 1
                most = max(most, outstanding)
                yield path

        for _ in batch.classify(running, paths()):
            outstanding -= 1
    assert most <= running.capacity + 1


def test_the_command_line_goes_on_after_a_kill(tiny: Path, tmp_path: Path) -> None:
    """Really killed, with SIGKILL, in the middle; then started again."""
    folder, table = tmp_path / "many", tmp_path / "t.csv"
    folder.mkdir()
    for number in range(300):
        Image.fromarray(photos(1, 200, 200)[0]).save(folder / f"{number:03d}.png")
    line = [sys.executable, "-W", "error", "-m", "edgecnn.examples.batch", str(tiny), str(folder), str(table)]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (table.exists() and table.read_bytes().count(b"\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    had = table.read_bytes().count(b"\n") - 1
    assert 20 <= had <= 300
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{300 - had} pictures classified, 0 of them unreadable, {had} were done before")
    assert [row[0] for row in rows(table)[1:]] == [f"{number:03d}.png" for number in range(300)]


@pytest.mark.parametrize(
    ("failure", "said"), [(OSError(28, "No space left on device"), "error: .*No space"), (KeyboardInterrupt(), "130")]
)
def test_the_command_line_ends_with_one_line(
    failure: BaseException, said: str, tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise failure

    monkeypatch.setattr(batch, "classify", fail)
    with pytest.raises(SystemExit, match=said):
        batch.main([str(tiny), str(folder), str(tmp_path / "t.csv")])
