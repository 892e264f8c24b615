"""Deformable layers and ResNets: they begin as their plain twins, and then move."""

from __future__ import annotations

import pytest
import torch
from golden_tools import build, check_export, check_family, compact_golden, filled, run, synthetic_state
from recipe import state_crc32

from edgecnn.errors import SpecError
from edgecnn.models import deformable, resnet
from edgecnn.models.deformable import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from edgecnn.models.layers import count_macs, count_parameters, init_he

LAYERS = {1: DeformConv2d, 2: ModulatedDeformConv2d}
NAMES = ["deform_resnet50_v1", "deform_resnet50_v2", "deform_resnet101_v1", "deform_resnet101_v2"]


def moved(layer):
    """Give the offset convolution random weights."""
    torch.nn.init.normal_(layer.conv_offset.weight, 0, 0.2)
    torch.nn.init.normal_(layer.conv_offset.bias, 0, 0.5)
    return layer


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "bias": True}, {"dilation": 2, "groups": 2, "offset_groups": 4}])
def test_an_untrained_layer_is_the_plain_convolution(version, options):
    torch.manual_seed(0)
    layer = LAYERS[version](8, 6, **options).double()
    plain = {key: value for key, value in options.items() if key != "offset_groups"}
    twin = torch.nn.Conv2d(8, 6, 3, padding=plain.get("dilation", 1), **{"bias": False, **plain}).double()
    assert twin.load_state_dict(layer.state_dict(), strict=False).unexpected_keys == [
        "conv_offset.weight",
        "conv_offset.bias",
    ]
    image = torch.randn(2, 8, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(image), twin(image), rtol=0, atol=1e-13)


def test_the_first_version_samples_where_its_convolution_says():
    torch.manual_seed(0)
    layer = moved(DeformConv2d(4, 6, offset_groups=2, stride=2, bias=True).double())
    image = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    offset = torch.nn.functional.conv2d(image, layer.conv_offset.weight, layer.conv_offset.bias, stride=2, padding=1)
    assert offset.shape[1] == 2 * 2 * 9
    torch.testing.assert_close(layer(image), deform_conv2d(image, offset, layer.weight, layer.bias, 2, 1))


def test_the_second_version_weighs_its_samples_by_twice_a_sigmoid():
    torch.manual_seed(0)
    layer = moved(ModulatedDeformConv2d(4, 6, offset_groups=2, dilation=2).double())
    image = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    maps = torch.nn.functional.conv2d(image, layer.conv_offset.weight, layer.conv_offset.bias, padding=2, dilation=2)
    offset, logits = maps.split((36, 18), 1)
    # The documented conversion: half the mask is the paper's sigmoid, with twice the weight.
    expected = deform_conv2d(image, offset, 2 * layer.weight, None, 1, 2, 2, logits.sigmoid())
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize("version", [1, 2])
def test_a_layer_learns_to_move(version):
    torch.manual_seed(0)
    layer = LAYERS[version](4, 4)
    before = layer.conv_offset.weight.clone()
    image = torch.randn(2, 4, 8, 8)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    target = torch.nn.functional.conv2d(image.roll(1, 3), layer.weight.detach(), padding=1)
    losses = []
    for _ in range(20):
        loss = (layer(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not layer.conv_offset.weight.equal(before)


def test_he_initialisation_draws_the_weight_and_leaves_the_offsets():
    layer = ModulatedDeformConv2d(64, 128, groups=2)
    init_he(layer)
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not layer.conv_offset.weight.any()
    assert not layer.conv_offset.bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_checkpoint_gives_the_plain_logits(name):
    """The plain twin's golden, to the last digits, from a state that holds the plain keys alone."""
    golden = compact_golden(name[len("deform_") : -len("_v1")])
    network = getattr(deformable, name)().eval()
    plain = [(key, value.shape) for key, value in network.state_dict().items() if "conv_offset" not in key]
    state = synthetic_state(plain)
    assert state_crc32(state) == golden["state_crc32"]
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    keys = network.load_state_dict(tensors, strict=False)
    blocks = {"50": (4, 6, 3), "101": (4, 23, 3)}[name[len("deform_resnet") : -len("_v1")]]
    convolutions = [f"layer{i}.{block}.conv2" for i, count in enumerate(blocks, 2) for block in range(count)]
    assert keys.missing_keys == [f"{conv}.conv_offset.{leaf}" for conv in convolutions for leaf in ("weight", "bias")]
    assert keys.unexpected_keys == []
    logits = torch.from_numpy(run(network, golden["input_size"]))
    torch.testing.assert_close(
        logits[:, :16], torch.tensor(golden["logits"]["head16"], dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert logits.argmax(1).tolist() == golden["logits"]["argmax"]


@pytest.mark.parametrize("version", [1, 2])
def test_the_same_seed_gives_the_same_network(version):
    torch.manual_seed(7)
    plain = resnet.resnet50(num_classes=10).eval()
    torch.manual_seed(7)
    network = deformable.deform_resnet50(num_classes=10, version=version).eval()
    state = network.state_dict()
    assert all(state[key].equal(value) for key, value in plain.state_dict().items())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), plain(image))


@pytest.mark.parametrize("name", NAMES)
def test_builder(name):
    check_family(getattr(deformable, name), 64)
    by_version = getattr(deformable, name[: -len("_v1")])
    with torch.device("meta"):
        layers = {type(module) for module in by_version(version=int(name[-1])).modules()} & set(LAYERS.values())
        assert layers == {LAYERS[int(name[-1])]}
        assert type(getattr(deformable, name)().layer4[0].conv2) is LAYERS[int(name[-1])]


def test_an_unknown_version_is_refused():
    with pytest.raises(SpecError, match="version 3 is neither 1"):
        deformable.deform_resnet50(version=3)


@pytest.mark.parametrize(("version", "maps"), [(1, 18), (2, 27)])
def test_the_offset_convolutions_are_counted(version, maps):
    network, plain = build(f"deform_resnet50_v{version}"), build("resnet50")
    planes = (128, 256, 512)
    inputs = [channels for channels, blocks in zip(planes, (4, 6, 3), strict=True) for _ in range(blocks)]
    weights = sum(channels * 9 * maps for channels in inputs)
    assert count_parameters(network) - count_parameters(plain) == weights + maps * len(inputs)
    outputs = {128: 28**2, 256: 14**2, 512: 7**2}
    macs = sum(channels * 9 * maps * outputs[channels] for channels in inputs)
    assert count_macs(network, (3, 224, 224)) - count_macs(plain, (3, 224, 224)) == macs


@pytest.mark.parametrize("version", [1, 2])
def test_export_keeps_the_operator_whole(version):
    program = check_export(f"deform_resnet50_v{version}", 64)
    nodes = [node for node in program.graph.nodes if node.target == torch.ops.edgecnn.deform_conv2d.default]
    assert len(nodes) == 13
    assert [len(node.args) for node in nodes] == [8] * 13
    assert nodes[0].args[3:7] == (None, [2, 2], [1, 1], [1, 1])
    assert (nodes[0].args[7] is None) == (version == 1)


def test_offsets_change_the_logits():
    network = filled("deform_resnet50_v2")
    before = run(network, 64)
    for module in network.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.bias.data += 0.5
    assert abs(run(network, 64) - before).max() > 1e-3
