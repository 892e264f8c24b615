"""A classifier for many callers at once: a bounded queue, batches made on the way, threads and asyncio alike."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from edgecnn.errors import BusyError, DroppedError, UserError
from edgecnn.runtime.backpressure import Request, Wait, WhenFull
from edgecnn.runtime.classifier import Prediction, check_top
from edgecnn.runtime.preprocess import ImageSource

__all__ = ["Batching", "Service", "ServiceStats"]

_SMOOTHING = 0.2
"""Weight of the latest batch in the mean time of a picture: the last ten batches or so decide."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How pictures that come one by one become batches.

    Attributes:
        largest: pictures in a batch, at most; 1 runs each alone.
        delay: seconds that a picture waits for others to fill its batch, at most; 0 takes what is there.
    """

    largest: int = 8
    delay: float = 0.002

    def __post_init__(self) -> None:
        """Check the values."""
        if isinstance(self.largest, bool) or not isinstance(self.largest, int) or self.largest < 1:
            raise UserError(f"Batching: largest must be a whole number of at least 1, found {self.largest!r}")
        if not 0 <= self.delay < float("inf"):
            raise UserError(f"Batching: delay must be 0 seconds or more, found {self.delay}")


@dataclass(frozen=True, kw_only=True)
class ServiceStats:
    """What a service has done so far. Every accepted picture ends as answered, failed, dropped or cancelled.

    Attributes:
        accepted: taken into the queue. ``refused``: not taken, for want of room.
        answered, failed, dropped, cancelled: how the accepted ones ended.
        batches: that were run. ``busy_seconds``: that running took, all workers together.
        waiting, running: pictures in the queue and in work at this moment.
    """

    accepted: int = 0
    refused: int = 0
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    cancelled: int = 0
    batches: int = 0
    busy_seconds: float = 0.0
    waiting: int = 0
    running: int = 0

    def to_json(self) -> dict[str, int | float]:
        """Return a JSON-ready dict."""
        return asdict(self)


class Answers(Protocol):
    """What a service needs of a classifier: a :class:`~edgecnn.runtime.classifier.Classifier`, or one that reloads."""

    def try_batch(self, images: Sequence[ImageSource], top: Sequence[int]) -> list[list[Prediction] | Exception]: ...
    def warm_up(self, batch_sizes: Sequence[int] = (1,), runs: int = 2) -> float: ...
    def close(self) -> None: ...


class Service:
    """Answers many callers with one classifier. Safe to use from any number of threads and event loops at once.

    Pictures wait in a queue of limited length. Workers take them in the order in which they came, in batches; decoding, resizing and
    running are the workers' work. What is wrong with a picture is raised for the caller who asked for it, and for nobody else; a
    backend that fails, fails for all of the batch.

    Example::

        with Service(Classifier("efficientnet_lite0-int8"), when_full=Refuse()) as service:
            print(service.submit("cat.jpg").result()[0])  # from a thread
            print((await service("cat.jpg"))[0])  # from a coroutine

    A picture that is an array must not be written to until its result is there.

    Args:
        classifier: answers; closed with the service.
        batching: how many pictures run at once, and how long they wait for that.
        capacity: pictures that wait, at most; those in work do not count.
        when_full: :class:`~edgecnn.runtime.backpressure.Wait`, :class:`~edgecnn.runtime.backpressure.Refuse` or
            :class:`~edgecnn.runtime.backpressure.DropOldest`.
        workers: threads that take batches. Two prepare one batch while the other runs; more pay off where the backend runs side by side.

    Raises:
        UserError: a capacity or a number of workers below 1.
    """

    def __init__(
        self,
        classifier: Answers,
        batching: Batching = Batching(),
        *,
        capacity: int = 64,
        when_full: WhenFull = Wait(),  # noqa: B008 -- frozen
        workers: int = 1,
    ) -> None:
        """Start the workers."""
        if capacity < 1 or workers < 1:
            raise UserError(f"a service needs a capacity and workers of at least 1, found {capacity} and {workers}")
        self.classifier = classifier
        self.batching = batching
        self.capacity = capacity
        self.when_full = when_full
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._counts = asdict(ServiceStats())
        self._closed = False
        self._per_picture = 0.0
        self._workers = [
            threading.Thread(target=self._work, name=f"edgecnn-service-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, image: ImageSource, top: int = 5) -> Future[list[Prediction]]:
        """Ask for a picture's classes, from a thread. Blocks while the queue is full where the policy is to wait.

        Args:
            image: one of :data:`~edgecnn.runtime.preprocess.ImageSource`.
            top: how many classes to return, most probable first.

        Returns:
            A future. Its ``result()`` gives the predictions or raises DataError, BackendError, DroppedError, or UserError where
            the service was closed without draining; ``cancel()`` gives the place in the queue back.

        Raises:
            BusyError: the queue is full, and the policy is not to wait (for longer).
            UserError: the service is closed, or ``top`` is no number of classes.
        """
        check_top(top)
        request = Request(image, int(top))
        with self._changed:
            while not (dropped := self._offer(request)):
                self._changed.wait(self._patience(request))
        self._drop(dropped)
        return request.future

    async def __call__(self, image: ImageSource, top: int = 5) -> list[Prediction]:
        """Classify a picture, from a coroutine, without blocking its event loop. Cancelling the task cancels the request.

        Raises:
            DataError, BackendError, BusyError, DroppedError, UserError: as :meth:`submit` and its future.
        """
        check_top(top)
        request = Request(image, int(top))
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if dropped := self._offer(request):
                    break
                patience, event = self._patience(request), asyncio.Event()
                self._sleepers.append((loop, event))
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), patience)
        self._drop(dropped)
        return await asyncio.wrap_future(request.future)

    def warm_up(self, runs: int = 2) -> float:
        """Run on made-up pictures, alone and in the largest batch; return the seconds. Raises BackendError."""
        return self.classifier.warm_up(sorted({1, self.batching.largest}), runs)

    def stats(self) -> ServiceStats:
        """Return what was done so far: consistent, as of one moment."""
        with self._changed:
            return ServiceStats(**(self._counts | {"waiting": len(self._waiting)}))

    def delay(self) -> float:
        """Return the seconds until what is in the queue now will be done, by the last batches; 0 before the first."""
        with self._changed:
            return self._delay()

    def close(self, *, drain: bool = True) -> None:
        """Take no more pictures, end the workers, and close the classifier. Closing twice is fine.

        Args:
            drain: answer what waits first; otherwise its futures raise UserError. What is in work is finished in any case.
        """
        with self._changed:
            self._closed = True
            aborted = [] if drain else list(self._waiting)
            if not drain:
                self._waiting.clear()
            self._wake()
        for request in aborted:
            self._end(request, UserError("this service was closed before the picture's turn came"), "failed")
        for worker in self._workers:
            if worker is not threading.current_thread():  # closed by a callback of a future
                worker.join()
        self.classifier.close()

    def __enter__(self) -> Self:
        """Return the service."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it: drained where all went well, at once after an exception."""
        self.close(drain=kind is None)

    def _offer(self, request: Request) -> list[Request]:
        """Put a request into the queue; return it with whatever gave way to it, or nothing where it has to wait. The lock is held."""
        if self._closed:
            raise UserError("this service is closed")
        if len(self._waiting) >= self.capacity:
            self._forget_cancelled()
        placed = [request]
        if len(self._waiting) >= self.capacity:
            try:
                displaced = self.when_full.make_room(self._waiting, self._delay())
            except BusyError:
                self._counts["refused"] += 1
                raise
            if displaced is None:
                return []
            placed.append(displaced)
        self._waiting.append(request)
        self._counts["accepted"] += 1
        self._changed.notify_all()
        return placed

    def _drop(self, placed: list[Request]) -> None:
        """Tell the request that gave way, if there is one. Without the lock, since a future's callbacks may do anything."""
        for request in placed[1:]:
            self._end(request, DroppedError("a newer picture took this one's place in the queue"), "dropped")

    def _patience(self, request: Request) -> float | None:
        """Return for how many seconds a request may go on waiting for room. Raises BusyError. The lock is held."""
        timeout = self.when_full.timeout if isinstance(self.when_full, Wait) else float("inf")
        left = request.since + timeout - monotonic()
        if left <= 0:
            self._counts["refused"] += 1
            raise BusyError(
                f"no room in the queue of {self.capacity} for {timeout:g} s: ask again later", self._delay()
            )
        return None if left == float("inf") else left

    def _forget_cancelled(self) -> None:
        """Take cancelled requests out of the queue. The lock is held."""
        kept = [request for request in self._waiting if not request.future.cancelled()]
        self._counts["cancelled"] += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _delay(self) -> float:
        """Return the seconds that the queue stands for. The lock is held."""
        ahead = len(self._waiting) + int(self._counts["running"])
        return ahead * self._per_picture / len(self._workers)

    def _wake(self) -> None:
        """Tell everyone who waits that something changed. The lock is held."""
        self._changed.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, event in sleepers:
            with suppress(RuntimeError):  # an event loop that is closed
                loop.call_soon_threadsafe(event.set)

    def _work(self) -> None:
        """Run batches until the service is closed and its queue is empty."""
        while batch := self._take():
            started = monotonic()
            running = [request for request in batch if request.future.set_running_or_notify_cancel()]
            outcomes = self._outcomes(running)
            seconds = monotonic() - started
            with self._changed:
                self._counts["running"] -= len(batch)
                self._counts["cancelled"] += len(batch) - len(running)
                self._counts["batches"] += bool(running)
                self._counts["busy_seconds"] += seconds
                if running:
                    rest = seconds / len(running) - self._per_picture
                    self._per_picture += rest * (_SMOOTHING if self._per_picture else 1)
                for outcome in outcomes:
                    self._counts["answered" if isinstance(outcome, list) else "failed"] += 1
            for request, outcome in zip(running, outcomes, strict=True):
                if isinstance(outcome, list):
                    request.future.set_result(outcome)
                else:
                    request.future.set_exception(outcome)

    def _take(self) -> list[Request]:
        """Wait for a batch, or return nothing where the service is closed and all is done."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                left = self._waiting[0].since + self.batching.delay - monotonic()
                if self._closed or left <= 0 or len(self._waiting) >= min(self.batching.largest, self.capacity):
                    break
                self._changed.wait(left)
            batch = [self._waiting.popleft() for _ in range(min(self.batching.largest, len(self._waiting)))]
            self._counts["running"] += len(batch)
            self._wake()
            return batch

    def _outcomes(self, batch: list[Request]) -> Sequence[list[Prediction] | BaseException]:
        """Classify; what the backend raises is the outcome of all."""
        if not batch:
            return []
        try:
            return self.classifier.try_batch([one.image for one in batch], [one.top for one in batch])
        except BaseException as error:  # noqa: BLE001 -- it belongs to those who asked; the worker goes on
            return [error] * len(batch)

    def _end(self, request: Request, error: Exception, how: str) -> None:
        """End a request that will not run."""
        alive = request.future.set_running_or_notify_cancel()
        with self._changed:
            self._counts[how if alive else "cancelled"] += 1
        if alive:
            request.future.set_exception(error)
