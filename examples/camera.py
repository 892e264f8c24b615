"""Classify a camera, a video, a GIF or a folder of pictures, frame by frame; frames for which there is no time are dropped.

::

    python -m edgecnn.examples.camera efficientnet_lite0-int8 0               # the first camera, through OpenCV
    python -m edgecnn.examples.camera efficientnet_lite0-int8 frames/ --rate 30

The newest frame always goes first: the queue holds one, and a newer frame takes its place. Needs edgecnn's runtime and a backend;
OpenCV (``pip install opencv-python-headless``) for cameras and videos alone.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, DroppedError, EdgecnnError
from edgecnn.optional import need
from edgecnn.runtime import Batching, Classifier, DropOldest, Prediction, Service
from edgecnn.runtime.preprocess import decode

Frame = NDArray[np.uint8]
PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True)
class Watched:
    """What became of the frames."""

    frames: int
    answered: int
    dropped: int


def frames(source: str) -> Iterator[Frame]:
    """Yield uint8 (height, width, 3) RGB frames of a folder, a GIF, or, through OpenCV, a video, a URL or a camera's number.

    Raises:
        DataError: nothing to read there, or a picture that cannot be decoded.
        MissingDependencyError: OpenCV is needed, and not installed.
    """
    path = Path(source)
    if path.is_dir():
        pictures = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)
        if not pictures:
            raise DataError(f"{path}: no pictures ({', '.join(sorted(PICTURES))})")
        yield from map(decode, pictures)
    elif path.suffix.lower() == ".gif":
        yield from _gif(path)
    else:
        yield from _video(source)


def _gif(path: Path) -> Iterator[Frame]:
    """Yield the frames that Pillow reads."""
    image: Any = need("PIL.Image")
    try:
        with image.open(path) as gif:
            for number in range(gif.n_frames):
                gif.seek(number)
                yield np.asarray(gif.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen types on bad files
        raise DataError(f"{path}: not a GIF that Pillow can read: {error}") from error


def _video(source: str) -> Iterator[Frame]:
    """Yield the frames that OpenCV reads."""
    cv2: Any = need("cv2")
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    try:
        if not capture.isOpened():
            raise DataError(f"{source}: OpenCV can open no camera or video there")
        while True:
            there, image = capture.read()
            if not there:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def paced(source: Iterable[Frame], rate: float) -> Iterator[Frame]:
    """Yield frames at a camera's pace, frames a second, whatever is done with them meanwhile."""
    started = time.monotonic()
    for number, frame in enumerate(source):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        yield frame


def watch(service: Service, source: Iterable[Frame], show: Callable[[int, Prediction | None], None]) -> Watched:
    """Hand every frame to the service, and show what becomes of it in order.

    Args:
        service: with the policy DropOldest.
        source: frames, at whatever pace they come.
        show: called with the number of a frame and its most probable class, None where it was dropped.

    Raises:
        BackendError: the model failed.
    """
    pending: deque[tuple[int, Future[list[Prediction]]]] = deque()
    counts = {True: 0, False: 0}

    def settle() -> None:
        number, future = pending.popleft()
        try:
            best: Prediction | None = future.result()[0]
        except DroppedError:
            best = None
        counts[best is not None] += 1
        show(number, best)

    for number, frame in enumerate(source):
        pending.append((number, service.submit(frame, top=1)))
        while pending and pending[0][1].done():
            settle()
    while pending:
        settle()
    return Watched(frames=sum(counts.values()), answered=counts[True], dropped=counts[False])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m edgecnn.examples.camera", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", help="a folder, a GIF, a video, a URL, or the number of a camera")
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second; 0: as they come")
    options = parser.parse_args(arguments)

    def show(number: int, best: Prediction | None) -> None:
        print(f"{number:6d}  {best or 'dropped: a newer frame came first'}", flush=True)

    try:
        with Service(Classifier(options.bundle), Batching(largest=1), capacity=1, when_full=DropOldest()) as service:
            service.warm_up()
            source = frames(options.source)
            seen = watch(service, paced(source, options.rate) if options.rate > 0 else source, show)
    except EdgecnnError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:  # how a camera's loop ends
        raise SystemExit(130) from None
    print(f"{seen.frames} frames: {seen.answered} answered, {seen.dropped} dropped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
