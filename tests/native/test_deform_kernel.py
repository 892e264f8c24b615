"""The arithmetic of the plugin's CUDA kernel, run on a CPU: the very header that nvcc compiles, all tiles, edges and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_kernel import COMPILER, CpuKernel
from deform_cases import CASES, arguments, expected

from edgecnn.models.deformable import deform_conv2d

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> CpuKernel:
    return CpuKernel.compiled(
        tmp_path_factory.mktemp("kernel"), "-fsanitize=bounds,undefined", "-fno-sanitize-recover=all"
    )


def exact(tensors, **steps):
    """Return PyTorch's result in float64, and how large its sums of products are without their signs."""
    wide = {name: torch.from_numpy(array.astype(np.float64)) for name, array in tensors.items()}
    unsigned = {name: tensor if name == "offset" else tensor.abs() for name, tensor in wide.items()}
    return deform_conv2d(**wide, **steps).numpy(), deform_conv2d(**unsigned, **steps).numpy()


def check(kernel, tensors, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """Compare with PyTorch: both as float32, and as float16 with the arguments rounded before."""
    pads = (*padding, *padding)
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    wanted, size = exact(single, stride=stride, padding=padding, dilation=dilation)
    found = kernel.run(single, stride, pads, dilation)
    assert found.dtype == np.float32
    # Coordinates below 64 are right to 2^-19, at worst on all axes of all taps; sums of up to 1000 numbers, 2^-24 each.
    np.testing.assert_array_less(np.abs(found - wanted), 2**-16 * size + 1e-7)

    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    wanted, size = exact(half, stride=stride, padding=padding, dilation=dilation)
    found = kernel.run(half, stride, pads, dilation)
    assert found.dtype == np.float16
    # A column is rounded to half once, and so is the result.
    np.testing.assert_array_less(np.abs(found - wanted), 2**-11 * (np.abs(wanted) + size) * 1.02 + 1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_goldens(kernel, case):
    tensors, steps = arguments(case), {name: tuple(case[name]) for name in ("stride", "padding", "dilation")}
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    found = kernel.run(single, steps["stride"], 2 * steps["padding"], steps["dilation"])
    assert found.shape == tuple(case["output_shape"])
    np.testing.assert_allclose(found, expected(case), rtol=0, atol=10 * case["f32_vs_f64_max_abs"])
    check(kernel, tensors, **steps)


RANDOM = {
    # channels, outputs, groups, offset groups, size, kernel, stride, padding, dilation, mask, bias
    "vectorised": (16, 64, 1, 1, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "two tiles of outputs, the last one partial": (8, 70, 1, 1, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "two deep tiles, the last one partial": (13, 5, 1, 1, (7, 6), (3, 3), (2, 2), (1, 1), (1, 1), True, False),
    "uneven axes": (4, 6, 1, 2, (9, 5), (2, 3), (2, 1), (1, 3), (1, 2), False, True),
    "5x5": (8, 4, 2, 1, (9, 9), (5, 5), (1, 2), (2, 2), (1, 1), True, True),
    "7x3, stride 3, dilation 2": (6, 6, 3, 2, (15, 8), (7, 3), (3, 3), (5, 1), (2, 1), True, False),
    "1x1": (90, 10, 1, 3, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), False, False),
    "groups inside offset groups": (12, 8, 4, 2, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "offset groups inside groups": (12, 8, 2, 6, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "groups that cut offset groups": (12, 6, 3, 2, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), True, False),
    "depthwise": (6, 12, 6, 3, (5, 8), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "one pixel": (3, 3, 1, 1, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), True, True),
    "one row": (3, 3, 1, 1, (1, 9), (1, 3), (1, 2), (0, 1), (1, 1), False, True),
    "one column": (3, 3, 1, 1, (9, 1), (3, 1), (2, 1), (2, 0), (2, 1), True, False),
}  # fmt: skip


def draw(
    channels, outputs, groups, offset_groups, size, kernel, stride, padding, dilation, mask, bias, reach=3.0, batch=3
):
    random = np.random.default_rng(7)
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    maps = offset_groups * kernel[0] * kernel[1]
    tensors = {
        "input": random.standard_normal((batch, channels, *size)),
        "offset": random.uniform(-reach, reach, (batch, 2 * maps, *out)),
        "weight": random.standard_normal((outputs, channels // groups, *kernel)),
    }
    if mask:
        tensors["mask"] = random.uniform(0, 1, (batch, maps, *out))
    if bias:
        tensors["bias"] = random.standard_normal(outputs)
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


@pytest.mark.parametrize("case", RANDOM.values(), ids=RANDOM)
def test_random_arguments_against_pytorch(kernel, case):
    tensors, steps = draw(*case)
    check(kernel, tensors, **steps)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_order_of_threads_between_barriers_does_not_matter(kernel, dtype):
    for case in RANDOM.values():
        tensors, steps = draw(*case)
        rounded = {name: array.astype(dtype) for name, array in tensors.items()}
        found = []
        for backwards in (False, True):
            kernel.library.run_backwards(int(backwards))
            found.append(kernel.run(rounded, steps["stride"], 2 * steps["padding"], steps["dilation"]))
        kernel.library.run_backwards(0)
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("case", ["vectorised", "uneven axes", "one column"])
def test_without_offsets_it_is_the_convolution(kernel, case):
    (_, _, groups, *_), (tensors, steps) = RANDOM[case], draw(*RANDOM[case], reach=0.0)
    tensors.pop("mask", None)
    wide = {name: torch.from_numpy(array) for name, array in tensors.items() if name != "offset"}
    plain = torch.nn.functional.conv2d(wide.pop("input"), **wide, **steps, groups=groups).numpy()
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    found = kernel.run(single, steps["stride"], 2 * steps["padding"], steps["dilation"])
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-4)


def test_padding_may_differ_on_the_four_sides(kernel):
    tensors, _ = draw(4, 4, 1, 1, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), True, True)
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    whole = kernel.run(single, pads=(1, 1, 1, 1))
    # One row less below and one column less at the right leaves out the last positions, and nothing else changes.
    cut = {name: array[..., :-1, :-1] if name in ("offset", "mask") else array for name, array in single.items()}
    np.testing.assert_array_equal(kernel.run(cut, pads=(1, 1, 0, 0)), whole[..., :-1, :-1])


def test_offsets_that_are_not_numbers_or_very_large_sample_nothing(kernel):
    tensors, _ = draw(4, 4, 1, 1, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), False, True)
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    for value in (np.nan, np.inf, -np.inf, 3e9, -3e9):
        single["offset"][:] = value
        found = kernel.run(single, pads=(1, 1, 1, 1))
        np.testing.assert_array_equal(found, np.broadcast_to(single["bias"][:, None, None], found.shape))


def test_software_half_is_numpys(kernel):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = every[~np.isnan(every)]
    np.testing.assert_array_equal(kernel.from_half(numbers), numbers.astype(np.float32))
    neighbours = numbers.astype(np.float32).view(np.int32)[:, None] + np.array([-4096, -1, 0, 1, 4095, 4096, 4097])
    floats = neighbours.astype(np.int32).view(np.float32).ravel()
    floats = floats[~np.isnan(floats)]
    with np.errstate(over="ignore"):
        wanted = floats.astype(np.float16)
    np.testing.assert_array_equal(kernel.half(floats).view(np.uint16), wanted.view(np.uint16))
    assert np.isnan(kernel.half(np.array([np.nan], np.float32))).all()


BAD = {
    "channels": ({"channels": 0}, "input and weight need channels and pixels"),
    "stride": ({"stride_w": 0}, "kernel, stride and dilation must be at least 1"),
    "padding": ({"pad_top": -1}, "padding must be at least 0"),
    "groups": ({"groups": 3}, "must divide into the groups"),
    "offset groups": ({"offset_groups": 3}, "must divide into the offset groups"),
    "size": ({"out_width": 0}, "must fit into the padded input"),
    "positions": ({"out_width": 1 << 30}, "must stay below 2"),
    "grid": ({"outputs": 1 << 30}, "more groups and output channels than the grid"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_sizes_that_do_not_fit_are_refused(kernel, change, message):
    tensors, _ = draw(4, 4, 1, 1, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), False, True)
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    with pytest.raises(ValueError, match=message):
        kernel.run(single, pads=(1, 1, 1, 1), **change)


def test_an_empty_batch_computes_nothing(kernel):
    tensors, _ = draw(4, 4, 1, 1, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), True, True, batch=0)
    assert kernel.run({k: v.astype(np.float32) for k, v in tensors.items()}, pads=(1, 1, 1, 1)).shape == (0, 4, 6, 7)


def test_output_length_is_that_of_a_convolution(kernel):
    length = kernel.library.out_length
    assert [length(7, 2, 3, s, 1) for s in (1, 2, 3)] == [7, 4, 3]
    assert [length(5, 0, 3, 3, d) for d in (1, 2, 3)] == [1, 1, 0]
