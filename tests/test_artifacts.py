"""Files and folders that are written whole or not at all, whatever happens to the writer."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgecnn import writing
from edgecnn.artifacts import Lineage, cache_dir, canonical_json, sha256_file, sha256_json
from edgecnn.errors import OutputError
from edgecnn.writing import atomic_file, check_writable, replace_directory, write_bytes, write_json


def anything(_: Path) -> str:
    """Allow every folder to be replaced."""
    return ""


def fill(folder: Path, version: str, files: int = 3) -> None:
    """Write a folder whose every file says the version."""
    (folder / "sub").mkdir(exist_ok=True)
    for index in range(files):
        (folder / "sub" / f"{index}").write_text(version)
    (folder / "version").write_text(version)


def put(destination: Path, version: str, **options: Any) -> None:
    """Replace a folder."""
    with replace_directory(destination, **({"force": True, "foreign": anything} | options)) as folder:
        fill(folder, version)


def version_of(destination: Path, files: int = 3) -> str:
    """Return the version of a whole folder; fail on a mixture."""
    versions = {(destination / "version").read_text()}
    versions |= {(destination / "sub" / f"{index}").read_text() for index in range(files)}
    assert len(versions) == 1
    return versions.pop()


def others(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_new_and_replaced(tmp_path: Path) -> None:
    put(tmp_path / "a", "1", force=False)
    assert version_of(tmp_path / "a") == "1"
    put(tmp_path / "a", "2")
    assert version_of(tmp_path / "a") == "2"
    assert others(tmp_path) == ["a"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_parents_are_created_and_removed_again(tmp_path: Path) -> None:
    put(tmp_path / "x" / "y" / "a", "1")
    assert version_of(tmp_path / "x" / "y" / "a") == "1"
    with pytest.raises(RuntimeError), replace_directory(tmp_path / "p" / "q" / "a"):
        raise RuntimeError
    assert others(tmp_path) == ["x"]


def test_existing_destinations(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    with pytest.raises(OutputError, match="exists: choose another destination, or replace it with --force"):
        put(tmp_path / "a", "2", force=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="exists"):
        put(tmp_path / "empty", "2", force=False)
    put(tmp_path / "empty", "2", foreign=None)
    assert version_of(tmp_path / "empty") == "2"
    (tmp_path / "file").write_text("precious")
    for force in (False, True):
        with pytest.raises(OutputError, match="exists and is not a folder"):
            put(tmp_path / "file", "2", force=force)
    assert (tmp_path / "file").read_text() == "precious"


def test_foreign_folders_are_never_replaced(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    with pytest.raises(OutputError, match="will not be replaced, even by force: it is not empty"):
        put(tmp_path / "a", "2", foreign=None)
    with pytest.raises(OutputError, match="even by force: it is my home"):
        put(tmp_path / "a", "2", foreign=lambda _: "it is my home")
    assert version_of(tmp_path / "a") == "1"
    assert others(tmp_path) == ["a"]


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), replace_directory(tmp_path / "a") as folder:
        fill(folder, "1")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    assert others(tmp_path / "a") == ["theirs"]
    assert others(tmp_path) == ["a"]


def test_created_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writing._renameat2

    def late(source: Path, target: Path, flag: int) -> bool:
        target.mkdir()
        (target / "theirs").touch()
        return real(source, target, flag)

    monkeypatch.setattr(writing, "_renameat2", late)
    with pytest.raises(OutputError, match="created by someone else in the meantime"):
        put(tmp_path / "a", "1", force=False)
    assert others(tmp_path / "a") == ["theirs"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(2)])
def test_failure_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    put(tmp_path / "a", "1")
    with (
        pytest.raises(type(error)),
        replace_directory(tmp_path / "a", force=True, foreign=anything) as folder,
    ):
        fill(folder, "2")
        raise error
    assert version_of(tmp_path / "a") == "1"
    assert others(tmp_path) == ["a"]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "real", "1")
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink()
    assert version_of(tmp_path / "real") == "2"
    assert others(tmp_path) == ["link", "real"]


def test_without_renameat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_renameat2", lambda *_: False)
    put(tmp_path / "a", "1", force=False)
    put(tmp_path / "a", "2")
    assert version_of(tmp_path / "a") == "2"
    assert others(tmp_path) == ["a"]


def test_killed_between_the_two_renames_of_the_fallback(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    (tmp_path / "a").rename(tmp_path / ".a.0123456789abcdef.edgecnn-old")
    with pytest.raises(RuntimeError), replace_directory(tmp_path / "a", force=True, foreign=anything):
        raise RuntimeError  # even a writer that fails puts it back first
    assert version_of(tmp_path / "a") == "1"
    assert others(tmp_path) == ["a"]


def test_leftovers_of_killed_writers(tmp_path: Path) -> None:
    mine = [".a.0123456789abcdef.edgecnn-part", ".a.fedcba9876543210.edgecnn-part", ".a.fedcba9876543211.edgecnn-old"]
    alien = [".b.0123456789abcdef.edgecnn-part", ".a.XYZ.edgecnn-part", ".a.0123456789abcdef.part", "a.edgecnn-part"]
    for name in (*mine, *alien):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").touch()
    (tmp_path / ".a.00000000000000ff.edgecnn-part").write_text("a file")
    (tmp_path / "target").mkdir()
    (tmp_path / ".a.00000000000000fe.edgecnn-part").symlink_to("target")
    put(tmp_path / "a", "1")
    left = others(tmp_path)
    assert not set(mine) & set(left)
    kept = {*alien, ".a.00000000000000ff.edgecnn-part", ".a.00000000000000fe.edgecnn-part", "target", "a"}
    # the one "old" folder was the only copy while nothing stood at the destination, so it was put back, then replaced
    assert set(left) == kept


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    with replace_directory(tmp_path / "a", force=True, foreign=anything) as slow:
        fill(slow, "slow")
        put(tmp_path / "a", "quick")
        assert version_of(tmp_path / "a") == "quick"
        assert slow.is_dir()
    assert version_of(tmp_path / "a") == "slow"
    assert others(tmp_path) == ["a"]


def test_many_writers_at_once(tmp_path: Path) -> None:
    put(tmp_path / "a", "start")
    failed: list[BaseException] = []
    seen: set[str] = set()

    def work(name: str) -> None:
        try:
            for index in range(15):
                put(tmp_path / "a", f"{name}{index}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "pqr"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.add((tmp_path / "a" / "version").read_text())  # never missing for a moment
    assert not failed
    assert len(seen) > 3
    version_of(tmp_path / "a")
    put(tmp_path / "a", "end")
    assert others(tmp_path) == ["a"]


WRITER = """
import sys
import time
from pathlib import Path
from edgecnn import writing
if sys.argv[3] == "fallback":
    writing._renameat2 = lambda *_: False
start = time.perf_counter()
for turn in range(10**6):
    if turn == 2:
        print((time.perf_counter() - start) / 2, flush=True)
    with writing.replace_directory(Path(sys.argv[1]), force=True, foreign=lambda _: "") as folder:
        (folder / "sub").mkdir()
        for index in range(8):
            (folder / "sub" / str(index)).write_text(f"{sys.argv[2]}-{turn}")
        (folder / "version").write_text(f"{sys.argv[2]}-{turn}")
"""


def kill_a_writer(destination: Path, name: str, how: str, moment: float) -> None:
    """Start a writer and kill it ``moment`` replacements after its second one."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(destination), name, how], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    period = float(writer.stdout.readline())
    time.sleep(moment * period)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A writer replaces a folder as fast as it can and is killed; whatever the moment, a whole folder is there."""
    destination = tmp_path / "a"
    leftovers = 0
    for kill in range(15):
        kill_a_writer(destination, f"w{kill}", "swap", moment=kill / 7)
        assert version_of(destination, 8).startswith(f"w{kill}-")
        leftovers += len(others(tmp_path)) > 1
    assert leftovers, "no writer was killed in the middle of its work"
    put(destination, "last")
    assert others(tmp_path) == ["a"]


def test_killed_at_any_moment_of_the_fallback(tmp_path: Path) -> None:
    """Without renameat2 the old folder may stand aside for a moment; the next writer finds it."""
    destination = tmp_path / "a"
    for kill in range(8):
        kill_a_writer(destination, f"w{kill}", "fallback", moment=kill / 4)
        with pytest.raises(RuntimeError), replace_directory(destination, force=True, foreign=anything):
            raise RuntimeError
        assert version_of(destination, 8).startswith(f"w{kill}-")
        assert others(tmp_path) == ["a"]


STEPS = """
import os, signal, sys
from pathlib import Path
from edgecnn import writing
left = int(sys.argv[2])
def trace(frame, event, argument):
    global left
    if frame.f_code.co_filename == writing.__file__ and event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
with writing.replace_directory(Path(sys.argv[1]), force=True, foreign=lambda _: "") as folder:
    for index in range(2):
        (folder / str(index)).write_text("new")
sys.settrace(None)
print("done", left)
"""


def test_killed_line_by_line(tmp_path: Path) -> None:
    """Kill the writer before lines of the replacement in turn, from the first to the last."""
    destination = tmp_path / "a"
    total = _lines(tmp_path)
    assert total > 60
    old, new = 0, 0
    for line in (*range(1, total - 12, 6), *range(total - 12, total + 1, 2)):
        with replace_directory(destination, force=True, foreign=anything) as folder:
            for index in range(2):
                (folder / str(index)).write_text("old")
        done = subprocess.run([sys.executable, "-c", STEPS, str(destination), str(line)], check=False)
        assert done.returncode == -signal.SIGKILL
        found = {path.read_text() for path in destination.iterdir()}
        assert len(list(destination.iterdir())) == 2
        assert found in ({"old"}, {"new"})
        old, new = old + (found == {"old"}), new + (found == {"new"})
    assert old > 5
    assert new > 1


def _lines(tmp_path: Path) -> int:
    """Count the lines that a whole replacement of an existing folder executes."""
    put(tmp_path / "count", "1")
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path / "count"), str(10**6)], capture_output=True, text=True, check=True
    )
    return 10**6 - int(done.stdout.split()[1])


def test_full_disk(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the write fails in the kernel, in the middle of the file."""
    put(tmp_path / "a", "1")
    code = """
        import resource, signal, sys
        from pathlib import Path
        from edgecnn.writing import replace_directory, write_bytes
        from edgecnn.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        for body in (lambda folder: (folder / "x").write_bytes(bytes(9000)), lambda folder: write_bytes(folder / "x", bytes(9000))):
            try:
                with replace_directory(Path(sys.argv[1]), force=True, foreign=lambda _: "") as folder:
                    body(folder)
            except OutputError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("File too large") == 2
    assert done.stdout.count("cannot write") == 2
    assert version_of(tmp_path / "a") == "1"
    assert others(tmp_path) == ["a"]


def test_no_space_left(tmp_path: Path) -> None:
    put(tmp_path / "a", "1")
    with (
        pytest.raises(OutputError, match=r"cannot write .*a: No space left on device"),
        replace_directory(tmp_path / "a", force=True, foreign=anything),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert version_of(tmp_path / "a") == "1"
    assert others(tmp_path) == ["a"]


def as_nobody(code: str, *arguments: str) -> str:
    """Run code as a user who owns nothing (root may write anywhere). What it imports may be root's alone, so comes first."""
    prefix = """
import ctypes, fcntl, os, sys
from pathlib import Path
from edgecnn.writing import replace_directory, write_bytes
from edgecnn.errors import OutputError
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
"""
    done = subprocess.run(
        [sys.executable, "-c", prefix + textwrap.dedent(code), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_write_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    put(locked / "a", "1")
    for folder in (locked, *list(tmp_path.parents)[:2], tmp_path):
        folder.chmod(0o755)
    locked.chmod(0o555)
    out = as_nobody(
        """
        for name in ("a", "b", "c/d"):
            try:
                with replace_directory(Path(sys.argv[1]) / name, force=True, foreign=lambda _: ""):
                    print("entered")
            except OutputError as error:
                print(error)
        try:
            write_bytes(Path(sys.argv[1]) / "f", b"")
        except OutputError as error:
            print(error)
        """,
        str(locked),
    )
    locked.chmod(0o755)
    assert out.count("Permission denied") == 4
    assert "entered" not in out
    assert version_of(locked / "a") == "1"
    assert others(locked) == ["a"]


def test_impossible_names(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        put(tmp_path / ("x" * 300), "1")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        put(tmp_path / "file" / "a", "1")
    with pytest.raises(OutputError, match="will not be replaced"):
        put(Path("/"), "1", foreign=None)
    assert others(tmp_path) == ["file"]


def test_atomic_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"one")
    with pytest.raises(RuntimeError), atomic_file(path) as stream:
        stream.write(b"two")
        raise RuntimeError
    assert path.read_bytes() == b"one"
    write_json(path, {"a": [1, "é"]})
    assert json.loads(path.read_bytes()) == {"a": [1, "é"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "no" / "f", b"")
    assert others(tmp_path) == ["f"]


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a", tmp_path / "b") == abc
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1}) != sha256_json({"a": 2, "b": 2})


def test_lineage_round_trip() -> None:
    step = Lineage(stage="export", tools={"torch": "2.9"}, config={"opset": 20}, inputs={"weights": "ab"}, notes=("x",))
    assert Lineage.from_json(json.loads(json.dumps(step.to_json()))) == step
    with pytest.raises(TypeError):
        step.tools["torch"] = "3"  # type: ignore[index]


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("EDGECNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/edgecnn")


def test_a_file_that_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("old")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "old", tmp_path / "new", Path("new")):
        check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "it is a folder; give the name of a file in it"),
        ("none/page.html", r"/none is not a folder"),
        ("file/page.html", r"/file is not a folder"),
        (
            "/proc/page.html",
            r"cannot write /proc/page\.html: No such file",
        ),  # where root may write, and nothing can be made
        ("x" * 300, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
