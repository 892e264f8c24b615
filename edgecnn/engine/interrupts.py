"""Ctrl-C while C++ works: TensorRT's bindings catch what Python raises in their callbacks, print it and go on, so that it would be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["held_back"]


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back, give a function that says whether it was pressed, and raise KeyboardInterrupt at the end if it was.

    Nothing is done outside the main thread, or where the application has a handler of its own.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal's own signature
        pressed.append(number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
