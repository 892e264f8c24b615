"""A session over plans: recorded APIs of TensorRT over a graph on onnxruntime, and a CUDA whose streams work only when waited for."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from session_bench import Bench, images

from edgecnn.errors import BackendError, EngineMisfitError, MissingDependencyError, UserError
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession

every_version = pytest.mark.parametrize("bench", fake_tensorrt.VERSIONS, indirect=True)


@every_version
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_runs_of_every_size_give_the_graphs_values(bench: Bench, precision: str) -> None:
    with bench.session(bench.plan(precision)) as session:
        assert session.backend == "tensorrt"
        assert [(s.name, s.shape, s.dtype) for s in session.inputs] == [("input", ("batch", 3, 16, 16), "float32")]
        assert [(s.name, s.shape, s.dtype) for s in session.outputs] == [("logits", ("batch", 10), "float32")]
        for count in (1, 8, 4, 1, 1):
            x = images(count)
            np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x, precision), atol=1e-4)
    assert bench.cuda.held == 0


def test_memory_is_got_once_and_results_are_the_callers(bench: Bench) -> None:
    with bench.session() as session:
        held, made = bench.cuda.held, bench.cuda.calls.count("cudaMalloc")
        x, y = images(2), images(2)
        first = session.run({"input": x})["logits"]
        kept = first.copy()
        session.run({"input": y})
        np.testing.assert_array_equal(first, kept)
        first[...] = 0
        np.testing.assert_allclose(session.run({"input": y})["logits"], bench.expected(y), atol=1e-4)
        assert (bench.cuda.held, bench.cuda.calls.count("cudaMalloc")) == (held, made)


def test_an_input_that_is_not_contiguous_is_packed(bench: Bench) -> None:
    x = np.asfortranarray(images(4))[::2]
    with bench.session() as session:
        np.testing.assert_allclose(
            session.run({"input": x})["logits"], bench.expected(np.ascontiguousarray(x)), atol=1e-4
        )


def test_a_fixed_profile_is_a_fixed_shape(bench: Bench) -> None:
    with bench.session(bench.plan(batch="4")) as session:
        assert session.inputs[0].shape == (4, 3, 16, 16)
        assert session.outputs[0].shape == (4, 10)
        with pytest.raises(UserError, match=r"must have shape \[4, 3, 16, 16\], found \[1, 3, 16, 16\]"):
            session.run({"input": images(1)})


def test_a_batch_outside_of_the_profile_names_it(bench: Bench) -> None:
    with bench.session(bench.plan(batch="2:4:8")) as session:
        for count in (1, 9):
            with pytest.raises(UserError) as caught:
                session.run({"input": images(count)})
            assert str(caught.value) == (
                f"input 'input' has shape [{count}, 3, 16, 16], outside of what fp32.plan was built for: least [2, 3, 16, 16], best "
                "[4, 3, 16, 16], most [8, 3, 16, 16]; run other batches, or build for them: edgecnn build BUNDLE --target tensorrt "
                "--variant fp32 --batch LEAST:BEST:MOST"
            )
        x = images(2)
        np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)


def test_a_cuda_graph_is_captured_for_a_shape_that_comes_again(bench: Bench) -> None:
    calls = bench.cuda.calls
    with bench.session(cuda_graph=True) as session:
        for count in (2, 2, 2, 3, 2, 2):
            x = images(count)
            np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)
        assert calls.count("cudaStreamEndCapture") == 2
        assert calls.count("cudaGraphLaunch") == 3  # the second and third of 2; the last of 2
    assert bench.cuda.held == 0


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_captured_runs_without(bench: Bench, call: str, caplog: pytest.LogCaptureFixture) -> None:
    bench.cuda.fails = {call: "cudaErrorStreamCaptureUnsupported"}
    with bench.session(cuda_graph=True) as session:
        for _ in range(3):
            x = images(2)
            np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)
    assert bench.cuda.calls.count(call) == 1
    (text,) = [record.message for record in caplog.records if record.name == "edgecnn.runtime"]
    assert text.startswith("fp32.plan runs without a CUDA graph: CUDA cannot")


def test_several_contexts_run_from_several_threads(bench: Bench) -> None:
    xs = [images(1 + index % 8) for index in range(24)]
    expected = [bench.expected(x) for x in xs]
    found: list[Any] = [None] * len(xs)
    with bench.session(contexts=3) as session:
        assert len(bench.cuda.streams) == len(bench.module.contexts) == 3
        todo = iter(range(len(xs)))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    index = next(todo, None)
                if index is None:
                    return
                found[index] = session.run({"input": xs[index]})["logits"]

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for one, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, want, atol=1e-4)
    assert bench.cuda.held == 0


def test_a_closed_session_says_so(bench: Bench) -> None:
    session = bench.session()
    session.close()
    session.close()
    with pytest.raises(UserError, match="this tensorrt session is closed"):
        session.run({"input": images(1)})
    with pytest.raises(UserError, match="this tensorrt session is closed"):  # a thread that was past the first check
        session._run({"input": images(1)}, ("logits",))


def test_an_array_on_the_device_is_read_where_it_is(bench: Bench) -> None:
    x = images(2)
    with bench.session(cuda_graph=True) as session:
        array = bench.cuda.array(x)
        for _ in range(3):
            before = bench.cuda.calls.count("cudaMemcpyAsync")
            np.testing.assert_allclose(session.run({"input": array})["logits"], bench.expected(x), atol=1e-4)
            assert bench.cuda.calls.count("cudaMemcpyAsync") == before + 1  # the output alone
        y = images(2)
        np.testing.assert_allclose(session.run({"input": y})["logits"], bench.expected(y), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"device": 1}, "is on GPU 1, and this session runs on GPU 0"),
        ({"strides": (1, 2, 3, 4)}, "is not contiguous in C order"),
        ({"kind": "<f2"}, "must be float32, found float16"),
        ({"address": 5}, "in host memory: pass a numpy array"),
        ({"shape": (2, 3)}, r"must have shape \['batch', 3, 16, 16\], found \[2, 3\]"),
        ({"shape": (9, 3, 16, 16)}, "outside of what fp32.plan was built for"),
        ({"shape": (2, 3, 16, 15)}, "outside of what fp32.plan was built for"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused(bench: Bench, change: dict[str, Any], match: str) -> None:
    with bench.session() as session:
        array = bench.cuda.array(images(2))
        vars(array).update(change)
        with pytest.raises(UserError, match=match):
            session.run({"input": array})
        x = images(1)
        np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)


def test_values_that_are_no_numbers_are_found_if_asked_for(bench: Bench) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[0, :2] = np.nan, np.inf
        return changed

    bench.module.change = spoil
    with bench.session() as session:
        assert np.isnan(session.run({"input": images(1)})["logits"]).sum() == 1
    with (
        bench.session(check_finite=True) as session,
        pytest.raises(BackendError, match=r"output 'logits' has NaN or infinity in 2 of 10 values"),
    ):
        session.run({"input": images(1)})


def test_a_damaged_plan_is_refused_with_tensorrts_reason(bench: Bench) -> None:
    engine = bench.plan()
    engine.path.write_bytes(engine.path.read_bytes()[:-10])
    with pytest.raises(BackendError, match=r"TensorRT 10\.3\.0 cannot load fp32\.plan: .*magicTag mismatch"):
        bench.session(engine)
    assert bench.cuda.held == 0
    engine.path.unlink()
    with pytest.raises(UserError, match="no plan at"):
        bench.session(engine)


@pytest.mark.parametrize("error", ["cudaErrorInsufficientDriver", "cudaErrorNoDevice"])
def test_no_driver(bench: Bench, error: str) -> None:
    bench.cuda.fails = {"cudaGetDeviceCount": error}
    with pytest.raises(BackendError, match=rf"no NVIDIA GPU with a working driver here \({error}\): install or update"):
        bench.session()


def test_no_such_gpu(bench: Bench) -> None:
    with pytest.raises(UserError, match="GPU 2 was asked for, and there are 1"):
        bench.session(device=2)


def test_no_package(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.plan()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"cuda.*pip install 'edgecnn\[cuda\]'"):
        bench.session(engine)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        MissingDependencyError, match="this needs tensorrt, which is not installed: pip install tensorrt"
    ):
        bench.session(engine)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags"])
def test_out_of_memory_frees_what_there_was(bench: Bench, call: str) -> None:
    engine = bench.plan()
    bench.cuda.fails = {call: "cudaErrorMemoryAllocation"}
    with pytest.raises(BackendError, match=r"out of memory: CUDA cannot .*: run smaller batches or fewer contexts"):
        bench.session(engine)
    assert bench.cuda.held == 0


def test_out_of_memory_at_the_third_context_frees_the_others(bench: Bench) -> None:
    engine = bench.plan()
    bench.cuda.memory = 2 * (8 * 3 * 16 * 16 * 4 + 8 * 10 * 4) + 100
    bench.session(engine, contexts=2).close()
    with pytest.raises(BackendError, match=r"cannot get 0\.0 MB of device memory"):
        bench.session(engine, contexts=3)
    assert bench.cuda.held == 0


def test_tensorrt_runs_out_of_memory(bench: Bench) -> None:
    bench.module.no_context = True
    with pytest.raises(
        BackendError, match=r"cannot make an execution context for fp32\.plan: CUDA out of memory.*smaller --batch"
    ):
        bench.session()
    assert bench.cuda.held == 0


def test_a_run_that_fails_says_why_and_the_next_one_runs(bench: Bench) -> None:
    with bench.session() as session:
        bench.module.run_failure = "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
        with pytest.raises(BackendError, match=r"TensorRT failed to run fp32\.plan: .*illegal memory access"):
            session.run({"input": images(1)})
        bench.module.run_failure = ""
        bench.cuda.fails = {"cudaMemcpyAsync": "cudaErrorInvalidValue"}
        with pytest.raises(
            BackendError, match=r"CUDA cannot copy an input to the device: said so \(cudaErrorInvalidValue\)"
        ):
            session.run({"input": images(1)})
        bench.cuda.fails = {}
        x = images(1)
        np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)


def test_plugins_are_loaded_before_the_plan(bench: Bench) -> None:
    library = bench.folder / "libmine.so"
    library.touch()
    engine = bench.plan(plugins=(library,))
    bench.module.loaded.clear()
    bench.session(engine, plugins=(library,)).close()
    assert bench.module.loaded == [str(library)]
    broken = bench.folder / "libbroken.so"
    broken.touch()
    for plugins, match in (
        (
            (),
            r"was built with the plugin library libmine\.so, .* give it with TensorRtOptions\(plugins=.*--plugin PATH/libmine",
        ),
        ((Path("nowhere/libmine.so"),), r"no plugin library at nowhere/libmine\.so"),
        ((library, broken), r"cannot load the plugin library .*libbroken\.so"),
    ):
        with pytest.raises((UserError, BackendError), match=match):
            bench.session(engine, plugins=plugins)


def test_dla_and_host_code_are_told_to_the_runtime(bench: Bench) -> None:
    bench.session(bench.plan("fp16", dla=1)).close()
    assert bench.module.runtimes[-1].DLA_core == 1
    engine = bench.plan(version_compatible=True)
    with pytest.raises(UserError, match=r"brings code that runs on the host; .*allow_host_code=True"):
        bench.session(engine)
    bench.session(engine, allow_host_code=True).close()
    assert bench.module.runtimes[-1].engine_host_code_allowed is True


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"flavour": "onnx"}, "is not one of tensorrt, tensorrt-rtx"),
        ({"contexts": 0}, "contexts must be at least 1"),
        ({"device": -1}, "device must be a whole number of at least 0"),
        ({"runtime_cache": Path("x")}, "TensorRT has no runtime cache"),
        ({"device_outputs": True, "cuda_graph": True}, "device_outputs does not go with cuda_graph.*leave one out"),
        ({"device_outputs": True, "check_finite": True}, "device_outputs does not go with check_finite"),
    ],
)
def test_options_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        TensorRtOptions(**options)


def test_the_runtime_cache_of_rtx(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = bench.plan()
    module = fake_tensorrt.fake_rtx()
    module.cuda = bench.cuda
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    cache = tmp_path / "rtx.cache"
    options = TensorRtOptions(flavour="tensorrt-rtx", runtime_cache=cache, contexts=2)
    x = images(2)
    for content in (b"rtx;kernel;", b"rtx;kernel;kernel;"):
        with TensorRtSession(engine.path, options) as session:
            assert session.backend == "tensorrt-rtx"
            np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)
        assert cache.read_bytes() == content
    cache.write_bytes(b"of another device")
    TensorRtSession(engine.path, options).close()
    assert cache.read_bytes() == b"rtx;kernel;"
    assert "kernels are compiled anew" in caplog.text
    cache.unlink()
    cache.mkdir()
    caplog.set_level(logging.WARNING)
    with pytest.raises(UserError, match=r"the runtime cache .*rtx\.cache cannot be read"):
        TensorRtSession(engine.path, options)
    assert bench.cuda.held == 0


def test_a_plan_of_another_version_or_gpu_is_refused_before_it_is_loaded(bench: Bench) -> None:
    engine = bench.plan()
    bench.module.runtimes.clear()  # the builder's
    bench.cuda.compute_capability = "8.9"
    with pytest.raises(
        EngineMisfitError,
        match=r"fp32\.plan needs a GPU of compute capability 8\.7, and this one has 8\.9; run: edgecnn build",
    ):
        bench.session(engine)
    bench.module.__version__ = "10.4.0"
    with pytest.raises(EngineMisfitError, match=r"fp32\.plan needs TensorRT 10\.3\.0, and 10\.4\.0 is installed here"):
        bench.session(engine)
    assert bench.module.runtimes == bench.module.contexts == []
