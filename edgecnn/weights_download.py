"""Fetch a published file once: resumed after a cut, verified by hash, moved into place whole."""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from edgecnn.artifacts import cache_dir, sha256_file
from edgecnn.errors import HashMismatchError, OutputError, SpecError, WeightsError
from edgecnn.progress import Progress, silent

__all__ = ["DownloadConfig", "download", "verify"]

BLOCK = 1 << 18
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How patient a download is.

    Attributes:
        attempts: connections tried before giving up; each one resumes where the last was cut.
        timeout: of connecting and of every read, seconds.
        pause: before the second attempt, doubled for each further one, seconds.
    """

    attempts: int = 4
    timeout: float = 30.0
    pause: float = 0.5

    def __post_init__(self) -> None:
        """Check the values."""
        if self.attempts < 1 or self.timeout <= 0 or self.pause < 0:
            raise SpecError(f"download: {self} needs attempts >= 1, timeout > 0 and pause >= 0")


def download(
    url: str, file: str, sha256: str, *, progress: Progress = silent, config: DownloadConfig = DownloadConfig()
) -> tuple[Path, str]:
    """Return (path, sha256) of ``<cache>/weights/<file>``, fetched from ``url`` unless it is there already.

    An interrupted download leaves ``<file>.part``, which the next call goes on with (HTTP Range). Two processes may ask
    for the same file: the second waits and finds it there.

    Args:
        url: https, or http to this machine itself.
        file: plain file name in the cache.
        sha256: the published hash or a prefix of it, hex; "" accepts any.
        progress: called with bytes.
        config: how patient to be.

    Raises:
        WeightsError: no connection, a refusal of the server, or a url that is not https; the message names the url, the
            path to put the file, and ``--weights FILE``.
        HashMismatchError: the file is not the published one.
        OutputError: the cache cannot be written, or the disk is full.
    """
    _check_url(url)
    if file != Path(file).name or not file:
        raise WeightsError(f"{file!r} is not a plain file name")
    path = cache_dir() / "weights" / file
    if path.exists():
        return path, verify(path, sha256, remedy="delete it to download it again")
    part = path.with_name(f"{file}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(part) as stream:
            if not path.exists():
                _fill(stream, url, path, sha256, progress, config)
                part.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {part}: {error.strerror or error}; EDGECNN_CACHE names another folder"
        ) from error
    return path, verify(path, sha256, remedy="delete it to download it again")


def verify(path: Path, sha256: str, *, remedy: str) -> str:
    """Return the file's sha256 after comparing it with a published hash or prefix ("" accepts any).

    Raises:
        HashMismatchError: it differs; the message ends with ``remedy``.
        WeightsError: the file cannot be read.
    """
    try:
        found = sha256_file(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if not found.startswith(sha256.lower()):
        raise HashMismatchError(
            f"{path} is not the published file: its sha256 begins {found[: max(8, len(sha256))]}, published is {sha256}; {remedy}"
        )
    return found


def _check_url(url: str) -> None:
    """Refuse what could be read or changed on the way. Raises WeightsError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise WeightsError(f"{url}: weights are downloaded over https only")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not away from https."""

    def redirect_request(  # type: ignore[no-untyped-def]  # urllib's own signature is untyped
        self, req, fp, code, msg, headers, newurl
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _exclusive(part: Path) -> Iterator[IO[bytes]]:
    """Open ``part`` for appending, alone: another process that downloads the same file is waited for.

    An empty file is not left behind.
    """
    while True:
        with part.open("ab") as stream:
            with suppress(ImportError):  # no fcntl on Windows, where two downloads at once are the user's to avoid
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX)
            if not _is_at(stream, part):
                continue  # the one that was waited for has moved it into place, or removed it
            try:
                yield stream
            finally:
                with suppress(OSError):
                    if part.stat().st_size == 0:
                        part.unlink()
            return


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether the file that is open is the one that a path names now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(stream: IO[bytes], url: str, path: Path, sha256: str, progress: Progress, config: DownloadConfig) -> None:
    """Bring the ``.part`` file to its full length; a resumed file of the wrong hash is fetched once more from zero.

    Raises:
        WeightsError, HashMismatchError, OSError: as :func:`download` says.
    """
    part = Path(stream.name)
    resumed = stream.seek(0, os.SEEK_END) > 0
    while True:
        _fetch(stream, url, path, progress, config)
        found = sha256_file(part)
        if found.startswith(sha256.lower()):
            return
        stream.truncate(0)
        if not resumed:
            break
        resumed = False
    raise HashMismatchError(
        f"{url} is not the published file: its sha256 begins {found[: max(8, len(sha256))]}, published is {sha256}; "
        f"nothing was kept. {_advice(path)}"
    )


def _fetch(stream: IO[bytes], url: str, path: Path, progress: Progress, config: DownloadConfig) -> None:
    """Read the rest of the file into ``stream``, over as many connections as it takes."""
    problem = ""
    for attempt in range(config.attempts):
        if attempt:
            time.sleep(config.pause * 2 ** (attempt - 1))
        try:
            if _read_once(stream, url, path.name, progress, config.timeout):
                stream.flush()
                os.fsync(stream.fileno())
                return
            problem = f"the connection was cut at {stream.tell()} bytes"
        except urllib.error.HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            error.close()
            if error.code < 500 and error.code not in (408, 416, 429):
                break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(error).__name__
            if isinstance(reason, socket.gaierror):  # no network: waiting does not help, and the user waits too
                break
    raise WeightsError(f"cannot download {url}: {problem}. {_advice(path)}")


def _advice(path: Path) -> str:
    return f"Fetch the file elsewhere and put it at {path}, or name it with --weights FILE"


def _read_once(stream: IO[bytes], url: str, name: str, progress: Progress, timeout: float) -> bool:
    """Read from one connection; whether the file is complete now."""
    start = stream.seek(0, os.SEEK_END)
    headers = {"User-Agent": "edgecnn", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked by _check_url
    try:
        response = _opener(url).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # what is there is as long as the file, or longer: the hash decides
            complete = error.headers.get("Content-Range", "") == f"bytes */{start}"
            if complete:
                error.close()
                return True
            stream.truncate(0)
        raise
    with response:
        return _copy(response, stream, start, name, progress)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return an opener that uses the environment's proxy, except for this machine itself."""
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects()]
    if urllib.parse.urlsplit(url).hostname in LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _copy(response: HTTPResponse, stream: IO[bytes], start: int, name: str, progress: Progress) -> bool:
    """Append a response to ``stream`` (from zero if the server ignored the range); whether all of it came."""
    if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        start = 0
        stream.truncate(0)
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else 0
    done = start
    try:
        while block := _read(response):
            stream.write(block)
            done += len(block)
            progress(f"download {name}", done, total)
    finally:
        stream.flush()
    return done == total if total else done > start


def _read(response: HTTPResponse) -> bytes:
    """Read a block; a failure of the network is told from one of the disk by its type."""
    try:
        return response.read(BLOCK)
    except OSError as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
