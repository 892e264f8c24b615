"""What the far side's parts share: folders, locks, hashes, and refusals."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Refused", "Session", "inside", "job_folder", "locked", "object_path", "root_of", "sha256", "supervised"]

IDLE = 120.0  # s: a sender that is alive asks for something more often than this


class Refused(Exception):  # noqa: N818 -- a request that is answered with its text
    """A request that cannot be done; the text is for the user."""


class Session:
    """What one connection holds: the lock on ``incoming``, while it sends files."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.lock = -1

    def acquire(self, root: Path, client: str) -> bool:
        """Take the lock on ``incoming``, or keep it; False while another client has it.

        A connection whose network went silent may hold it still: that of the same client, or one that was idle for :data:`IDLE`, is ended.
        """
        path = root / "incoming.lock"
        if self.lock < 0:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if not locked(handle) and not (self._end_holder(handle, client) and locked(handle)):
                os.close(handle)
                return False
            self.lock = handle
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {client}".encode(), 0)
        os.utime(path)
        return True

    def _end_holder(self, handle: int, client: str) -> bool:
        """End the process that holds the lock, if it may be ended, and wait until it is gone."""
        found = re.fullmatch(r"(\d+) (\w*)", os.pread(handle, 200, 0).decode("ascii", "replace"))
        if not found or (found.group(2) != client and time.time() - os.fstat(handle).st_mtime < IDLE):
            return False
        with suppress(OSError):
            opened = [one.stat() for one in Path("/proc", found.group(1), "fd").iterdir() if one.exists()]
            if any(
                os.path.samestat(one, os.fstat(handle)) for one in opened
            ):  # the number may be another process's by now
                os.kill(int(found.group(1)), signal.SIGKILL)
                time.sleep(0.2)
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def locked(handle: int) -> bool:
    """Try to lock an open file for this process and its children."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def root_of(request: dict[str, Any]) -> Path:
    """Return the folder that everything is in."""
    asked = request.get("root") or ""
    if asked:
        return Path(os.path.expanduser(asked)).absolute()  # noqa: PTH111 -- Path.expanduser raises another error
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base).absolute() / "edgecnn" / "remote"


def inside(folder: Path, name: str) -> Path:
    """Return a path in a folder. Refuses one that could lead elsewhere."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Refused(f"{name!r} is no path inside a folder")
    return folder.joinpath(*parts)


def job_folder(request: dict[str, Any]) -> Path:
    """Return the folder of a job."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", request["job"]):
        raise Refused(f"{request['job']!r} is no name of a job")
    return root_of(request) / "jobs" / str(request["job"])


def object_path(root: Path, sha: str) -> Path:
    """Return where a content lies."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha):
        raise Refused(f"{sha!r} is no sha256")
    return root / "objects" / sha


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while True:
            block = stream.read(1 << 20)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def supervised(folder: Path) -> bool:
    """Whether a job's supervisor lives: it holds the lock."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not locked(handle)
    finally:
        os.close(handle)
