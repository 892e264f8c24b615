"""What is remembered of a session's runs, and that it can be told from nothing but time."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.errors import UserError
from edgecnn.parity import remembered
from edgecnn.parity.remembered import Remembered
from edgecnn.runtime import FakeSession
from edgecnn.runtime.session import Array
from edgecnn.spec import TensorSpec

INPUT, OUTPUT = (
    TensorSpec(name="input", dtype="float32", shape=("batch", 4)),
    TensorSpec(name="logits", dtype="float32", shape=("batch", 2)),
)


class Counted:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, feed: dict[str, Array]) -> dict[str, Array]:
        self.runs += 1
        return {"logits": feed["input"][:, :2] + 1}


def test_the_same_input_is_run_once() -> None:
    answer = Counted()
    session = Remembered(FakeSession([INPUT], [OUTPUT], answer))
    assert (session.backend, session.inputs, session.outputs) == ("fake", (INPUT,), (OUTPUT,))
    one, other = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    for _ in range(3):
        for x in (one, other, np.zeros((2, 4), np.float32)):  # as many zero bytes in another shape are another input
            assert np.array_equal(session.run({"input": x})["logits"], x[:, :2] + 1)
    assert answer.runs == 3
    assert np.array_equal(session.run({"input": other.copy()}, ["logits"])["logits"], other[:, :2] + 1)
    assert answer.runs == 3


def test_without_room_it_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "ROOM", 8)
    answer = Counted()
    session = Remembered(FakeSession([INPUT], [OUTPUT], answer))
    large, first, second = (np.full((count, 4), count, np.float32) for count in (3, 1, 2))
    for _ in range(2):
        for x in (large, first, second):
            assert np.array_equal(session.run({"input": x})["logits"], x[:, :2] + 1)
    assert answer.runs == 5, "the first one is known; the others had no room, and took none"


def test_inputs_are_checked_as_before() -> None:
    session = Remembered(FakeSession([INPUT], [OUTPUT], Counted()))
    with pytest.raises(UserError, match="must be float32"):
        session.run({"input": np.zeros((1, 4))})
