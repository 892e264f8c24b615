"""Shared blocks: initialisation, channel rounding, squeeze-excite, renormalisation and the counters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.models import layers


@pytest.mark.parametrize(("groups", "fan_out"), [(1, 256 * 9), (4, 64 * 9), (128, 2 * 9)])
def test_he_initialisation_of_convolutions(groups, fan_out):
    conv = nn.Conv2d(128, 256, 3, groups=groups)
    torch.manual_seed(0)
    layers.init_he(nn.Sequential(conv))
    expected = (2 / fan_out) ** 0.5
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert abs(conv.weight.mean().item()) < 0.1 * expected
    assert not conv.bias.any()


def test_he_initialisation_of_the_other_layers():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Linear(500, 400))
    nn.init.constant_(network[0].weight, 3.0)
    nn.init.constant_(network[0].bias, 3.0)
    layers.init_he(network)
    assert network[0].weight.eq(1).all()
    assert not network[0].bias.any()
    assert network[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not network[1].bias.any()


def test_he_initialisation_keeps_the_scale_through_a_depthwise_chain():
    chain = nn.Sequential(*[nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU()) for _ in range(6)])
    torch.manual_seed(0)
    layers.init_he(chain)
    x = torch.randn(1, 64, 32, 32)
    with torch.no_grad():
        ratio = (chain(x).square().mean() / x.square().mean()).item()
    assert 0.01 < ratio < 100  # without the division by groups: 64 ** -6


def test_he_initialisation_follows_the_seed():
    first, second, third = (nn.Conv2d(3, 8, 3) for _ in range(3))
    for conv, seed in ((first, 1), (second, 1), (third, 2)):
        torch.manual_seed(seed)
        layers.init_he(conv)
    assert first.weight.equal(second.weight)
    assert not first.weight.equal(third.weight)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 8), (8, 8), (11, 16), (12, 16), (18, 24), (19.9, 24), (20, 24), (36, 40), (100, 104), (107, 104)],
)
def test_channels_round_to_multiples_of_8_and_lose_at_most_a_tenth(value, expected):
    assert layers.make_divisible(value) == expected


def test_channels_round_to_the_nearest_multiple_without_a_floor():
    assert [layers.make_divisible(v, floor=0.0) for v in (4, 11, 12, 128)] == [8, 8, 16, 128]


def test_conv_bn_act_keeps_the_size_and_the_checkpoint_keys():
    block = layers.conv_bn_act(8, 12, 5, stride=2, groups=4, act=nn.SiLU)
    assert block(torch.zeros(2, 8, 9, 9)).shape == (2, 12, 5, 5)
    assert [key for key, _ in block.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    assert isinstance(block[-1], nn.SiLU)
    assert isinstance(layers.conv_bn_act(8, 8, act=None)[-1], nn.BatchNorm2d)


def test_conv_bn_relu_has_the_inception_eps():
    block = layers.ConvBnReLU(4, 6, (1, 7), padding=(0, 3)).eval()
    assert block.bn.eps == 1e-3
    y = block(torch.randn(2, 4, 8, 8))
    assert y.shape == (2, 6, 8, 8)
    assert y.min() == 0


def test_squeeze_excite_scales_each_channel_by_its_gate():
    gate = layers.SqueezeExcite(6, 2, act=nn.SiLU, gate=nn.Hardsigmoid)
    x = torch.randn(3, 6, 5, 4)
    pooled = x.mean((2, 3))
    hidden = nn.functional.silu(pooled @ gate.fc1.weight[:, :, 0, 0].T + gate.fc1.bias)
    scale = nn.functional.hardsigmoid(hidden @ gate.fc2.weight[:, :, 0, 0].T + gate.fc2.bias)
    torch.testing.assert_close(gate(x), x * scale[:, :, None, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_renormalisation_to_half_range(dtype):
    pixels = torch.rand(2, 3, 4, 4, dtype=dtype)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=dtype).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=dtype).view(3, 1, 1)
    y = layers.imagenet_to_half_range((pixels - mean) / std)
    assert y.dtype == dtype
    torch.testing.assert_close(y, (pixels - 0.5) / 0.5)


def test_counts_of_a_network_worked_out_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(72, 5),
    )
    # 10x10 -> 5x5 -> 3x3
    assert layers.count_macs(network, (3, 10, 10)) == 25 * 8 * 27 + 9 * 8 * 9 + 72 * 5
    assert layers.count_parameters(network) == (216 + 8) + 16 + (72 + 8) + (360 + 5)


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network.train()
    network[2].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    layers.count_macs(network, (3, 4, 4))
    assert [module.training for module in network] == [True, True, False]
    assert not network[0]._forward_hooks
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


def test_a_layer_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    assert layers.count_macs(Twice(), (2, 3, 3)) == 2 * 9 * 4


def test_counting_works_without_storage_and_restores_hooks_after_an_error():
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert layers.count_macs(network, (3, 2, 2)) == 48
    with pytest.raises(RuntimeError, match="channel"):
        layers.count_macs(network, (5, 2, 2))
    assert not network[0]._forward_hooks
