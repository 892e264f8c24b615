"""Classifying in C++: what is chosen, what a session of one's own gets, and a photo through OpenVINO from an INT8 bundle."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_tools import QUIET, CppError, Probe
from PIL import Image
from tiny_bundle import CLASSES, LABELS, edit_manifest, graph_bytes, photos, rehash, write_model, write_tiny

from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, Classifier, selftest, softmax
from edgecnn.runtime.choice import choose
from edgecnn.runtime.manifest import BackendSpeed, Embedded, Speed, Weights
from edgecnn.runtime.preprocess import decode

CAT = Path(__file__).parents[1] / "data" / "cat.jpg"
LOGITS = [1.0, 3.0, -2.0, 3.0, 0.5]


def app(example: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the example."""
    done = subprocess.run(
        [example, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | QUIET,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="session")
def openvino(probe: Probe) -> None:
    """Skip where OpenVINO is not compiled in."""
    if "openvino" not in probe("version")["backends"]:
        pytest.skip("openvino's wheel is not installed")


def test_ties_softmax_and_labels(probe: Probe, tiny: Path) -> None:
    (row,) = probe("fake", bundle=tiny, logits=LOGITS, top=3)["rows"]
    probabilities = softmax(np.array([LOGITS], np.float32))[0]
    assert [(index, label) for index, label, _ in row] == [(index, LABELS[index]) for index in (1, 3, 0)]
    np.testing.assert_allclose([value for *_, value in row], probabilities[[1, 3, 0]], rtol=1e-14)
    assert len(probe("fake", bundle=tiny, logits=LOGITS, top=99)["rows"][0]) == CLASSES
    (row,) = probe("fake", bundle=tiny, logits=[1e4, -1e4, 0, 0, 0])["rows"]
    assert [value for *_, value in row] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_classes_without_names_and_graphs_with_softmax(probe: Probe, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, labels=(), embedded=Embedded(softmax=True), golden={})
    (row,) = probe("fake", bundle=bundle.path, logits=[0.125, 0.5, 0.125, 0.125, 0.125], top=2)["rows"]
    assert row == [[1, "1", 0.5], [0, "0", 0.125]]


@pytest.mark.parametrize(
    ("question", "runs"),
    [
        ({"images": 5}, [5]),
        ({"images": 5, "batch": 2}, [2, 2, 2]),
        ({"images": 1, "batch": 4}, [4]),
        ({"images": 5, "least": 2, "most": 4}, [4, 2]),
        ({"images": 3, "least": 1, "most": 8}, [3]),
    ],
)
def test_batches_are_filled_up(probe: Probe, tiny: Path, question: dict[str, int], runs: list[int]) -> None:
    answer = probe("fake", bundle=tiny, logits=LOGITS, **question)
    assert answer["runs"] == runs
    assert len(answer["rows"]) == question["images"]


def test_what_a_classifier_refuses(probe: Probe, tiny: Path) -> None:
    for question, kind in (({"top": 0}, "UserError"), ({"logits": [float("1e39")] * 5}, "BackendError")):
        with pytest.raises(CppError) as refused:
            probe("fake", **({"bundle": tiny, "logits": LOGITS} | question))
        assert refused.value.kind == kind


RATIOS = [None, 0.3, 0.97, 1.2]


def test_the_same_variant_is_chosen(probe: Probe, tmp_path: Path) -> None:
    """Over measurements, verification and other machines: what Python's choose() says for OpenVINO."""
    for name in ("fp32", "int8", "int8-cpu"):
        write_model(tmp_path, name)
    bundle = write_tiny(
        tmp_path,
        variants=[
            VariantContents(model=write_model(tmp_path, name), verified=True) for name in ("int8", "int8-cpu", "fp32")
        ],
    ).path
    cases = list(itertools.product(RATIOS, RATIOS, [True, False], [True, False], ["", os.uname().machine, "other"]))
    seen = set()
    for int8, cpu, verified, passed, machine in cases:
        speeds = {"fp32": 1.0, "int8": int8, "int8-cpu": cpu}

        def change(data: dict[str, Any]) -> None:
            for name, ratio in speeds.items():  # noqa: B023 -- called at once
                speed = Speed(
                    milliseconds=1.0,
                    ratio=2.0,
                    machine=machine,  # noqa: B023
                    backends={} if ratio is None else {
                        "openvino": BackendSpeed(milliseconds=1.0, ratio=ratio, verified=passed)  # noqa: B023
                    },
                )  # fmt: skip
                data["variants"][name]["speed"] = speed.to_json()
            data["variants"]["int8"]["verified"] = verified  # noqa: B023

        edit_manifest(bundle, change)
        wanted = choose(Bundle.open(bundle, check="sizes").variants, backend="openvino").variant
        assert probe("choose", bundle=bundle, backend="openvino") == [wanted, "openvino"]
        seen.add(wanted)
    assert seen == {"fp32", "int8", "int8-cpu"}
    assert probe("choose", bundle=bundle, backend="openvino", variant="int8") == ["int8", "openvino"]
    with pytest.raises(CppError, match="no variant 'int4'; it has int8, int8-cpu, fp32"):
        probe("choose", bundle=bundle, backend="openvino", variant="int4")


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("options", [{}, {"batch": 1}, {"uint8": True}, {"softmax": True}, {"batch": 3}])
def test_openvino_gives_what_python_gives(probe: Probe, tmp_path: Path, options: dict[str, Any]) -> None:
    embedded = Embedded(preprocess=options.get("uint8", False), softmax=options.get("softmax", False))
    model = write_model(tmp_path, **options)
    bundle = write_tiny(tmp_path, variants=[VariantContents(model=model, verified=True)], embedded=embedded, golden={})
    image = photos()[0]
    (tmp_path / "image").write_bytes(image.tobytes())
    sizes = {"height": image.shape[0], "width": image.shape[1]}
    answer = probe("classify", bundle=bundle.path, image=tmp_path / "image", parallel=4, **sizes)
    assert (answer["variant"], answer["backend"]) == ("fp32", "openvino")
    with Classifier(bundle, backend="openvino") as classify:
        wanted = classify.probabilities([image])
    np.testing.assert_allclose(answer["rows"], wanted.repeat(4, axis=0), atol=1e-6)


@pytest.mark.usefixtures("openvino")
def test_what_loading_refuses(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    def refused(**question: Any) -> CppError:
        with pytest.raises(CppError) as caught:
            probe(
                "selftest" if question.pop("test", False) else "classify",
                bundle=bundle,
                image="",
                width=0,
                height=0,
                **question,
            )
        return caught.value

    assert refused(backend="tensorrt").kind == "UserError"
    assert "is not compiled in; there is openvino" in str(refused(backend="onnxruntime"))
    assert "threads must be at least 0" in str(refused(threads=-1))
    (bundle / "model.fp32.onnx").write_bytes(graph_bytes(uint8=True))
    rehash(bundle, "model.fp32.onnx")
    assert "other inputs than the manifest says" in str(refused(variant="fp32"))
    assert refused(variant="fp32").kind == "BundleCorruptError"
    (bundle / "model.fp32.onnx").write_bytes(b"no graph")
    rehash(bundle, "model.fp32.onnx")
    assert refused(variant="fp32").kind == "BackendError"
    assert "\n" not in str(refused(variant="fp32"))
    edit_manifest(bundle, lambda data: data["variants"]["int8-cpu"].update(verified=False))
    assert refused(variant="int8-cpu").kind == "BundleUnverifiedError"
    with np.load(bundle / "golden.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "logits.int8-cpu"}
    np.savez_compressed(bundle / "golden.npz", **kept)
    rehash(bundle, "golden.npz")
    assert "has no logits.int8-cpu" in str(refused(test=True, variant="int8-cpu"))


def test_the_app_proves_a_bundle(example: Path, bundle: Path) -> None:
    """The same figures as Python's self-test; exit code 3 where the device computes something else."""
    document = json.loads(app(example, bundle, "--selftest", "--json").stdout)
    test = selftest(bundle, "fp32", "openvino")
    assert document["passed"]
    assert document["tensor_error"] == test.tensor_error == 0
    assert document["tensor_tolerance"] == pytest.approx(test.tensor_tolerance)
    assert document["logit_tolerance"] == test.logit_tolerance
    assert document["logit_error"] == pytest.approx(test.logit_error, abs=1e-6)
    assert (document["top1"], document["images"]) == (test.top1, test.images) == (3, 3)
    (bundle / "model.fp32.onnx").write_bytes(graph_bytes(scale=1.01))
    rehash(bundle, "model.fp32.onnx")
    assert "FAILED" in app(example, bundle, "--selftest", "--variant", "fp32", code=3).stdout
    assert not selftest(bundle, "fp32", "openvino")


def test_the_app_says_what_is_wrong(example: Path, tiny: Path, tmp_path: Path) -> None:
    for arguments in (
        (),
        (tiny,),
        (tiny, CAT, "--selftest"),
        (tiny, CAT, "--top", "0"),
        (tiny, CAT, "--fast"),
        (tiny, CAT, "--top"),
    ):
        assert app(example, *arguments, code=2).stderr.startswith("error: ")
    assert app(example, "--help").stdout.startswith("usage: classify BUNDLE")
    document = json.loads(app(example, tmp_path / "none", CAT, "--json", code=1).stdout)
    assert document["error"]["type"] == "BundleMissingError"
    bundle = write_tiny(tmp_path, verified=False, weights=Weights(entry="random", untrained=True)).path
    assert "allow_unverified" in app(example, bundle, CAT, code=1).stderr
    alarms = app(example, bundle, CAT, "--allow-unverified").stderr.splitlines()
    assert [line.split(":")[1] for line in alarms] == [" UNTRAINED", " UNVERIFIED"]


def test_one_bad_image_does_not_stop_the_others(example: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(CAT.read_bytes()[:5000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture at all")
    bad = [tmp_path / name for name in ("cut.jpg", "empty.png", "text.png", "gone.jpg")]
    document = json.loads(app(example, tiny, *bad, CAT, "--json", "--top", "2", code=1).stdout)
    assert [one["image"] for one in document["failed"]] == [str(path) for path in bad]
    assert len(document["results"]) == 1
    assert len(document["results"][0]["predictions"]) == 2


def variations(folder: Path) -> list[Path]:
    """Write a picture in what cameras and programs make of it."""
    image = Image.open(CAT).convert("RGB").resize((75, 50))
    paths = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths.append(folder / f"turned{orientation}.jpg")
        image.save(paths[-1], exif=exif, quality=95)
    alpha = image.convert("RGBA")
    alpha.putalpha(100)
    for name, picture in {
        "rgb": image, "alpha": alpha, "gray": image.convert("L"), "gray-alpha": alpha.convert("LA"), "palette": image.convert("P"),
        "bits": image.convert("1"), "deep": Image.fromarray(np.arange(50 * 75, dtype=np.uint16).reshape(50, 75) * 17),
    }.items():  # fmt: skip
        paths.append(folder / f"{name}.png")
        picture.save(paths[-1])
    paths += [folder / "gray.jpg", folder / "progressive.jpg"]
    image.convert("L").save(paths[-2])
    image.save(paths[-1], progressive=True, subsampling="4:2:0")
    return paths


def test_pictures_are_decoded_as_python_decodes_them(example: Path, tiny: Path, tmp_path: Path) -> None:
    """To the probabilities of a network that is quick to notice a difference."""
    paths = variations(tmp_path)
    document = json.loads(app(example, tiny, *paths, "--json", "--variant", "fp32").stdout)
    with Classifier(tiny, "fp32", "openvino") as classify:
        for path, result in zip(paths, document["results"], strict=True):
            wanted = classify(path)
            assert [one["index"] for one in result["predictions"]] == [one.index for one in wanted], path
            found = [one["probability"] for one in result["predictions"]]
            np.testing.assert_allclose(found, [one.probability for one in wanted], atol=2e-6, err_msg=str(path))
    assert decode(paths[5]).shape == (75, 50, 3)


@pytest.mark.parametrize("variant", ["int8", "int8-cpu", "fp32", None])
def test_a_photo_through_int8(example: Path, main_job: tuple[Path, Any], variant: str | None) -> None:
    """EfficientNet-Lite0 on trained weights: the classes and probabilities that Python gives, and a self-test that passes."""
    bundle = main_job[0]
    chosen = ("--variant", variant) if variant else ()
    document = json.loads(app(example, bundle, CAT, "--json", *chosen).stdout)
    with Classifier(bundle, variant, "openvino") as classify:
        wanted = classify(CAT)
        assert (document["variant"], document["backend"]) == (classify.variant, "openvino")
    (result,) = document["results"]
    assert "cat" in result["predictions"][0]["label"]
    assert [one["label"] for one in result["predictions"]] == [one.label for one in wanted]
    found = [one["probability"] for one in result["predictions"]]
    np.testing.assert_allclose(found, [one.probability for one in wanted], atol=1e-5)
    test = json.loads(app(example, bundle, "--selftest", "--json", *chosen).stdout)
    assert test["passed"]
    assert test["tensor_error"] == 0
    assert test["logit_error"] == pytest.approx(selftest(bundle, variant, "openvino").logit_error, abs=1e-5)
