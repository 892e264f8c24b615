"""EfficientNet V1, V2 and Lite against torchvision's and timm's goldens, TensorFlow's padding, and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from golden_tools import check_compact, check_export, check_family, check_golden, layout

from edgecnn.models import efficientnet
from edgecnn.models.efficientnet_blocks import FusedMBConv, MBConv, StochasticDepth
from edgecnn.models.efficientnet_lite import LiteBlock, SameConv2d, same_padding

BUILDERS = [name for name in efficientnet.__all__ if name.startswith("efficientnet_")]
LITE = [name for name in BUILDERS if "lite" in name]


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0",
        "efficientnet_lite0",
        "efficientnet_lite2",
        "tf_efficientnet_lite0",
        pytest.param("efficientnet_b1", marks=pytest.mark.sweep),
        pytest.param("efficientnet_b4", marks=pytest.mark.sweep),
        pytest.param("efficientnet_v2_s", marks=pytest.mark.sweep),
    ],
)
def test_golden(name):
    check_golden(name)


@pytest.mark.parametrize("name", [*BUILDERS, *(f"tf_{name}" for name in LITE)])
def test_compact_golden(name):
    check_compact(name)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0",
        *(pytest.param(f"efficientnet_{name}", marks=pytest.mark.sweep) for name in ("b7", "v2_s", "lite0")),
    ],
)
def test_export_with_a_dynamic_batch(name):
    check_export(name, 64)


@pytest.mark.parametrize("name", BUILDERS)
def test_builder(name):
    check_family(getattr(efficientnet, name), 64)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "pads"),
    [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (112, 5, 2, (1, 2)),
        (113, 5, 2, (2, 2)),
        (7, 5, 1, (2, 2)),
        (1, 3, 2, (1, 1)),
        (9, 1, 2, (0, 0)),
        (11, 2, 4, (0, 0)),
    ],
)
def test_same_padding_worked_out_by_hand(size, kernel_size, stride, pads):
    assert same_padding(size, kernel_size, stride) == pads


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (9, 9)])
def test_same_convolution_is_the_convolution_of_the_padded_image(size, stride, kernel_size):
    torch.manual_seed(0)
    conv = SameConv2d(4, 6, kernel_size, stride=stride, groups=2).double()
    image = torch.randn(2, 4, *size, dtype=torch.float64)
    # Pad generously, and start where an even convolution would, moved by the pixel that goes to the end.
    shift = [length % 2 == 0 and stride == 2 for length in size]
    half = kernel_size // 2
    padded = torch.nn.functional.pad(image, (half, half + 1, half, half + 1))[:, :, int(shift[0]) :, int(shift[1]) :]
    expected = torch.nn.functional.conv2d(padded, conv.weight, stride=stride, groups=2)
    outputs = [-(-length // stride) for length in size]
    torch.testing.assert_close(conv(image), expected[:, :, : outputs[0], : outputs[1]])


@pytest.mark.parametrize("size", [64, 75])
def test_tensorflow_padding_exports_with_constant_widths(size):
    program = check_export("tf_efficientnet_lite0", size)
    targets = [str(node.target) for node in program.graph.nodes]
    pads = [node.args[1] for node in program.graph.nodes if "pad" in str(node.target)]
    assert all(isinstance(width, int) for widths in pads for width in widths)
    # 75 -> 38 -> 19 -> 10 -> 5 -> 3: the odd sizes need no Pad.
    assert len(pads) == {64: 5, 75: 2}[size]
    assert not [target for target in targets if "sym_size" in target and "pad" in target]


@pytest.mark.parametrize("name", LITE)
def test_both_lite_numerics_have_the_same_keys(name):
    build = getattr(efficientnet, name)
    with torch.device("meta"):
        assert layout(build()) == layout(build(tf=True))


def test_stochastic_depth_drops_whole_images_in_training_and_keeps_the_mean():
    layer = StochasticDepth(0.25)
    images = torch.ones(4000, 2, 3, 3)
    torch.manual_seed(0)
    y = layer.train()(images)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert y.flatten(1).std(1).eq(0).all()
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)
    assert layer.eval()(images) is images


@pytest.mark.parametrize("name", ["efficientnet_b2", "efficientnet_v2_m", "efficientnet_lite3"])
def test_deeper_branches_are_dropped_more_often(name):
    with torch.device("meta"):
        network = getattr(efficientnet, name)()
    blocks = [module for module in network.modules() if isinstance(module, (MBConv, FusedMBConv, LiteBlock))]
    first = int("lite" in name)  # Lite's first block has no branch to drop
    total = len(blocks) + first
    drops = [block.stochastic_depth.drop for block in blocks]
    assert drops == pytest.approx([0.2 * i / total for i in range(first, total)])


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_training_mode_is_random_and_trains(name):
    torch.manual_seed(0)
    network = getattr(efficientnet, name)(num_classes=5).train()
    images = torch.randn(4, 3, 32, 32)
    first, second = network(images), network(images)
    assert not first.equal(second)
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
