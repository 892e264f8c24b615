"""Downloads, against a server of our own that misbehaves on demand."""

from __future__ import annotations

import hashlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import HashMismatchError, OutputError, SpecError, WeightsError
from edgecnn.weights_download import DownloadConfig, download, verify

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = DownloadConfig(attempts=3, timeout=5, pause=0)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``plan`` holds what the next requests meet, in order, then all is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.ranges: list[str | None] = []
        self.content = CONTENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/net-01234567.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        step = self.server.plan.pop(0) if self.server.plan else "fine"
        if step.isdigit():
            self.send_error(int(step))
        elif "://" in step:
            self.send_response(302)
            self.send_header("Location", step)
            self.end_headers()
        else:
            self.send(step)

    def send(self, step: str) -> None:
        start, content = 0, self.server.content
        asked = self.headers.get("Range")
        if asked and step != "no ranges":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: len(rest) // 2] if step == "cut" else rest)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a request to this machine must not take it
    return tmp_path / "cache" / "weights"


def get(server: Server, sha256: str = SHA256[:8]) -> tuple[Path, str]:
    return download(server.url, "net.pth", sha256, config=QUICK)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_fetched_once_with_progress(server: Server, cache: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path, sha256 = download(server.url, "net.pth", SHA256, progress=lambda *step: seen.append(step), config=QUICK)
    assert (path, sha256) == (cache / "net.pth", SHA256)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("download net.pth", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert get(server) == (path, SHA256)
    assert server.ranges == [None]
    assert files(cache) == ["net.pth"]


def test_a_cut_connection_is_resumed_where_it_broke(server: Server, cache: Path) -> None:
    server.plan = ["cut", "cut"]
    path, _ = get(server)
    assert path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_later_run_resumes_what_an_earlier_one_left(server: Server, cache: Path) -> None:
    server.plan = ["cut", "cut", "cut"]
    with pytest.raises(WeightsError, match="the connection was cut at"):
        get(server)
    assert files(cache) == ["net.pth.part"]
    left = (cache / "net.pth.part").stat().st_size
    path, _ = get(server)
    assert path.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={left}-"
    assert files(cache) == ["net.pth"]


def test_a_download_that_waited_for_one_that_came_to_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one holds the lock, fails before a byte is there, and removes the empty file that the second one has open."""
    fcntl = pytest.importorskip("fcntl")
    flock, waiting, found = fcntl.flock, threading.Event(), list[Path]()

    def noted(*arguments: Any) -> None:
        waiting.set()
        flock(*arguments)

    cache.mkdir(parents=True)
    part = cache / "net.pth.part"
    with part.open("ab") as first:
        flock(first, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", noted)
        second = threading.Thread(target=lambda: found.append(get(server)[0]))
        second.start()
        assert waiting.wait(10)
        part.unlink()
    second.join(30)
    assert [path.read_bytes() == CONTENT for path in found] == [True]
    assert files(cache) == ["net.pth"]


def test_a_server_without_ranges_is_read_from_the_start(server: Server) -> None:
    server.plan = ["cut", "no ranges"]
    assert get(server)[0].read_bytes() == CONTENT


def test_a_complete_part_file_is_taken_over(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "net.pth.part").write_bytes(CONTENT)
    assert get(server)[0].read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("rubbish", [b"x" * 1000, b"x" * (len(CONTENT) + 5), b"x" * len(CONTENT)])
def test_a_part_file_of_something_else_is_fetched_again(server: Server, cache: Path, rubbish: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "net.pth.part").write_bytes(rubbish)
    assert get(server)[0].read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server: Server, cache: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(HashMismatchError, match=f"published is {SHA256[:8]}.*nothing was kept") as caught:
        get(server)
    assert server.url in str(caught.value)
    assert files(cache) == []
    assert len(server.ranges) == 1


def test_a_damaged_cached_file_is_refused(server: Server, cache: Path) -> None:
    path, _ = get(server)
    path.write_bytes(CONTENT[:100])
    with pytest.raises(HashMismatchError, match="delete it to download it again"):
        get(server)


@pytest.mark.parametrize("status", ["404", "403", "410"])
def test_a_refusal_is_not_tried_again_and_says_what_to_do(server: Server, cache: Path, status: str) -> None:
    server.plan = [status] * 3
    with pytest.raises(WeightsError, match=f"the server answered {status}") as caught:
        get(server)
    for part in (server.url, str(cache / "net.pth"), "--weights FILE"):
        assert part in str(caught.value)
    assert len(server.ranges) == 1
    assert files(cache) == []


def test_a_busy_server_is_tried_again(server: Server) -> None:
    server.plan = ["503", "429"]
    assert get(server)[0].read_bytes() == CONTENT


def test_offline_the_error_names_the_url_the_file_and_the_option(cache: Path) -> None:
    with pytest.raises(WeightsError, match="refused") as caught:
        download("http://127.0.0.1:9/net.pth", "net.pth", SHA256, config=QUICK)
    for part in ("http://127.0.0.1:9/net.pth", str(cache / "net.pth"), "--weights FILE"):
        assert part in str(caught.value)
    assert files(cache) == []


def test_without_a_network_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def no_names(*address: object, **options: object) -> None:
        asked.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", no_names)
    with pytest.raises(
        WeightsError, match=r"cannot download https://example\.org/net\.pth: .*Name or service not known"
    ):
        download("https://example.org/net.pth", "net.pth", "", config=QUICK)
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["http://example.org/net.pth", "ftp://example.org/net.pth", "file:///etc/passwd"])
def test_only_https_is_read(url: str) -> None:
    with pytest.raises(WeightsError, match="https only"):
        download(url, "net.pth", "", config=QUICK)


@pytest.mark.parametrize("target", ["http://example.org/net.pth", "ftp://example.org/net.pth", "file:///etc/passwd"])
def test_a_redirect_away_from_https_is_not_followed(server: Server, target: str, cache: Path) -> None:
    server.plan = [target] * 3
    with pytest.raises(WeightsError):
        get(server)
    assert files(cache) == []


def test_a_redirect_on_this_machine_is_followed(server: Server) -> None:
    server.plan = [server.url]
    assert get(server)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("file", ["", "../net.pth", "/tmp/net.pth", "a/b.pth"])
def test_a_file_name_cannot_leave_the_cache(file: str) -> None:
    with pytest.raises(WeightsError, match="plain file name"):
        download("https://example.org/net.pth", file, "", config=QUICK)


def test_a_cache_that_cannot_be_written_is_named(server: Server, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="EDGECNN_CACHE"):
        get(server)


def test_a_full_disk_is_an_output_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        get(server)


def _download_elsewhere(url: str, queue: multiprocessing.Queue[str]) -> None:
    queue.put(download(url, "net.pth", SHA256, config=QUICK)[1])


def test_two_processes_share_one_download(server: Server, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    both = [context.Process(target=_download_elsewhere, args=(server.url, queue)) for _ in range(2)]
    for process in both:
        process.start()
    found = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert found == [SHA256, SHA256]
    assert server.ranges == [None]
    assert files(cache) == ["net.pth"]


def test_verify_compares_a_prefix_or_all_of_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(CONTENT)
    for published in ("", SHA256[:8], SHA256, SHA256[:8].upper()):
        assert verify(path, published, remedy="") == SHA256
    with pytest.raises(HashMismatchError, match="published is 00000000; do this"):
        verify(path, "00000000", remedy="do this")
    with pytest.raises(WeightsError, match="cannot read"):
        verify(tmp_path / "none", "", remedy="")


@pytest.mark.parametrize("values", [{"attempts": 0}, {"timeout": 0}, {"pause": -1}])
def test_impossible_patience_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(SpecError, match="attempts"):
        DownloadConfig(**values)
