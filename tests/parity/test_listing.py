"""Listings on the disk say what listings in memory say, and stay small."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from parity_bundles import LABELS, save_pictures

from edgecnn.errors import DataError
from edgecnn.parity.labelled import read_labelled
from edgecnn.parity.listing import Listing


def empty_files(folder: Path, classes: int, each: int) -> Path:
    for index in range(classes):
        sub = folder / f"n{index:08}"
        sub.mkdir(parents=True)
        for number in range(each):
            (sub / f"{number:05}.jpg").touch()
    return folder


def test_it_holds_what_is_read_into_memory(tmp_path: Path) -> None:
    for name in ("class_c", "Class A"):
        save_pictures(tmp_path / name / "deeper", 3)
    memory = read_labelled(tmp_path, 10, LABELS)
    with Listing(tmp_path, 10, LABELS) as disk:
        assert (len(disk), disk.how) == (6, memory.how)
        assert disk.rows(0, 100) == memory.rows(0, 100) == [(str(file), label) for file, label in memory]
        assert disk.rows(2, 4) == memory.rows(2, 4)
        assert disk.rows(6, 9) == []
    with Listing(tmp_path, 10, LABELS, limit=4) as disk:
        assert disk.rows(0, 4) == memory.limited(4).rows(0, 4)


def test_a_csv_keeps_its_order_and_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    save_pictures(tmp_path, 12)
    with Listing(tmp_path, 10) as flat:
        assert [(Path(file).name, label) for file, label in flat.rows(0, 2)] == [("00.png", None), ("01.png", None)]
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(f"{i:02}.png,{i % 3}" for i in reversed(range(12))))
    with Listing(tmp_path, 10) as listed:
        assert [(Path(file).name, label) for file, label in listed.rows(0, 2)] == [("11.png", 2), ("10.png", 1)]


def test_another_picture_class_or_order_is_another_fingerprint_and_another_place_is_not(tmp_path: Path) -> None:
    for name in ("0", "1"):
        save_pictures(tmp_path / "data" / name, 3)
    found = [_fingerprint(tmp_path / "data")]
    (tmp_path / "data").rename(tmp_path / "moved")
    assert _fingerprint(tmp_path / "moved") == found[0]
    found.append(_fingerprint(tmp_path / "moved", limit=4))
    file = tmp_path / "moved" / "1" / "02.png"
    os.utime(file, ns=(1, 1))
    found.append(_fingerprint(tmp_path / "moved"))
    file.rename(file.with_name("03.png"))
    found.append(_fingerprint(tmp_path / "moved"))
    (tmp_path / "moved" / "1").rename(tmp_path / "moved" / "2")
    found.append(_fingerprint(tmp_path / "moved"))
    assert len(set(found)) == 5


def _fingerprint(folder: Path, limit: int | None = None) -> str:
    with Listing(folder, 10, limit=limit) as listing:
        return listing.fingerprint()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (source,) = save_pictures(tmp_path, 1)
    try:
        source.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with Listing(tmp_path, 10) as listing:
        ((file, _),) = listing.rows(0, 1)
        assert Path(file).is_file()
        assert len(listing.fingerprint()) == 64


def test_what_is_wrong_with_a_line_is_raised_at_once(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    (tmp_path / "labels.csv").write_text("file,label\n00.png,1\nabsent.png,1\n")
    with pytest.raises(DataError, match=r"line 3: no file 'absent.png'"):
        Listing(tmp_path, 10)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    def peak(folder: Path) -> int:
        tracemalloc.start()
        with Listing(folder, 10) as listing:
            listing.fingerprint()
            assert len(listing.rows(0, 64)) == 64
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = empty_files(tmp_path / "few", 10, 20), empty_files(tmp_path / "many", 10, 600)
    peak(few)  # what is made once
    assert peak(many) < peak(few) + 300_000, "6,000 paths in memory take several times that"


def test_nothing_is_left_on_the_disk_when_the_process_is_killed(tmp_path: Path) -> None:
    folder = empty_files(tmp_path / "data", 10, 300)
    code = f"""
import os, signal
from pathlib import Path
from edgecnn.parity.listing import Listing
listing = Listing(Path({str(folder)!r}), 10)
print(len(listing), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "SQLITE_TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("3000\n", -9)
    assert list(scratch.iterdir()) == []
