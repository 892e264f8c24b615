"""The analysis of quantized layers, against the same numbers computed in other ways."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

sys.path.extend(str(Path(__file__).parent / folder) for folder in ("report", "parity", "runtime"))

from parity_bundles import save_pictures, write_bundle
from parity_nets import folded, network
from quantized_bundles import NODES, write_quantized

from edgecnn.analysis import Analysis, LayerNoise, analyze
from edgecnn.errors import DataError, UserError
from edgecnn.onnxio import expose, scratch_file
from edgecnn.parity.device import bundle_samples
from edgecnn.runtime import Bundle, OrtOptions, OrtSession

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_quantized(tmp_path_factory.mktemp("analysis"))


@pytest.fixture(scope="module")
def found(bundle: Bundle) -> Analysis:
    return analyze(bundle)


@pytest.fixture(scope="module")
def uncorrected(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(write_quantized(tmp_path_factory.mktemp("uncorrected"), ["int8"], bias_correction=False))


def layer(analysis: Analysis, name: str) -> LayerNoise:
    return next(item for item in analysis.layers if item.node == name)


def sqnr(exact: Array, other: Array) -> float:
    exact = np.asarray(exact, np.float64)
    return 10 * math.log10(np.square(exact).sum() / np.square(exact - other).sum())


def logits(bundle: Bundle, variant: str, file: Path | None = None) -> Array:
    with OrtSession(file or bundle.model_path(variant)) as session:
        return np.concatenate([session.run(sample.feed)["logits"] for sample in bundle_samples(bundle)[0]])


def constants(path: Path) -> dict[str, Array]:
    return {name: value.const_value.numpy() for name, value in ir.load(path).graph.initializers.items()}


def rounded(path: Path, node: str) -> tuple[Array, Array]:
    """Return a layer's dequantized weights and its bias."""
    arrays = constants(path)
    column = arrays[f"{node}.weight_scale"].reshape(-1, 1, 1, 1)
    return arrays[f"{node}.weight_quantized"] * column, arrays[f"{node}.bias_corrected"]


def test_layers_are_those_of_the_network_with_decisions_and_sizes(found: Analysis) -> None:
    assert [item.node for item in found.layers] == NODES
    assert [item.position for item in found.layers] == [1, 2, 3, 4, 5, 6]
    assert [item.quantized for item in found.layers] == [True, True, True, True, False, True]
    assert layer(found, "dw/Conv").reason.startswith("depthwise convolution: ")
    assert layer(found, "ReduceMean").reason == "the mean over a map is taken in float"
    assert layer(found, "block.conv/Conv").output == "block.relu/Relu"  # the activation belongs to it
    assert layer(found, "block.conv/Conv").parameters == 16 * 16 * 9
    assert layer(found, "block.conv/Conv").macs == 16 * 16 * 9 * 16 * 16
    assert layer(found, "logits").macs == layer(found, "logits").parameters == 160
    assert (found.variant, found.images, found.source) == ("int8", 4, "golden images")


def test_weights_input_and_isolated_output_against_pytorch(bundle: Bundle, found: Analysis) -> None:
    path = bundle.model_path("int8")
    net = network().eval()
    weight, bias = rounded(path, "block.conv/Conv")
    exact = folded(net)["block.conv.weight"]
    scale = float(constants(path)["relu/Relu_scale"])
    item = layer(found, "block.conv/Conv")
    (given,) = item.inputs
    assert item.weight_db == pytest.approx(sqnr(exact, weight), abs=0.01)
    values, outputs, quantized = [], [], []
    with torch.no_grad():
        for sample in bundle_samples(bundle)[0]:
            x = net.relu(net.bn1(net.conv1(torch.from_numpy(sample.feed["input"]))))
            codes = torch.clamp(torch.round(x / scale), -128, 127)
            values.append(x.numpy())
            outputs.append(torch.relu(net.block.conv(x)).numpy())
            own = torch.nn.functional.conv2d(codes * scale, torch.tensor(weight), torch.tensor(bias), padding=1)
            quantized.append(torch.relu(own).numpy())
    x, codes = np.concatenate(values), np.clip(np.rint(np.concatenate(values) / scale), -128, 127)
    assert given.tensor == "relu/Relu"
    assert given.sqnr_db == pytest.approx(sqnr(x, codes * scale), abs=0.01)
    assert given.codes == len(np.unique(codes)) / 256
    assert given.clipped == pytest.approx(np.mean(x > 127.5 * scale), abs=1e-6)
    assert given.reach == pytest.approx(x.max() / (127 * scale), rel=1e-4)
    assert sum(given.histogram) == x.size
    assert item.isolated_db == pytest.approx(sqnr(np.concatenate(outputs), np.concatenate(quantized)), abs=0.05)


def test_the_logits_and_the_last_layer_have_what_the_sessions_give(bundle: Bundle, found: Analysis) -> None:
    assert found.logits_db == pytest.approx(sqnr(logits(bundle, "fp32"), logits(bundle, "int8")), abs=0.1)
    assert layer(found, "logits").cumulative_db == found.logits_db
    assert layer(found, "logits").logits_db == pytest.approx(layer(found, "logits").isolated_db, abs=0.01)


def test_cumulative_noise_is_that_of_the_two_graphs_tensors(bundle: Bundle, found: Analysis) -> None:
    names = [item.output for item in found.layers]
    tensors = []
    for variant in ("fp32", "int8"):
        graph = expose(bundle.model_path(variant), names)
        with scratch_file(graph) as file, OrtSession(file, OrtOptions(optimize="disabled")) as session:
            tensors.append([session.run(sample.feed) for sample in bundle_samples(bundle)[0]])
    exact, quantized = tensors
    for item in found.layers:
        pair = (np.concatenate([run[item.output] for run in runs]) for runs in (exact, quantized))
        assert item.cumulative_db == pytest.approx(sqnr(*pair), abs=0.01)
    first = found.layers[0]
    assert first.isolated_db == pytest.approx(first.cumulative_db, abs=1e-6)


@pytest.mark.parametrize("node", ["block.conv/Conv", "dw/Conv"])
def test_a_layers_noise_at_the_logits_is_that_of_a_graph_with_it_alone_quantized(
    tmp_path: Path, uncorrected: Analysis, node: str
) -> None:
    others = tuple(f"^{name}$" for name in NODES if name not in (node, "ReduceMean"))
    alone = write_quantized(tmp_path, ["int8"], keep_float=others, bias_correction=False)
    expected = sqnr(logits(alone, "fp32"), logits(alone, "int8"))
    assert layer(uncorrected, node).logits_db == pytest.approx(expected, abs=0.1)
    single = analyze(alone)
    assert layer(single, node).share == 1
    assert single.added_db == pytest.approx(single.logits_db, abs=0.1)
    assert layer(single, node).restored_db > 100


@pytest.mark.parametrize("node", ["conv1/Conv", "dw/Conv"])
def test_a_restored_layer_gives_what_quantizing_again_without_it_gives(
    tmp_path: Path, found: Analysis, node: str
) -> None:
    without = write_quantized(tmp_path, ["int8"], keep_float=(f"^{node}$",))
    expected = sqnr(logits(without, "fp32"), logits(without, "int8"))
    assert layer(found, node).restored_db == pytest.approx(expected, abs=0.1)


def test_a_range_that_is_too_short_is_found_and_named(tmp_path: Path) -> None:
    def shorter(scale: dict[str, Any]) -> None:
        scale["block/Add"] = np.float32(scale["block/Add"] / 4)

    found = analyze(write_bundle(tmp_path, {"int8": shorter}))
    worst = found.worst[0]
    assert worst.node == found.best.node == "dw/Conv"
    assert worst.inputs[0].clipped > 0.01
    assert worst.inputs[0].reach > 3
    assert found.keep_float == "^dw/Conv$"
    assert found.advice.startswith("Leaving dw/Conv float would gain most: ")
    assert "mostly its input's" in found.advice
    assert found.advice.endswith("Export with --keep-float '^dw/Conv$'.")


def test_shares_add_up_and_the_worst_come_first(found: Analysis) -> None:
    assert sum(item.share for item in found.layers) == pytest.approx(1)
    assert [item.share for item in found.worst] == sorted((item.share for item in found.worst), reverse=True)
    assert "ReduceMean" not in {item.node for item in found.worst}
    assert sum(item.restored_db is not None for item in found.layers) == 5


def test_little_memory_changes_nothing(bundle: Bundle, found: Analysis) -> None:
    assert analyze(bundle, memory=1) == found


def test_pixels_and_softmax_inside_change_nothing(tmp_path: Path, found: Analysis) -> None:
    inside = analyze(write_quantized(tmp_path, ["int8"], embedded=True))
    assert inside.logits_db == pytest.approx(found.logits_db, abs=0.3)
    pairs = zip(found.layers, [item for item in inside.layers if item.node in NODES], strict=True)
    for one, other in pairs:
        assert other.cumulative_db == pytest.approx(one.cumulative_db, abs=0.3)
        assert (one.isolated_db is None) == (other.isolated_db is None)


def test_the_cpu_scheme_has_zero_points_and_quantized_additions(bundle: Bundle) -> None:
    found = analyze(bundle, variant="int8-cpu")
    given = layer(found, "conv1/Conv").inputs[0]
    assert given.zero_point > 0
    assert given.low < 0 < given.high
    assert len(layer(found, "block/Add").inputs) == 2
    assert all(item.codes > 0.5 for item in layer(found, "block/Add").inputs)


def test_float16_parts_are_looked_through(tmp_path: Path, found: Analysis) -> None:
    plain, found = found, analyze(write_quantized(tmp_path, ["int8-fp16"]))
    assert [item.node for item in found.layers if item.quantized] == [n for n in NODES if n != "ReduceMean"]
    assert found.logits_db == pytest.approx(plain.logits_db, abs=1.5)
    assert layer(found, "dw/Conv").weight_db == pytest.approx(layer(plain, "dw/Conv").weight_db, abs=0.1)


def test_own_images(bundle: Bundle, tmp_path: Path) -> None:
    save_pictures(tmp_path / "own", 5, seed=8)
    found = analyze(bundle, tmp_path / "own", limit=3)
    assert (found.images, found.source) == (3, str(tmp_path / "own"))


def test_json_has_no_infinity(found: Analysis, tmp_path: Path) -> None:
    others = tuple(f"^{name}$" for name in NODES if name not in ("dw/Conv", "ReduceMean"))
    alone = analyze(write_quantized(tmp_path, ["int8"], keep_float=others))
    assert json.loads(json.dumps(alone.to_json(), allow_nan=False))["layers"][0]["cumulative_db"] is None
    data = found.to_json()
    assert set(data["layers"][0]) == set(vars(found.layers[0]))
    assert data["worst"] == [item.node for item in found.worst]
    assert data["advice"] == found.advice


def test_progress_ends_where_it_said(bundle: Bundle) -> None:
    calls: list[tuple[str, int, int]] = []
    analyze(bundle, limit=2, progress=lambda *call: calls.append(call))
    assert ("analyze", 0, 12) in calls
    assert calls[-1] == ("restore", 2, 2)
    assert ("analyze", 12, 12) in calls


def test_pytorch_is_not_needed(bundle: Bundle) -> None:
    code = f"import sys; sys.modules['torch'] = None\nfrom edgecnn.analysis import analyze\nanalyze({str(bundle.path)!r}, limit=1)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_int8_layers_are_advised_on(bundle: Bundle) -> None:
    found = analyze(bundle, variant="int8-cpu", limit=1)
    mean = layer(found, "ReduceMean")  # float, on an input that is quantized for the sake of the layer before it
    assert not mean.quantized
    assert mean.logits_db is not None
    assert mean.restored_db is None
    assert found.best.quantized


def test_errors(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no variant 'int8-cpo'\. Did you mean int8-cpu"):
        analyze(bundle, variant="int8-cpo")
    with pytest.raises(UserError, match=r"fp32 .* is not quantized; quantized are int8, int8-cpu"):
        analyze(bundle, variant="fp32")
    (tmp_path / "float").mkdir()
    with pytest.raises(UserError, match="no quantized variant, only fp32, fp16: export with --int8"):
        analyze(write_bundle(tmp_path / "float", precisions=("fp32", "fp16")))
    (tmp_path / "alone").mkdir()
    with pytest.raises(UserError, match="no fp32 variant to compare with; it has int8"):
        analyze(write_bundle(tmp_path / "alone", precisions=("int8",)))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no golden images: give a folder of images with --data"):
        analyze(write_quantized(tmp_path / "bare", ["int8"], golden=False))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture in"):
        analyze(bundle, tmp_path / "empty")
