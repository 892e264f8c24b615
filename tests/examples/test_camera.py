"""The camera loop, on folders, GIFs and a real video; and that it drops frames, and which, when the model is slow."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import CLASSES, photos

from edgecnn.errors import DataError
from edgecnn.examples import camera
from edgecnn.runtime import Batching, Classifier, DropOldest, FakeSession, OrtOptions, Prediction, Service
from edgecnn.spec import TensorSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(photos(6)):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    (folder / "notes.txt").write_text("not a frame")
    return folder


def slow(tiny: Path, began: threading.Event, end: threading.Event) -> Classifier:
    """Return a classifier that says when it has begun, and answers when it may."""

    def respond(feed: Any) -> dict[str, np.ndarray]:
        began.set()
        assert end.wait(30)
        return {"logits": np.zeros((len(feed["input"]), CLASSES), np.float32)}

    inputs, outputs = TensorSpec(name="input", shape=("n", 3, 32, 32)), TensorSpec(name="logits", shape=("n", CLASSES))
    return Classifier(tiny, session=FakeSession([inputs], [outputs], respond))


def test_every_frame_is_answered_when_there_is_time(tiny: Path, folder: Path) -> None:
    shown: list[tuple[int, Prediction | None]] = []
    with Classifier(tiny, options=OrtOptions(threads=1)) as classify:
        expected = [classify(picture, top=1)[0] for picture in photos(6)]
    service = Service(
        Classifier(tiny, options=OrtOptions(threads=1)), Batching(largest=1), capacity=9, when_full=DropOldest()
    )
    with service:
        seen = camera.watch(service, camera.frames(str(folder)), lambda number, best: shown.append((number, best)))
    assert seen == camera.Watched(frames=6, answered=6, dropped=0)
    assert shown == list(enumerate(expected))


def test_a_slow_model_drops_frames_and_keeps_the_newest(tiny: Path, folder: Path) -> None:
    """Five frames come while the model is at the first: four give way to the next, and the last one is answered."""
    shown: dict[int, Prediction | None] = {}
    began, end = threading.Event(), threading.Event()

    def source() -> Iterator[camera.Frame]:
        for number, frame in enumerate(camera.frames(str(folder))):
            yield frame
            if number == 0:
                assert began.wait(30)
        end.set()

    service = Service(slow(tiny, began, end), Batching(largest=1, delay=0), capacity=1, when_full=DropOldest())
    with service:
        seen = camera.watch(service, source(), shown.__setitem__)
    assert seen == camera.Watched(frames=6, answered=2, dropped=4)
    assert list(shown) == list(range(6)), "shown in order"
    assert [number for number, best in shown.items() if best is not None] == [0, 5]
    assert service.stats().dropped == seen.dropped


def test_frames_come_at_the_pace_of_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves when somebody sleeps or works: 8 frames a second, whatever is done with them meanwhile."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(camera, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    came = []
    for _, work in zip(camera.paced(photos(6), 8), (0, 0.0625, 0.3125, 0, 0, 0), strict=True):
        came.append(now[0] - 100)
        sleep(work)
    assert came == [0, 0.125, 0.25, 0.5625, 0.5625, 0.625]  # one held up two, which then came at once


def test_frames_of_a_gif(tmp_path: Path) -> None:
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 128, 255)]
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    found = list(camera.frames(str(tmp_path / "a.gif")))
    assert [frame.shape for frame in found] == [(8, 8, 3)] * 3
    assert [int(frame.mean()) for frame in found] == [0, 128, 255]


def test_a_gif_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"no picture")
    for name in ("a.gif", "nowhere.gif"):
        with pytest.raises(DataError, match=f"{name}: not a GIF that Pillow can read"):
            next(camera.frames(str(tmp_path / name)))


def test_ctrl_c_ends_the_loop(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(camera, "watch", pressed)
    with pytest.raises(SystemExit, match="130"):
        camera.main([str(tiny), str(folder)])


def test_frames_of_a_video(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(5):
        writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))  # BGR: red
    writer.release()
    found = list(camera.frames(str(tmp_path / "a.avi")))
    assert len(found) == 5
    assert found[0].shape == (48, 64, 3)
    assert found[0][..., 0].mean() > 230 > 30 > found[0][..., 2].mean(), "RGB"


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        next(camera.frames(str(tmp_path / "empty")))
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match="OpenCV can open no camera or video"):
        next(camera.frames(str(tmp_path / "nowhere.mp4")))


def test_the_command_line(tiny: Path, folder: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "error", "-m", "edgecnn.examples.camera", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    done = run(str(tiny), str(folder), "--rate", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert lines[0].split()[0] == "0"
    assert lines[-1].startswith("6 frames: ")
    bad = run(str(tiny), str(tiny / "nowhere"))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.splitlines()[-1].startswith("error: ")
