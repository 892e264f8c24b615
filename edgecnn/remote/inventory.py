"""Which devices there are: ``ssh://`` addresses, hosts of the user's ssh configuration, and ``devices.toml``.

::

    ssh_config = "~/.ssh/lab"                # optional; by default ssh's own files

    [devices.orin]
    url = "ssh://nvidia@orin.local:2222"     # or a host of the ssh configuration
    python = "/opt/edge/bin/python"          # an interpreter that has edgecnn; without it, edgecnn installs itself
    base_python = "python3.12"               # what its own environment is made from
    extras = ["openvino"]                    # of edgecnn, beside cpu's onnxruntime
    wheelhouse = "wheels/"                   # folder of wheels here, for a device that is offline
    root = "/data/edgecnn"                   # where files go there; by default ~/.cache/edgecnn/remote
    env = { CUDA_VISIBLE_DEVICES = "0" }     # of the job
    grace = 60                               # s after which a job without a client is stopped

    [fleets]
    lab = ["orin", "xavier"]
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from edgecnn.errors import UserError

__all__ = ["Device", "Inventory", "inventory_path"]

FLEET = "fleet:"
GRACE = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$\\-]*")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device over ssh.

    Attributes:
        name: for messages and for the files that hold its results.
        host: name, address, or host of the ssh configuration; ``user`` "" and ``port`` 0: as that says.
        python: interpreter on it that has edgecnn; "" installs edgecnn into an environment of its own.
        base_python: interpreter that this environment is made from, and that our far side runs in.
        extras: of edgecnn, for that environment.
        wheelhouse: folder of wheels on this machine; with it, the device's pip asks no index. None: it does.
        root: folder on it that everything goes to; "" is ``~/.cache/edgecnn/remote``.
        env: variables of the job. ``grace``: seconds after which a job is stopped that no client asks for.
        ssh_config: for ``ssh -F``; None: ssh's own files.
    """

    name: str
    host: str
    user: str = ""
    port: int = 0
    python: str = ""
    base_python: str = "python3"
    extras: tuple[str, ...] = ("cpu",)
    wheelhouse: Path | None = None
    root: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = GRACE
    ssh_config: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what ssh could take for something else than a host, user or port."""
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
        if not _NAME.fullmatch(self.name):
            raise UserError(f"{self.name!r} is no name for a device: letters, digits, '.', '_' and '-'")
        if not _HOST.fullmatch(self.host):
            raise UserError(f"{self.host!r} is no host: write ssh://user@host:port or a host of your ssh configuration")
        if self.user and not _USER.fullmatch(self.user):
            raise UserError(f"{self.user!r} is no user name")
        if not 0 <= self.port < 65536:
            raise UserError(f"device {self.name}: port {self.port} is not between 1 and 65535")
        if not 1 <= self.grace <= 86400:
            raise UserError(f"device {self.name}: grace {self.grace:g} is not between 1 and 86400 seconds")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(f"device {self.name}: {name!r} is no name of a variable")
        for extra in self.extras:
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", extra):
                raise UserError(f"device {self.name}: {extra!r} is no extra of edgecnn")

    @property
    def address(self) -> str:
        """Where it is, as ``ssh://`` address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "address": self.address,
            "python": self.python or None,
            "base_python": self.base_python,
            "extras": list(self.extras),
            "wheelhouse": None if self.wheelhouse is None else str(self.wheelhouse),
            "root": self.root or None,
            "env": dict(self.env),
            "grace": self.grace,
        }


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The devices and fleets that a file names.

    Attributes:
        path: the file, there or not.
        devices: by name. ``fleets``: names of devices, by name.
        ssh_config: for addresses that the file does not name.
    """

    path: Path
    devices: Mapping[str, Device] = field(default_factory=dict)
    fleets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ssh_config: Path | None = None

    @classmethod
    def read(cls, path: Path | None = None) -> Inventory:
        """Read ``devices.toml``; a file that is not there is an empty inventory.

        Raises:
            UserError: it cannot be read, or says something that is not understood.
        """
        path = path or inventory_path()
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path=path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path} is not TOML: {error}") from error
        try:
            return _inventory(path, data)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def find(self, target: str) -> tuple[Device, ...]:
        """Return the devices that ``--on`` names: an ``ssh://`` address, a device, ``fleet:NAME``, or a host of the ssh configuration.

        Raises:
            UserError: an address that is none, an unknown fleet.
        """
        if target.startswith(FLEET):
            name = target.removeprefix(FLEET)
            if name not in self.fleets:
                raise UserError(f"there is no fleet {name!r} in {self.path}; it has {_names(self.fleets)}")
            return tuple(self.devices[member] for member in self.fleets[name])
        if target in self.devices:
            return (self.devices[target],)
        if "://" in target or _HOST.fullmatch(target):
            return (replace(parse_address(target), ssh_config=self.ssh_config),)
        raise UserError(f"{target!r} is no device: write ssh://user@host, a name of {self.path}, or fleet:NAME")


def inventory_path() -> Path:
    """Return where the inventory is: ``$XDG_CONFIG_HOME/edgecnn/devices.toml``, by default in ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edgecnn" / "devices.toml"


def parse_address(text: str) -> Device:
    """Return the device of ``ssh://[user@]host[:port]``, or of a bare host. Raises UserError."""
    if "://" not in text:
        return Device(name=_name_of(text), host=text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError as error:
        raise UserError(f"{text!r} is no address: {error}") from None
    if parts.scheme != "ssh":
        raise UserError(f"{text!r}: only ssh:// is understood")
    if parts.password is not None:
        raise UserError("an address must not hold a password: use a key (ssh-copy-id), or your ssh configuration")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UserError(f"{text!r}: an address ends after the host and port; a folder is 'root' in devices.toml")
    # urlsplit lowers the host's case, which matters to ssh's configuration.
    written = parts.netloc.rpartition("@")[2]
    shown = written[: len(host)] if written.lower().startswith(host) else host
    return Device(name=_name_of(shown), host=shown, user=unquote(parts.username or ""), port=port)


def _name_of(host: str) -> str:
    """Return a host as a name for files."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", host)[:64].lstrip("._-") or "device"


def _inventory(path: Path, data: Mapping[str, Any]) -> Inventory:
    """Check what the file says."""
    _known(data, {"ssh_config", "devices", "fleets"}, "the file")
    config = _path(path, data, "ssh_config", "the file")
    devices = {name: _device(path, name, entry, config) for name, entry in _table(data, "devices").items()}
    fleets = {}
    for name, members in _table(data, "fleets").items():
        if not isinstance(members, list) or not members or not all(isinstance(one, str) for one in members):
            raise UserError(f"fleet {name} must be a list of names of devices")
        if absent := [one for one in members if one not in devices]:
            raise UserError(f"fleet {name} names {absent[0]!r}, which is not among the devices: {_names(devices)}")
        if len(set(members)) != len(members):
            raise UserError(f"fleet {name} names a device twice")
        fleets[name] = tuple(members)
    return Inventory(path=path, devices=devices, fleets=fleets, ssh_config=config)


def _device(path: Path, name: str, entry: Any, config: Path | None) -> Device:
    """Read a device's table."""
    where = f"device {name}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a table with at least a url")
    keys = {"url", "python", "base_python", "extras", "wheelhouse", "root", "env", "grace", "ssh_config"}
    _known(entry, keys, where)
    url = _text(entry, "url", where)
    if not url:
        raise UserError(f"{where} has no url: write url = 'ssh://user@host'")
    env = entry.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise UserError(f"{where}: env must be a table of strings")
    extras = entry.get("extras", [])
    if not isinstance(extras, list) or not all(isinstance(extra, str) for extra in extras):
        raise UserError(f"{where}: extras must be a list of strings")
    grace = entry.get("grace", GRACE)
    if isinstance(grace, bool) or not isinstance(grace, (int, float)):
        raise UserError(f"{where}: grace must be a number of seconds")
    return replace(
        parse_address(url),
        name=name,
        python=_text(entry, "python", where),
        base_python=_text(entry, "base_python", where) or "python3",
        extras=tuple(extras) if "gpu" in extras else ("cpu", *(extra for extra in extras if extra != "cpu")),
        wheelhouse=_path(path, entry, "wheelhouse", where),
        root=_text(entry, "root", where),
        env=env,
        grace=float(grace),
        ssh_config=_path(path, entry, "ssh_config", where) or config,
    )


def _known(data: Mapping[str, Any], keys: set[str], where: str) -> None:
    """Refuse a key that is not understood, and name the nearest."""
    import difflib

    for key in data:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(sorted(keys))}"
            raise UserError(f"{where} has an unknown key {key!r}: {hint}")


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a table of the file."""
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} must be a table")
    for name in value:
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} in {key} is no name: letters, digits, '.', '_' and '-'")
    return value


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    """Return a string, "" where there is none."""
    value = data.get(key, "")
    if not isinstance(value, str) or "\0" in value or "\n" in value:
        raise UserError(f"{where}: {key} must be a string of one line")
    return value


def _path(file: Path, data: Mapping[str, Any], key: str, where: str) -> Path | None:
    """Return a path of this machine, relative to the file that names it."""
    text = _text(data, key, where)
    return file.parent / Path(os.path.expanduser(text)) if text else None  # noqa: PTH111 -- Path.expanduser raises for an unknown user


def _names(table: Mapping[str, Any]) -> str:
    """List names, or say that there are none."""
    return ", ".join(table) or "none"
