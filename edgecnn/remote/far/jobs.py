"""Jobs: a command, its inputs, and the supervisor that outlives a connection but not its client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgecnn.remote.far.base import (
    Refused,
    inside,
    job_folder,
    locked,
    object_path,
    root_of,
    sha256,
    supervised,
)
from edgecnn.remote.far.machine import sensors

__all__ = ["collect", "get", "kill", "poll", "start"]

TICK = 0.1  # s between two looks at a job's files
SHORT = 72  # bytes of a path that leave room for a socket's name below it: unix(7) allows 108 in all
ENDING = 12.0  # s: more than a program gets to end


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Lay out a job's inputs, and start it under a supervisor; a job that was started already is left alone."""
    folder, root = job_folder(request), root_of(request)
    if folder.exists():
        return {}
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name in ("work", "tmp"):
            (part / name).mkdir(parents=True, mode=0o700)
        for tree in request["trees"]:
            lay_out(root, part / "work", tree)
        handle = os.open(part / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(handle):
            raise Refused(f"{part}: this file system has no locks")
        (part / "lease").write_bytes(b"")
        renew(part)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    child = os.fork()
    if child == 0:
        detach(folder, handle, request)
    os.close(handle)
    os.waitpid(child, 0)
    return {}


def lay_out(root: Path, work: Path, tree: dict[str, Any]) -> None:
    """Make one input of a job from contents: hard links, so that it costs no space; ``copy`` where the job writes to it."""
    place = inside(work, tree["place"])
    place.parent.mkdir(parents=True, exist_ok=True)
    for name in tree["folders"]:
        (inside(place, name) if name else place).mkdir(parents=True, exist_ok=True)
    for name, sha in tree["files"].items():
        target, content = inside(place, name) if name else place, object_path(root, sha)
        if tree.get("copy"):
            shutil.copyfile(content, target)
            continue
        try:
            os.link(content, target)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links, or one whose number is used up
            shutil.copyfile(content, target)


def renew(folder: Path) -> None:
    """Renew a job's lease; by the monotonic clock, since a device without a battery sets its clock when it finds a network."""
    now = time.monotonic()
    os.utime(folder / "lease", (now, now))


def detach(folder: Path, lock: int, request: dict[str, Any]) -> None:
    """Become a process that no connection owns, supervise, and end."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(3, lock)
        os.closerange(lock + 1, 4096)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        supervise(folder, request)
    finally:
        os._exit(0)


def supervise(folder: Path, request: dict[str, Any]) -> None:
    """Run a job's steps, note how they ended, and keep the result until the client has it or is gone."""
    grace = float(request["grace"])
    before, began = sensors(), time.monotonic()
    code, why = 0, ""
    try:
        for step in request["steps"]:
            code, why = run_step(folder, step, request, grace)
            if code or why:
                break
    except OSError as error:
        code, why = 127, f"{error.strerror or error}: {error.filename or request['steps'][0][0]}"
    done = {
        "code": code,
        "why": why,
        "seconds": round(time.monotonic() - began, 3),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "sensors": {"before": before, "after": sensors()},
    }
    if why != "abandoned":
        write(folder / "done.json", json.dumps(done).encode())
        while (folder / "lease").exists() and not stale(folder, grace) and not (folder / "kill").exists():
            time.sleep(TICK)
    shutil.rmtree(folder, ignore_errors=True)


def run_step(folder: Path, step: list[str], request: dict[str, Any], grace: float) -> tuple[int, str]:
    """Run one program of a job to its end, or until it is killed or nobody asks for it any more; return its code, and why it was ended."""
    environment = {**os.environ, **request.get("env", {}), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    if len(str(folder)) < SHORT:
        environment["TMPDIR"] = str(folder / "tmp")  # what a killed program leaves there goes with the job
    with (folder / "out").open("ab") as out, (folder / "err").open("ab") as err:
        child = subprocess.Popen(  # noqa: S603 -- what the client asks for is what this program is for
            step, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=str(folder / "work"), env=environment,
            start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509 -- there is one thread
        )  # fmt: skip
    why = ""
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=3 * TICK), why
            if (folder / "kill").exists() or not folder.exists():
                why = "killed"
            elif stale(folder, grace):
                why = "abandoned"
            if why:
                end(child)
                return child.wait(), why
    finally:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)  # workers that the program left behind


def end(child: subprocess.Popen[bytes]) -> None:
    """End a program and its children: politely, then not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.killpg(child.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
            return


def die_with_parent() -> None:
    """Ask Linux to kill this process when its supervisor dies, however that dies."""
    with suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of linux/prctl.h


def stale(folder: Path, grace: float) -> bool:
    """Whether nobody has asked for a job during the grace."""
    try:
        return time.monotonic() - (folder / "lease").stat().st_mtime > grace
    except OSError:
        return True


def peak_rss_mb() -> float:
    """Return the largest resident set of any child so far, MB."""
    import resource

    return float(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e6


def write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def poll(request: dict[str, Any]) -> dict[str, Any]:
    """Renew a job's lease and return what it has said on stderr since ``offset``; waits up to ``wait`` seconds for news."""
    folder, until = job_folder(request), time.monotonic() + float(request["wait"])
    while True:
        try:
            renew(folder)
        except FileNotFoundError:
            return {"state": "gone"}
        alive = supervised(folder)
        done = None
        with suppress(FileNotFoundError):
            done = json.loads((folder / "done.json").read_bytes())
        data = read(folder / "err", request["offset"], request.get("limit", 1 << 20))
        if data or done or not alive or time.monotonic() >= until:
            break
        time.sleep(TICK)
    if data:
        return {"state": "running", "data": data}
    if done:
        return {"state": "done", **done}
    return {"state": "running" if alive else "lost"}


def read(path: Path, offset: int, limit: int) -> bytes:
    """Read a part of a file; nothing of one that is not there."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(limit)
    except FileNotFoundError:
        return b""


def kill(request: dict[str, Any]) -> dict[str, Any]:
    """End a job, or forget one that has ended, and wait until its supervisor has removed it."""
    folder = job_folder(request)
    with suppress(FileNotFoundError):
        (folder / "kill").write_bytes(b"")
    until = time.monotonic() + ENDING
    while folder.exists() and supervised(folder) and time.monotonic() < until:
        time.sleep(TICK / 2)
    if not supervised(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return {}


def collect(request: dict[str, Any]) -> dict[str, Any]:
    """Return (sha256, bytes) of files of a job, null for those that are not there; ``keep`` makes them contents of the cache."""
    folder = job_folder(request)
    _fetching(folder)
    found: dict[str, tuple[str, int]] = {}
    for name in request["paths"]:
        path = inside(folder, name)
        with suppress(FileNotFoundError):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path} is not a file")
            found[name] = (sha256(path), status.st_size)
            if request.get("keep"):
                with suppress(OSError):
                    os.link(path, object_path(root_of(request), found[name][0]))
    return {"files": found}


def get(request: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a file of a job."""
    folder = job_folder(request)
    _fetching(folder)
    return {"data": read(inside(folder, request["path"]), request["offset"], request["limit"])}


def _fetching(folder: Path) -> None:
    """Renew a job's lease, since whoever fetches its files is alive."""
    with suppress(FileNotFoundError):
        renew(folder)
