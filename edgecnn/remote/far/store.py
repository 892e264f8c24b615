"""The device's cache: contents that are there, contents that arrive, environments."""

from __future__ import annotations

import os
import platform
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgecnn.remote.far.base import inside, job_folder, object_path, root_of, sha256, supervised

__all__ = ["adopt", "commit", "hello", "hold", "missing", "put", "unlock"]

DAY = 86400.0


def hello(request: dict[str, Any]) -> dict[str, Any]:
    """Make the folders, remove what is old, and say what is here."""
    root = root_of(request)
    for name in ("objects", "incoming", "venvs", "jobs"):
        (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = root / f".writable-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
    sweep(root)
    return {
        "root": str(root),
        "python": platform.python_version(),
        "arch": platform.machine(),
        "rsync": shutil.which("rsync") or "",
        "free": shutil.disk_usage(root).free,
    }


def sweep(root: Path) -> None:
    """Remove contents not used for 30 days, arrivals untouched for 7, environments unused for 90, jobs without a supervisor."""
    for name, age in (("objects", 30 * DAY), ("incoming", 7 * DAY), ("venvs", 90 * DAY)):
        for path in (root / name).iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > age:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / "jobs").iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY / 24 and not supervised(path):
                shutil.rmtree(path)


def missing(request: dict[str, Any]) -> dict[str, Any]:
    """Say which contents (sha256 -> bytes) are not here, and how much of each has arrived; locks out other senders."""
    root = root_of(request)
    absent = {}
    for sha, size in request["files"].items():
        path = object_path(root, sha)
        try:
            whole = path.stat().st_size == size
        except FileNotFoundError:
            whole = False
        if whole:
            os.utime(path)
        else:
            absent[sha] = 0
    if absent and not request["session"].acquire(root, request["client"]):
        return {"busy": True}
    for sha in absent:
        with suppress(FileNotFoundError):
            absent[sha] = (root / "incoming" / sha).stat().st_size
    return {"missing": absent, "free": shutil.disk_usage(root).free}


def hold(request: dict[str, Any]) -> dict[str, Any]:
    """Keep other clients from sending, while this one sends by other means."""
    return {"busy": not request["session"].acquire(root_of(request), request["client"])}


def put(request: dict[str, Any]) -> dict[str, Any]:
    """Write a part of an arriving content at its place; ``have`` says how much is there where that is less than the place."""
    root = root_of(request)
    if not request["session"].acquire(root, request["client"]):
        return {"busy": True}
    path = root / "incoming" / object_path(root, request["sha"]).name
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as stream:
        have = os.fstat(handle).st_size
        if have < request["offset"]:
            return {"have": have}
        stream.truncate(request["offset"])
        stream.seek(request["offset"])
        stream.write(request["payload"])
    return {"have": request["offset"] + len(request["payload"])}


def commit(request: dict[str, Any]) -> dict[str, Any]:
    """Check arrived contents against their hash and give them their place; those that are wrong are removed, and named."""
    root = root_of(request)
    if not request["session"].acquire(root, request["client"]):
        return {"busy": True}
    bad = []
    for sha in request["shas"]:
        place, path = object_path(root, sha), root / "incoming" / sha
        if path.exists() and sha256(path) == sha:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.chmod(0o600)
            os.utime(path)
            path.replace(place)
        elif not place.exists():
            bad.append(sha)
            with suppress(FileNotFoundError):
                path.unlink()
    return {"bad": bad}


def unlock(request: dict[str, Any]) -> dict[str, Any]:
    """Let other clients send."""
    request["session"].release()
    return {}


def adopt(request: dict[str, Any]) -> dict[str, Any]:
    """Say whether an environment is here, having put in its place the one that a job made, if that is named."""
    place = inside(root_of(request) / "venvs", request["key"])
    if request.get("job"):
        with suppress(OSError):  # another client was quicker, or this request came twice
            (job_folder(request) / "work" / "venv").rename(place)
    with suppress(OSError):
        os.utime(place)
    return {"python": str(place / "bin" / "python") if (place / "bin" / "python").exists() else ""}
