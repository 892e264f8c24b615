"""A session without a backend, for the tests of applications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgecnn.errors import UserError
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import TensorSpec

__all__ = ["FakeSession"]

Respond = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class FakeSession(Session):
    """Answers from a function or with fixed arrays, checks its input as every session does, and remembers the calls.

    Example::

        session = FakeSession(
            [TensorSpec(name="input", shape=("batch", 3, 224, 224))],
            [TensorSpec(name="logits", shape=("batch", 1000))],
            {"logits": numpy.eye(1, 1000, 281, dtype="float32")},
        )
        classify = Classifier(bundle, session=session)

    Args:
        inputs, outputs: as of the model it stands for.
        respond: the outputs, or a function from a feed to them.

    Attributes:
        calls: the feed of every run, copied, in order.
    """

    backend = "fake"

    def __init__(
        self,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        respond: Respond | Mapping[str, Array],
    ) -> None:
        """Hold the answers."""
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.calls: list[dict[str, Array]] = []
        self._respond = respond

    def _run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Record the feed and answer."""
        self.calls.append({name: array.copy() for name, array in feed.items()})
        answer = self._respond if isinstance(self._respond, Mapping) else self._respond(feed)
        missing = [name for name in outputs if name not in answer]
        if missing:
            raise UserError(f"this fake session was given no answer for output(s) {missing}; it has {sorted(answer)}")
        return {name: answer[name] for name in outputs}
