"""What a service does with a picture for which its queue has no room: one class a policy, which holds what it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BusyError, UserError

if TYPE_CHECKING:
    from edgecnn.runtime.classifier import Prediction

__all__ = ["DropOldest", "Refuse", "Request", "Wait", "WhenFull"]


@dataclass(eq=False)
class Request:
    """A picture that waits for its turn.

    Attributes:
        image: as it was given. ``top``: how many classes are wanted.
        future: where the predictions, or the exception, will be.
        since: when it came, in seconds of :func:`time.monotonic`.
    """

    image: Any
    top: int
    future: Future[list[Prediction]] = field(default_factory=Future)
    since: float = field(default_factory=monotonic)


class WhenFull(ABC):
    """A policy."""

    @abstractmethod
    def make_room(self, waiting: deque[Request], delay: float) -> Request | None:
        """Take a request out of a full queue, to be dropped, or return None where the new one has to wait.

        Args:
            waiting: the queue, oldest first. Never empty; its lock is held.
            delay: seconds until the queue is done with what it holds, as measured; 0 where nothing was.

        Raises:
            BusyError: the new picture is refused.
        """


@dataclass(frozen=True, kw_only=True)
class Wait(WhenFull):
    """Makes whoever asks wait: nothing is lost, and the source slows down to what the model can do. For jobs over files.

    Attributes:
        timeout: seconds after which it is a BusyError all the same; infinite by default.
    """

    timeout: float = float("inf")

    def __post_init__(self) -> None:
        """Check the value."""
        if not self.timeout > 0:
            raise UserError(f"Wait: timeout must be above 0 seconds, found {self.timeout}")

    def make_room(self, waiting: deque[Request], delay: float) -> Request | None:  # noqa: ARG002
        """Return None."""
        return None


@dataclass(frozen=True, kw_only=True)
class Refuse(WhenFull):
    """Raises BusyError at once, with the seconds after which asking again makes sense. For servers, whose clients can ask elsewhere."""

    def make_room(self, waiting: deque[Request], delay: float) -> Request | None:
        """Raise BusyError."""
        raise BusyError(f"all {len(waiting)} places of the queue are taken: ask again later", delay)


@dataclass(frozen=True, kw_only=True)
class DropOldest(WhenFull):
    """Gives the place of the picture that waited longest to the new one. For cameras, where an old frame is worth nothing."""

    def make_room(self, waiting: deque[Request], delay: float) -> Request | None:  # noqa: ARG002
        """Take the oldest, for which the service raises DroppedError."""
        return waiting.popleft()
