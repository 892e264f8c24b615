"""Inception v3 against torchvision's golden; its auxiliary head in training, and its absence from export."""

from __future__ import annotations

import torch
from golden_tools import check_compact, check_export, check_family, check_golden, used_parameters

from edgecnn.models.inception import InceptionOutputs, inception_v3


def test_golden():
    check_golden("inception_v3")


def test_compact_golden():
    check_compact("inception_v3")


def test_export_has_no_auxiliary_head():
    used = used_parameters(check_export("inception_v3", 107, transform_input=True))
    assert "fc.weight" in used
    assert not [key for key in used if key.startswith("AuxLogits")]


def test_builder():
    check_family(inception_v3, 75)


def test_training_returns_both_heads_and_trains_every_parameter():
    torch.manual_seed(0)
    network = inception_v3(num_classes=5).train()
    outputs = network(torch.randn(2, 3, 299, 299))
    assert isinstance(outputs, InceptionOutputs)
    assert outputs._fields == ("logits", "aux_logits")
    assert [tuple(output.shape) for output in outputs] == [(2, 5)] * 2
    loss = sum(torch.nn.functional.cross_entropy(output, torch.tensor([1, 3])) for output in outputs)
    loss.backward()
    still = [
        key
        for key, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert still == []


def test_training_without_the_auxiliary_head_returns_logits():
    network = inception_v3(num_classes=5, aux_logits=False, dropout=0.1).train()
    assert network(torch.randn(2, 3, 107, 107)).shape == (2, 5)
    assert not [key for key in network.state_dict() if key.startswith("AuxLogits")]
    assert network.dropout.p == 0.1
