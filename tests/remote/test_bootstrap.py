"""edgecnn installs itself into an environment on the device, once; here from a wheelhouse, as on a device without a network."""

from __future__ import annotations

import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import sshd
from cli_tools import Cli
from packaging.requirements import Requirement
from test_transport import device

from edgecnn.errors import RemoteError, UserError
from edgecnn.remote.bootstrap import interpreter
from edgecnn.remote.inventory import Inventory
from edgecnn.remote.transport import Link

OF_PIP = ("INSTALLER", "REQUESTED", "direct_url.json")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
ROOT = Path(__file__).parents[2]


def closure(*names: str) -> set[str]:
    """Return distributions and everything that they need here."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    return found


def write_wheelhouse(folder: Path, *names: str) -> Path:
    """Make wheels again of what is installed here."""
    folder.mkdir()
    for name in closure(*names):
        one = metadata.distribution(name)
        tags = re.findall(r"^Tag: *(\S+)", one.read_text("WHEEL") or "", re.MULTILINE)[-1]
        target = folder / f"{name.replace('-', '_')}-{one.version}-{tags}.whl"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for file in one.files or []:
                if ".." not in file.parts and file.suffix != ".pyc" and file.name not in OF_PIP:
                    archive.write(str(file.locate()), file.as_posix())
    return folder


def test_a_python_that_is_too_old(server: sshd.Server, tmp_path: Path) -> None:
    old = tmp_path / "old python"
    said = '{"python": "3.10.12", "packages": {}}'
    old.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo \'{said}\'; exit; fi\nexec {sys.executable} "$@"\n')
    old.chmod(0o755)
    refused = pytest.raises(UserError, match=r"is Python 3\.10\.12, and edgecnn needs 3\.11")
    with Link(device(server, base_python=str(old))) as link, refused:
        interpreter(link)


@pytest.mark.sweep  # it makes another environment
def test_a_wheelhouse_that_lacks_something_leaves_no_environment(server: sshd.Server, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed = pytest.raises(RemoteError, match=r"could not be installed there .*an offline device needs a wheelhouse")
    with Link(device(server, base_python=_plain_python(), wheelhouse=tmp_path / "empty")) as link, failed:
        interpreter(link)
    assert server.leftovers() == []
    with Link(device(server, wheelhouse=tmp_path / "none")) as link, pytest.raises(UserError, match="is no folder"):
        interpreter(link)


def _plain_python() -> str:
    """Return the interpreter that this environment was made from, which has none of our packages."""
    return str(Path(sys.base_prefix) / "bin" / PYTHON)


def test_edgecnn_installs_itself_once_and_runs(
    server: sshd.Server, cli: Cli, bundle: Path, photo: Path, tmp_path: Path
) -> None:
    house = write_wheelhouse(tmp_path / "wheels", "numpy", "click", "rich", "Pillow", "onnxruntime")
    server.inventory(
        tmp_path / "config", python="", base_python=_plain_python(), extra=f"wheelhouse = {sshd.toml(house)}\n"
    )
    here = cli("predict", "--json", "--", bundle, photo)
    first = cli("predict", "--json", "--on", "edge", "--", bundle, photo)
    assert first.code == 0, first.err
    assert "edge: installing edgecnn" in first.err
    assert first.document == here.document
    (environment,) = (server.cache / "venvs").iterdir()
    assert (environment / "lib" / PYTHON / "site-packages" / "edgecnn").is_dir()
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()
    said: list[str] = []
    with Link(*Inventory.read().find("edge"), say=said.append) as link:
        assert interpreter(link) == str(environment / "bin" / "python")
    assert said == []
    assert server.leftovers() == [f"venvs/{environment.name}"]
