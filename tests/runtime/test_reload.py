"""A bundle is replaced while it answers: the good one takes over, the bad one changes nothing, nobody's answer is mixed or lost."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import edit_manifest, photos, rehash, write_model, write_tiny

from edgecnn.errors import BundleCorruptError, BundleMissingError, BundleUnverifiedError, UserError
from edgecnn.pack import VariantContents
from edgecnn.runtime import (
    Batching,
    Bundle,
    Classifier,
    HotClassifier,
    OrtOptions,
    Reloaded,
    ReloadFailed,
    Service,
    Wait,
)

ONE = OrtOptions(threads=1)
PICTURES = photos(4)


def write(folder: Path, scale: float, **changes: Any) -> Path:
    """Write, or replace in one step, a bundle whose logits are ``scale`` times the usual ones."""
    variants = [VariantContents(model=write_model(folder, "fp32", scale=scale), verified=True)]
    return write_tiny(folder, variants=variants, force=True, notes=(f"scale {scale}",), **changes).path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, 1.0)


@pytest.fixture
def hot(path: Path) -> Iterator[HotClassifier]:
    """Return a classifier that looks when it is told to."""
    with HotClassifier(path, options=ONE, interval=0) as classify:
        yield classify


def answers(path: Path) -> list[int]:
    with Classifier(path, options=ONE) as classify:
        return [row[0].index for row in classify(PICTURES)]


def test_answers_as_a_classifier_does(hot: HotClassifier, path: Path) -> None:
    with Classifier(path, options=ONE) as classify:
        assert hot(PICTURES[0]) == classify(PICTURES[0]) == hot.predict(PICTURES[0])
        assert hot(PICTURES, top=2) == classify(PICTURES, top=2) == hot.predict_batch(PICTURES, 2)
        np.testing.assert_array_equal(hot.probabilities(PICTURES), classify.probabilities(PICTURES))
        assert hot.try_batch(PICTURES[:2]) == classify.try_batch(PICTURES[:2])
        assert (hot.variant, hot.bundle.manifest) == (classify.variant, classify.bundle.manifest)
    assert hot.warm_up() > 0
    assert hot.check() is None


def test_a_new_bundle_takes_over(hot: HotClassifier, path: Path) -> None:
    before, old = [row[0].index for row in hot(PICTURES)], hot.sha256
    write(path.parent, -1.0)
    assert [row[0].index for row in hot(PICTURES)] == before
    event = hot.check()
    assert isinstance(event, Reloaded)
    assert event.selftest
    assert event.bundle is hot.bundle
    assert hot.bundle.manifest.notes == ("scale -1.0",)
    assert hot.sha256 == event.sha256 != old
    assert [row[0].index for row in hot(PICTURES)] == answers(path) != before
    assert hot.check() is None


def test_the_same_bundle_copied_anew_is_no_news(hot: HotClassifier, path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)
    assert hot.check() is None


def test_a_link_to_another_bundle_takes_over(path: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = write(tmp_path / "new", -1.0)
    (tmp_path / "link").symlink_to(path)
    with HotClassifier(tmp_path / "link", options=ONE, interval=0) as hot:
        assert hot.check() is None
        (tmp_path / "other").symlink_to(new)
        (tmp_path / "other").replace(tmp_path / "link")
        assert isinstance(hot.check(), Reloaded)
        assert [row[0].index for row in hot(PICTURES)] == answers(new)


def truncate(path: Path) -> None:
    model = path / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-7])
    edit_manifest(path, lambda data: data.update(notes=["half copied"]))


def lie(path: Path) -> None:
    """Give the bundle another graph than its golden logits are of; all hashes are right."""
    write_model(path.parent, "fp32", scale=3.0).path.replace(path / "model.fp32.onnx")
    rehash(path, "model.fp32.onnx")


def break_graph(path: Path) -> None:
    (path / "model.fp32.onnx").write_bytes(b"no graph")
    rehash(path, "model.fp32.onnx")


def without_golden(path: Path) -> None:
    edit_manifest(path, lambda data: data["files"].pop("golden.npz") and None)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (truncate, "model.fp32.onnx has"),
        (lie, "self-test of fp32 on onnxruntime: FAILED"),
        (break_graph, "onnxruntime cannot load"),
        (without_golden, "has no golden.npz"),
        (lambda path: (path / "manifest.json").write_text("{"), "not whole JSON"),
        (lambda path: (path / "manifest.json").unlink(), "no readable manifest.json"),
        (shutil.rmtree, "no readable manifest.json"),
        (lambda path: write(path.parent, 2.0, verified=False), "failed verification"),
    ],
)
def test_a_bad_bundle_changes_nothing(path: Path, spoil: Any, match: str) -> None:
    told: list[Reloaded | ReloadFailed] = []
    with HotClassifier(path, options=ONE, interval=0, on_reload=told.append) as hot:
        before, old = hot(PICTURES), hot.sha256
        spoil(path)
        event = hot.check()
        assert isinstance(event, ReloadFailed)
        assert match in str(event.error)
        assert told == [event]
        assert (hot(PICTURES), hot.sha256) == (before, old)
        assert hot.check() is None, "not tried again before something changes"
        shutil.rmtree(path, ignore_errors=True)
        write(path.parent, -1.0)
        assert isinstance(hot.check(), Reloaded)
        assert [type(one) for one in told] == [ReloadFailed, Reloaded]


def test_a_slow_copy_takes_over_when_it_is_whole(hot: HotClassifier, path: Path, tmp_path: Path) -> None:
    """File by file, the manifest first, as a copy over the network may do it: refused until the last byte is there."""
    (tmp_path / "new").mkdir()
    source = write(tmp_path / "new", -1.0)
    names = ["manifest.json", *sorted(p.name for p in source.iterdir() if p.name != "manifest.json")]
    events = []
    for name in names:
        shutil.copy(source / name, path / name)
        events.append(hot.check())
    assert isinstance(events[0], ReloadFailed)
    assert isinstance(next(event for event in reversed(events) if event), Reloaded)
    assert hot.bundle.manifest.notes == ("scale -1.0",)


def test_calls_under_way_finish_on_the_old_bundle(hot: HotClassifier, path: Path) -> None:
    expected = hot(PICTURES)
    with hot.using() as old:
        write(path.parent, -1.0)
        assert isinstance(hot.check(), Reloaded)
        assert hot(PICTURES) != expected
        assert old(PICTURES) == expected
        with hot.using() as new:
            assert new is not old
    with pytest.raises(UserError, match="closed"):
        old(PICTURES)
    assert hot(PICTURES) != expected


def test_a_watcher_reloads_under_a_service_in_use(path: Path) -> None:
    """Threads ask without a pause while bundles come and go: every answer is of one of them, none is an error."""
    possible = {tuple(answers(path))}
    told: list[Reloaded | ReloadFailed] = []
    seen = threading.Event()

    def on_reload(event: Reloaded | ReloadFailed) -> None:
        told.append(event)
        seen.set()

    hot = HotClassifier(path, options=ONE, interval=0.01, on_reload=on_reload)
    stop = threading.Event()
    found: set[tuple[int, int]] = set()

    with (
        Service(hot, Batching(largest=4, delay=0), when_full=Wait(), workers=2) as service,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask(place: int) -> int:
            count = 0
            while not stop.is_set():
                found.add((place, service.submit(PICTURES[place]).result(60)[0].index))
                count += 1
            return count

        jobs = [pool.submit(ask, place) for place in range(4)]
        try:
            for scale in (-1.0, 2.0, -3.0):
                seen.clear()
                write(path.parent, scale)
                possible.add(tuple(answers(path)))
                assert seen.wait(30)
        finally:
            stop.set()
        assert all(job.result(60) > 0 for job in jobs)
        assert service.stats().failed == 0
    assert [type(event) for event in told] == [Reloaded] * 3
    assert found <= {(place, row[place]) for row in possible for place in range(4)}


def test_a_failing_callback_is_no_reason_to_stop(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Any) -> None:
        raise ValueError("no")

    with HotClassifier(path, options=ONE, interval=0, on_reload=fail) as hot:
        write(path.parent, -1.0)
        assert isinstance(hot.check(), Reloaded)
    assert "on_reload of" in caplog.text


def test_close(path: Path) -> None:
    hot = HotClassifier(path, options=ONE, interval=0.01)
    with hot.using() as classifier:
        hot.close()
        hot.close()
        assert classifier(PICTURES[0]), "calls under way finish"
    for ask in (lambda: classifier(PICTURES[0]), lambda: hot(PICTURES[0])):
        with pytest.raises(UserError, match="closed"):
            ask()
    write(path.parent, -1.0)
    assert hot.check() is None
    time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "edgecnn-reload"]


def test_the_first_bundle_must_be_good(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError):
        HotClassifier(tmp_path / "nowhere")
    path = write(tmp_path, 1.0, verified=False)
    with pytest.raises(BundleUnverifiedError):
        HotClassifier(path)
    HotClassifier(path, allow_unverified=True, interval=0).close()
    truncate(path)
    with pytest.raises(BundleCorruptError):
        HotClassifier(path, allow_unverified=True)
    for interval in (-1, float("nan")):
        with pytest.raises(UserError, match="interval must be"):
            HotClassifier(path, interval=interval)


def test_changed_between_test_and_takeover(hot: HotClassifier, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was tested is not what is in the folder any more: it is not taken over, and the next look finds the newest."""
    write(path.parent, 2.0)
    real = HotClassifier._load

    def replaced_meanwhile(self: HotClassifier, bundle: Bundle) -> Classifier:
        monkeypatch.undo()
        classifier = real(self, bundle)
        write(path.parent, -1.0)
        return classifier

    monkeypatch.setattr(HotClassifier, "_load", replaced_meanwhile)
    event = hot.check()
    assert isinstance(event, ReloadFailed)
    assert "was changed while it was loaded" in str(event.error)
    assert hot.bundle.manifest.notes == ("scale 1.0",)
    assert isinstance(hot.check(), Reloaded)
    assert hot.bundle.manifest.notes == ("scale -1.0",)
