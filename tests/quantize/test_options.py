"""Placement options, and one pass over the samples for several quantizations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import Entropy, InMemory, MinMax, collect_statistics
from edgecnn.errors import DataError, SpecError
from edgecnn.onnxio import load_ir
from edgecnn.quantize import QuantizeConfig, plan, quantize, statistics_for
from edgecnn.runtime import OrtSession

Exported = Callable[[str], OnnxModel]


class Counting(InMemory):
    """Counts how often the samples are read."""

    passes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Count and yield."""
        self.passes += 1
        return super().__iter__()


@pytest.fixture
def counting(images: InMemory) -> Counting:
    """Return the images, counting."""
    return Counting([item["input"] for item in images])


def weighted(model: OnnxModel, **options: Any) -> dict[str, tuple[bool, str]]:
    """Return (quantized, reason) of each layer with weights."""
    decisions = plan(load_ir(model.path), QuantizeConfig(**options)).decisions
    return {d.node: (d.quantized, d.reason) for d in decisions if d.op in ("Conv", "Gemm")}


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
@pytest.mark.parametrize(
    ("option", "layers"),
    [("first_layer", {"stem.0/Conv"}), ("last_layer", {"fc/Gemm"}), ("depthwise", {"depthwise.0/Conv"})],
)
def test_an_option_keeps_its_layers_float_and_no_others(
    exported: Exported, scheme: str, option: str, layers: set[str]
) -> None:
    before, after = (
        weighted(exported("squeeze"), scheme=scheme),
        weighted(exported("squeeze"), scheme=scheme, **{option: False}),
    )
    assert {name for name in before if before[name][0] and not after[name][0]} == layers
    assert all("as asked" in after[name][1] for name in layers)
    assert {name for name in after if after[name][0]} == {name for name in before if before[name][0]} - layers


def test_a_layer_that_stays_float_keeps_its_weights(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    config = QuantizeConfig(first_layer=False, last_layer=False)
    made = quantize(exported("residual"), images, config, to=tmp_path / "q.onnx").model
    held = load_ir(made.path).graph.initializers
    assert "fc/Gemm.weight_quantized" not in held
    assert "conv1.0/Conv.weight_quantized" in held
    for value in load_ir(exported("residual").path).graph.initializers.values():
        if value.name is not None and value.name.startswith("fc."):
            assert np.array_equal(held[value.name].const_value.numpy(), value.const_value.numpy())  # type: ignore[union-attr]


def test_shared_concatenations_have_one_scale_the_largest(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    def scales(concat: str) -> dict[str, float]:
        config = QuantizeConfig(effort="fast", method=MinMax(), concat=concat)  # type: ignore[arg-type]
        graph = load_ir(
            quantize(exported("inception"), images, config, to=tmp_path / f"{concat}.onnx").model.path
        ).graph
        return {
            str(node.inputs[0].name): float(node.inputs[1].const_value.numpy())  # type: ignore[union-attr]
            for node in graph
            if node.op_type == "QuantizeLinear"
        }

    separate, shared = scales("separate"), scales("shared")
    concat = next(node for node in load_ir(exported("inception").path).graph if node.name == "Concat_1")
    group = [str(value.name) for value in (*concat.inputs, concat.outputs[0])]
    assert len({shared[name] for name in group}) == 1
    assert shared[group[0]] == max(shared[name] for name in group) == separate[group[-1]]
    assert not set(group[:-1]) & set(separate)  # by default a concatenation's inputs stay float
    assert all(shared[name] == separate[name] for name in ("input", "Relu"))


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
@pytest.mark.parametrize("name", ["inception", "dense", "inverted", "hardswish"])
def test_every_option_gives_a_network_close_to_the_float_one(
    exported: Exported, images: InMemory, tmp_path: Path, scheme: str, name: str
) -> None:
    options = [{}, {"concat": "shared"}, {"first_layer": False, "last_layer": False, "depthwise": False}]
    configs = [QuantizeConfig(scheme=scheme, **option) for option in options]  # type: ignore[arg-type]
    statistics = statistics_for(exported(name), images, configs)
    exact = [OrtSession(exported(name).path).run(feed)["logits"] for feed in images]
    for config in configs:
        made = quantize(exported(name), images, config, to=tmp_path / "q.onnx", statistics=statistics).model
        found = [OrtSession(made.path).run(feed)["logits"] for feed in images]
        noise = sum(float(np.square(a - b).sum()) for a, b in zip(exact, found, strict=True))
        signal = sum(float(np.square(a).sum()) for a in exact)
        assert 10 * np.log10(signal / noise) > 20, config


def test_one_pass_serves_every_scheme_and_method_and_a_second_run_needs_none(
    exported: Exported, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [
        QuantizeConfig(effort="fast", **options)  # type: ignore[arg-type]
        for options in ({}, {"scheme": "int8-cpu"}, {"method": Entropy()})
    ]
    statistics = statistics_for(exported("inception"), counting, configs, cache=tmp_path)
    for index, config in enumerate(configs):
        quantize(exported("inception"), counting, config, to=tmp_path / f"{index}.onnx", statistics=statistics)
    assert counting.passes == 1
    monkeypatch.setattr(OrtSession, "_run", None)  # a run would fail
    for index, config in enumerate(configs):
        again = quantize(exported("inception"), counting, config, to=tmp_path / "again.onnx", cache=tmp_path)
        assert again.ranges.reused
        assert again.model.path.read_bytes() == (tmp_path / f"{index}.onnx").read_bytes()
    assert counting.passes == 1


def test_another_scheme_adds_to_the_cache_what_it_lacks(exported: Exported, counting: Counting, tmp_path: Path) -> None:
    def reused(config: QuantizeConfig) -> bool:
        return quantize(
            exported("residual"), counting, config, to=tmp_path / "q.onnx", cache=tmp_path / "c"
        ).ranges.reused

    plain, cpu = QuantizeConfig(effort="fast"), QuantizeConfig(scheme="int8-cpu", effort="fast")
    assert [reused(plain), reused(cpu), reused(plain), reused(cpu)] == [False, False, True, True]
    assert counting.passes == 2
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_statistics_of_something_else_are_refused(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    model, to = exported("residual"), tmp_path / "q.onnx"
    statistics = statistics_for(model, images, [QuantizeConfig(bias_correction=False)])
    with pytest.raises(SpecError, match="another model"):
        quantize(exported("dense"), images, to=to, statistics=statistics)
    with pytest.raises(DataError, match="no mean of tensor"):
        quantize(model, images, to=to, statistics=statistics)
    with pytest.raises(DataError, match="no histogram of tensor"):
        quantize(model, images, to=to, statistics=replace(statistics, histograms={}))
    assert not to.exists()


def test_a_static_batch_is_filled_and_its_padding_not_counted(
    exported: Exported, exports: Path, images: InMemory
) -> None:
    import structures

    few = InMemory([item["input"] for item in images][:5])
    one, four = exported("residual"), structures.exported("residual", exports, batch=4)
    tensors = plan(load_ir(one.path), QuantizeConfig()).measured
    dynamic, static = (collect_statistics(model, few, tensors, tensors[1:]) for model in (one, four))
    for name in tensors:
        a, b = dynamic.histograms[name], static.histograms[name]
        assert a.total == b.total
        assert np.isclose([a.low, a.high], [b.low, b.high], rtol=1e-5, atol=1e-6).all()
    assert all(np.allclose(dynamic.means[name], static.means[name], atol=1e-5) for name in tensors[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "int4"}, "int8, int8-cpu"),
        ({"concat": "one"}, "separate, shared"),
        ({"effort": "most"}, "fast, balanced, max"),
        ({"depthwise": "float"}, "depthwise must be True or False"),
        ({"method": "mse"}, "must be a Method"),
        ({"keep_float": ("(",)}, "not a regular expression"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        QuantizeConfig(**options)


def test_the_options_are_in_the_lineage(exported: Exported, images: InMemory, tmp_path: Path) -> None:
    config = QuantizeConfig(first_layer=False, last_layer=False, depthwise=False, concat="shared", effort="fast")
    made = quantize(exported("inverted"), images, config, to=tmp_path / "q.onnx").model
    recorded = made.lineage[-1].config
    assert {name: recorded[name] for name in ("first_layer", "last_layer", "depthwise", "concat", "effort")} == {
        "first_layer": False,
        "last_layer": False,
        "depthwise": False,
        "concat": "shared",
        "effort": "fast",
    }
