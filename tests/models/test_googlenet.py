"""GoogLeNet against torchvision's golden; its auxiliary heads in training, and their absence from export."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden, used_parameters

from edgecnn.models.googlenet import GoogLeNetOutputs, googlenet


def test_golden():
    check_golden("googlenet")


def test_compact_golden():
    check_compact("googlenet")


def test_export_has_no_auxiliary_head():
    used = used_parameters(check_export("googlenet", 64, transform_input=True))
    assert "fc.weight" in used
    assert not [key for key in used if key.startswith("aux")]


def test_builder():
    check_family(googlenet, 64)


def test_training_returns_all_heads_and_trains_every_parameter():
    torch.manual_seed(0)
    network = googlenet(num_classes=5).train()
    outputs = network(torch.randn(2, 3, 64, 64))
    assert isinstance(outputs, GoogLeNetOutputs)
    assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    assert [tuple(output.shape) for output in outputs] == [(2, 5)] * 3
    loss = sum(torch.nn.functional.cross_entropy(output, torch.tensor([1, 3])) for output in outputs)
    loss.backward()
    still = [
        key
        for key, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert still == []


@pytest.mark.parametrize(
    ("head", "fed_by", "later"), [(2, "inception4a", "inception4b"), (1, "inception4d", "inception4e")]
)
def test_an_auxiliary_head_sees_its_own_map(head, fed_by, later):
    network = googlenet(num_classes=5).train()
    network(torch.randn(2, 3, 64, 64))[head].sum().backward()
    assert network.get_submodule(fed_by).branch1.conv.weight.grad.any()
    assert network.get_submodule(later).branch1.conv.weight.grad is None


def test_training_without_auxiliary_heads_returns_logits():
    network = googlenet(num_classes=5, aux_logits=False).train()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert not [key for key in network.state_dict() if key.startswith("aux")]


def test_dropout_arguments():
    with torch.device("meta"):
        network = googlenet(dropout=0.1, dropout_aux=0.6)
    assert (network.dropout.p, network.aux1.dropout.p, network.aux2.dropout.p) == (0.1, 0.6, 0.6)
