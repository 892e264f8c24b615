"""Weight correction: the arithmetic of each method on planted cases, then whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.errors import DataError
from edgecnn.onnxio import load_ir, open_model
from edgecnn.quantize import QuantizeConfig, quantize, statistics_for
from edgecnn.quantize.correct import Correction, ErrorFeedback, MatchedBias
from edgecnn.quantize.correct.layer import read_layer
from edgecnn.quantize.correct.rounding import descend
from edgecnn.quantize.correct.segments import Walk
from edgecnn.quantize.qdq import quantize_weight
from edgecnn.runtime import OrtSession

Array = NDArray[Any]
Exported = Callable[[str], OnnxModel]
NEAREST = ErrorFeedback(scales=1, low=1.0, high=1.0)


def correlated(groups: int, inputs: int, seed: int = 0) -> Array:
    """Return the second moments of inputs that follow three common causes, (G, K, K)."""
    generator = np.random.default_rng(seed)
    causes = generator.standard_normal((groups, inputs, 3)) @ generator.standard_normal((groups, 3, 2000))
    values = (causes + 0.1 * generator.standard_normal(causes.shape)).astype(np.float32)
    return values @ values.transpose(0, 2, 1) / 2000


def output_error(weight: Array, integers: Array, scale: Array, gram: Array) -> float:
    """Return the mean square error of the outputs."""
    error = integers * scale[:, :, None] - weight
    return float(((error @ gram) * error).sum(axis=2).mean())


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 16, 150), (4, 8, 36), (32, 1, 9)])
@pytest.mark.parametrize(("method", "share"), [(NEAREST, 0.5), (ErrorFeedback(), 0.45)])
def test_error_feedback_makes_the_errors_of_correlated_inputs_cancel(
    groups: int, outputs: int, inputs: int, method: ErrorFeedback, share: float
) -> None:
    weight = np.random.default_rng(1).standard_normal((groups, outputs, inputs)).astype(np.float32)
    gram = correlated(groups, inputs)
    integers, scale = method.round(weight, gram.copy())
    nearest, peaks = quantize_weight(weight.reshape(-1, inputs), 0)
    plain = output_error(weight, nearest.reshape(weight.shape), peaks.reshape(scale.shape), gram)
    assert integers.dtype == np.int8
    assert output_error(weight, integers, scale, gram) < share * plain


def test_error_feedback_on_independent_inputs_rounds_to_nearest() -> None:
    weight = np.random.default_rng(2).standard_normal((1, 8, 70)).astype(np.float32)
    integers, scale = NEAREST.round(weight, np.eye(70, dtype=np.float32)[None] * np.arange(1, 71, dtype=np.float32))
    nearest, peaks = quantize_weight(weight[0], 0)
    assert np.array_equal(integers[0], nearest)
    assert np.allclose(scale[0], peaks)


def test_more_scales_never_raise_the_error() -> None:
    weight, gram = np.random.default_rng(3).standard_normal((16, 1, 9)).astype(np.float32), correlated(16, 9)
    one, many = (output_error(weight, *m.round(weight, gram.copy()), gram) for m in (NEAREST, ErrorFeedback(scales=16)))
    assert many < one


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 16, 150), (4, 8, 36), (32, 1, 9)])
def test_sweeps_lower_the_error_of_every_channel_or_leave_it(groups: int, outputs: int, inputs: int) -> None:
    weight = np.random.default_rng(4).standard_normal((groups, outputs, inputs)).astype(np.float32)
    gram = correlated(groups, inputs)

    def errors(sweeps: int) -> Array:
        integers, scale = ErrorFeedback(sweeps=sweeps, damping=1e-6).round(weight, gram.copy())
        assert integers.dtype == np.int8
        assert scale.dtype == np.float32
        error = integers * scale[:, :, None] - weight
        return ((error @ gram) * error).sum(axis=2)

    before, once, often = errors(0), errors(1), errors(8)
    assert (once <= before * 1.001).all()
    assert (often <= once * 1.001).all()
    assert often.sum() < 0.99 * before.sum()


def test_a_sweep_finds_the_best_integer_of_each_input() -> None:
    generator = np.random.default_rng(7)
    factor = np.linalg.cholesky(correlated(1, 3)[0].astype(np.float64))[None].astype(np.float32)
    weight = generator.standard_normal((1, 20, 3)).astype(np.float32)
    scale = np.full((1, 20), 0.3, np.float32)
    start = np.rint(weight / scale[:, :, None]).astype(np.int8)
    integers, scale = descend(weight, start, scale, factor, 50)

    def error(tried: Array) -> Array:
        return np.square((weight - tried * scale[:, :, None]) @ factor).sum(axis=2)

    best = error(integers)
    for index in range(3):
        for step in (-1, 1):
            moved = integers.astype(np.int32)
            moved[:, :, index] += step
            assert (error(moved) >= best * 0.999 - 1e-9).all(), "a better integer was left"


def test_sweeps_leave_channels_without_weights_and_dead_inputs() -> None:
    weight = np.array([[[1.0, -0.5, 0.25], [0.0, 0.0, 0.0]]], np.float32)
    gram = np.diag([1.0, 0.0, 1.0]).astype(np.float32)[None]
    integers, scale = ErrorFeedback(sweeps=3).round(weight, gram)
    assert np.abs(integers[0, 0] * scale[0, 0] - weight[0, 0]).max() < 0.01
    assert not integers[0, 1].any()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize("gram", [np.zeros((1, 4, 4)), np.diag([1.0, 1.0, 1.0, -0.05])[None]])
def test_error_feedback_survives_dead_inputs_and_an_indefinite_matrix(gram: Array) -> None:
    weight = np.array([[[1.0, -0.5, 0.25, 0.1], [0.0, 0.0, 0.0, 0.0]]], np.float32)
    integers, scale = ErrorFeedback().round(weight, gram.astype(np.float32))
    assert np.abs(integers[0, 0] * scale[0, 0] - weight[0, 0]).max() < 0.16
    assert not integers[0, 1].any()


def test_a_matched_bias_is_right_behind_the_activation_not_before_it() -> None:
    generator = np.random.default_rng(4)
    exact = generator.standard_normal((1, 3, 5000)).astype(np.float32) - 1
    noisy = np.where(exact < -1, exact - 2, exact) + np.float32(0.3)  # noise below zero, which the activation cuts off
    before = (exact - noisy).mean(axis=2)
    bias = MatchedBias(steps=20, draw=0.0).fit(np.maximum(exact, 0), noisy, before, 0.0, np.inf)
    assert np.allclose(bias, -0.3, atol=1e-3)
    assert np.abs(before + 0.3).min() > 0.9


def conv_model(path: Path, weight: Array, shape: tuple[int, ...], **attributes: Any) -> OnnxModel:
    """Write a convolution, or a Gemm where the input is flat."""
    op = "Gemm" if len(shape) == 2 else "Conv"
    bias = np.arange(weight.shape[0] if op == "Conv" or attributes.get("transB") else weight.shape[1], dtype=np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    node = helper.make_node(op, ["x", "w", "b"], ["y"], "layer", **attributes)
    borders = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)] for name, dims in (("x", shape), ("y", None))
    ]
    graph = helper.make_graph([node], "one", *borders, constants)
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    onnx.save(model, path)
    return open_model(path)


@pytest.mark.parametrize(
    ("weight", "shape", "attributes"),
    [
        ((6, 4, 3, 3), (2, 4, 9, 8), {"pads": [1, 1, 1, 1]}),
        ((6, 4, 1, 1), (1, 4, 9, 8), {"strides": [2, 2]}),
        ((8, 2, 3, 3), (1, 4, 9, 8), {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 1]}),
        ((4, 1, 5, 5), (2, 4, 12, 11), {"group": 4, "dilations": [2, 1], "pads": [4, 2, 4, 2]}),
        ((6, 5), (3, 5), {"transB": 1}),
        ((5, 6), (3, 5), {}),
    ],
)
def test_weights_times_patches_are_the_layer(
    tmp_path: Path, weight: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    generator = np.random.default_rng(5)
    array = generator.standard_normal(weight).astype(np.float32)
    model = conv_model(tmp_path / "m.onnx", array, shape, **attributes)
    layer = read_layer(next(iter(load_ir(model.path).graph)))
    assert layer is not None
    x = generator.standard_normal(shape).astype(np.float32)
    found = (layer.weight @ layer.patches(x, 10_000, 0) + layer.bias[:, :, None]).reshape(layer.shape[0], len(x), -1)
    exact = OrtSession(model.path).run({"x": x})["y"]
    assert np.allclose(found.swapaxes(0, 1), exact.reshape(len(x), layer.shape[0], -1), atol=1e-4)
    assert np.array_equal(layer.in_graph(layer.weight), array)
    some = layer.patches(x, 5, 7)
    assert some.shape[2] == (5 * len(x) if len(shape) == 4 else len(x))
    assert np.array_equal(some, layer.patches(x, 5, 7))


def test_a_layer_that_is_not_plain_is_left_alone(tmp_path: Path) -> None:
    weight = np.ones((5, 6), np.float32)
    for options in ({"alpha": 0.5}, {"beta": 2.0}):
        model = conv_model(tmp_path / "m.onnx", weight, (3, 5), **options)
        assert read_layer(next(iter(load_ir(model.path).graph))) is None


@pytest.mark.parametrize("name", ["residual", "squeeze", "inception", "dense"])
def test_a_walk_sees_what_the_whole_network_computes_and_keeps_nothing(
    exported: Exported, images: InMemory, name: str
) -> None:
    from edgecnn.onnxio import expose, scratch_file

    model = load_ir(exported(name).path)
    nodes = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    layers, sources = [str(node.name) for node in nodes], [str(node.inputs[0].name) for node in nodes]  # type: ignore[union-attr]
    with scratch_file(expose(exported(name).path, list(dict.fromkeys(sources)))) as file, OrtSession(file) as session:
        exact = [feed | session.run(feed) for feed in images]
    walk = Walk(model, layers, list(images), 2)
    for index, source in enumerate(sources):
        walk.run(index)
        for found, whole in zip(walk.held[source], exact, strict=True):
            noise = found.astype(np.float32) - whole[source]  # of float16 between the segments
            assert np.square(noise).mean() < 1e-5 * np.square(whole[source]).mean()
    walk.run(len(layers))
    assert not walk.held


def test_a_walk_lets_samples_go_that_do_not_fit(exported: Exported, images: InMemory) -> None:
    model = load_ir(exported("residual").path)
    layers = [str(node.name) for node in model.graph if node.op_type in ("Conv", "Gemm")]
    budget = 10_000
    walk = Walk(model, layers, list(images), 1, budget)
    sizes = []
    for index in range(len(layers)):
        walk.run(index)
        sizes.append(sum(row.nbytes for rows in walk.held.values() for row in rows))
    assert max(sizes[1:]) <= budget
    assert 1 <= walk.count < len(images)


def sqnr(model: OnnxModel, made: OnnxModel, images: InMemory) -> float:
    """Return the logits' signal to noise, dB."""
    with OrtSession(model.path) as exact, OrtSession(made.path) as found:
        pairs = [(exact.run(feed)["logits"], found.run(feed)["logits"]) for feed in images]
    return 10 * np.log10(sum(np.square(a).sum() for a, _ in pairs) / sum(np.square(a - b).sum() for a, b in pairs))


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_correction_gains_on_images_that_it_did_not_see(exported: Exported, tmp_path: Path, scheme: str) -> None:
    import structures

    every = [item["input"] for item in structures.images(64)]
    seen, unseen = InMemory(every[:32]), InMemory(every[32:])
    gains = {}
    for name in ("residual", "squeeze", "inception", "dense", "inverted", "hardswish"):
        configs = [QuantizeConfig(scheme=scheme, effort=effort) for effort in ("fast", "balanced")]  # type: ignore[arg-type]
        statistics = statistics_for(exported(name), seen, configs)
        plain, corrected = (
            sqnr(
                exported(name),
                quantize(exported(name), seen, config, to=tmp_path / "q.onnx", statistics=statistics).model,
                unseen,
            )
            for config in configs
        )
        gains[name] = corrected - plain
    assert np.mean(list(gains.values())) > 0.5, gains
    assert min(gains.values()) > -1, gains


def test_correction_changes_constants_alone_and_the_same_way_each_time(
    exported: Exported, images: InMemory, tmp_path: Path
) -> None:
    def made(effort: str, threads: int = 0) -> bytes:
        config = QuantizeConfig(effort=effort)  # type: ignore[arg-type]
        return quantize(
            exported("inverted"), images, config, to=tmp_path / f"{effort}.onnx", threads=threads
        ).model.path.read_bytes()

    assert made("balanced") == made("balanced", threads=1) != made("fast")
    assert made("max") not in (made("balanced"), made("fast"))
    graphs = [load_ir(tmp_path / f"{effort}.onnx").graph for effort in ("fast", "balanced", "max")]
    fast, balanced, most = ([(node.op_type, [v.name for v in node.inputs if v]) for node in graph] for graph in graphs)
    assert fast == balanced == most
    constants = [{k: (v.dtype, tuple(v.shape)) for k, v in graph.initializers.items()} for graph in graphs]  # type: ignore[arg-type]
    assert constants[0] == constants[1] == constants[2]


def test_a_corrected_graph_is_kept_by_content(
    exported: Exported, images: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(cache: Path | None, **options: Any) -> bytes:
        config = QuantizeConfig(**options)
        return quantize(
            exported("residual"), images, config, to=tmp_path / "q.onnx", cache=cache
        ).model.path.read_bytes()

    cache = tmp_path / "cache"
    fresh, first = made(None), made(cache)
    (kept,) = cache.glob("corrected-*.onnx")
    real, applied = Correction.apply, []

    def counted(self: Correction, *args: Any, **options: Any) -> None:
        applied.append(self)
        real(self, *args, **options)

    monkeypatch.setattr(Correction, "apply", counted)
    assert made(cache) == first == fresh
    assert not applied, "nothing was corrected twice"
    assert made(cache, last_layer=False) != first
    assert len(applied) == 1, "another placement is other work"
    kept.write_bytes(kept.read_bytes()[:1000])
    assert made(cache) == first
    assert len(applied) == 2, "a damaged file counts as absent"


def test_biases_stay_where_they_are_not_to_be_corrected(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    config = QuantizeConfig(bias_correction=False)
    held = load_ir(quantize(exported("residual"), images, config, to=tmp_path / "q.onnx").model.path).graph.initializers
    for node in load_ir(exported("residual").path).graph:
        if node.op_type == "Conv":
            bias = node.inputs[2]
            assert bias is not None
            assert np.array_equal(held[str(bias.name)].const_value.numpy(), bias.const_value.numpy())  # type: ignore[union-attr]


def test_a_static_batch_is_filled(exports: Path, images: InMemory, tmp_path: Path) -> None:
    import structures

    few = InMemory([item["input"] for item in images][:6])
    model = structures.exported("residual", exports, batch=4)
    made = quantize(model, few, to=tmp_path / "q.onnx").model
    x = {"input": np.concatenate([item["input"] for item in images][:4])}
    exact, found = (OrtSession(path).run(x)["logits"] for path in (model.path, made.path))
    assert np.abs(exact - found).max() < 0.1 * np.abs(exact).max()


def test_layers_are_reported(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    quantize(exported("residual"), images, to=tmp_path / "q.onnx", progress=lambda *args: said.append(args))
    assert [step for step in said if step[0] == "correct"] == [("correct", done, 7) for done in range(1, 8)]


def test_samples_that_cannot_be_read_again_are_refused(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    class Gone(InMemory):
        """Samples that were there."""

        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter(())

    statistics = statistics_for(exported("residual"), images, [QuantizeConfig()])
    gone = Gone([item["input"] for item in images])
    with pytest.raises(DataError, match="no sample could be read"):
        quantize(exported("residual"), gone, to=tmp_path / "q.onnx", statistics=statistics)
    assert not (tmp_path / "q.onnx").exists()


def test_inputs_that_are_not_finite_end_in_an_error() -> None:
    weight = np.ones((1, 2, 4), np.float32)
    with pytest.raises(DataError, match="--effort fast"):
        ErrorFeedback().round(weight, np.full((1, 4, 4), np.nan, np.float32))
