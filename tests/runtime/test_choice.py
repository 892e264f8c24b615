"""Which variant runs, on which backend: decided by what was measured, among what is installed and was verified."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_model, write_tiny

from edgecnn.errors import BundleUnverifiedError, UserError
from edgecnn.pack import VariantContents
from edgecnn.runtime import (
    AutoOptions,
    Bundle,
    Choice,
    Classifier,
    OpenVinoOptions,
    OrtOptions,
    Speed,
    choice,
    load,
    selftest,
)
from edgecnn.runtime.manifest import BackendSpeed

Ratios = dict[
    str, tuple[float | None, float | None]
]  # variant -> time on onnxruntime, on openvino; in fp32's on onnxruntime
X = np.ones((1, 3, 32, 32), np.float32)


def bundle(folder: Path, ratios: Ratios, *, failed: tuple[str, ...] = (), machine: str = platform.machine()) -> Bundle:
    """Write a bundle with these speeds; ``failed`` did not verify on OpenVINO."""
    packed = []
    for name, (own, other) in ratios.items():
        speed = None
        if own is not None:
            others = (
                {"openvino": BackendSpeed(milliseconds=1, ratio=other, verified=name not in failed)} if other else {}
            )
            speed = Speed(milliseconds=10 * own, ratio=own, machine=machine, backends=others)
        packed.append(VariantContents(model=write_model(folder, name), verified=True, speed=speed))
    return write_tiny(folder, variants=packed)


MEASURED: Ratios = {"fp32": (1.0, 0.9), "int8": (1.4, 0.3), "int8-cpu": (0.5, 0.4)}


@pytest.mark.parametrize(
    ("ratios", "variant", "backend", "expected"),
    [
        (MEASURED, None, None, "int8 on openvino"),
        (MEASURED, None, "auto", "int8 on openvino"),
        (MEASURED, None, "onnxruntime", "int8-cpu on onnxruntime"),
        (MEASURED, None, "openvino", "int8 on openvino"),
        (MEASURED, "int8", None, "int8 on openvino"),
        (MEASURED, "int8", "onnxruntime", "int8 on onnxruntime"),
        (MEASURED, "fp32", None, "fp32 on openvino"),
        # An INT8 graph that is no faster than fp32 on its backend is no default.
        ({"fp32": (1.0, 0.5), "int8": (1.4, 0.6)}, None, None, "fp32 on openvino"),
        ({"fp32": (1.0, 1.2), "int8": (1.4, 1.3), "int8-cpu": (1.1, 1.3)}, None, None, "fp32 on onnxruntime"),
        ({"fp32": (1.0, 1.2), "int8": (1.4, 1.3)}, None, "openvino", "fp32 on openvino"),
        # Whatever was measured to be the fastest on onnxruntime is taken there too.
        ({"fp32": (1.0, None), "int8": (0.4, None)}, None, None, "int8 on onnxruntime"),
        ({"fp32": (1.0, 1.2), "int8": (0.4, 0.5), "int8-cpu": (0.6, 0.7)}, None, None, "int8 on onnxruntime"),
        ({"fp32": (1.0, None), "fp16": (0.97, None)}, None, None, "fp32 on onnxruntime"),
        ({"fp32": (1.0, None), "int8": (0.48, None), "int8-cpu": (0.5, None)}, None, None, "int8-cpu on onnxruntime"),
        # Within 5 % the preferred one stays.
        ({"fp32": (1.0, 0.97)}, None, None, "fp32 on onnxruntime"),
        ({"fp32": (1.0, 0.9), "int8-cpu": (0.31, 0.3)}, None, None, "int8-cpu on onnxruntime"),
        ({"fp32": (1.0, 0.5), "int8": (1.4, 0.49)}, None, None, "fp32 on openvino"),
        # Nothing measured: onnxruntime and its default; OpenVINO, asked for, takes no chances.
        ({"fp32": (None, None), "int8": (None, None), "int8-cpu": (None, None)}, None, None, "int8-cpu on onnxruntime"),
        ({"fp32": (1.0, None), "int8": (1.4, None)}, None, None, "fp32 on onnxruntime"),
        ({"fp32": (1.0, None), "int8": (1.4, None)}, None, "openvino", "fp32 on openvino"),
        ({"int8": (None, None)}, None, "openvino", "int8 on openvino"),
        ({"int8": (None, None)}, "int8", None, "int8 on onnxruntime"),
    ],
)
def test_choice(tmp_path: Path, ratios: Ratios, variant: str | None, backend: str | None, expected: str) -> None:
    found = bundle(tmp_path, ratios)
    assert str(found.choose(variant, backend)) == expected
    with found.session(variant, backend) as session:
        assert session.backend == expected.split()[-1]


def test_what_failed_there_is_not_chosen_and_not_run_by_accident(tmp_path: Path) -> None:
    found = bundle(tmp_path, MEASURED, failed=("int8",))
    assert str(found.choose()) == "int8-cpu on openvino"
    assert str(found.choose("int8")) == "int8 on onnxruntime"
    with pytest.raises(BundleUnverifiedError, match="variant int8 failed verification on openvino"):
        found.session("int8", "openvino")
    found.session("int8", "openvino", allow_unverified=True).close()
    found.session("int8", "onnxruntime").close()


def test_measurements_of_another_architecture_decide_nothing(tmp_path: Path) -> None:
    found = bundle(tmp_path, MEASURED, machine="riscv64")
    assert str(found.choose()) == "int8-cpu on onnxruntime"
    assert str(found.choose(backend="openvino")) == "fp32 on openvino"


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        (("openvino",), "int8-cpu on onnxruntime"),
        (("onnxruntime",), "int8 on openvino"),
        (("onnxruntime", "openvino"), "int8-cpu on onnxruntime"),
    ],
)
def test_only_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(choice, "available", lambda name: name not in absent)
    assert str(bundle(tmp_path, MEASURED).choose()) == expected


def test_options_of_a_backend_choose_it(tmp_path: Path) -> None:
    found = bundle(tmp_path, MEASURED)
    assert found.choose(options=OrtOptions()) == Choice("int8-cpu", "onnxruntime")
    assert found.choose(options=OpenVinoOptions()) == Choice("int8", "openvino")
    assert found.choose(options=AutoOptions(threads=1)) == Choice("int8", "openvino")
    gpu = OrtOptions(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert found.choose(options=gpu) == Choice("fp32", "onnxruntime")
    with found.session(options=AutoOptions(threads=1)) as session:
        assert session.options == OpenVinoOptions(threads=1)  # type: ignore[attr-defined]
    with found.session(backend="onnxruntime", options=AutoOptions(threads=1)) as session:
        assert session.options == OrtOptions(threads=1)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="backend 'openvino' was given OrtOptions, which are onnxruntime's options"):
        found.session(backend="openvino", options=OrtOptions())
    with pytest.raises(UserError, match="threads must be a whole number"):
        AutoOptions(threads=-1)


def test_unknown_names(tmp_path: Path) -> None:
    found = bundle(tmp_path, MEASURED)
    with pytest.raises(
        UserError, match="backend 'tflite' is not one of onnxruntime, openvino, tensorrt, tensorrt-rtx, auto"
    ):
        found.choose(backend="tflite")
    with pytest.raises(UserError, match="has no variant 'int4'"):
        found.choose("int4")


def test_classifier_load_and_selftest_follow(tmp_path: Path) -> None:
    found = bundle(tmp_path, MEASURED)
    with Classifier(found) as classify:
        assert (classify.variant, classify.session.backend) == ("int8", "openvino")
    with load(found.path, "fp32", "openvino") as one, load(found.path, "fp32", "onnxruntime") as other:
        np.testing.assert_allclose(
            one.run({"input": X})["logits"], other.run({"input": X})["logits"], rtol=0, atol=1e-4
        )
    done = selftest(found)
    assert done, done
    assert (done.variant, done.backend) == ("int8", "openvino")


def test_warnings_name_the_backend(tmp_path: Path) -> None:
    slow = [
        line for line in bundle(tmp_path, {"fp32": (1.0, 0.5), "int8": (1.4, 0.6)}).warnings() if "not faster" in line
    ]
    assert [line[:50] for line in slow] == [
        "variant int8 took 1.40x fp32's time on onnxruntime",
        "variant int8 took 1.20x fp32's time on openvino wh",
    ]
