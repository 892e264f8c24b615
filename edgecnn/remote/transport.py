"""The way to a device: the system's OpenSSH, and over it the far side's requests and answers."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any, Self

from edgecnn.errors import DisconnectedError, MissingDependencyError, RemoteError
from edgecnn.remote.far.serve import MARK
from edgecnn.remote.inventory import Device

__all__ = ["Cancelled", "Link", "Ssh"]

BOOT = "import sys,zlib;i=sys.stdin.buffer;exec(zlib.decompress(i.read(int(i.readline()))).decode(),{'__name__':'edgecnn'})"
PARTS = ("base", "machine", "store", "jobs", "serve")
"""Modules of the far side, each after those that it imports."""
_CLEANING = ("kill",)
_SSH_FAILED = 255  # ssh(1): its own failures; everything else is the far side's
BANNER = 1 << 16  # bytes that a login shell may print before the far side speaks

REASONS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key changed: if you know why, ssh-keygen -R removes the old one"),
    ("Host key verification failed", "ssh does not trust its host key: connect once by hand and compare the key, or mend known_hosts"),
    ("Permission denied", "it refused the login: is your key there (ssh-copy-id), and the user right? No password is asked for"),
    ("Too many authentication failures", "it refused the login: name the key with IdentityFile and IdentitiesOnly in your ssh config"),
    ("Could not resolve hostname", "no such host: check the name"),
    ("Connection refused", "nothing answers on that port: does its ssh server run?"),
    ("No route to host", "it cannot be reached: is it on, and in this network?"),
    ("Network is unreachable", "it cannot be reached: is it on, and in this network?"),
    ("timed out", "it does not answer: is it on, and in this network?"),
    ("Bad owner or permissions", "ssh refuses its configuration file: mend the file's owner and permissions"),
    ("Bad configuration option", "ssh does not understand its configuration file"),
    ("No such file or directory", "a file of the ssh configuration is not there"),
)  # fmt: skip
"""What ssh says -> what to do."""


class Cancelled(RemoteError):  # noqa: N818 -- it is what happened, not a fault
    """The work on a device was stopped because its client was asked to."""


class Ssh:
    """The ``ssh`` command for a device, with one connection that all its channels share. A context manager."""

    def __init__(self, device: Device) -> None:
        """Make the folder of the shared connection's socket: a short path, since sockets take no long one."""
        if shutil.which("ssh") is None:
            raise MissingDependencyError("there is no ssh command: apt install openssh-client")
        base = tempfile.gettempdir()
        self.device = device
        self.folder = tempfile.mkdtemp(prefix="ec-", dir=base if len(base) < 30 and " " not in base else "/tmp")  # noqa: S108 -- a folder of our own in it

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the shared connection."""
        self.close()

    def options(self) -> list[str]:
        """Return ssh and its options: never a question, a shared connection, and a dead one noticed within 20 s."""
        pairs = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ControlMaster": "auto",
            "ControlPath": f"{self.folder}/%C",
            "ControlPersist": "20",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "RequestTTY": "no",
            "ClearAllForwardings": "yes",
            "LogLevel": "ERROR",
        }
        words = ["ssh", *(word for name, value in pairs.items() for word in ("-o", f"{name}={value}"))]
        if self.device.ssh_config is not None:
            words += ["-F", str(self.device.ssh_config)]
        if self.device.user:
            words += ["-l", self.device.user]
        if self.device.port:
            words += ["-p", str(self.device.port)]
        return words

    def command(self, remote: str) -> list[str]:
        """Return the command line that runs a line of the device's shell."""
        return [*self.options(), "--", self.device.host, remote]

    def close(self) -> None:
        """End the shared connection and remove its folder."""
        if any(Path(self.folder).glob("*")):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(  # noqa: S603 -- ssh, with our own words
                    [*self.options(), "-O", "exit", "--", self.device.host],
                    capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False,
                )  # fmt: skip
        shutil.rmtree(self.folder, ignore_errors=True)


class Channel:
    """One run of the far side: requests and answers over a pipe."""

    def __init__(self, ssh: Ssh) -> None:
        """Start the far side. Raises RemoteError, or DisconnectedError where ssh gave no reason that is known."""
        device = ssh.device
        self._name, self._python = device.name, device.base_python
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the channel
        line = f"{_shell_path(device.base_python)} -X utf8 -I -c {shlex.quote(BOOT)}"
        self._process = subprocess.Popen(  # noqa: S603 -- ssh; everything of the user's is checked or quoted
            ssh.command(line),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )  # fmt: skip -- a session of its own: Ctrl-C is ours to handle, while the connection lives
        program = _program()
        try:
            self._send(b"%d\n%s" % (len(program), program))
            self._await_mark()
        except DisconnectedError:
            raise self._explain() from None

    def call(self, request: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """Send a request and return its answer; what came with it is under ``data``. Raises DisconnectedError, RemoteError."""
        self._send(json.dumps({**request, "bytes": len(payload)}).encode() + b"\n" + payload)
        line = self._output.readline()
        if not line.endswith(b"\n"):
            raise self._explain()
        try:
            answer = dict(json.loads(line))
        except ValueError:
            raise RemoteError(f"{self._name}: the far side said {line[:80]!r}, which is no answer") from None
        data = self._output.read(answer["bytes"])
        if len(data) < answer["bytes"]:
            raise self._explain()
        if "error" in answer:
            raise RemoteError(f"{self._name}: {answer['error']}")
        return {**answer, "data": data}

    def close(self) -> None:
        """End the far side."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    @property
    def _output(self) -> IO[bytes]:
        """What the far side answers."""
        assert self._process.stdout is not None
        return self._process.stdout

    def _send(self, data: bytes) -> None:
        """Write to the far side."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise DisconnectedError(f"{self._name}: the connection ended") from None

    def _await_mark(self) -> None:
        """Read over what a login shell prints."""
        seen = 0
        while seen < BANNER:
            line = self._output.readline()
            if line.endswith(MARK):
                return
            if not line:
                break
            seen += len(line)
        raise DisconnectedError(f"{self._name}: the far side did not start")

    def _explain(self) -> RemoteError:
        """Say why the connection ended, and what to do about it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._errors.seek(0)
        said = self._errors.read()[-4000:].decode(errors="replace").strip()
        last = " / ".join(line.strip() for line in said.splitlines()[-3:])
        self.close()
        code = self._process.returncode
        if code in (126, 127):
            return RemoteError(f"{self._name}: it cannot run {self._python}: name its Python with base_python ({last})")
        if code != _SSH_FAILED and code >= 0 and last:
            return RemoteError(f"{self._name}: {self._python} there ended with {code} ({last})")
        for mark, todo in REASONS:
            if mark in said:
                return RemoteError(f"{self._name}: {todo} (ssh said: {last})")
        return DisconnectedError(f"{self._name}: the connection ended{f' (ssh said: {last})' if last else ''}")


class Link:
    """A device's far side behind a connection that is made anew when it breaks. A context manager.

    The first connection must succeed at once; a later one is tried again for as long as the device keeps a job without a client.
    Every request may be sent twice: none does harm the second time.

    Attributes:
        root: folder on the device, known after the first connection.
        reconnected: how often the connection was made anew. ``asked``: when the last request was sent, by the monotonic clock.
    """

    def __init__(
        self,
        device: Device,
        *,
        say: Callable[[str], object] = lambda _: None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Connect, and make the device's folders; ``cancelled`` is set by another thread to stop the work.

        Raises:
            RemoteError: the device cannot be reached, or its folders not be made.
            MissingDependencyError: there is no ssh command.
        """
        self.device = device
        self.reconnected = 0
        self.asked = 0.0
        self.root = ""
        self.ssh = Ssh(device)
        self.say = say
        self._cancelled = cancelled
        self._client = secrets.token_hex(8)
        self._channel: Channel | None = None
        try:
            self._channel = Channel(self.ssh)
            self.here = self._channel.call({"op": "hello", "root": device.root})
        except BaseException:
            self.close()
            raise
        self.root = str(self.here["root"])

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connection."""
        self.close()

    def call(self, op: str, payload: bytes = b"", **fields: Any) -> dict[str, Any]:
        """Return the answer to a request, over as many connections as it takes.

        Raises:
            DisconnectedError: the connection broke, and none came about for the device's grace.
            RemoteError: the far side cannot do it.
            Cancelled: the work was stopped; what cleans up after it is done all the same.
        """
        began, pause = 0.0, 0.25
        limit = min(self.device.grace, 10.0) if op in _CLEANING else self.device.grace
        while True:
            if op not in _CLEANING:
                self.check()
            try:
                if self._channel is None:
                    self._channel = Channel(self.ssh)
                    self.reconnected += 1
                    self.say(f"{self.device.name}: connected again")
                self.asked = time.monotonic()
                return self._channel.call({"op": op, "root": self.root, "client": self._client, **fields}, payload)
            except RemoteError as error:
                broken = isinstance(error, DisconnectedError) or self._channel is None
                if not broken:
                    raise
                if began == 0.0:
                    began = time.monotonic()
                    self.say(f"{error}; connecting again")
                if time.monotonic() - began > limit:
                    raise DisconnectedError(
                        f"{error}; no new connection for {limit:g} s: the device stops and removes the job by itself"
                    ) from error
                self.drop()
                time.sleep(pause)
                pause = min(2 * pause, 4.0)

    def check(self) -> None:
        """Raise Cancelled if the work was stopped."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise Cancelled(f"{self.device.name}: stopped")

    def drop(self) -> None:
        """Give the channel up: the next request makes another."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """End the connection."""
        self.drop()
        self.ssh.close()


@cache
def _program() -> bytes:
    """Return the far side as one program, compressed: its modules, put where they import each other from."""
    folder = resources.files("edgecnn.remote.far")
    sources = {f"edgecnn.remote.far.{name}": (folder / f"{name}.py").read_text(encoding="utf-8") for name in PARTS}
    text = (
        "import sys, types\n"
        "def module(name):\n"
        "    made = sys.modules[name] = types.ModuleType(name)\n"
        "    made.__path__ = []\n"
        "    above, _, last = name.rpartition('.')\n"
        "    if above: setattr(sys.modules[above], last, made)\n"
        "    return made\n"
        "for name in ('edgecnn', 'edgecnn.remote', 'edgecnn.remote.far'): module(name)\n"
        f"for name, source in {sources!r}.items(): exec(compile(source, name, 'exec'), module(name).__dict__)\n"
        "sys.modules['edgecnn.remote.far.serve'].serve()\n"
    )
    return zlib.compress(text.encode(), 9)


def _shell_path(path: str) -> str:
    """Quote a path for the device's shell, whose home a leading ``~/`` means."""
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path[2:])
    return shlex.quote(path)
