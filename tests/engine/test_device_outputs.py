"""Outputs that stay on the GPU: where the plan wrote them, finished, and of no later run."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from fake_cuda import FakeCuda
from session_bench import Bench, images

from edgecnn.errors import BackendError
from edgecnn.runtime.cuda import is_foreign
from edgecnn.runtime.device_array import DeviceArray
from edgecnn.runtime.dlpack import CPU, _held, capsule


def read(cuda: FakeCuda, array: DeviceArray) -> np.ndarray:
    """Read an output as another library on the GPU does."""
    interface = array.__cuda_array_interface__
    assert (interface["version"], interface["stream"], interface["strides"]) == (3, None, None)
    return cuda.read(interface["data"][0], interface["shape"], interface["typestr"])


@pytest.mark.parametrize("bench", ["10.3.0", "11.1.0"], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_outputs_stay_where_the_plan_wrote_them(bench: Bench, precision: str) -> None:
    with bench.session(bench.plan(precision), device_outputs=True) as session:
        kept = []
        for count in (1, 4, 8, 3):
            x = images(count)
            before = bench.cuda.calls.count("cudaMemcpyAsync")
            array = session.run({"input": bench.cuda.array(x)})["logits"]
            assert bench.cuda.calls.count("cudaMemcpyAsync") == before  # neither in nor out
            assert (array.shape, array.dtype, array.device) == ((count, 10), np.float32, 0)
            kept.append((array, bench.expected(x, precision)))
        for array, expected in kept:  # no later run wrote into them
            np.testing.assert_allclose(read(bench.cuda, array), expected, atol=1e-4)
            np.testing.assert_allclose(array.numpy(), expected, atol=1e-4)
            np.testing.assert_allclose(np.asarray(array), expected, atol=1e-4)


def test_an_output_is_the_input_of_the_next_session(bench: Bench) -> None:
    x = images(2)
    with bench.session(device_outputs=True) as session:
        array = session.run({"input": x})["logits"]
        assert is_foreign(array)
        assert array.__dlpack_device__() == (2, 0)


def test_memory_is_used_again_once_an_output_is_gone(bench: Bench) -> None:
    with bench.session(device_outputs=True) as session:
        first = session.run({"input": images(1)})["logits"].address
        gc.collect()
        second = session.run({"input": images(2)})["logits"]
        assert second.address == first
        third = session.run({"input": images(2)})["logits"]
        assert third.address != first
        assert session.run({"input": images(1)}, []) == {}
    assert bench.cuda.held == 2  # the two that are still referred to
    np.testing.assert_array_equal(second.numpy().shape, (2, 10))
    del second, third
    gc.collect()
    assert bench.cuda.held == 0


def test_a_run_that_fails_keeps_no_memory(bench: Bench) -> None:
    with bench.session(device_outputs=True) as session:
        session.run({"input": images(1)})
        gc.collect()
        held = bench.cuda.held
        bench.module.run_failure = "an illegal memory access"
        with pytest.raises(BackendError, match="illegal memory access"):
            session.run({"input": images(1)})
        assert bench.cuda.held == held
    assert bench.cuda.held == 0


class OnHost:
    """What offers host memory through our capsules."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **wishes: object) -> object:
        place = self.array.ctypes.data
        return capsule(place, self.array.shape, self.array.dtype, device=(CPU, 0), owner=self)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int64", "bool"])
def test_a_capsule_is_what_other_libraries_read(dtype: str) -> None:
    """A real consumer: numpy reads host memory as others read the GPU's."""
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    owner = OnHost(array)
    alive = weakref.ref(owner)
    found = np.from_dlpack(owner)
    assert found.ctypes.data == array.ctypes.data
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    del owner
    gc.collect()
    assert alive() is not None  # its memory is being read
    del found
    gc.collect()
    assert alive() is None
    assert not _held


def test_a_capsule_that_nobody_took_lets_go_of_its_memory() -> None:
    owner = OnHost(np.zeros(3, np.float32))
    made = owner.__dlpack__()
    assert len(_held) == 1
    del made
    gc.collect()
    assert not _held


def test_pytorch_reads_a_capsule() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = torch.from_dlpack(OnHost(array))
    assert found.data_ptr() == array.ctypes.data
    assert found.tolist() == array.tolist()
    del found
    gc.collect()
    assert not _held
