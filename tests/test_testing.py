"""assert_parity and tiny_model, as the tests of an application use them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "parity"))

from parity_bundles import doubled, write_bundle
from parity_nets import PREPROCESS, images, network, pictures, put_inside, write_embedded, write_fp32, write_int8

from edgecnn.calib import InMemory
from edgecnn.errors import UserError
from edgecnn.export import export
from edgecnn.onnxio import open_model
from edgecnn.parity.samples import from_pixels
from edgecnn.parity.tolerance import GrossErrorTolerance, LogitTolerance, Tolerances
from edgecnn.runtime import Bundle, OrtSession
from edgecnn.runtime.preprocess import normalize
from edgecnn.spec import ModelSpec, TensorSpec
from edgecnn.testing import assert_parity, tiny_model

ARRAY = np.concatenate([normalize(picture, PREPROCESS) for picture in pictures(6)])


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fp32(tmp_path_factory.mktemp("testing") / "fp32.onnx")


@pytest.fixture(scope="module")
def wrong(fp32: Path) -> Path:
    return write_fp32(fp32.with_name("wrong.onnx"), doubled("dw.weight"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


def test_a_module_and_its_onnx_file_agree(fp32: Path) -> None:
    net = network()
    report = assert_parity(net, fp32)
    assert [stage.name for stage in report.stages] == ["pytorch", "fp32"]
    assert [used.kind for used in report.samples] == ["noise", "edge"]
    assert net.training, "the module is left as it was"


@pytest.mark.parametrize("form", ["path", "text", "artefact", "session"])
def test_every_form_of_an_onnx_file_is_taken(fp32: Path, form: str) -> None:
    forms: dict[str, Any] = {"path": fp32, "text": str(fp32), "artefact": open_model(fp32), "session": OrtSession(fp32)}
    report = assert_parity(fp32, forms[form], samples=ARRAY)
    assert [stage.name for stage in report.stages] == [
        "fp32",
        "candidate session" if form == "session" else "candidate fp32",
    ]


@pytest.mark.parametrize("opened", [False, True])
def test_of_a_bundle_every_variant_must_agree(bundle: Bundle, opened: bool) -> None:
    report = assert_parity(network(), bundle if opened else bundle.path)
    assert [stage.name for stage in report.stages] == ["pytorch", "fp32", "fp16", "int8"]
    assert {stage.after for stage in report.stages[1:]} == {"pytorch"}
    assert [used.name for used in report.samples] == ["golden images", "noise", "edge inputs"]


def test_of_a_reference_bundle_fp32_is_the_reference(bundle: Bundle, fp32: Path) -> None:
    assert [stage.name for stage in assert_parity(bundle, fp32).stages] == ["fp32", "candidate fp32"]


def test_graphs_with_preprocessing_and_softmax_inside(fp32: Path, tmp_path: Path) -> None:
    assert assert_parity(network(), write_bundle(tmp_path, embedded=True))
    inside = put_inside(tmp_path / "inside.onnx", fp32, softmax=True)
    assert assert_parity(network(), inside, samples=from_pixels(pictures(4), PREPROCESS))
    with pytest.raises(AssertionError, match="was not compared: the graph takes pixels, and no sample has any"):
        assert_parity(network(), inside, samples=ARRAY)


def test_the_failure_names_the_stage_and_the_tolerance_that_would_have_passed(fp32: Path, wrong: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_parity(network(), wrong, samples=ARRAY)
    text = str(caught.value)
    assert text.startswith("NOT verified: wrong (fp32) is the first stage that departs from pytorch")
    assert "is below 90.0 dB (would pass: min_sqnr_db=" in text
    passing = float(text.partition("would pass: min_sqnr_db=")[2].partition(",")[0].partition(")")[0])
    tolerance = LogitTolerance(min_sqnr_db=passing, min_agreement=0)
    assert assert_parity(network(), wrong, samples=ARRAY, tolerance=tolerance, batch=1)


def test_the_failure_names_the_variant(tmp_path: Path) -> None:
    bad = write_bundle(tmp_path, {"int8": doubled("fc.weight")}, precisions=("fp32", "int8"))
    with pytest.raises(
        AssertionError, match=r"NOT verified: int8 \(int8\) is the first stage that departs from pytorch"
    ):
        assert_parity(network(), bad, samples=images(6))


@pytest.mark.parametrize(
    "samples",
    [
        ARRAY,
        {"input": ARRAY},
        [{"input": ARRAY[:2]}, {"input": ARRAY[2:]}],
        [ARRAY[:4], ARRAY[4:]],
        images(6),
        [images(6)],
        InMemory(list(ARRAY[:, None])),
    ],
    ids=["array", "mapping", "mappings", "arrays", "set", "sets", "calibration source"],
)
def test_samples_in_every_form(fp32: Path, wrong: Path, samples: Any) -> None:
    report = assert_parity(network(), fp32, samples=samples)
    assert [used.count for used in report.samples] == [6]
    assert report.samples[0].kind == "images"
    with pytest.raises(AssertionError, match="NOT verified: wrong"):
        assert_parity(network(), wrong, samples=samples)


def test_the_tolerance_is_that_of_the_candidate_or_the_one_that_is_given(fp32: Path, tmp_path: Path) -> None:
    int8 = write_int8(tmp_path / "int8.onnx", fp32)
    report = assert_parity(fp32, int8, samples=ARRAY)
    assert report.stage("int8").precision == "int8"
    with pytest.raises(AssertionError, match=r"is below 90\.0 dB"):
        assert_parity(fp32, int8, samples=ARRAY, tolerance="fp32")
    strict = LogitTolerance(min_sqnr_db=50)
    with pytest.raises(AssertionError, match=r"is below 50\.0 dB"):
        assert_parity(fp32, int8, samples=ARRAY, tolerance=strict)
    loose = GrossErrorTolerance(min_headroom_db=0)
    policies = Tolerances(images=loose, noise=strict, edge=strict, same=loose)
    assert assert_parity(fp32, int8, samples=ARRAY, tolerance=policies)
    with pytest.raises(UserError, match="no tolerances for precision 'int3'"):
        assert_parity(fp32, int8, samples=ARRAY, tolerance="int3")


def test_what_is_no_network_and_what_are_no_samples(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"int is no network: pass an nn\.Module"):
        assert_parity(fp32, 3)
    with pytest.raises(UserError, match="no ONNX file at"):
        assert_parity(fp32, tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="int holds no samples"):
        assert_parity(fp32, fp32, samples=3)
    with pytest.raises(UserError, match="read more than once"):
        assert_parity(fp32, fp32, samples=iter([{"input": ARRAY}]))
    with pytest.raises(UserError, match="the sample set 'given samples' is empty"):
        assert_parity(fp32, fp32, samples=[])


def test_an_embedded_graph_needs_no_bundle_to_be_the_reference(tmp_path: Path) -> None:
    pixels = write_embedded(tmp_path / "embedded.onnx")
    assert assert_parity(pixels, pixels, samples=images(3))


def test_the_tiny_model_is_small_real_and_always_the_same(tmp_path: Path) -> None:
    one, two, other = tiny_model(), tiny_model(), tiny_model(seed=1)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(one(x), two(x), rtol=0, atol=0)
        assert (one(x) - other(x)).abs().max() > 0.1
        assert tiny_model(num_classes=3, size=16)(x[:, :, :16, :16]).shape == (2, 3)
    assert not one.training
    spec = ModelSpec(
        name="tiny",
        builder="edgecnn.testing:tiny_model",
        num_classes=10,
        inputs=(TensorSpec(name="input", shape=("batch", 3, 32, 32)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    )
    made = export(one, spec, to=tmp_path / "tiny.onnx")
    assert assert_parity(one, made)
    with pytest.raises(AssertionError, match="NOT verified: tiny"):
        assert_parity(other, made)
