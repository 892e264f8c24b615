"""The HTTP service, served by uvicorn on loopback and asked by httpx: answers, limits, back-pressure, metrics, reload, and a clean end."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import HTTPException, Request
from tiny_bundle import write_model, write_tiny

from edgecnn.examples.service import create_app, main, read_body
from edgecnn.pack import VariantContents
from edgecnn.runtime import Batching, Classifier, HotClassifier, OrtOptions, Refuse, Reloaded, Service

CAT = (Path(__file__).parents[1] / "data" / "cat.jpg").read_bytes()
ONE = OrtOptions(threads=1)


@contextmanager
def served(service: Service, classifier: Any, **options: Any) -> Iterator[httpx.Client]:
    """Serve on a free port, in a thread."""
    app = create_app(service, classifier, **options)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def client(tiny: Path) -> Iterator[httpx.Client]:
    hot = HotClassifier(tiny, options=ONE)
    with served(Service(hot, Batching(largest=4), when_full=Refuse()), hot, largest=1 << 20) as client:
        yield client


def metric(client: httpx.Client, name: str) -> float:
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(value)


def test_classify(client: httpx.Client, tiny: Path) -> None:
    with Classifier(tiny, options=ONE) as classify:
        expected = classify(CAT, top=3)
    answer = client.post("/classify", params={"top": 3}, content=CAT)
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [(p["index"], p["label"]) for p in found] == [(p.index, p.label) for p in expected]
    assert [p["probability"] for p in found] == pytest.approx([p.probability for p in expected])
    assert len(client.post("/classify", content=CAT).json()["predictions"]) == 5


def test_many_at_once(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/classify", content=CAT), range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["predictions"][0]["index"] for answer in answers}) == 1
    assert metric(client, 'edgecnn_pictures_total{end="answered"}') == 64
    assert metric(client, "edgecnn_batches_total") <= 64
    assert metric(client, "edgecnn_seconds_count") == 64
    assert metric(client, "edgecnn_waiting") == metric(client, "edgecnn_running") == 0


@pytest.mark.parametrize(
    ("content", "params", "status", "said"),
    [
        (b"", {}, 422, "empty"),
        (b"no picture", {}, 422, "not an image"),
        (CAT[:2000], {}, 422, "cannot be decoded"),
        (bytes(1 << 20) + b"x", {}, 413, "1048576 bytes"),
        (CAT, {"top": 0}, 422, "greater than or equal to 1"),
        (CAT, {"top": "many"}, 422, "integer"),
    ],
)
def test_what_is_refused(client: httpx.Client, content: bytes, params: dict[str, Any], status: int, said: str) -> None:
    answer = client.post("/classify", params=params, content=content)
    assert answer.status_code == status
    assert said in answer.text
    assert client.post("/classify", content=CAT).status_code == 200, "the next one is answered"


def test_a_body_that_hides_its_length_is_read_no_further_than_the_limit(client: httpx.Client) -> None:
    """Sent in chunks, as the server sees it, and through HTTP."""
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": bytes(1 << 16), "more_body": True}

    with pytest.raises(HTTPException) as caught:
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 1 << 20))
    assert caught.value.status_code == 413
    assert received == 17
    assert client.post("/classify", content=(bytes(1 << 16) for _ in range(17))).status_code == 413
    assert client.post("/classify", content=(CAT[at : at + 1000] for at in range(0, len(CAT), 1000))).status_code == 200


def test_busy(tiny: Path) -> None:
    """One picture in work, one waits, the third hears 503 and when to come back."""
    gate = threading.Event()
    hot = HotClassifier(tiny, options=ONE, interval=0)
    real = hot.try_batch

    def held(images: Any, top: Any = 5) -> Any:
        assert gate.wait(30)
        return real(images, top)

    hot.try_batch = held  # type: ignore[method-assign]
    service = Service(hot, Batching(largest=1), capacity=1, when_full=Refuse())
    with served(service, hot) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/classify", content=CAT)
        while service.stats().running < 1:
            time.sleep(0.002)
        second = pool.submit(client.post, "/classify", content=CAT)
        while service.stats().waiting < 1:
            time.sleep(0.002)
        third = client.post("/classify", content=CAT)
        assert third.status_code == 503
        assert int(third.headers["Retry-After"]) >= 1
        assert "places of the queue are taken" in third.json()["detail"]
        assert metric(client, 'edgecnn_pictures_total{end="refused"}') == 1
        assert client.get("/healthz").status_code == 200, "busy is not ill"
        gate.set()
        assert first.result(30).status_code == second.result(30).status_code == 200
        assert client.post("/classify", content=CAT).status_code == 200


def test_health_follows_a_reload(tmp_path: Path) -> None:
    path = write_tiny(tmp_path).path
    hot = HotClassifier(path, options=ONE, interval=0)
    with served(Service(hot, when_full=Refuse()), hot) as client:
        before = client.get("/healthz").json()
        assert (before["model"], before["variant"]) == ("tiny", "int8-cpu")
        write_tiny(
            tmp_path,
            variants=[VariantContents(model=write_model(tmp_path, "fp32", scale=2.0), verified=True)],
            force=True,
        )
        assert isinstance(hot.check(), Reloaded)
        after = client.get("/healthz").json()
        assert after["variant"] == "fp32"
        assert after["manifest"] != before["manifest"]


def test_the_command_line(tiny: Path, tmp_path: Path) -> None:
    """As a user starts it, in a process of its own; SIGTERM ends it in order, and with what was accepted answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "edgecnn.examples.service",
        str(tiny),
        "--port",
        str(port),
        "--threads",
        "1",
    ]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    assert client.get("/healthz").status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            assert client.post("/classify", content=CAT).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM), said
    assert "Application shutdown complete" in said
    assert "Traceback" not in said


def test_a_bad_bundle_is_one_line(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "bad")
    (tmp_path / "bad" / "model.fp32.onnx").write_bytes(b"x")
    line = [sys.executable, "-m", "edgecnn.examples.service", str(tmp_path / "bad")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_none_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--port", "99999"])
    assert "--port takes 0 to 65535, found 99999" in capsys.readouterr().err
