"""Sending files by content: what the device has is never sent again, and what it gets is checked before anything sees it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgecnn.artifacts import sha256_file
from edgecnn.errors import DataError, DisconnectedError, RemoteError
from edgecnn.pack import RESULTS
from edgecnn.progress import Progress, silent
from edgecnn.remote.transport import Link
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.manifest import MANIFEST

__all__ = ["Content", "Sent", "Tree", "bundle_tree", "path_tree", "send"]

CHUNK = 4 << 20  # bytes in one request, where rsync is missing
_MARGIN = 1.05  # of free space over what is sent
_HOLD = 20.0  # s: the far side ends a sender that says nothing for longer than 120 (far/base.py)
_STRIKES = 4  # interruptions in a row that brought nothing
_MISUNDERSTOOD = {1, 2, 4, 127}  # rsync(1): syntax, protocol, an action that is not supported; a shell without it
_BROKEN = {10, 12, 30, 35, 255}  # rsync(1): socket, protocol stream, timeouts; 255 is ssh's


@dataclass(frozen=True, kw_only=True)
class Content:
    """A content to send: a file of this machine, or bytes."""

    sha256: str
    size: int
    path: Path | None = None
    data: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A file or folder as a job finds it.

    Attributes:
        name: of the file or folder.
        files: relative path -> content; "" for a tree that is one file.
        folders: relative paths, so that empty ones are there too; "" is the tree itself.
        copy: the job writes to it.
    """

    name: str
    files: Mapping[str, Content]
    folders: tuple[str, ...] = ()
    copy: bool = False

    def request(self, place: str) -> dict[str, Any]:
        """Return how the far side lays it out."""
        files = {name: content.sha256 for name, content in self.files.items()}
        return {"place": place, "folders": list(self.folders), "files": files, "copy": self.copy}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What was sent: files and bytes of it, beside ``known`` files that were there; ``how``: ``rsync``, ``ssh``, or "" for nothing."""

    files: int = 0
    bytes: int = 0
    known: int = 0
    how: str = ""

    def __str__(self) -> str:
        """Say it in words."""
        if not self.files:
            return f"nothing to send, all {self.known} files are there"
        return f"sent {self.files} files, {self.bytes / 1e6:.1f} MB, by {self.how}; {self.known} were there"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"files": self.files, "bytes": self.bytes, "known": self.known, "how": self.how or None}


def bundle_tree(path: Path) -> tuple[Bundle, Tree]:
    """Return a bundle, checked, and its files but what was measured of it (``results/``). Raises BundleError."""
    bundle = Bundle.open(path, allow_unverified=True)
    sent = {name: one for name, one in bundle.manifest.files.items() if not name.startswith(f"{RESULTS}/")}
    files = {name: Content(sha256=record.sha256, size=record.bytes, path=path / name) for name, record in sent.items()}
    data = json.dumps(replace(bundle.manifest, files=sent).to_json(), indent=2, ensure_ascii=False).encode()
    files[MANIFEST] = _content(data)
    return bundle, Tree(name=_name(path), files=files, folders=_folders(files))


def path_tree(path: Path, *, copy: bool = False, progress: Progress = silent) -> Tree:
    """Return a file, or a folder with everything in it; symbolic links are followed.

    Raises:
        DataError: it is not there, cannot be read, or holds something that is neither file nor folder.
    """
    try:
        if path.is_file():
            return Tree(name=_name(path), files={"": _file(path)}, copy=copy)
        if not path.is_dir():
            raise DataError(f"{path} is not there, so that it cannot be sent; device:PATH names a file of the device")
        names, folders = _walk(path)
        files = {}
        for number, name in enumerate(names):
            files[name] = _file(path / name)
            progress("hash", number + 1, len(names))
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    return Tree(name=_name(path), files=files, folders=("", *folders), copy=copy)


def send(link: Link, trees: Iterable[Tree], *, progress: Progress = silent) -> Sent:
    """Send what the device lacks of some trees, and have it checked there. An interrupted sending goes on where it stopped.

    Raises:
        RemoteError: no room, no permission, or contents that arrive changed twice.
        DisconnectedError: the connection broke, and stayed so.
    """
    contents = {content.sha256: content for tree in trees for content in tree.files.values()}
    asked = {sha: content.size for sha, content in contents.items()}
    sent = Sent(known=len(contents))
    for _attempt in range(3):
        answer = _when_free(link, op="missing", files=asked)
        absent: dict[str, int] = answer["missing"]
        if not absent:
            return sent
        todo = {sha: contents[sha] for sha in absent}
        size = sum(max(0, content.size - absent[sha]) for sha, content in todo.items())
        if size * _MARGIN > answer["free"]:
            raise RemoteError(
                f"{link.device.name}: {size / 1e6:.1f} MB are to be sent and {answer['free'] / 1e6:.1f} MB are free in {link.root}: "
                "make room there, or name another folder as root in devices.toml"
            )
        both = link.here["rsync"] and shutil.which("rsync")
        how = "rsync" if both and _by_rsync(link, todo, absent, progress) else "ssh"
        if how == "ssh":
            _by_requests(link, todo, absent, progress)
        bad: list[str] = _when_free(link, op="commit", shas=list(absent))["bad"]
        link.call("unlock")
        arrived = len(todo) - len(bad)
        sent = Sent(files=sent.files + arrived, bytes=sent.bytes + size, known=sent.known - arrived, how=how)
        if not bad:
            return sent
        link.say(f"{link.device.name}: {len(bad)} files arrived changed, and are sent again")
    raise RemoteError(
        f"{link.device.name}: files arrived changed again and again: do they change here meanwhile? Is its disk sound?"
    )


def _when_free(link: Link, **request: Any) -> dict[str, Any]:
    """Ask for something that one client at a time may have."""
    told = False
    while True:
        answer = link.call(**request)
        if not answer.get("busy"):
            return answer
        if not told:
            link.say(f"{link.device.name}: another client is sending files to it; waiting")
            told = True
        time.sleep(0.5)


def _by_requests(link: Link, todo: Mapping[str, Content], have: Mapping[str, int], progress: Progress) -> None:
    """Send contents through the far side itself, for devices without rsync."""
    total = sum(content.size for content in todo.values())
    before = 0
    for sha, content in todo.items():
        offset = min(have[sha], content.size)
        with _open(content) as stream:
            while True:
                stream.seek(offset)
                block = stream.read(CHUNK)
                if not block and offset < content.size:
                    raise DataError(f"{content.path} became shorter while it was sent: run the command again")
                answer = link.call("put", block, sha=sha, offset=offset)
                if answer.get("busy"):
                    time.sleep(0.5)
                    continue
                offset = int(answer["have"])
                progress("send", before + offset, total)
                if offset >= content.size:
                    break
        before += content.size


def _by_rsync(link: Link, todo: Mapping[str, Content], have: Mapping[str, int], progress: Progress) -> bool:
    """Send contents by rsync, from a folder of links that are named by content, so that no name of the user's is on a command line.

    Returns:
        False where one of the two rsyncs does not understand the other, or us.
    """
    total = sum(content.size for content in todo.values())
    with tempfile.TemporaryDirectory(prefix="edgecnn-send-") as scratch:
        for sha, content in todo.items():
            if content.path is None:
                Path(scratch, sha).write_bytes(content.data)
            else:
                Path(scratch, sha).symlink_to(content.path.absolute())
        held, strikes = sum(min(have[sha], content.size) for sha, content in todo.items()), 0
        while True:
            code, said = _rsync(link, scratch, partial(_moved, progress, held, total))
            if code == 0:
                return True
            if code in _MISUNDERSTOOD:
                link.say(f"{link.device.name}: rsync cannot be used ({said}); files go through ssh without it")
                return False
            if code not in _BROKEN or "No space left" in said:
                raise RemoteError(f"{link.device.name}: rsync failed with {code}: {said}")
            fresh = link.call("missing", files={sha: content.size for sha, content in todo.items()})
            now = total - sum(max(0, todo[sha].size - at) for sha, at in fresh.get("missing", have).items())
            strikes = 0 if now > held else strikes + 1
            if strikes == _STRIKES:
                raise DisconnectedError(f"{link.device.name}: rsync failed {strikes} times with {code}: {said}")
            held = now
            time.sleep(0.5)


def _moved(progress: Progress, before: int, total: int, moved: int) -> None:
    """Report what rsync moved."""
    progress("send", min(total, before + moved), total)


def _rsync(link: Link, folder: str, moved: Callable[[int], object]) -> tuple[int, str]:
    """Run rsync once; ``moved`` is told the bytes so far. Return its exit code, and what it complained of."""
    host = f"[{link.device.host}]" if ":" in link.device.host else link.device.host
    command = [
        "rsync", "--recursive", "--copy-links", "--inplace", "--append", "--protect-args", "--chmod=F600", "--outbuf=L",
        "--no-motd", "--info=progress2", "-e", " ".join(_for_rsync(word) for word in link.ssh.options()),
        "--", f"{folder}/", f"{host}:{link.root}/incoming/",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 -- rsync; names on the line are ours, the root is protected by --protect-args
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdout is not None
        try:
            pending = b""
            while block := _read(link, process.stdout.fileno()):
                *lines, pending = re.split(rb"[\r\n]", pending + block)
                for line in lines:
                    if found := re.match(rb"\s*([\d,.]+)\s+\d+%", line):
                        moved(int(re.sub(rb"\D", b"", found.group(1))))
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            process.stdout.close()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    return code, " / ".join(said[:2])


def _read(link: Link, handle: int) -> bytes:
    """Read what rsync says, looking twice a second whether the work was stopped, and keeping other clients out."""
    while not select.select([handle], [], [], 0.5)[0]:
        link.check()
    if time.monotonic() - link.asked > _HOLD:
        link.call("hold")
    return os.read(handle, 4096)


def _for_rsync(word: str) -> str:
    """Quote a word for rsync's ``-e``, which knows quotes but no backslash."""
    return word if shlex.quote(word) == word else "'" + word.replace("'", "''") + "'"


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the files and folders in a folder, relative and sorted; a link to a folder that it is in is refused."""
    names, folders = [], []
    above: dict[str, frozenset[str]] = {}  # folder -> where it and those above it really are
    for place, below, files in os.walk(root, followlinks=True, onerror=_raise):
        real, around = os.path.realpath(place), above.get(str(Path(place).parent), frozenset())
        if real in around:
            raise DataError(f"{place} leads back to a folder that it is in: remove the symbolic link")
        above[str(Path(place))] = around | {real}
        below.sort()
        folders += [Path(place, name).relative_to(root).as_posix() for name in below]
        for name in sorted(files):
            path = Path(place, name)
            if not path.is_file():
                raise DataError(f"{path} is neither a file nor a folder, or a link that leads nowhere: move it away")
            names.append(path.relative_to(root).as_posix())
    return names, folders


def _raise(error: OSError) -> None:
    """Let a folder that cannot be read be an error."""
    raise error


def _file(path: Path) -> Content:
    """Describe a file."""
    return Content(sha256=sha256_file(path), size=path.stat().st_size, path=path)


def _content(data: bytes) -> Content:
    """Describe bytes."""
    return Content(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data)


def _open(content: Content) -> Any:
    """Open a content for reading."""
    return io.BytesIO(content.data) if content.path is None else content.path.open("rb")


def _name(path: Path) -> str:
    """Return a path's last part, also of ``.`` and ``..``."""
    return path.resolve().name or "root"


def _folders(files: Mapping[str, Content]) -> tuple[str, ...]:
    """Return the folders of some relative paths."""
    found = {""}
    for name in files:
        parts = name.split("/")[:-1]
        found.update("/".join(parts[: count + 1]) for count in range(len(parts)))
    return tuple(sorted(found))
