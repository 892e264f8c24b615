"""The interpreter that a device's jobs run in: the user's own, or an environment that edgecnn installs itself into."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from importlib import import_module, metadata
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.errors import RemoteError, UserError
from edgecnn.progress import Progress, silent
from edgecnn.remote.job import Job
from edgecnn.remote.sync import Content, Tree, path_tree, send
from edgecnn.remote.transport import Link

__all__ = ["interpreter", "wheel"]

NEEDED = (3, 11)
"""The oldest Python that edgecnn runs in (pyproject.toml)."""
_EPOCH = (2020, 1, 1, 0, 0, 0)


def interpreter(link: Link, *, progress: Progress = silent) -> str:
    """Return the device's interpreter that has this edgecnn, installing it where the device names none.

    Raises:
        UserError: the named interpreter has no edgecnn, or the wheelhouse is no folder.
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
    name, data = wheel()
    trees = {"wheel": Tree(name=name, files={"": _content(data)})}
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


def wheel() -> tuple[str, bytes]:
    """Return the name and bytes of a wheel of the edgecnn that runs, installed or a checkout: equal sources give equal bytes.

    The layout is that of the wheel format 1.0 (PyPA specifications, "Binary distribution format"). It holds Python and data alone,
    and so fits every processor.

    Raises:
        UserError: edgecnn runs without having been installed, so that its metadata is unknown.
    """
    try:
        said = metadata.distribution("edgecnn")
        about = said.read_text("METADATA") or said.read_text("PKG-INFO")  # the latter beside a checkout
    except metadata.PackageNotFoundError:
        about = None
    if about is None:
        raise UserError("edgecnn's metadata is not there: install it (pip install .), even if only as editable")
    info = f"edgecnn-{__version__}.dist-info"
    files = dict(sorted(_modules().items()))
    files[f"{info}/METADATA"] = about.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edgecnn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nedgecnn = edgecnn.cli.__main__:main\n"
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return f"edgecnn-{__version__}-py3-none-any.whl", buffer.getvalue()


def _modules() -> dict[str, bytes]:
    """Return every file of the package, by its path in a wheel; a checkout keeps two of its folders elsewhere."""
    files = {}
    for package in ("edgecnn", "edgecnn.models", "edgecnn.calib"):
        folder = Path(str(import_module(package).__path__[0]))
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
                files[name] = path.read_bytes()
    return files


def _digest(data: bytes) -> str:
    """Return a hash as RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _content(data: bytes) -> Content:
    """Describe bytes."""
    return Content(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data)
