"""The fake session behaves as a session does."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.errors import UserError
from edgecnn.runtime import FakeSession
from edgecnn.spec import TensorSpec

INPUTS = [TensorSpec(name="input", shape=("batch", 3, 4, 4))]
OUTPUTS = [TensorSpec(name="logits", shape=("batch", 2)), TensorSpec(name="features", shape=("batch", 8))]
X = np.zeros((1, 3, 4, 4), np.float32)


def test_fixed_answers_and_calls() -> None:
    answer = {"logits": np.array([[1.0, 2.0]]), "features": np.zeros((1, 8))}
    with FakeSession(INPUTS, OUTPUTS, answer) as session:
        assert session.backend == "fake"
        assert list(session.run({"input": X})) == ["logits", "features"]
        assert list(session.run({"input": X + 1}, ["features"])) == ["features"]
    assert [float(call["input"].mean()) for call in session.calls] == [0, 1]


def test_calls_are_copies() -> None:
    session = FakeSession(INPUTS, OUTPUTS[:1], {"logits": np.zeros((1, 2))})
    buffer = X.copy()
    session.run({"input": buffer})
    buffer += 5
    assert session.calls[0]["input"].max() == 0


def test_function() -> None:
    session = FakeSession(INPUTS, OUTPUTS[:1], lambda feed: {"logits": feed["input"].sum(axis=(1, 2, 3))[:, None]})
    assert session.run({"input": X + 1})["logits"].item() == 48


def test_it_checks_as_every_session_does() -> None:
    session = FakeSession(INPUTS, OUTPUTS, {"logits": np.zeros((1, 2))})
    with pytest.raises(UserError, match="must have shape"):
        session.run({"input": X[:, :2]})
    with pytest.raises(UserError, match=r"no answer for output\(s\) \['features'\]; it has \['logits'\]"):
        session.run({"input": X})
    session.close()
    with pytest.raises(UserError, match="fake session is closed"):
        session.run({"input": X})
