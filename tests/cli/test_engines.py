"""A bundle's engines through ``load`` and the commands that run a bundle, on TensorRT and CUDA as they are not here."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_tools import Cli
from engine_machine import Machine
from PIL import Image
from tiny_bundle import photos, write_model, write_tiny

from edgecnn.artifacts import cache_dir
from edgecnn.engine import Batch, BuildConfig
from edgecnn.engine.device import Device
from edgecnn.errors import BundleCorruptError, EngineMisfitError, SpecError, UserError
from edgecnn.pack import VariantContents
from edgecnn.pipeline.engines import build_into, rebuilt
from edgecnn.runtime import Bundle, Classifier, OrtOptions, TensorRtOptions, TensorRtSession, load

X = np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def bundle(machine: Machine, tmp_path: Path) -> Bundle:
    """Return a bundle of fp32, int8 and int8-cpu, the first two with engines for batches of 2 to 4."""
    names = ("fp32", "int8", "int8-cpu")
    packed = [VariantContents(model=write_model(tmp_path, name), verified=True) for name in names]
    written = write_tiny(tmp_path, variants=packed)
    return build_into(written, BuildConfig(target="tensorrt", batch=Batch(2, 3, 4))).bundle


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / "a.png"
    Image.fromarray(photos()[0]).save(path)
    return path


def expected(bundle: Bundle) -> np.ndarray:
    with load(bundle.path, "fp32", "onnxruntime") as session:
        return session.run({"input": X})["logits"]


def test_load_runs_the_engine_of_a_variant(bundle: Bundle) -> None:
    for arguments, options in (
        (("int8", "tensorrt"), None),
        ((None, "tensorrt"), None),
        (("fp32", None), TensorRtOptions(contexts=2)),
    ):
        with load(bundle.path, *arguments, options=options) as session:
            assert isinstance(session, TensorRtSession)
            np.testing.assert_allclose(session.run({"input": X})["logits"], expected(bundle), atol=1e-5)
    assert str(bundle.choose(backend="tensorrt")) == "int8 on tensorrt"
    assert bundle.choose().backend != "tensorrt"


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (
            ("int8-cpu", "tensorrt"),
            None,
            r"has no engine of int8-cpu for tensorrt; it has fp32\.tensorrt, int8\.tensorrt: build one with ",
        ),
        (
            (None, "tensorrt-rtx"),
            None,
            r"has no engine for tensorrt-rtx; .*'edgecnn build BUNDLE --target tensorrt-rtx'",
        ),
        ((None, "tensorrt"), OrtOptions(), "'tensorrt' was given OrtOptions, which are another one's"),
        ((None, "openvino"), TensorRtOptions(), "'openvino' was given TensorRtOptions, which are another one's"),
    ],
)
def test_what_cannot_be_chosen(bundle: Bundle, arguments: tuple[Any, ...], options: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load(bundle.path, *arguments, options=options)


@pytest.mark.parametrize(
    ("change", "match"),
    [(lambda b: b[:-3], "has .* bytes, and had"), (lambda b: b[:-1] + b"x", "was changed after it was written")],
)
def test_a_plan_that_was_cut_or_changed_is_refused(bundle: Bundle, change: Any, match: str) -> None:
    path = bundle.path / "engine.int8.tensorrt.plan"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleCorruptError, match=match):
        load(bundle.path, backend="tensorrt")


def test_pictures_go_in_batches_that_the_engine_takes(bundle: Bundle) -> None:
    with Classifier(bundle, "fp32", "onnxruntime") as classify:
        want = classify.probabilities(photos(7))
    with Classifier(bundle, "fp32", "tensorrt") as classify:
        for count in (7, 5, 1):
            np.testing.assert_allclose(classify.probabilities(photos(7)[:count]), want[:count], atol=1e-6)


def test_a_plan_that_does_not_fit_says_how_to_rebuild_it(bundle: Bundle, machine: Machine) -> None:
    machine.become("10.16.0")
    with pytest.raises(EngineMisfitError) as caught:
        load(bundle.path, backend="tensorrt")
    assert str(caught.value) == (
        "engine.int8.tensorrt.plan needs TensorRT 10.3.0, and 10.16.0 is installed here: install that version, or run: "
        f"edgecnn build {bundle.path} --target tensorrt --variant int8 --batch 2:3:4; or load it with "
        "TensorRtOptions(rebuild=edgecnn.pipeline.engines.rebuilt)"
    )


def test_a_plan_is_rebuilt_once_and_kept(bundle: Bundle, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    options = TensorRtOptions(rebuild=rebuilt)
    before = {path: path.read_bytes() for path in bundle.path.iterdir()}

    def run() -> int:
        caplog.clear()
        with load(bundle.path, "int8", options=options) as session:
            assert (session.least_batch, session.largest_batch) == (2, 4)
            np.testing.assert_allclose(session.run({"input": X})["logits"], expected(bundle), atol=1e-5)
        return len(machine.module.configs)

    caplog.set_level(logging.WARNING)
    machine.become("10.16.0")
    assert run() == 1
    assert "the engine of int8 does not fit here, and is built anew for this device into" in caplog.text
    assert run() == 1
    assert "the one that was built before is taken" in caplog.text
    (plan,) = (cache_dir() / "engines").rglob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    assert run() == 2
    other = Device(name="another", compute_capability="8.6", memory=8 << 30, driver_cuda="12.6")
    machine.become("10.16.0", other)
    assert run() == 1
    assert len(list((cache_dir() / "engines").rglob("*.plan"))) == 2
    assert {path: path.read_bytes() for path in bundle.path.iterdir()} == before


def test_a_kept_plan_is_of_the_plugins_that_it_was_built_with(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    library = tmp_path / "libmine.so"
    options = TensorRtOptions(rebuild=rebuilt, plugins=(library,))
    machine.become("10.16.0")
    built = []
    for content in (b"one", b"one", b"another"):
        library.write_bytes(content)
        load(bundle.path, "int8", options=options).close()
        built.append(len(machine.module.configs))
    assert built == [1, 1, 2]
    library.unlink()
    with pytest.raises(UserError, match="no plugin library at"):
        load(bundle.path, "int8", options=options)


@pytest.mark.parametrize("options", [{"workspace": "much"}, {"level": [3]}, {"level": 9}, {"batch": "8:1:2"}])
def test_options_of_a_manifest_that_no_engine_has(bundle: Bundle, machine: Machine, options: dict[str, Any]) -> None:
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["engines"]["int8.tensorrt"]["options"] |= options
    path.write_text(json.dumps(manifest))
    machine.become("10.16.0")
    with pytest.raises(SpecError, match=next(iter(options))):
        load(bundle.path, "int8", options=TensorRtOptions(rebuild=rebuilt))


def test_predict(cli: Cli, bundle: Bundle, machine: Machine, picture: Path) -> None:
    result = cli("predict", bundle.path, picture, "--backend", "tensorrt", "--json")
    assert (result.document["variant"], result.document["backend"]) == ("int8", "tensorrt")
    machine.become("11.1.0")
    result = cli("predict", bundle.path, picture, "--backend", "tensorrt", "--variant", "fp32")
    assert result.code == 0, result.err
    assert "the engine of fp32 does not fit here, and is built anew" in result.err
    assert "--threads is for CPUs" in cli(
        "predict", bundle.path, picture, "--backend", "tensorrt", "--threads", "2"
    ).failed(2)


def test_verify_compares_engines_with_their_graphs_and_with_pytorch(cli: Cli, bundle: Bundle, machine: Machine) -> None:
    result = cli("verify", bundle.path, "--backend", "tensorrt", "--json")
    assert result.code == 0, result.out
    stages = {stage["name"]: stage for stage in result.document["stages"] if stage["name"] != "preprocess"}
    ran = {name: stage["backend"] for name, stage in stages.items()}
    assert list(ran) == ["fp32", "int8", "fp32@tensorrt", "int8@tensorrt"]
    assert ran["int8@tensorrt"] == ran["fp32@tensorrt"] == "tensorrt"
    assert ran["int8"] != "tensorrt"
    assert stages["int8@tensorrt"]["after"] == "int8"
    against = {one["reference"] for one in stages["int8@tensorrt"]["comparisons"]}
    assert {"recorded int8", "int8", "fp32"} <= against
    machine.module.change = lambda array: array[:, ::-1].copy()
    result = cli("verify", bundle.path, "--backend", "tensorrt", "--json")
    assert result.code == 3
    failed = {stage["name"] for stage in result.document["stages"] if not stage["passed"]}
    assert failed == {"fp32@tensorrt", "int8@tensorrt"}


def test_verify_runs_engines_at_both_ends_of_the_profile(cli: Cli, bundle: Bundle, machine: Machine) -> None:
    assert cli("verify", bundle.path, "--backend", "tensorrt").code == 0
    seen: set[int] = set()

    def spoil_large(array: np.ndarray) -> np.ndarray:
        seen.add(len(array))
        return -array if len(array) == 4 else array

    machine.module.change = spoil_large
    assert cli("verify", bundle.path, "--backend", "tensorrt").code == 3
    assert seen == {2, 3, 4}  # the best size too


@pytest.mark.parametrize("version", ["10.3.0", "11.1.0"])
def test_bisecting_names_the_layer_of_the_engine_that_departs(
    cli: Cli, bundle: Bundle, machine: Machine, version: str
) -> None:
    """The engine's arithmetic is wrong at one layer, and everything after it with it."""
    machine.become(version)
    result = cli("verify", bundle.path, "--backend", "tensorrt", "--bisect", "--json")
    assert result.code == 0, (result.out[:3000], result.err)
    sound = result.document["bisect"]
    assert list(sound) == ["fp32@tensorrt", "int8@tensorrt"]
    for name, report in sound.items():
        assert report["first"] is None, name
        assert report["reference"] == f"model.{name.partition('@')[0]}.onnx on the CPU"
        assert len(report["layers"]) > 3
        assert all(layer["own_db"] is None or layer["own_db"] > 100 for layer in report["layers"])
    machine.module.edit = lambda content: spoiled(content, "relu")
    result = cli("verify", bundle.path, "--backend", "tensorrt", "--bisect", "--json")
    assert result.code == 3
    for report in result.document["bisect"].values():
        assert report["first"], report
        assert report["first"]["tensor"] == "relu"
        assert "dB on the same inputs, where this precision explains no less than" in report["first"]["reason"]
        departs = [layer["tensor"] for layer in report["layers"] if layer["departs"]]
        assert departs == ["relu"]  # those after it are right on what they were given
    text = cli("verify", bundle.path, "--backend", "tensorrt", "--bisect").out
    assert "fp32@tensorrt first departs from model.fp32.onnx on the CPU at Relu" in text


def spoiled(content: bytes, tensor: str) -> bytes:
    """Return a graph in which one tensor is something else."""
    model = onnx.load_from_string(content)
    (node,) = (node for node in model.graph.node if tensor in node.output)
    node.op_type = "Neg"
    return bytes(model.SerializeToString())


def test_evaluate(cli: Cli, bundle: Bundle, picture: Path) -> None:
    result = cli("evaluate", bundle.path, "--data", picture.parent, "--backend", "tensorrt")
    assert result.code == 0, result.err
    rows = {line.split()[0]: line.split()[-1] for line in result.out.splitlines() if len(line.split()) > 1}
    assert {name: rows.get(name) for name in ("fp32", "int8", "int8-cpu")} == {
        "fp32": "tensorrt",
        "int8": "tensorrt",
        "int8-cpu": None,
    }


@pytest.mark.parametrize("words", [("predict",), ("verify",), ("evaluate", "--data")])
def test_plugin_libraries_are_given_to_every_command_that_runs(
    cli: Cli, bundle: Bundle, machine: Machine, picture: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    library = tmp_path / "libmine.so"
    library.touch()
    build_into(bundle, BuildConfig(target="tensorrt", plugins=(library,)), variants=["int8"])
    command, *rest = words
    run = [command, bundle.path, *rest]
    if command != "verify":
        run.append(picture.parent if rest else picture)
    run += ["--backend", "tensorrt", *(["--variant", "int8"] if command != "verify" else [])]
    text = cli(*run).failed(1)
    assert "was built with the plugin library libmine.so" in text
    assert "--plugin PATH/libmine.so" in text
    text = cli(*run, "--plugin", tmp_path / "gone" / "libmine.so").failed(1)
    assert "no plugin library at" in text
    assert "'edgecnn plugin build' compiles edgecnn's own" in text
    machine.module.loaded.clear()
    assert cli(*run, "--plugin", library).code == 0
    assert str(library) in machine.module.loaded
    assert "--plugin is for engines: it needs --backend tensorrt" in cli(*run[:-2 if command == "verify" else -4],
                                                                     "--plugin", library).failed(2)  # fmt: skip


def test_a_stripped_engine_gets_its_weights_from_the_bundle(cli: Cli, bundle: Bundle, picture: Path) -> None:
    assert cli("build", bundle.path, "--target", "tensorrt", "--strip-weights", "--variant", "fp32").code == 0
    facts = Bundle.open(bundle.path).manifest.engines["fp32.tensorrt"].facts
    assert facts.options["strip_weights"] is True
    result = cli("verify", bundle.path, "--backend", "tensorrt")
    assert result.code == 0, result.out + result.err
    assert cli("predict", bundle.path, picture, "--backend", "tensorrt", "--variant", "fp32").code == 0


def test_no_driver_is_one_line(cli: Cli, bundle: Bundle, machine: Machine, picture: Path) -> None:
    machine.cuda.fails = {"cudaGetDeviceCount": "cudaErrorInsufficientDriver"}
    text = cli("predict", bundle.path, picture, "--backend", "tensorrt").failed(1)
    assert "there is no NVIDIA GPU with a working driver here (cudaErrorInsufficientDriver)" in text


@pytest.mark.parametrize("command", ["predict", "verify", "evaluate"])
@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("tensorrt", "this needs tensorrt, which is not installed: pip install tensorrt"),
        ("cuda.bindings.runtime", "pip install 'edgecnn[cuda]'"),
    ],
)
def test_without_the_packages_it_is_one_line(
    cli: Cli, bundle: Bundle, machine: Machine, picture: Path, command: str, package: str, said: str
) -> None:
    machine.patch.setitem(sys.modules, package, None)
    rest = {"predict": [picture], "verify": [], "evaluate": ["--data", picture.parent]}[command]
    assert said in cli(command, bundle.path, *rest, "--backend", "tensorrt").failed(1)


def test_a_gpu_without_memory_is_one_line(cli: Cli, bundle: Bundle, machine: Machine, picture: Path) -> None:
    machine.cuda.memory = 100
    text = cli("predict", bundle.path, picture, "--backend", "tensorrt").failed(1)
    assert "out of memory: CUDA cannot get 0.0 MB of device memory: run smaller batches or fewer contexts" in text
    assert machine.cuda.held == 0


def test_a_plan_that_was_changed_is_one_line(cli: Cli, bundle: Bundle, picture: Path) -> None:
    plan = bundle.path / "engine.int8.tensorrt.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    for command, *rest in (("predict", picture), ("verify",), ("build", "--target", "tensorrt")):
        text = cli(command, bundle.path, *rest).failed(1)
        assert "engine.int8.tensorrt.plan was changed after it was written (its sha256 differs)" in text


def test_a_batch_outside_of_the_profile_is_refused_with_the_command_that_widens_it(bundle: Bundle) -> None:
    with load(bundle.path, "int8", "tensorrt") as session, pytest.raises(UserError) as caught:
        session.run({"input": np.repeat(X, 3, axis=0)})
    assert "outside of what engine.int8.tensorrt.plan was built for: least [2, 3, 32, 32]" in str(caught.value)
    assert "edgecnn build BUNDLE --target tensorrt --variant int8 --batch LEAST:BEST:MOST" in str(caught.value)
