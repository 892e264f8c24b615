"""Many devices at once: one dead device does not stop the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgecnn.errors import EdgecnnError
from edgecnn.remote.inventory import Device
from edgecnn.remote.run import Listener, Outcome, Prepared, run_on
from edgecnn.remote.transport import Cancelled

__all__ = ["Answer", "each", "run_fleet", "worst"]

_T = TypeVar("_T")
_FROM_BEST = (0, 3, 2, 1, 130)  # a gate, wrong usage, an error, interrupted


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[_T]):
    """What came of a device: a value, or the error that there is none for."""

    device: Device
    value: _T | None = None
    error: EdgecnnError | None = None

    def error_json(self) -> dict[str, Any] | None:
        """Return the error as the command line's JSON has it."""
        return None if self.error is None else {"type": type(self.error).__name__, "message": str(self.error)}


def each(devices: Sequence[Device], work: Callable[[Device, threading.Event], _T]) -> tuple[Answer[_T], ...]:
    """Do something on every device in parallel; answers are in the order of the devices.

    Interrupted, it tells the work to stop (by the event), waits until it has, and raises KeyboardInterrupt.
    """
    cancelled = threading.Event()

    def one(device: Device) -> Answer[_T]:
        try:
            return Answer(device=device, value=work(device, cancelled))
        except EdgecnnError as error:
            return Answer(device=device, error=error)

    with ThreadPoolExecutor(max_workers=max(1, len(devices))) as pool:
        futures: list[Future[Answer[_T]]] = [pool.submit(one, device) for device in devices]
        try:
            return tuple(future.result() for future in futures)
        except KeyboardInterrupt:
            cancelled.set()
            raise


def run_fleet(
    devices: Sequence[Device], prepared: Prepared, listener: Callable[[Device], Listener]
) -> tuple[Answer[Outcome], ...]:
    """Run a command on every device; see :func:`edgecnn.remote.run.run_on`."""
    store = threading.Lock()

    def work(device: Device, cancelled: threading.Event) -> Outcome:
        return run_on(
            device,
            prepared,
            listener=listener(device),
            cancelled=cancelled,
            own_copy=len(devices) > 1,
            store=store,
        )

    return each(devices, work)


def worst(answers: Sequence[Answer[Outcome]]) -> int:
    """Return the exit code of a fleet: that of the device that fared worst."""
    codes = [answer.value.code if answer.value is not None else _code_of(answer.error) for answer in answers]
    return max(codes, key=lambda code: _FROM_BEST.index(code) if code in _FROM_BEST else _FROM_BEST.index(1), default=0)


def _code_of(error: EdgecnnError | None) -> int:
    """Return the exit code of an error."""
    return 130 if isinstance(error, Cancelled) else 1
