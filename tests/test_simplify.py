"""Simplification as a stage: what it keeps, what it drops, and that it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.errors import GraphError, OutputError, SpecError
from edgecnn.export import export
from edgecnn.onnxio import load_ir, open_model, read_metadata
from edgecnn.passes import SIMPLIFICATIONS, OnnxSim, Pass
from edgecnn.passes import onnxsim as onnxsim_pass
from edgecnn.runtime import OrtSession
from edgecnn.simplify import SimplifyConfig, simplify, transform
from edgecnn.spec import ModelSpec, TensorSpec

RUN_ONNXSIM = "edgecnn.passes.onnxsim.run_onnxsim"
OURS = SimplifyConfig(onnxsim=False)


class Net(nn.Module):
    """A convolution with BatchNorm, one behind the activation, a pool and a classifier."""

    def __init__(self) -> None:
        """Make the parts."""
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm = nn.BatchNorm2d(8)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = self.norm(torch.relu(self.bn(self.stem(x))))
        return self.fc(torch.flatten(self.pool(torch.relu(x)), 1))


SPEC = ModelSpec(
    name="net",
    builder="net:build",
    num_classes=5,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 8, 8)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 5)),),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Export the network once."""
    torch.manual_seed(0)
    return export(Net(), SPEC, to=tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Write a graph as tracing exporters do: the flattened shape is computed, and identities stand between the layers."""
    random = np.random.default_rng(0)
    weights = {
        "conv.w": random.standard_normal((6, 3, 3, 3)),
        "fc.w": random.standard_normal((216, 5)),
        **{f"bn.{part}": random.random(6) + 0.5 for part in ("scale", "shift", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv.w"], ["conv"], name="stem.conv/Conv"),
        helper.make_node("Identity", ["conv"], ["idle"], name="stem.idle/Identity"),
        helper.make_node("BatchNormalization", ["idle", "bn.scale", "bn.shift", "bn.mean", "bn.var"], ["bn"], name="stem.bn/BN"),
        helper.make_node("Shape", ["bn"], ["shape"], name="Shape"),
        helper.make_node("Gather", ["shape", "zero"], ["length"], name="Gather"),
        helper.make_node("Unsqueeze", ["length", "axes"], ["batch_size"], name="Unsqueeze"),
        helper.make_node("Concat", ["batch_size", "features"], ["target"], name="Concat", axis=0),
        helper.make_node("Reshape", ["bn", "target"], ["flat"], name="flatten/Reshape"),
        helper.make_node("Gemm", ["flat", "fc.w"], ["logits"], name="fc/Gemm"),
    ]  # fmt: skip
    for node in nodes:
        node.metadata_props.add(key="edgecnn.module", value=node.name.rpartition("/")[0])
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    lengths = {"zero": 0, "axes": [0], "features": [216]}
    initializers += [numpy_helper.from_array(np.array(value), name) for name, value in lengths.items()]
    graph = helper.make_graph(
        nodes,
        "traced",
        [helper.make_tensor_value_info("input", 1, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 5])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.metadata_props.add(key="edgecnn.model", value="traced")
    path = tmp_path_factory.mktemp("traced") / "traced.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), path)
    return open_model(path)


def assert_same(before: OnnxModel, after: OnnxModel) -> None:
    """Compare two models on batches of 1, 2 and 3."""
    with OrtSession(before.path) as old, OrtSession(after.path) as new:
        assert old.inputs == new.inputs
        assert old.outputs == new.outputs
        for batch in (1, 2, 3):
            feed = {"input": np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)}
            np.testing.assert_allclose(new.run(feed)["logits"], old.run(feed)["logits"], rtol=1e-4, atol=1e-5)


def modules(model: OnnxModel) -> dict[str, str]:
    """Return the module of each node."""
    return {str(node.name): node.metadata_props["edgecnn.module"] for node in load_ir(model.path).graph}


class Fake(Pass):
    """A pass made of a function."""

    name: ClassVar[str] = "fake"
    requires: ClassVar[str] = "nothing"
    ensures: ClassVar[str] = "nothing"
    work: ClassVar[Callable[[ir.Model], int]]

    def apply(self, model: ir.Model) -> int:
        """Run the function."""
        return type(self).work(model)


def install(monkeypatch: pytest.MonkeyPatch, work: Callable[[ir.Model], int]) -> SimplifyConfig:
    """Put a fake pass before the others."""
    monkeypatch.setattr(Fake, "work", staticmethod(work), raising=False)
    monkeypatch.setattr("edgecnn.simplify.SIMPLIFICATIONS", {"fake": Fake, **SIMPLIFICATIONS})
    return SimplifyConfig(onnxsim=False, passes=("fake", *SIMPLIFICATIONS))


def scale_weight(factor: float) -> Callable[[ir.Model], int]:
    """Return a pass's work: multiply the classifier's weight, once."""

    def work(model: ir.Model) -> int:
        value = model.graph.initializers["fc.weight"]
        if value.const_value.doc_string == "scaled":
            return 0
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), doc_string="scaled")
        return 1

    return work


def test_an_export_is_simplified_and_keeps_its_names(exported: OnnxModel, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    made = simplify(exported, to=tmp_path / "simple.onnx", progress=lambda *step: steps.append(step))
    assert made.changes["global_pool"] == 1
    assert (made.nodes_before, made.nodes_after) == (exported.nodes, made.model.nodes)
    assert modules(made.model) == modules(exported)
    assert_same(exported, made.model)
    assert made.model.inputs[0].shape == ("batch", 3, 8, 8)
    assert read_metadata(made.model.path) == read_metadata(exported.path)
    assert steps[0] == ("simplify", 0, 7)
    assert steps[-1] == ("simplify", 7, 7)
    assert list(tmp_path.iterdir()) == [made.model.path], "nothing temporary is left"
    first, last = made.model.lineage
    assert (first.stage, last.stage) == ("export", "simplify")
    assert last.inputs == {"model": exported.sha256}
    assert set(last.tools) >= {"onnxsim", "onnxruntime"}
    assert last.config["changes"] == dict(made.changes)
    assert last.config["onnxsim"] is True
    assert last.config["nodes"] == {"before": exported.nodes, "after": made.model.nodes}
    assert made.changes["onnxsim"] == 0
    assert last.notes == made.notes == ()


def test_onnxsim_simplifies_a_traced_graph_without_touching_names_and_weights(
    traced: OnnxModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = simplify(traced, SimplifyConfig(passes=()), to=tmp_path / "simple.onnx")
    assert made.changes["onnxsim"] == made.nodes_before - made.nodes_after > 0
    assert made.notes == ()
    assert modules(made.model).items() <= modules(traced).items()
    assert_same(traced, made.model)
    assert read_metadata(made.model.path) == {"edgecnn.model": "traced"}
    old, new = load_ir(traced.path).graph.initializers, load_ir(made.model.path).graph.initializers
    for name in ("conv.w", "fc.w", "bn.var"):
        np.testing.assert_array_equal(old[name].const_value.numpy(), new[name].const_value.numpy())
    assert capfd.readouterr() == ("", "")
    less = simplify(made.model, OURS, to=tmp_path / "less.onnx")
    assert modules(less.model) == {"stem.conv/Conv": "stem.bn", "flatten/Reshape": "flatten", "fc/Gemm": "fc"}
    assert_same(traced, less.model)


def test_onnxsim_never_sees_the_weights(traced: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[onnx.ModelProto] = []

    def spy(model: bytes) -> bytes:
        seen.append(onnx.load_from_string(model))
        return model

    monkeypatch.setattr(RUN_ONNXSIM, spy)
    assert OnnxSim().apply(load_ir(traced.path)) == 0
    assert {tensor.name for tensor in seen[0].graph.initializer} == {"zero", "axes", "features"}


def edited(edit: Callable[[onnx.GraphProto], object]) -> Callable[[bytes], bytes]:
    """Return an onnxsim that changes the graph by ``edit``."""

    def run(model: bytes) -> bytes:
        proto = onnx.load_from_string(model)
        edit(proto.graph)
        return proto.SerializeToString()

    return run


def skip_batchnorm(graph: onnx.GraphProto) -> None:
    """Break the graph: its BatchNormalization is left out."""
    del graph.node[1:3]
    graph.node[0].output[0] = "bn"


def rename_output(graph: onnx.GraphProto) -> None:
    """Break the border: another name for the output, and a node fewer."""
    del graph.node[1]
    graph.node[1].input[0] = "conv"
    graph.node[-1].output[0] = graph.output[0].name = "renamed"


def invent(graph: onnx.GraphProto) -> None:
    """Break the graph: an operator that no runtime has, and a node fewer."""
    del graph.node[1]
    graph.node[1].input[0] = "conv"
    graph.node[0].op_type = "NoSuchOperator"


def fail(_: bytes) -> bytes:
    """Fail as a tool does."""
    raise RuntimeError("it fell over")


BROKEN = {
    "raises": (fail, "it fell over"),
    "garbage": (lambda _: b"no onnx", "DecodeError"),
    "changes what is computed": (edited(skip_batchnorm), "it changed the outputs by"),
    "changes the border": (edited(rename_output), "changed the graph's outputs"),
    "does not run": (edited(invent), "there is no operator NoSuchOperator"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_onnxsim_breaks_is_dropped(
    traced: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run, message = BROKEN[how]
    monkeypatch.setattr(RUN_ONNXSIM, run)
    made = simplify(traced, to=tmp_path / "simple.onnx")
    (note,) = made.notes
    assert note.startswith("onnxsim was dropped: ")
    assert message in note
    assert made.changes["fold_batchnorm"] == 1, "the other steps go on from the graph before it"
    assert made.model.lineage[-1].notes == made.notes
    assert_same(traced, made.model)


@pytest.mark.parametrize(
    ("child", "timeout", "message"),
    [
        ("import os; os.abort()", 60, "it was killed by signal 6"),
        ("print('chatter'); raise ValueError('no such thing')", 60, "ValueError: no such thing"),
        ("import time; time.sleep(60)", 1, "did not end within 1 s"),
    ],
)
def test_a_child_that_crashes_fails_or_hangs_is_a_note(
    traced: OnnxModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    child: str,
    timeout: int,
    message: str,
) -> None:
    monkeypatch.setattr(onnxsim_pass, "_CHILD", child)
    monkeypatch.setattr(onnxsim_pass, "TIMEOUT", timeout)
    made = simplify(traced, SimplifyConfig(passes=()), to=tmp_path / "simple.onnx")
    assert message in made.notes[0]
    assert made.nodes_after == made.nodes_before
    assert capfd.readouterr() == ("", "")


def test_without_onnxsim_installed_a_note_names_the_extra(
    traced: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxsim_pass, "available", lambda name: False)
    made = simplify(traced, to=tmp_path / "simple.onnx")
    assert "edgecnn[export]" in made.notes[0]
    assert_same(traced, made.model)


def test_a_node_that_onnxsim_fuses_keeps_its_name(traced: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fuse(graph: onnx.GraphProto) -> None:
        del graph.node[1]
        graph.node[0].output[0] = "idle"
        graph.node[0].name = "stem.conv/Conv"
        graph.node[-1].name = "onnxsim_7"

    monkeypatch.setattr(RUN_ONNXSIM, edited(fuse))
    model = load_ir(traced.path)
    assert OnnxSim().apply(model) == 1
    names = [(node.name, node.metadata_props["edgecnn.module"]) for node in model.graph]
    assert names[0] == ("stem.conv/Conv", "stem.idle"), "the module is that of the tensor"
    assert names[-1] == ("fc/Gemm", "fc"), "a renamed node gets its name back"


def test_a_pass_that_breaks_parity_is_dropped(
    exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = simplify(exported, install(monkeypatch, scale_weight(1.001)), to=tmp_path / "simple.onnx")
    (note,) = made.notes
    assert note.startswith("fake was dropped: it changed the outputs by ")
    assert "over 0.0001" in note
    assert "fake" not in made.changes
    assert made.changes["global_pool"] == 1
    assert_same(exported, made.model)


def test_the_tolerance_decides(exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, scale_weight(1.001))
    config = SimplifyConfig(onnxsim=False, passes=("fake",), tolerance=0.01)
    made = simplify(exported, config, to=tmp_path / "simple.onnx")
    assert (made.changes, made.notes) == ({"fake": 1}, ())


def break_graph(model: ir.Model) -> int:
    """Leave a graph that no runtime loads."""
    model.graph[0].op_type = "NoSuchOperator"
    return 1


def raise_error(model: ir.Model) -> int:
    """Fail."""
    raise ZeroDivisionError("by zero")


def poison(model: ir.Model) -> int:
    """Make every output a NaN."""
    value = model.graph.initializers["fc.bias"]
    value.const_value = ir.tensor(np.full(5, np.nan, np.float32))
    return 1


def narrow(model: ir.Model) -> int:
    """Give the output another shape."""
    for name in ("fc.weight", "fc.bias"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy()[:4])
        value.shape = ir.Shape(value.const_value.shape)
    model.graph.outputs[0].shape = ir.Shape(["batch", 4])
    return 1


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (break_graph, "onnxruntime cannot load model.onnx: there is no operator NoSuchOperator"),
        (raise_error, "the pass fake failed: ZeroDivisionError: by zero"),
        (poison, "it changed the outputs by inf"),
        (narrow, "it changed the outputs by inf"),
    ],
)
def test_a_pass_that_fails_or_breaks_the_graph_is_dropped(
    exported: OnnxModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[ir.Model], int],
    message: str,
) -> None:
    made = simplify(exported, install(monkeypatch, work), to=tmp_path / "simple.onnx")
    assert len(made.notes) == 1, "what was dropped is not tried again"
    assert message in made.notes[0]
    assert made.changes["global_pool"] == 1
    assert_same(exported, made.model)


def test_passes_run_until_nothing_changes(traced: OnnxModel, tmp_path: Path) -> None:
    config = SimplifyConfig(onnxsim=False, passes=("fold_batchnorm", "remove_identity"))
    made = simplify(traced, config, to=tmp_path / "simple.onnx")
    assert made.changes == {"fold_batchnorm": 1, "remove_identity": 1}, "the identity hid the convolution at first"
    assert made.notes == ()
    again = simplify(made.model, config, to=tmp_path / "again.onnx")
    assert again.changes == {"fold_batchnorm": 0, "remove_identity": 0}
    assert again.model.sha256 == made.model.sha256


def test_a_pass_that_never_rests_is_stopped(
    exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, lambda model: 1)
    made = simplify(exported, SimplifyConfig(onnxsim=False, passes=("fake",)), to=tmp_path / "simple.onnx")
    assert made.changes == {"fake": 10}
    assert made.notes == ("the passes still found something to change after 10 rounds",)


def test_a_static_batch_stays_static(tmp_path: Path) -> None:
    from edgecnn.export import ExportConfig

    torch.manual_seed(0)
    model = export(Net(), SPEC, ExportConfig(batch=2), to=tmp_path / "two.onnx")
    made = simplify(model, OURS, to=tmp_path / "simple.onnx")
    assert made.changes["global_pool"] == 1
    assert made.model.inputs[0].shape == (2, 3, 8, 8)


def test_a_model_that_cannot_run_here_stays_as_it_is(exported: OnnxModel, tmp_path: Path) -> None:
    proto = onnx.load(exported.path)
    proto.graph.node[1].domain = "somewhere.else"
    proto.opset_import.append(helper.make_opsetid("somewhere.else", 1))
    onnx.save(proto, tmp_path / "foreign.onnx")
    made = simplify(open_model(tmp_path / "foreign.onnx"), OURS, to=tmp_path / "simple.onnx")
    assert sum(made.changes.values()) == 0
    assert "somewhere.else" in made.notes[0]


def test_the_config_is_checked() -> None:
    with pytest.raises(SpecError, match="no simplification fold_everything; there are remove_identity, "):
        SimplifyConfig(passes=("fold_everything",))
    with pytest.raises(SpecError, match="tolerance 0 is a share"):
        SimplifyConfig(tolerance=0)


def test_a_folder_that_is_not_there_is_an_output_error(exported: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        simplify(exported, OURS, to=tmp_path / "nowhere" / "simple.onnx")


def rename_border(model: ir.Model) -> int:
    """Change the border, which :func:`transform` allows."""
    model.graph.outputs[0].name = "scores"
    return 1


def test_transform_applies_passes_as_they_are(
    exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "work", staticmethod(rename_border), raising=False)
    passes: Mapping[str, Pass] = {"fake": Fake(), "global_pool": SIMPLIFICATIONS["global_pool"]()}
    made = transform(exported, list(passes.values()), to=tmp_path / "made.onnx")
    assert [spec.name for spec in made.outputs] == ["scores"]
    assert (made.precision, made.lineage[-1].stage) == ("fp32", "transform")
    assert made.lineage[-1].config == {"passes": ["fake", "global_pool"], "changes": {"fake": 1, "global_pool": 1}}
    assert made.lineage[:-1] == exported.lineage
    assert read_metadata(made.path) == read_metadata(exported.path)


def test_transform_writes_another_precision_where_asked(exported: OnnxModel, tmp_path: Path) -> None:
    made = transform(exported, [], to=tmp_path / "made.onnx", precision="fp16")
    assert made.precision == "fp16"
    assert read_metadata(made.path)["edgecnn.precision"] == "fp16"


def test_transform_lets_a_pass_refuse(exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "work", staticmethod(raise_error), raising=False)
    with pytest.raises(GraphError, match="the pass fake failed: ZeroDivisionError"):
        transform(exported, [Fake()], to=tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()
