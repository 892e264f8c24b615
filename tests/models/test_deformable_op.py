"""The operator ``edgecnn::deform_conv2d``: goldens, a reference in plain loops, gradients, and what it refuses."""

from __future__ import annotations

import itertools
import math

import deform_cases
import pytest
import torch
from deform_cases import CASES

from edgecnn.errors import SpecError
from edgecnn.models import deformable_op
from edgecnn.models.deformable import deform_conv2d
from edgecnn.models.deformable_shapes import geometry_of


def golden_arguments(case):
    """Make a golden case's tensors by its recipe."""
    steps = {name: tuple(case[name]) for name in ("stride", "padding", "dilation")}
    return {name: torch.from_numpy(array) for name, array in deform_cases.arguments(case).items()} | steps


def expected(case):
    return torch.from_numpy(deform_cases.expected(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_golden_in_float64(case):
    out = deform_conv2d(**golden_arguments(case))
    torch.testing.assert_close(out, expected(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_golden_in_other_dtypes(case, dtype):
    arguments = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in golden_arguments(case).items()}
    out = deform_conv2d(**arguments)
    assert out.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(out.double(), expected(case), rtol=0, atol=10 * case["f32_vs_f64_max_abs"])
    else:  # rounding the coordinates moves the samples: compare with the rounded arguments, computed exactly
        exact = deform_conv2d(**{k: v.double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})
        torch.testing.assert_close(out, exact.to(dtype))


def value_at(plane, y, x):
    """Bilinear value of a (H, W) list of lists, as the papers' code defines it."""
    height, width = len(plane), len(plane[0])
    if not (-1 < y < height and -1 < x < width):
        return 0.0
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for i, j in itertools.product((0, 1), (0, 1)):
        if 0 <= top + i < height and 0 <= left + j < width:
            total += (1 - abs(y - top - i)) * (1 - abs(x - left - j)) * plane[top + i][left + j]
    return total


def by_plain_loops(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):  # noqa: A002 - torchvision's name
    """Deformable convolution one multiplication at a time."""
    batch, channels = input.shape[:2]
    outputs, group_channels, kh, kw = weight.shape
    taps, per_group = kh * kw, outputs // (channels // group_channels)
    channels_per_offset = channels // (offset.shape[1] // (2 * taps))
    out = torch.zeros(batch, outputs, *offset.shape[2:], dtype=torch.float64)
    planes = input.tolist()
    for n, o, r, c in itertools.product(*map(range, out.shape)):
        total = 0.0 if bias is None else bias[o].item()
        for k, i, j in itertools.product(range(group_channels), range(kh), range(kw)):
            channel = o // per_group * group_channels + k
            tap = channel // channels_per_offset * taps + i * kw + j
            y = r * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap, r, c].item()
            x = c * stride[1] - padding[1] + j * dilation[1] + offset[n, 2 * tap + 1, r, c].item()
            factor = 1.0 if mask is None else mask[n, tap, r, c].item()
            total += weight[o, k, i, j].item() * factor * value_at(planes[n][channel], y, x)
        out[n, o, r, c] = total
    return out


SHAPES = {
    # groups, offset groups, kernel, stride, padding, dilation, mask, bias
    "plain": (1, 1, (3, 3), (1, 1), (1, 1), (1, 1), False, False),
    "modulated": (1, 1, (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "uneven": (1, 2, (2, 3), (2, 1), (1, 0), (1, 2), True, False),
    "groups": (2, 1, (3, 1), (1, 2), (1, 2), (2, 1), False, True),
    "both groups": (2, 4, (1, 2), (1, 1), (1, 1), (1, 1), True, True),
    "depthwise": (4, 2, (2, 2), (2, 2), (0, 1), (1, 1), True, False),
    "one position": (1, 1, (4, 5), (3, 3), (0, 0), (1, 1), True, True),
}


def random_arguments(groups, offset_groups, kernel, stride, padding, dilation, mask, bias, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size, channels, outputs, taps = (4, 5), 4, 4, kernel[0] * kernel[1]
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]

    def draw(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator) * 2 - 1

    return {
        "input": draw(batch, channels, *size),
        "offset": draw(batch, 2 * offset_groups * taps, *out) * 2.5,
        "weight": draw(outputs, channels // groups, *kernel),
        "bias": draw(outputs) if bias else None,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "mask": draw(batch, offset_groups * taps, *out) if mask else None,
    }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("chunk", [1, 1000, 1 << 21])
def test_random_arguments_against_plain_loops(shape, chunk, monkeypatch):
    monkeypatch.setitem(deformable_op.CHUNK, "cpu", chunk)
    arguments = random_arguments(*shape, seed=chunk)
    torch.testing.assert_close(deform_conv2d(**arguments), by_plain_loops(**arguments), rtol=0, atol=1e-13)


def test_without_offsets_it_is_the_convolution():
    arguments = random_arguments(2, 2, (3, 3), (2, 1), (1, 2), (1, 2), False, True)
    arguments["offset"].zero_()
    steps = {name: arguments[name] for name in ("stride", "padding", "dilation")}
    plain = torch.nn.functional.conv2d(arguments["input"], arguments["weight"], arguments["bias"], **steps, groups=2)
    torch.testing.assert_close(deform_conv2d(**arguments), plain, rtol=0, atol=1e-13)


def test_integers_stand_for_pairs():
    pairs = random_arguments(1, 1, (3, 3), (2, 2), (1, 1), (1, 1), True, True)
    integers = {**pairs, "stride": 2, "padding": 1, "dilation": 1}
    assert deform_conv2d(**pairs).equal(deform_conv2d(**integers))
    defaults = random_arguments(1, 1, (2, 2), (1, 1), (0, 0), (1, 1), False, False)
    assert deform_conv2d(**defaults).equal(deform_conv2d(*(defaults[k] for k in ("input", "offset", "weight"))))


@pytest.mark.parametrize("chunk", [1000, 1 << 21])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_by_all_tensors(shape, chunk, monkeypatch):
    """Along one random direction."""
    monkeypatch.setitem(deformable_op.CHUNK, "cpu", chunk)
    check_gradients(random_arguments(*shape), fast_mode=True)


@pytest.mark.parametrize("shape", ["modulated", "depthwise", "one position"])
def test_gradients_by_every_single_number(shape):
    check_gradients(random_arguments(*SHAPES[shape], batch=1), fast_mode=False)


def check_gradients(arguments, *, fast_mode):
    names = [name for name, value in arguments.items() if isinstance(value, torch.Tensor)]

    def run(*tensors):
        return deform_conv2d(**{**arguments, **dict(zip(names, tensors, strict=True))})

    tensors = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, tensors, eps=1e-7, fast_mode=fast_mode)


def test_gradients_of_float16_are_those_of_float64_rounded():
    arguments = random_arguments(*SHAPES["both groups"])
    half = {k: v.half() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    found = {}
    for dtype in (torch.float16, torch.float64):
        leaves = {
            k: v.detach().to(dtype, copy=True).requires_grad_() for k, v in half.items() if isinstance(v, torch.Tensor)
        }
        deform_conv2d(**{**half, **leaves}).sum().backward()
        found[dtype] = {name: leaf.grad for name, leaf in leaves.items()}
    for name, gradient in found[torch.float16].items():
        assert gradient.dtype == torch.float16
        torch.testing.assert_close(
            gradient, found[torch.float64][name].half(), msg=lambda text, name=name: f"{name}: {text}"
        )


def test_only_the_gradients_that_are_wanted():
    arguments = random_arguments(*SHAPES["modulated"])
    arguments["offset"].requires_grad_()
    deform_conv2d(**arguments).sum().backward()
    assert arguments["offset"].grad.abs().max() > 0
    assert arguments["input"].grad is None


def test_a_second_derivative_is_refused():
    arguments = random_arguments(*SHAPES["plain"])
    arguments["input"].requires_grad_()
    arguments["offset"].requires_grad_()
    (first,) = torch.autograd.grad(deform_conv2d(**arguments).square().sum(), arguments["offset"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"deform_conv2d_backward\.default but no autograd formula"):
        first.sum().backward()


@pytest.mark.parametrize("shape", ["plain", "both groups", "groups"])
def test_the_operator_keeps_torchs_rules(shape):
    arguments = random_arguments(*SHAPES[shape])
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            value.requires_grad_()
    order = ("input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask")
    values = [list(v) if isinstance(v := arguments[name], tuple) else v for name in order]
    torch.library.opcheck(torch.ops.edgecnn.deform_conv2d.default, values)


def test_the_schema_that_exporters_are_written_against():
    assert str(torch.ops.edgecnn.deform_conv2d.default._schema) == (
        "edgecnn::deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
        "int[] dilation, Tensor? mask) -> Tensor"
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_empty_batch(shape):
    arguments = random_arguments(*shape, batch=0)
    full = deform_conv2d(**random_arguments(*shape, batch=1))
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            value.requires_grad_()
    out = deform_conv2d(**arguments)
    assert out.shape == (0, *full.shape[1:])
    out.sum().backward()
    assert not arguments["weight"].grad.any()


@pytest.mark.parametrize("name", ["input", "offset", "weight", "mask"])
def test_strided_tensors(name):
    arguments = random_arguments(*SHAPES["both groups"])
    usual = deform_conv2d(**arguments)
    arguments[name] = arguments[name].permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)
    assert not arguments[name].is_contiguous()
    out = deform_conv2d(**arguments)
    assert out.is_contiguous()
    torch.testing.assert_close(out, usual)


def one_tap(y, x, image=None):
    """Sample an image at one place through a 1x1 kernel."""
    image = torch.full((1, 1, 3, 3), 1.0) if image is None else image
    offset = torch.tensor([y, x]).view(1, 2, 1, 1).expand(1, 2, 3, 3) - torch.stack(
        torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    )
    return deform_conv2d(image, offset, torch.ones(1, 1, 1, 1))[0, 0, 1, 1].item()


@pytest.mark.parametrize(
    ("y", "x", "value"),
    [
        (0.0, 0.0, 1.0),
        (-0.25, 1.0, 0.75),
        (2.75, 1.0, 0.25),
        (-0.5, 2.5, 0.25),
        (-1.0, 1.0, 0.0),
        (3.0, 1.0, 0.0),
        (1.0, 1e30, 0.0),
        (float("inf"), 1.0, 0.0),
        (1.0, -float("inf"), 0.0),
        (float("nan"), 1.0, float("nan")),
        (1.0, float("nan"), float("nan")),
    ],
)
def test_samples_at_and_beyond_the_border(y, x, value):
    assert one_tap(y, x) == pytest.approx(value, nan_ok=True)


def test_infinite_pixels_beyond_the_border_do_not_leak_in():
    image = torch.full((1, 1, 3, 3), float("inf"))
    assert one_tap(-1.0, 1.0, image) == 0.0
    assert one_tap(5.0, 5.0, image) == 0.0
    assert one_tap(-0.5, 1.5, image) == float("inf")


@pytest.mark.parametrize("values", [1, 500, 5000, 1 << 30])
def test_chunks_cover_every_position_once_and_stay_small(values):
    arguments = random_arguments(*SHAPES["modulated"])
    tensors = [arguments[name] for name in ("input", "offset", "weight", "bias", "mask")]
    geometry = geometry_of(*tensors, (arguments["stride"], arguments["padding"], arguments["dilation"]))
    chunks = list(geometry.chunks(values))
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(2 * 4 * 5))
    per_position = 9 * 16
    assert max(chunk.stop - chunk.start for chunk in chunks) <= max(1, values // per_position)


def test_autocast_runs_in_float32():
    arguments = random_arguments(*SHAPES["modulated"])
    single = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    mixed = {**single, "input": single["input"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        out = deform_conv2d(**mixed)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, deform_conv2d(**{**single, "input": mixed["input"].float()}))


GOOD = random_arguments(2, 2, (3, 3), (1, 1), (1, 1), (1, 1), True, True)
BAD = {
    "integer input": ({"input": torch.ones(2, 4, 4, 5, dtype=torch.int64)}, "input must be of a floating dtype, found torch.int64"),
    "3-D input": ({"input": torch.ones(4, 4, 5).double()}, r"input must have 4 dimensions, found \(4, 4, 5\)"),
    "2-D bias": ({"bias": torch.ones(4, 1).double()}, r"bias must have 1 dimension, found \(4, 1\)"),
    "other dtype": (
        {"weight": torch.ones(4, 2, 3, 3)},
        "weight must have the input's dtype and device, torch.float64 on cpu, found torch.float32 on cpu",
    ),
    "other device": (
        {"offset": torch.ones(2, 36, 4, 5, device="meta").double()},
        "offset must have the input's dtype and device, torch.float64 on cpu, found torch.float64 on meta",
    ),
    "channels": ({"weight": torch.ones(4, 3, 3, 3).double()}, r"multiple of weight.shape\[1\].*weight \(4, 3, 3, 3\)"),
    "outputs": ({"weight": torch.ones(3, 2, 3, 3).double()}, r"multiple of weight.shape\[1\].*weight \(3, 2, 3, 3\)"),
    "empty weight": ({"weight": torch.ones(4, 0, 3, 3).double()}, r"need channels and taps.*weight \(4, 0, 3, 3\)"),
    "offset taps": (
        {"offset": torch.ones(2, 35, 4, 5).double()},
        r"offset.shape\[1\] must be a multiple of 2 \* 9 kernel taps, found \(2, 35, 4, 5\)",
    ),
    "no offsets": ({"offset": torch.ones(2, 0, 4, 5).double()}, r"offset.shape\[1\] must be a multiple"),
    "offset groups": (
        {"offset": torch.ones(2, 54, 4, 5).double()},
        r"4 channels must divide into the 3 groups of offset.shape\[1\], found offset \(2, 54, 4, 5\)",
    ),
    "offset size": ({"offset": torch.ones(2, 36, 4, 4).double()}, r"offset must have the shape \(2, 36, 4, 5\), found \(2, 36, 4, 4\)"),
    "offset batch": ({"offset": torch.ones(1, 36, 4, 5).double()}, r"offset must have the shape \(2, 36, 4, 5\)"),
    "mask": ({"mask": torch.ones(2, 9, 4, 5).double()}, r"mask must have the shape \(2, 18, 4, 5\), found \(2, 9, 4, 5\)"),
    "bias": ({"bias": torch.ones(5).double()}, r"bias must have the 4 elements of weight.shape\[0\], found \(5,\)"),
    "stride": ({"stride": 0}, r"stride must be an integer or \(height, width\) of at least 1, found \(0, 0\)"),
    "padding": ({"padding": (1, -1)}, r"padding must be an integer or \(height, width\) of at least 0, found \(1, -1\)"),
    "dilation": ({"dilation": (1, 1, 1)}, r"dilation must be .* of at least 1, found \(1, 1, 1\)"),
    "large kernel": (
        {"dilation": 4},
        r"3x3 kernel with dilation \(4, 4\) must fit into the padded input, found input \(2, 4, 4, 5\) with padding \(1, 1\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_refusals_name_what_was_expected_and_found(change, message):
    deform_conv2d(**GOOD)
    with pytest.raises(SpecError, match=f"deform_conv2d: .*{message}"):
        deform_conv2d(**{**GOOD, **change})
