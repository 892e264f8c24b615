"""PyTorch as a session: evaluation mode, output picking, module outputs."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity_nets import INPUT, images, network
from torch import nn

from edgecnn.errors import BackendError, UserError
from edgecnn.parity.torch_runner import TorchSession, pick_output, tiny_module
from edgecnn.spec import TensorSpec

FEED = dict(next(iter(images(1))).feed)
Outputs = namedtuple("Outputs", ["logits", "aux"])  # noqa: PYI024 - as torchvision's


def test_it_runs_in_evaluation_mode_and_puts_the_modes_back() -> None:
    net = network()
    net.bn1.eval()
    session = TorchSession(net, (INPUT,))
    statistics = net.bn1.running_mean.clone()
    once, twice = session.run(FEED)["logits"], session.run(FEED)["logits"]
    np.testing.assert_array_equal(once, twice)  # dropout is off
    assert (net.training, net.drop.training, net.bn1.training) == (True, True, False)
    assert torch.equal(net.bn1.running_mean, statistics)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(FEED["input"])).numpy()
    np.testing.assert_array_equal(once, expected)
    assert session.outputs == (TensorSpec(name="logits", shape=("batch", 10)),)
    assert session.backend == "torch"


def test_a_half_or_double_network_has_float32_borders() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        out = TorchSession(network().to(dtype), (INPUT,)).run(FEED)["logits"]
        assert out.dtype == np.float32


def test_read_only_input_is_fine() -> None:
    array = FEED["input"].copy()
    array.flags.writeable = False
    TorchSession(network(), (INPUT,)).run({"input": array})


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (torch.ones(2), ""),
        ((torch.ones(2),), ""),
        ({"out": torch.ones(2), "note": "text"}, ""),
        (Outputs(torch.ones(2), torch.zeros(2)), ""),
        ((torch.zeros(2), torch.ones(2)), "1"),
        ({"a": torch.zeros(2), "b": torch.ones(2)}, "b"),
        ({"a": torch.zeros(2), "b": torch.ones(2)}, "1"),
        (Outputs(torch.zeros(2), torch.ones(2)), "aux"),
        (SimpleNamespace(a=torch.zeros(2), b=torch.ones(2)), "b"),
    ],
)
def test_the_main_output_is_picked(result: Any, output: str) -> None:
    assert torch.equal(pick_output(result, output), torch.ones(2))


@pytest.mark.parametrize(
    ("result", "output", "message"),
    [
        ((torch.zeros(1, 2), torch.ones(1, 3)), "", r"choose one output: the network returns: 0 \[1, 2\], 1 \[1, 3\]"),
        ({"a": torch.zeros(1)}, "b", r"output 'b' is not among what the network returns: a \[1\]"),
        ((torch.zeros(1), torch.ones(1)), "2", "output '2' is not among"),
        ("text", "", "no tensor"),
    ],
)
def test_an_unclear_output_lists_the_choices(result: Any, output: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pick_output(result, output)


def test_module_outputs_are_copies_from_before_in_place_layers() -> None:
    net = network()
    session = TorchSession(net, (INPUT,))
    found = session.module_outputs(FEED, ["bn1", "relu", "block.conv", "block"])
    assert list(found) == ["bn1", "relu", "block.conv", "block"]
    assert found["bn1"].min() < 0, "the in-place ReLU came after"
    np.testing.assert_array_equal(np.maximum(found["bn1"], 0), found["relu"])
    assert not net.bn1._forward_hooks
    with pytest.raises(UserError, match="no module 'nose'"):
        session.module_outputs(FEED, ["nose"])


def test_a_module_that_is_called_twice_has_no_one_output() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.fc = nn.ReLU(), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.relu(self.relu(x).mean((2, 3))))

    session = TorchSession(Shared(), (INPUT,))
    assert set(session.module_shapes(FEED)) == {"fc"}


def test_shapes_come_in_the_order_of_finishing() -> None:
    shapes = TorchSession(network(), (INPUT,)).module_shapes(FEED)
    assert list(shapes) == ["conv1", "bn1", "relu", "block.conv", "block.relu", "block", "dw", "act", "drop", "fc"]
    assert shapes["block"] == (1, 16, 16, 16)


def test_a_network_that_fails_is_a_backend_error() -> None:
    with pytest.raises(BackendError, match=r"Net fails on \[\[1, 4, 8, 8\]\]"):
        TorchSession(network(), (TensorSpec(name="input", shape=("batch", 4, 8, 8)),))


def test_the_tiny_network_is_reproducible_and_differs_by_seed() -> None:
    x = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        one, two, other = (tiny_module(seed=seed)(x) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert one.shape == (1, 10)
    assert not torch.allclose(one, other)
