"""Each exact pass on a graph where it applies, and on those where it must not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecnn.onnxio import load_ir, save_ir
from edgecnn.passes import FoldBatchNorm, FoldConstants, FoldPad, GlobalPool, Pass, RemoveIdentity, RemoveUnused
from edgecnn.runtime import OrtOptions, OrtSession

RANDOM = np.random.default_rng(0)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node named ``<output>/<op>`` of the module ``<output>``; ``-`` is an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    made = helper.make_node(op, names, output.split(), name=f"{output.split()[0]}/{op}", **attributes)
    made.metadata_props.add(key="edgecnn.module", value=output.split()[0])
    return made


def weight(*shape: int) -> NDArray[np.float32]:
    """Return noise."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def batchnorm(channels: int, name: str = "bn") -> dict[str, NDArray[np.float32]]:
    """Return the parameters of a BatchNormalization: scale, shift, mean, variance."""
    values = {part: weight(channels) for part in ("scale", "shift", "mean")}
    values["var"] = np.abs(weight(channels)) + np.float32(0.1)
    return {f"{name}.{part}": value for part, value in values.items()}


BN = "bn.scale bn.shift bn.mean bn.var"


class Case:
    """A graph as a file: inputs ``x`` (batch, ``shape``), outputs as named."""

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[onnx.NodeProto],
        weights: dict[str, NDArray[Any]],
        *,
        shape: tuple[int, ...] = (4, 9, 9),
        outputs: str = "y",
    ) -> None:
        """Write the graph, with the shapes that ONNX infers."""
        graph = helper.make_graph(
            list(nodes),
            "case",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        self.folder, self.shape = folder, shape
        self.path = folder / "before.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), self.path)

    def apply(self, item: Pass) -> tuple[int, ir.Model]:
        """Apply a pass, check that the outputs are what they were, and return the count and the graph that was written."""
        model = load_ir(self.path)
        count = item.apply(model)
        after = self.folder / "after.onnx"
        save_ir(model, after)
        options = OrtOptions(optimize="disabled")
        feed = {"x": RANDOM.standard_normal((3, *self.shape)).astype(np.float32)}
        with OrtSession(self.path, options) as old, OrtSession(after, options) as new:
            assert old.inputs == new.inputs
            assert [spec.name for spec in old.outputs] == [spec.name for spec in new.outputs]
            expected, found = old.run(feed), new.run(feed)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max())
        return count, load_ir(after)


def ops(model: ir.Model) -> list[str]:
    """Return the operators in order."""
    return [item.op_type for item in model.graph]


def names(model: ir.Model) -> list[str]:
    """Return the nodes' names in order."""
    return [str(item.name) for item in model.graph]


# fold_batchnorm


LAYERS = {
    "conv": (node("Conv", "x w b", "conv", group=2), {"w": weight(6, 2, 3, 3), "b": weight(6)}),
    "conv without bias": (node("Conv", "x w", "conv"), {"w": weight(6, 4, 3, 3)}),
    "transposed": (node("ConvTranspose", "x w b", "conv", group=2), {"w": weight(4, 3, 3, 3), "b": weight(6)}),
    "deformable": (
        node("DeformConv", "x w offset b", "conv", pads=[1, 1, 1, 1]),
        {"w": weight(6, 4, 3, 3), "b": weight(6)},
    ),
    "deformable with mask, without bias": (
        node("DeformConv", "x w offset - mask", "conv", pads=[1, 1, 1, 1]),
        {"w": weight(6, 4, 3, 3)},
    ),
}


@pytest.mark.parametrize("which", LAYERS)
def test_batchnorm_goes_into_the_convolution_before_it(tmp_path: Path, which: str) -> None:
    layer, weights = LAYERS[which]
    steering = [node("Conv", "x ow", "offset", pads=[1, 1, 1, 1]), node("Conv", "x mw", "mask", pads=[1, 1, 1, 1])]
    nodes = [layer, node("BatchNormalization", f"conv {BN}", "bn", epsilon=1e-3), node("Relu", "bn", "y")]
    case = Case(
        tmp_path,
        [*steering, *nodes] if layer.op_type == "DeformConv" else nodes,
        {**weights, **batchnorm(6), "ow": weight(18, 4, 3, 3), "mw": weight(9, 4, 3, 3)},
    )
    count, model = case.apply(FoldBatchNorm())
    assert count == 1
    assert ops(model)[-2:] == [layer.op_type, "Relu"]
    folded = model.graph[-2]
    assert folded.name == layer.name, "the convolution keeps its name"
    assert folded.outputs[0].name == "bn", "the tensor keeps its own"
    assert folded.metadata_props["edgecnn.module"] == "bn", "the module whose output the node gives"
    assert folded.inputs[1].name == "w"
    assert "bn.scale" in model.graph.initializers, "removing what is unused is another pass's work"


@pytest.mark.parametrize("attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": 3.0}])
@pytest.mark.parametrize("bias", [None, (), (6,), (1, 6)])
def test_batchnorm_goes_into_the_gemm_before_it(
    tmp_path: Path, attributes: dict[str, Any], bias: tuple[int, ...] | None
) -> None:
    weights = {"w": weight(6, 5) if attributes else weight(5, 6), **batchnorm(6)}
    if bias is not None:
        weights["b"] = weight(*bias) if bias else np.float32(0.7).reshape(())
    nodes = [
        node("Gemm", "x w" if bias is None else "x w b", "fc", **attributes),
        node("BatchNormalization", f"fc {BN}", "y"),
    ]
    count, model = Case(tmp_path, nodes, weights, shape=(5,)).apply(FoldBatchNorm())
    assert (count, names(model)) == (1, ["fc/Gemm"])
    assert model.graph[0].outputs[0].name == "y", "a graph output keeps its name"


def test_a_weight_that_two_convolutions_share_is_scaled_for_one_of_them(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w b", "one"),
        node("BatchNormalization", f"one {BN}", "bn"),
        node("Conv", "x w b", "two"),
        node("Add", "bn two", "y"),
    ]
    count, model = Case(tmp_path, nodes, {"w": weight(6, 4, 3, 3), "b": weight(6), **batchnorm(6)}).apply(
        FoldBatchNorm()
    )
    assert count == 1
    assert [value.name for value in model.graph[0].inputs] == ["x", "one/Conv.weight", "one/Conv.bias"]


def test_batchnorm_behind_batchnorm_is_folded_in_one_go(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "conv"),
        node("BatchNormalization", f"conv {BN}", "bn"),
        node("BatchNormalization", f"bn {BN.replace('bn', 'second')}", "y"),
    ]
    case = Case(tmp_path, nodes, {"w": weight(6, 4, 3, 3), **batchnorm(6), **batchnorm(6, "second")})
    count, model = case.apply(FoldBatchNorm())
    assert (count, names(model)) == (2, ["conv/Conv"])


def test_batchnorm_stays_where_folding_would_change_something_else(tmp_path: Path) -> None:
    conv, bn = node("Conv", "x w", "conv"), node("BatchNormalization", f"conv {BN}", "bn")
    weights = {"w": weight(6, 4, 3, 3), **batchnorm(6)}
    read_twice = [conv, bn, node("Add", "conv bn", "y")]
    assert Case(tmp_path, read_twice, weights).apply(FoldBatchNorm())[0] == 0
    shown = [conv, bn, node("Relu", "bn", "y")]
    assert Case(tmp_path, shown, weights, outputs="y conv").apply(FoldBatchNorm())[0] == 0
    first = [node("BatchNormalization", f"x {BN}", "bn"), node("Relu", "bn", "y")]
    assert Case(tmp_path, first, batchnorm(4)).apply(FoldBatchNorm())[0] == 0
    behind_relu = [conv, node("Relu", "conv", "r"), node("BatchNormalization", f"r {BN}", "y")]
    assert Case(tmp_path, behind_relu, weights).apply(FoldBatchNorm())[0] == 0


def test_batchnorm_stays_where_a_parameter_is_not_constant(tmp_path: Path) -> None:
    pooled = [node("GlobalAveragePool", "x", "g"), node("ReduceMean", "g axes", "c", keepdims=0)]
    axes = {"axes": np.array([0, 2, 3])}
    moving = [*pooled, node("Conv", "x w", "conv"), node("BatchNormalization", "conv s s s v", "y")]
    moving.insert(2, node("Abs", "c", "v"))
    moving.insert(2, node("Identity", "c", "s"))
    weights = {"w": weight(4, 4, 1, 1), **axes, **batchnorm(4)}
    assert Case(tmp_path, moving, weights).apply(FoldBatchNorm())[0] == 0
    weight_depends = [*pooled, node("Mul", "c w", "wc"), node("Conv", "x wc", "conv")]
    weight_depends.append(node("BatchNormalization", f"conv {BN}", "y"))
    assert Case(tmp_path, weight_depends, weights).apply(FoldBatchNorm())[0] == 0
    bias_depends = [*pooled, node("Conv", "x w c", "conv"), node("BatchNormalization", f"conv {BN}", "y")]
    assert Case(tmp_path, bias_depends, weights).apply(FoldBatchNorm())[0] == 0


def test_batchnorm_in_training_mode_stays(tmp_path: Path) -> None:
    training = node("BatchNormalization", f"conv {BN}", "y mean var", training_mode=1)
    case = Case(tmp_path, [node("Conv", "x w", "conv"), training], {"w": weight(6, 4, 3, 3), **batchnorm(6)})
    model = load_ir(case.path)
    assert FoldBatchNorm().apply(model) == 0
    assert ops(model) == ["Conv", "BatchNormalization"]


# fold_pad


def padded(pads: Sequence[int], **inputs: NDArray[Any]) -> tuple[onnx.NodeProto, dict[str, NDArray[Any]]]:
    """Return a Pad of ``x`` and its constant inputs."""
    listed = " ".join(name if name in inputs else "-" for name in ("fill", "axes"))
    return node("Pad", f"x pads {listed}", "pad"), {"pads": np.array(pads), **inputs}


@pytest.mark.parametrize(
    ("pads", "inputs"),
    [
        ([0, 0, 0, 1, 0, 0, 2, 1], {}),
        ([0, 0, 0, 1, 0, 0, 2, 1], {"fill": np.float32(0)}),
        ([0, 1, 2, 1], {"axes": np.array([2, 3])}),
        ([1, 0, 1, 2], {"axes": np.array([-1, -2]), "fill": np.float32(0)}),
    ],
)
def test_zero_padding_goes_into_the_convolution(
    tmp_path: Path, pads: list[int], inputs: dict[str, NDArray[Any]]
) -> None:
    pad, constants = padded(pads, **inputs)
    case = Case(
        tmp_path, [pad, node("Conv", "pad w", "y", pads=[1, 0, 0, 0], strides=[2, 2])], {"w": weight(6, 4, 3, 3), **constants}
    )  # fmt: skip
    count, model = case.apply(FoldPad())
    assert (count, names(model)) == (1, ["y/Conv"])
    assert list(model.graph[0].attributes["pads"].value) == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("pads", "inputs"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], {"fill": np.float32(0.5)}),
        ([0, 1, 1, 1, 0, 0, 1, 1], {}),
        ([0, 0, -1, 0, 0, 0, 0, 0], {}),
    ],
)
def test_other_padding_stays(tmp_path: Path, pads: list[int], inputs: dict[str, NDArray[Any]]) -> None:
    pad, constants = padded(pads, **inputs)
    channels = 4 + pads[1]
    case = Case(tmp_path, [pad, node("Conv", "pad w", "y")], {"w": weight(6, channels, 3, 3), **constants})
    assert case.apply(FoldPad())[0] == 0


def test_padding_that_others_read_or_pool_or_reflect_stays(tmp_path: Path) -> None:
    pad, constants = padded([0, 0, 1, 1, 0, 0, 1, 1])
    conv, weights = node("Conv", "pad w", "c", pads=[1, 1, 1, 1]), {"w": weight(4, 4, 3, 3), **constants}
    assert Case(tmp_path, [pad, conv, node("Add", "c pad", "y")], weights).apply(FoldPad())[0] == 0
    assert Case(tmp_path, [pad, conv], weights, outputs="c pad").apply(FoldPad())[0] == 0
    for pool in ("MaxPool", "AveragePool"):
        assert Case(tmp_path, [pad, node(pool, "pad", "y", kernel_shape=[3, 3])], weights).apply(FoldPad())[0] == 0
    reflect = node("Pad", "x pads", "pad", mode="reflect")
    assert Case(tmp_path, [reflect, conv], weights, outputs="c").apply(FoldPad())[0] == 0
    same = node("Conv", "pad w", "y", auto_pad="SAME_UPPER")
    assert Case(tmp_path, [pad, same], weights).apply(FoldPad())[0] == 0


# global_pool


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_the_map_becomes_a_pool(tmp_path: Path, axes: list[int]) -> None:
    nodes = [node("Relu", "x", "r"), node("ReduceMean", "r axes", "m"), node("Sigmoid", "m", "y")]
    count, model = Case(tmp_path, nodes, {"axes": np.array(axes)}).apply(GlobalPool())
    assert (count, ops(model)) == (1, ["Relu", "GlobalAveragePool", "Sigmoid"])
    pool = model.graph[1]
    assert (pool.name, pool.outputs[0].name) == ("m/ReduceMean", "m"), "what is replaced keeps its name"
    assert pool.metadata_props["edgecnn.module"] == "m"


def test_a_mean_that_is_a_graph_output_keeps_its_name(tmp_path: Path) -> None:
    count, model = Case(tmp_path, [node("ReduceMean", "x axes", "y")], {"axes": np.array([2, 3])}).apply(GlobalPool())
    assert (count, ops(model)) == (1, ["GlobalAveragePool"])


@pytest.mark.parametrize(
    ("axes", "keepdims", "shape"),
    [([2], 1, (4, 9, 9)), ([1, 2, 3], 1, (4, 9, 9)), ([2, 3], 0, (4, 9, 9)), ([1, 2], 1, (4, 9, 9)), ([1], 1, (5,))],
)
def test_other_means_stay(tmp_path: Path, axes: list[int], keepdims: int, shape: tuple[int, ...]) -> None:
    nodes = [node("ReduceMean", "x axes", "y", keepdims=keepdims)]
    count, model = Case(tmp_path, nodes, {"axes": np.array(axes)}, shape=shape).apply(GlobalPool())
    assert (count, ops(model)) == (0, ["ReduceMean"])


# remove_identity


IDLE = {
    "identity": (node("Identity", "r", "i"), {}),
    "dropout": (node("Dropout", "r", "i mask"), {}),
    "dropout in inference": (node("Dropout", "r ratio mode", "i"), {"ratio": np.float32(0.5), "mode": np.array(False)}),
    "cast": (node("Cast", "r", "i", to=TensorProto.FLOAT), {}),
    "transpose": (node("Transpose", "r", "i", perm=[0, 1, 2, 3]), {}),
    "reshape by zeros": (node("Reshape", "r shape", "i"), {"shape": np.array([0, 4, 9, -1])}),
    "reshape of one open length": (node("Reshape", "r shape", "i"), {"shape": np.array([-1, 4, 9, 9])}),
}


@pytest.mark.parametrize("which", IDLE)
def test_idle_nodes_go(tmp_path: Path, which: str) -> None:
    idle, weights = IDLE[which]
    nodes = [node("Relu", "x", "r"), idle, node("Sigmoid", "i", "y")]
    count, model = Case(tmp_path, nodes, weights).apply(RemoveIdentity())
    assert (count, names(model)) == (1, ["r/Relu", "y/Sigmoid"])
    assert model.graph[1].inputs[0].name == "r"


def test_flattening_a_matrix_goes(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r"), node("Flatten", "r", "f"), node("Sigmoid", "f", "y")]
    count, model = Case(tmp_path, nodes, {}, shape=(5,)).apply(RemoveIdentity())
    assert (count, ops(model)) == (1, ["Relu", "Sigmoid"])


def test_an_idle_node_hands_its_output_name_back(tmp_path: Path) -> None:
    count, model = Case(tmp_path, [node("Relu", "x", "r"), node("Identity", "r", "y")], {}).apply(RemoveIdentity())
    assert (count, names(model)) == (1, ["r/Relu"])
    assert model.graph.outputs[0].shape[0].value == "batch"


def test_an_idle_node_between_two_names_of_the_border_stays(tmp_path: Path) -> None:
    assert Case(tmp_path, [node("Identity", "x", "y")], {}).apply(RemoveIdentity())[0] == 0
    two = [node("Relu", "x", "r"), node("Identity", "r", "y")]
    assert Case(tmp_path, two, {}, outputs="r y").apply(RemoveIdentity())[0] == 0


BUSY = {
    "cast": [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Cast", "d", "y", to=TensorProto.FLOAT)],
    "transpose": [node("Transpose", "x", "y", perm=[0, 1, 3, 2])],
    "transpose by default": [node("Transpose", "x", "y")],
    "reshape": [node("Reshape", "x shape", "y")],
    "reshape to another rank": [node("Reshape", "x flat", "y")],
    "flatten": [node("Flatten", "x", "y")],
    "a mask that is read": [node("Dropout", "x", "i mask"), node("Where", "mask i zero", "y")],
}


@pytest.mark.parametrize("which", BUSY)
def test_nodes_that_do_something_stay(tmp_path: Path, which: str) -> None:
    weights = {"shape": np.array([-1, 9, 4, 9]), "flat": np.array([0, 324]), "zero": np.float32(0)}
    case = Case(tmp_path, BUSY[which], weights)
    assert case.apply(RemoveIdentity())[0] == 0


def test_dropout_in_training_mode_stays(tmp_path: Path) -> None:
    nodes = [node("Dropout", "x ratio mode", "i"), node("Relu", "i", "y")]
    case = Case(tmp_path, nodes, {"ratio": np.float32(0.5), "mode": np.array(True)})
    assert RemoveIdentity().apply(load_ir(case.path)) == 0


# fold_constants


def test_what_depends_on_weights_alone_becomes_a_weight(tmp_path: Path) -> None:
    nodes = [
        node("Constant", "", "two", value_float=2.0),
        node("Mul", "w two", "doubled"),
        node("Split", "doubled", "left right", num_outputs=2),
        node("Conv", "x left", "a"),
        node("Conv", "x right", "b"),
        node("Add", "a b", "y"),
    ]
    case = Case(tmp_path, nodes, {"w": weight(6, 4, 3, 3)})
    count, model = case.apply(FoldConstants())
    assert (count, names(model)) == (3, ["a/Conv", "b/Conv", "y/Add"])
    assert model.graph.initializers["right"].const_value.shape == (3, 4, 3, 3)


def test_what_is_not_to_be_computed_ahead_stays(tmp_path: Path) -> None:
    quantized = [node("DequantizeLinear", "q scale", "w"), node("Conv", "x w", "y")]
    integers = {"q": np.ones((6, 4, 3, 3), np.int8), "scale": np.float32(0.1)}
    assert Case(tmp_path, quantized, integers).apply(FoldConstants())[0] == 0
    growing = [node("Expand", "one shape", "big"), node("Add", "x big", "y")]
    large = {"one": np.ones((1, 1, 1, 1), np.float32), "shape": np.array([1, 4, 300, 300])}
    assert Case(tmp_path, growing, large, shape=(4, 300, 300)).apply(FoldConstants())[0] == 0
    shown = [node("Neg", "w", "y"), node("Relu", "x", "r")]
    assert Case(tmp_path, shown, {"w": weight(3)}, outputs="y r").apply(FoldConstants())[0] == 0
    depends = [node("Mul", "x w", "y")]
    assert Case(tmp_path, depends, {"w": weight(9)}).apply(FoldConstants())[0] == 0


def test_random_nodes_and_foreign_operators_stay(tmp_path: Path) -> None:
    nodes = [node("RandomNormalLike", "w", "n"), node("Add", "x n", "y")]
    case = Case(tmp_path, nodes, {"w": weight(9)})
    model = load_ir(case.path)
    assert FoldConstants().apply(model) == 0
    model.graph[0].op_type, model.graph[0].domain = "Neg", "somewhere.else"
    assert FoldConstants().apply(model) == 0


def test_a_default_that_the_caller_may_override_is_not_constant(tmp_path: Path) -> None:
    case = Case(tmp_path, [node("Neg", "w", "n"), node("Add", "x n", "y")], {"w": weight(9)})
    model = load_ir(case.path)
    model.graph.inputs.append(model.graph.initializers["w"])
    assert FoldConstants().apply(model) == 0


# remove_unused


def test_what_reaches_no_output_goes(tmp_path: Path) -> None:
    nodes = [node("Neg", "x", "dead"), node("Mul", "dead w", "deader"), node("Relu", "x", "y")]
    case = Case(tmp_path, nodes, {"w": weight(9), "alone": weight(3)})
    model = load_ir(case.path)
    model.graph.opset_imports["somewhere.else"] = 1
    save_ir(model, case.path)
    count, model = case.apply(RemoveUnused())
    assert (count, names(model)) == (5, ["y/Relu"])
    assert not model.graph.initializers
    assert dict(model.graph.opset_imports) == {"": 20}


def test_what_is_used_stays(tmp_path: Path) -> None:
    nodes = [node("Split", "x", "left right", num_outputs=2, axis=1), node("Conv", "left w", "y")]
    count, model = Case(tmp_path, nodes, {"w": weight(6, 2, 3, 3)}).apply(RemoveUnused())
    assert (count, ops(model)) == (0, ["Split", "Conv"])


@pytest.mark.parametrize("kind", [FoldBatchNorm, FoldConstants, FoldPad, GlobalPool, RemoveIdentity, RemoveUnused])
def test_every_pass_states_its_contract(kind: type[Pass]) -> None:
    assert kind.exact
    assert kind.name
    assert kind.requires
    assert kind.ensures
