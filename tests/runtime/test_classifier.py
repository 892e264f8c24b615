"""From pictures to names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import CLASSES, LABELS, PREPROCESS, SPEC, photos, write_model, write_tiny

from edgecnn.errors import BackendError, BundleUnverifiedError, DataError, UserError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, Classifier, FakeSession, OrtOptions, OrtSession, Prediction, softmax
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.manifest import Embedded
from edgecnn.runtime.preprocess import fit, preprocess
from edgecnn.spec import TensorSpec


def fake(logits: Any, batch: int | str = "batch") -> FakeSession:
    """Return a session that gives the same logits for every picture."""
    row = np.asarray(logits, np.float32)

    def respond(feed: Any) -> dict[str, np.ndarray]:
        return {"logits": np.repeat(row[None], len(feed["input"]), axis=0)}

    return FakeSession(
        [TensorSpec(name="input", shape=(batch, 3, 32, 32))],
        [TensorSpec(name="logits", shape=(batch, CLASSES))],
        respond,
    )


def test_one_picture(tiny: Path, tmp_path: Path) -> None:
    image = photos()[0]
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    with Classifier(tiny) as classify:
        assert classify.variant == "int8-cpu"
        best = classify(path)
        assert len(best) == 5
        assert isinstance(best[0], Prediction)
        assert sum(p.probability for p in best) == pytest.approx(1)
        assert [p.probability for p in best] == sorted((p.probability for p in best), reverse=True)
        assert sorted(p.label for p in best) == sorted(LABELS)
        assert all(LABELS[p.index] == p.label for p in best)
        assert classify(image) == best == classify.predict(image)
        assert classify(image, top=2) == best[:2]
        assert classify(image, top=100) == best
    with OrtSession(tiny / "model.fp32.onnx") as session:
        logits = session.run({"input": preprocess(path, PREPROCESS)})["logits"][0]
    assert best[0].index == logits.argmax()
    assert best[0].probability == pytest.approx(float(softmax(logits).max()), rel=1e-5)


def test_many_pictures(tiny: Path) -> None:
    images = photos(5)
    with Classifier(tiny, "fp32", options=OrtOptions(threads=1), batch_size=2) as classify:
        singles = [classify(image, top=3) for image in images]
        for many in (images, tuple(images), np.stack(images)):
            found = classify(many, top=3)
            assert [[p.index for p in row] for row in found] == [[p.index for p in row] for row in singles]
            for row, single in zip(found, singles, strict=True):
                assert [p.probability for p in row] == pytest.approx([p.probability for p in single], rel=1e-4)
        assert classify([]) == []
        assert len(classify([images[0]])) == 1


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "5"])
def test_wrong_top(tiny: Path, top: Any) -> None:
    with Classifier(tiny, session=fake([0] * CLASSES)) as classify, pytest.raises(UserError, match="top must be"):
        classify(photos()[0], top=top)


def test_softmax_does_not_overflow(tiny: Path) -> None:
    np.testing.assert_allclose(softmax(np.array([1e30, 0.0], np.float32)), [1, 0])
    np.testing.assert_allclose(softmax(np.array([-1e30, -1e30])), [0.5, 0.5])
    with Classifier(tiny, session=fake([1e4, 1e4 - 1, -1e4, 0, 0])) as classify:
        best = classify(photos()[0])
    assert [p.index for p in best[:2]] == [0, 1]
    assert best[0].probability == pytest.approx(1 / (1 + np.exp(-1)))


def test_ties_keep_the_order_of_the_classes(tiny: Path) -> None:
    with Classifier(tiny, session=fake([1, 3, 3, 1, 3])) as classify:
        assert [p.index for p in classify(photos()[0])] == [1, 2, 4, 0, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error(tiny: Path, bad: float) -> None:
    with Classifier(tiny, session=fake([0, bad, 0, 0, 0])) as classify, pytest.raises(BackendError, match="NaN"):
        classify(photos()[0])


def test_prediction_as_text() -> None:
    assert str(Prediction(285, "Egyptian cat", 0.8249)) == "Egyptian cat 0.82"


def test_without_labels(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, labels=())
    assert bundle.labels == ()
    with Classifier(bundle, session=fake([0, 9, 0, 0, 0])) as classify:
        assert classify(photos()[0])[0].label == "1"


def test_embedded_preprocess_and_softmax(tmp_path: Path) -> None:
    plain = write_tiny(tmp_path, name="plain")
    embedded = write_tiny(
        tmp_path,
        name="embedded",
        variants=[VariantContents(model=write_model(tmp_path, "fp32", uint8=True, softmax=True), verified=True)],
        embedded=Embedded(preprocess=True, softmax=True),
    )
    with Classifier(plain, "fp32") as one, Classifier(embedded) as other:
        assert other.session.inputs[0].dtype == "uint8"
        for image in photos():
            expected, found = one(image), other(image)
            assert [p.index for p in found] == [p.index for p in expected]
            assert [p.probability for p in found] == pytest.approx(
                [p.probability for p in expected], rel=1e-3, abs=1e-6
            )


def test_static_batch_is_filled_up(tmp_path: Path) -> None:
    static = write_tiny(
        tmp_path, variants=[VariantContents(model=write_model(tmp_path, "fp32", batch=4), verified=True)]
    )
    images = photos(6)
    with Classifier(static) as classify, Classifier(write_tiny(tmp_path, name="b"), "fp32") as dynamic:
        found, expected = classify(images), dynamic(images)
        assert [[p.index for p in row] for row in found] == [[p.index for p in row] for row in expected]
        assert classify(images[0]) == found[0]


def test_a_session_of_your_own_sees_what_the_bundle_prescribes(tiny: Path) -> None:
    session = fake([0, 0, 1, 0, 0])
    with Classifier(tiny, session=session) as classify:
        assert classify(photos()[0])[0].label == "Egyptian cat"
    assert len(session.calls) == 1
    np.testing.assert_array_equal(session.calls[0]["input"], preprocess(photos()[0], PREPROCESS))
    with pytest.raises(UserError, match="closed"):
        classify(photos()[0])


def test_errors_of_the_bundle_and_the_picture(tmp_path: Path) -> None:
    write_tiny(tmp_path, verified=False)
    with pytest.raises(BundleUnverifiedError):
        Classifier(tmp_path / "bundle")
    with Classifier(tmp_path / "bundle", allow_unverified=True) as classify:
        with pytest.raises(DataError, match="no such file"):
            classify("nowhere.jpg")
        with pytest.raises(DataError, match="not an image"):
            classify(io.BytesIO(b"no"))
    with pytest.raises(UserError, match="batch_size"):
        Classifier(tmp_path / "bundle", allow_unverified=True, batch_size=0)


def test_output_that_is_no_classification() -> None:
    session = FakeSession(
        [TensorSpec(name="input", shape=("batch", 3, 32, 32))],
        [TensorSpec(name="map", shape=("batch", 4, 8, 8))],
        {"map": np.zeros((1, 4, 8, 8), np.float32)},
    )
    with pytest.raises(BackendError, match=r"output 'map' must be \(batch, classes\), found \[1, 4, 8, 8\]"):
        run_pixels(session, fit(photos()[0], PREPROCESS)[None], PREPROCESS)


def test_opened_bundle_is_not_read_again(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    with Classifier(bundle, session=fake([0] * 5)) as classify:
        assert classify.bundle is bundle
        assert classify.bundle.spec == SPEC
