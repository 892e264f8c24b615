"""One command on a device: start it, follow what it says, and fetch what it made."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from edgecnn.errors import RemoteError
from edgecnn.remote.sync import Tree
from edgecnn.remote.transport import Link
from edgecnn.writing import atomic_file

__all__ = ["Ended", "Job"]

WAIT = 1.0  # s that the far side may wait for news: a connection that is alive renews the lease this often
CHUNK = 4 << 20
_KILLED = -9
DOCUMENT = 256 << 20  # bytes that a command may print on stdout


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended.

    Attributes:
        code: exit code.
        seconds: that it took, by the device's clock. ``peak_rss_mb``: largest resident set of a process of it, MB.
        sensors: temperatures, clocks and power mode ``before`` and ``after`` it.
    """

    code: int
    seconds: float
    peak_rss_mb: float
    sensors: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "sensors", MappingProxyType(dict(self.sensors)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "code": self.code,
            "seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
            "sensors": dict(self.sensors),
        }


class Job:
    """A command on a device. A context manager: at its end nothing of the job is left there."""

    def __init__(self, link: Link) -> None:
        """Name it; :meth:`run` starts it."""
        self._link = link
        self.id = secrets.token_hex(8)

    @property
    def work(self) -> str:
        """The folder on the device that holds its inputs."""
        return f"{self._link.root}/jobs/{self.id}/work"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and have its folder removed; where the device cannot be reached, its grace does that."""
        try:
            self._link.call("kill", job=self.id)
        except RemoteError:
            return

    def run(
        self,
        steps: Sequence[Sequence[str]],
        *,
        trees: Sequence[tuple[str, Tree]] = (),
        env: Mapping[str, str] | None = None,
        listen: Callable[[str], object],
    ) -> Ended:
        """Run some programs, one after the other until one fails, and return how they ended.

        Args:
            steps: argument lists; they start in :attr:`work`.
            trees: (place in the folder, files that were sent).
            env: variables.
            listen: told every line of stderr.

        Raises:
            RemoteError: it was lost: killed from outside, or the device was restarted.
            DisconnectedError: the device could not be reached for its grace.
            Cancelled: the link's work was stopped.
        """
        call = self._link.call
        call(
            "start", job=self.id, steps=[list(step) for step in steps], env={**self._link.device.env, **(env or {})},
            trees=[tree.request(place) for place, tree in trees], grace=self._link.device.grace,
        )  # fmt: skip
        offset, pending = 0, b""
        while True:
            answer = call("poll", job=self.id, offset=offset, wait=WAIT)
            offset += len(answer["data"])
            *lines, pending = (pending + answer["data"]).split(b"\n")
            for line in lines:
                listen(line.decode(errors="replace"))
            if answer["state"] == "running":
                continue
            if pending:
                listen(pending.decode(errors="replace"))
            return self._ended(answer)

    def keep(self) -> None:
        """Tell the device that its client is alive, while something else is done here. Raises RemoteError."""
        self._link.call("poll", job=self.id, offset=0, limit=0, wait=0)

    def said(self) -> str:
        """Return the end of what the programs printed on stdout. Raises RemoteError."""
        data = self._link.call("get", job=self.id, path="out", offset=0, limit=CHUNK)["data"]
        return " ".join(data.decode(errors="replace").split())[-400:]

    def document(self) -> dict[str, Any] | None:
        """Return the JSON document that the command printed, None where it printed none. Raises RemoteError."""
        data = b""
        while block := self._link.call("get", job=self.id, path="out", offset=len(data), limit=CHUNK)["data"]:
            data += block
            if len(data) > DOCUMENT:
                raise RemoteError(f"{self._link.device.name}: the command printed over {DOCUMENT >> 20} MiB")
        try:
            found = json.loads(data, parse_constant=_no_number) if data.strip() else None
        except ValueError:
            found = None
        return found if isinstance(found, dict) else None

    def files(self, paths: Sequence[str], *, keep: bool = False) -> dict[str, tuple[str, int]]:
        """Return sha256 and bytes of those of some files (relative to :attr:`work`) that are there; ``keep``: the device remembers them."""
        found = self._link.call("collect", job=self.id, paths=[f"work/{path}" for path in paths], keep=keep)["files"]
        return {path.removeprefix("work/"): (str(sha), int(size)) for path, (sha, size) in found.items()}

    def fetch(self, path: str, sha256: str, size: int, to: Path) -> None:
        """Fetch a file of the job, whole or not at all, and check it.

        Raises:
            RemoteError: what arrived is not what the device has.
            OutputError: ``to`` cannot be written.
        """
        digest, offset = hashlib.sha256(), 0
        with atomic_file(to) as stream:
            while offset < size:
                block = self._link.call("get", job=self.id, path=f"work/{path}", offset=offset, limit=CHUNK)["data"]
                if not block:
                    break
                stream.write(block)
                digest.update(block)
                offset += len(block)
            if offset != size or digest.hexdigest() != sha256:
                raise RemoteError(
                    f"{self._link.device.name}: {path} arrived changed: is its disk sound, and its memory?"
                )

    def _ended(self, answer: Mapping[str, Any]) -> Ended:
        """Return how a job ended, or say how it was lost."""
        name, state = self._link.device.name, answer["state"]
        if state == "gone":
            raise RemoteError(
                f"{name}: the job was stopped there, since no client asked for it for {self._link.device.grace:g} s"
            )
        if state == "lost":
            raise RemoteError(f"{name}: the job is lost: the device was restarted, or its supervisor killed")
        code, why = int(answer["code"]), str(answer["why"])
        if why:
            raise RemoteError(f"{name}: the job could not run: {why}")
        if code < 0:
            hint = " (the device is out of memory?)" if code == _KILLED else ""
            raise RemoteError(f"{name}: the job was killed by signal {-code}{hint}")
        return Ended(
            code=code,
            seconds=float(answer["seconds"]),
            peak_rss_mb=float(answer["peak_rss_mb"]),
            sensors=answer["sensors"],
        )


def _no_number(word: str) -> float:
    """Refuse NaN and infinity, which are not JSON."""
    raise ValueError(word)
