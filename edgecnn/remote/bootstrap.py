"""The interpreter that a device's jobs run in: the user's own, or an environment that edgecnn installs itself into."""

from __future__ import annotations

import hashlib
import json

from edgecnn._version import __version__
from edgecnn.errors import RemoteError, UserError
from edgecnn.progress import Progress, silent
from edgecnn.remote.job import Job
from edgecnn.remote.sync import Content, Tree, path_tree, send
from edgecnn.remote.transport import Link
from edgecnn.wheel import wheel_bytes, wheel_name

__all__ = ["interpreter"]

NEEDED = (3, 11)
"""The oldest Python that edgecnn runs in (pyproject.toml)."""


def interpreter(link: Link, *, progress: Progress = silent) -> str:
    """Return the device's interpreter that has this edgecnn, installing it where the device names none.

    Raises:
        UserError: the named interpreter has no edgecnn, the wheelhouse is no folder, or edgecnn is not installed here.
        RemoteError: it cannot be asked, or pip fails there.
    """
    device = link.device
    if device.python:
        found = link.call("check", python=device.python, packages=["edgecnn"])
        version = found["packages"].get("edgecnn")
        if version is None:
            raise UserError(
                f"{device.name}: {device.python} has no edgecnn: install it there, or leave out python, and edgecnn installs itself"
            )
        if version != __version__:
            link.say(f"{device.name}: {device.python} has edgecnn {version}, this is {__version__}")
        return str(found["path"])
    base = link.call("check", python=device.base_python, packages=[])
    if tuple(int(part) for part in base["python"].split(".")[:2]) < NEEDED:
        raise UserError(
            f"{device.name}: {device.base_python} is Python {base['python']}, and edgecnn needs {NEEDED[0]}.{NEEDED[1]} or newer: "
            "name a newer one with base_python in devices.toml"
        )
    data = wheel_bytes()
    trees = {"wheel": Tree(name=wheel_name(), files={"": _content(data)})}
    if device.wheelhouse is not None:
        if not device.wheelhouse.is_dir():
            raise UserError(f"{device.name}: the wheelhouse {device.wheelhouse} is no folder")
        trees["wheelhouse"] = path_tree(device.wheelhouse)
    key = _key(data, link, base["python"], trees.get("wheelhouse"))
    if found := link.call("adopt", key=key)["python"]:
        return str(found)
    link.say(f"{device.name}: installing edgecnn {__version__} into an environment of its own, for the first time")
    send(link, trees.values(), progress=progress)
    return _install(link, key, trees)


def _install(link: Link, key: str, trees: dict[str, Tree]) -> str:
    """Make the environment in a job's folder, and give it its place when pip is done: an interrupted one leaves nothing."""
    device, said = link.device, [""]

    def listen(line: str) -> None:
        said.append(line)
        link.say(f"{device.name}: {line}")

    with Job(link) as job:
        wheel_file, made = f"{job.work}/wheel/{trees['wheel'].name}", f"{job.work}/venv"
        places = [(f"wheel/{trees['wheel'].name}", trees["wheel"])]
        offline: list[str] = []
        if "wheelhouse" in trees:
            places.append(("wheelhouse", trees["wheelhouse"]))
            offline = ["--no-index", "--find-links", f"{job.work}/wheelhouse"]
        # what is imported is compiled then, and the rest of numpy never
        pip = [
            f"{made}/bin/python",
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--quiet",
            "--no-compile",
        ]
        base = link.call("check", python=device.base_python, packages=[])["path"]  # a job has no shell to find it
        steps = [
            [base, "-m", "venv", "--system-site-packages", made],
            [*pip, *offline, f"{wheel_file}[{','.join(device.extras)}]"],
        ]
        ended = job.run(steps, trees=places, listen=listen)
        if ended.code == 0:
            return str(link.call("adopt", key=key, job=job.id)["python"])
        why = " / ".join(line for line in (*said[-3:], job.said()) if line)  # venv complains on stdout
    todo = "an offline device needs a wheelhouse; a Debian without venv needs apt install python3-venv"
    raise RemoteError(f"{device.name}: edgecnn could not be installed there ({why}): {todo}")


def _key(wheel_data: bytes, link: Link, python: str, wheelhouse: Tree | None) -> str:
    """Return the name of an environment by what decides what is in it."""
    parts = {
        "wheel": hashlib.sha256(wheel_data).hexdigest(),
        "python": [link.device.base_python, python],
        "extras": list(link.device.extras),
        "wheelhouse": sorted(one.sha256 for one in wheelhouse.files.values()) if wheelhouse else [],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _content(data: bytes) -> Content:
    """Describe bytes."""
    return Content(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data)
