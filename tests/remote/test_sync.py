"""Files travel by content: nothing twice, nothing half, whatever they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sshd
from test_transport import device

from edgecnn.errors import DataError, RemoteError
from edgecnn.remote.job import Job
from edgecnn.remote.sync import Content, Sent, Tree, bundle_tree, path_tree, send
from edgecnn.remote.transport import Link

NAMES = ["plain.txt", "-rf", "a b", "it's", 'dou"ble', "$(touch pwned)", "`id`", "ü模型",
         "new\nline", "*", "a\\b", "~", os.fsdecode(b"latin-\xe9")]  # fmt: skip


@pytest.fixture(params=["rsync", "ssh"])
def link(request: pytest.FixtureRequest, server: sshd.Server) -> Iterator[Link]:
    """Return a connection, to a device with rsync and to one without."""
    if request.param == "rsync" and not shutil.which("rsync"):
        pytest.skip("rsync not installed: apt install rsync")
    with Link(device(server)) as link:
        if request.param == "ssh":
            link.here["rsync"] = ""
        yield link


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with names that a shell, a protocol or an option parser would misread, empty files and folders, and links."""
    folder = tmp_path / "data; touch pwned"
    (folder / "empty class").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / f"d{name}").mkdir()
        (folder / f"d{name}" / name).write_bytes(bytes([number]) * number)
    (folder / "link").symlink_to(folder / "d-rf" / "-rf")
    return folder


def listing(root: Path) -> dict[str, bytes | None]:
    """Return a folder's content; folders are None."""
    found = sorted(root.rglob("*"))
    return {os.fsencode(path.relative_to(root)).hex(): None if path.is_dir() else path.read_bytes() for path in found}


def test_a_folder_arrives_as_it_is_and_the_second_time_nothing_is_sent(
    link: Link, server: sshd.Server, folder: Path
) -> None:
    tree = path_tree(folder)
    sent = send(link, [tree])
    assert (sent.files, sent.known) == (len(NAMES), 0)  # the empty file and the link are contents that are there
    assert sent.bytes == sum(range(len(NAMES)))
    before = server.objects()
    assert send(link, [path_tree(folder)]) == Sent(known=len(NAMES))
    assert server.objects() == before
    with Job(link) as job:
        far = Path(job.work)
        seen: list[dict[str, bytes | None]] = []
        copy = folder.parent / "copy"
        job.run([["cp", "-a", f"{far}/0/{tree.name}", str(copy)]], trees=[(f"0/{tree.name}", tree)], listen=print)
        seen.append(listing(copy))
    assert seen == [listing(folder)]
    assert server.leftovers() == []
    assert not list(Path.cwd().glob("pwned"))


def test_the_second_run_does_not_even_start_rsync(
    server: sshd.Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("rsync")
    if not real:
        pytest.skip("rsync not installed: apt install rsync")
    calls = tmp_path / "calls"
    wrapper = tmp_path / "bin" / "rsync"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho call >> "{calls}"\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    for expected in (1, 1):
        with Link(device(server)) as link:
            _, tree = bundle_tree(bundle)
            sent = send(link, [tree])
        assert calls.read_text().count("call") == expected
    assert sent.bytes == sent.files == 0


def test_an_rsync_that_does_not_understand_us(
    server: sshd.Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "bin" / "rsync"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/sh\necho 'rsync: --info=progress2: unknown option' >&2\nexit 1\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    said: list[str] = []
    with Link(device(server), say=said.append) as link:
        link.here["rsync"] = "/usr/bin/rsync"
        sent = send(link, [path_tree(folder)])
    assert (sent.files, sent.how) == (len(NAMES), "ssh")
    assert said == [
        "edge: rsync cannot be used (rsync: --info=progress2: unknown option); files go through ssh without it"
    ]


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "a" / "c").symlink_to(tmp_path / "a" / "b")
    assert sorted(path_tree(tmp_path / "a").files) == ["b/file", "c/file"]


def test_a_file_that_shrinks_while_it_is_sent(link: Link, tmp_path: Path) -> None:
    tree, _, _ = content(tmp_path, 100_000)
    (tmp_path / "big").write_bytes(b"short")
    with pytest.raises((DataError, RemoteError), match=r"became shorter|arrived changed again"):
        send(link, [tree])


def test_one_changed_file_is_the_only_one_that_is_sent(link: Link, folder: Path) -> None:
    send(link, [path_tree(folder)])
    (folder / "new").write_bytes(b"n" * 777)
    assert send(link, [path_tree(folder)]) == Sent(files=1, bytes=777, known=len(NAMES), how=_how(link))


def _how(link: Link) -> str:
    return "rsync" if link.here["rsync"] else "ssh"


def content(tmp_path: Path, size: int) -> tuple[Tree, Content, bytes]:
    """Return a file of random bytes."""
    data = os.urandom(size)
    (tmp_path / "big").write_bytes(data)
    tree = path_tree(tmp_path / "big")
    return tree, tree.files[""], data


def test_what_arrived_before_a_cut_is_not_sent_again(link: Link, server: sshd.Server, tmp_path: Path) -> None:
    tree, one, data = content(tmp_path, 3_000_000)
    (server.cache / "incoming" / one.sha256).write_bytes(data[:2_000_000])
    assert send(link, [tree]).bytes == 1_000_000
    assert (server.cache / "objects" / one.sha256).read_bytes() == data
    assert server.leftovers() == []


def test_what_arrived_wrong_is_sent_again_whole(link: Link, server: sshd.Server, tmp_path: Path) -> None:
    tree, one, data = content(tmp_path, 300_000)
    (server.cache / "incoming" / one.sha256).write_bytes(b"\0" * 200_000)
    said: list[str] = []
    link.say = said.append
    send(link, [tree])
    assert said == ["edge: 1 files arrived changed, and are sent again"]
    assert (server.cache / "objects" / one.sha256).read_bytes() == data


def test_a_truncated_content_of_the_cache_is_replaced(link: Link, server: sshd.Server, tmp_path: Path) -> None:
    tree, one, data = content(tmp_path, 300_000)
    send(link, [tree])
    os.truncate(server.cache / "objects" / one.sha256, 1000)
    assert send(link, [tree]).files == 1
    assert (server.cache / "objects" / one.sha256).read_bytes() == data


def test_a_cut_while_sending(server: sshd.Server, link: Link, tmp_path: Path) -> None:
    """The connection is cut when the first part has arrived: the rest comes over another one, and the result is whole."""
    tree, one, data = content(tmp_path, 30_000_000)
    cuts: list[int] = []

    def progress(step: str, done: int, total: int) -> None:
        if step == "send" and not cuts and 0 < done < total:
            cuts.append(server.cut())

    sent = send(link, [tree], progress=progress)
    assert cuts
    assert cuts[0] >= 1
    assert link.reconnected >= 1
    assert sent.files == 1
    assert (server.cache / "objects" / one.sha256).read_bytes() == data
    assert server.leftovers() == []


def test_no_room_is_said_before_anything_is_sent(link: Link, server: sshd.Server, tmp_path: Path) -> None:
    free = shutil.disk_usage(server.cache).free
    (tmp_path / "huge").touch()
    huge = Content(sha256="a" * 64, size=free + 1, path=tmp_path / "huge")
    with pytest.raises(
        RemoteError, match=r"edge: [\d.]+ MB are to be sent and [\d.]+ MB are free in .*root in devices.toml"
    ):
        send(link, [Tree(name="huge", files={"": huge})])
    assert list((server.cache / "incoming").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False)  # fmt: skip
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up(link: Link, server: sshd.Server, small_disk: Path, tmp_path: Path) -> None:
    """Another writer takes the room while we send."""
    tree, one, _ = content(tmp_path, 700_000)
    with Link(device(server, root=str(small_disk))) as full:
        full.here["rsync"] = link.here["rsync"]
        real = full.call

        def call(op: str, payload: bytes = b"", **fields: object) -> dict[str, object]:
            answer = real(op, payload, **fields)
            if op == "missing":
                (small_disk / "other").write_bytes(b"x" * 600_000)
            return answer

        full.call = call  # type: ignore[method-assign]
        with pytest.raises(RemoteError, match="No space left on device"):
            send(full, [tree])
    assert not (small_disk / "objects" / one.sha256).exists()


def test_a_bundle_is_sent_without_what_was_measured_of_it(bundle: Path) -> None:
    from edgecnn.pack import add_results

    opened, tree = bundle_tree(bundle)
    add_results(opened, {"edge/verify.json": {"passed": True}})
    again, same = bundle_tree(bundle)
    assert "results/edge/verify.json" in again.manifest.files
    assert same == replace(tree, name=same.name)


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        path_tree(tmp_path / "nothing")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="leads back to a folder that it is in"):
        path_tree(tmp_path / "a")
    (tmp_path / "a" / "loop").unlink()
    for one, other in (("a/one", "a/other"), ("a/other", "a/one")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    with pytest.raises(DataError, match="leads back to a folder"):
        path_tree(tmp_path / "a")
    for one in ("one", "other"):
        (tmp_path / "a" / one / "link").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        path_tree(tmp_path / "a")
