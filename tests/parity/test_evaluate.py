"""Accuracy on labelled pictures, against what the same graphs say one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from parity_bundles import LABELS, doubled, save_pictures, write_bundle
from parity_nets import PREPROCESS, pictures

from edgecnn.errors import BackendError, BundleUnverifiedError, DataError, UserError
from edgecnn.parity.evaluate import SHARD, evaluate
from edgecnn.parity.labelled import LabelledImages
from edgecnn.parity.metrics import compare
from edgecnn.runtime import Bundle
from edgecnn.runtime.preprocess import fit, normalize

COUNT = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def tensors() -> np.ndarray:
    return np.concatenate([normalize(fit(picture, PREPROCESS), PREPROCESS) for picture in pictures(COUNT)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, tensors: np.ndarray) -> Path:
    """Pictures labelled as fp32 sees them; of each four, one with its second guess and one with its last."""
    folder = tmp_path_factory.mktemp("data")
    with bundle.session("fp32") as session:
        order = np.argsort(-session.run({"input": tensors})["logits"], axis=1)
    labels = [LABELS[row[(0, 0, 1, -1)[index % 4]]] for index, row in enumerate(order)]
    files = [path.name for path in save_pictures(folder, COUNT)]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(map(",".join, zip(files, labels, strict=True))))
    return folder


def test_every_variant_is_scored_against_the_labels_and_fp32(bundle: Bundle, data: Path, tensors: np.ndarray) -> None:
    seen: list[tuple[str, int, int]] = []
    result = evaluate(bundle.path, data, progress=lambda *step: seen.append(step))
    fp32, fp16, int8 = result.variants
    assert (fp32.variant, fp16.variant, int8.variant) == ("fp32", "fp16", "int8")
    assert (fp32.images, fp32.top1, fp32.top5) == (COUNT, 50, 75)
    assert (fp32.agreement, fp32.sqnr_db, fp32.mean_kl) == (100, None, 0)
    with bundle.session("fp32") as one, bundle.session("int8") as two:
        metrics = compare(one.run({"input": tensors})["logits"], two.run({"input": tensors})["logits"])
    assert int8.sqnr_db == pytest.approx(metrics.sqnr_db, abs=0.1)
    assert int8.mean_kl == pytest.approx(metrics.kl, rel=0.05)
    assert int8.agreement == metrics.top1
    assert fp16.sqnr_db is not None
    assert int8.sqnr_db is not None
    assert fp16.sqnr_db > int8.sqnr_db + 10
    assert (result.labels, dict(result.skipped)) == ("labels.csv", {})
    assert seen[-1] == ("evaluate", COUNT, COUNT)
    rows = json.loads(json.dumps(result.to_json(), allow_nan=False))["variants"]
    assert rows[0]["variant"] == "fp32"
    assert set(rows[2]) == {"variant", "images", "top1", "top5", "agreement", "sqnr_db", "mean_kl"}


def test_graphs_that_give_probabilities_score_the_same(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    plain = evaluate(bundle, data).variants
    inside = evaluate(write_bundle(tmp_path, embedded=True), data).variants
    for one, two in zip(plain, inside, strict=True):
        assert (one.top1, one.top5, one.agreement) == (two.top1, two.top5, two.agreement)
        assert two.mean_kl == pytest.approx(one.mean_kl, abs=1e-4)


def test_without_labels_there_is_agreement_alone(bundle: Bundle, tmp_path: Path) -> None:
    save_pictures(tmp_path, 4)
    (score,) = evaluate(bundle, tmp_path, variants=["int8"]).variants
    assert (score.variant, score.images, score.top1, score.top5) == ("int8", 4, None, None)
    assert score.agreement is not None
    assert score.sqnr_db is not None


def test_without_fp32_there_is_accuracy_alone(data: Path, tmp_path: Path) -> None:
    (score,) = evaluate(write_bundle(tmp_path, precisions=("int8",)), data).variants
    assert score.top1 is not None
    assert (score.agreement, score.sqnr_db, score.mean_kl) == (None, None, None)


def test_a_limit(bundle: Bundle, data: Path) -> None:
    assert evaluate(bundle, data, variants=["fp32"], limit=3).variants[0].images == 3


def test_pictures_that_cannot_be_decoded_are_counted(bundle: Bundle, tmp_path: Path) -> None:
    files = save_pictures(tmp_path, 10)
    files[3].write_bytes(b"no picture")
    result = evaluate(bundle, tmp_path, variants=["fp32"])
    assert (result.variants[0].images, result.unreadable) == (9, 1)
    assert list(result.skipped) == [str(files[3])]
    assert "not an image" in result.skipped[str(files[3])]


def test_more_than_a_tenth_that_cannot_be_decoded_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    files = save_pictures(tmp_path, 10)
    for file in files[:2]:
        file.write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"2 of the first 10 pictures cannot be decoded, more than 10 % of all 10: .*00.png"
    ):
        evaluate(bundle, tmp_path, variants=["fp32"])
    images = LabelledImages(tuple(files[:2]), (1, 2), "by hand")
    with pytest.raises(DataError, match=r"none of the 2 pictures can be decoded; the first: .*not an image"):
        evaluate(bundle, images)


def test_more_pictures_than_are_read_at_a_time(bundle: Bundle, data: Path) -> None:
    """A dozen pictures, many times over: the means are those of the dozen, and the sums are exact."""
    files = [data / f"{index % COUNT:02}.png" for index in range(SHARD + 2 * COUNT)]
    seen: list[tuple[str, int, int]] = []
    many = evaluate(bundle, LabelledImages(tuple(files), (), "by hand"), progress=lambda *step: seen.append(step))
    once = evaluate(bundle, LabelledImages(tuple(files[::-1]), (), "by hand"))
    assert many.to_json() == once.to_json()
    assert [done for _, done, _ in seen] == list(range(1, len(files) + 1))
    assert {total for _, _, total in seen} == {len(files)}


def test_variants_that_there_are_not(bundle: Bundle, data: Path) -> None:
    with pytest.raises(UserError, match="no variant 'int4'; it has fp32, fp16, int8"):
        evaluate(bundle, data, variants=["int4"])
    with pytest.raises(UserError, match="no variants to evaluate"):
        evaluate(bundle, data, variants=[])


def test_a_variant_that_failed_verification_is_refused_but_may_be_the_reference(data: Path, tmp_path: Path) -> None:
    bad = write_bundle(tmp_path, {"int8": doubled("fc.weight")}, precisions=("fp32", "int8")).path
    with pytest.raises(BundleUnverifiedError, match="failed verification"):
        evaluate(bad, data)
    opened = Bundle.open(bad, allow_unverified=True)
    with pytest.raises(BundleUnverifiedError, match="variant int8 failed verification"):
        evaluate(opened, data)
    assert evaluate(opened, data, variants=["fp32"]).variants[0].top1 == 50
    (score,) = evaluate(bad, data, variants=["int8"], allow_unverified=True).variants
    assert score.sqnr_db is not None
    assert score.sqnr_db < 10


def test_nan_is_an_error_that_says_how_to_find_it(data: Path, tmp_path: Path) -> None:
    bad = write_bundle(
        tmp_path, {"fp32": lambda arrays: arrays.update({"fc.bias": arrays["fc.bias"] * np.nan})}, precisions=("fp32",)
    )
    with pytest.raises(BackendError, match="NaN or infinity: `edgecnn verify`"):
        evaluate(bad, data, allow_unverified=True)
    (tmp_path / "two").mkdir()
    nan = {"fp32": lambda arrays: arrays.update({"fc.bias": arrays["fc.bias"] * np.nan})}
    two = write_bundle(tmp_path / "two", nan, precisions=("fp32", "fp16"))
    with pytest.raises(BackendError, match=r"fp32, the reference, failed: .*NaN or infinity"):
        evaluate(two, data, variants=["fp16"], allow_unverified=True)
