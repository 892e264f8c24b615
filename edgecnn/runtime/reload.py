"""A classifier whose bundle can be replaced while it answers: the new one is tested beside the old, then takes over in one step."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edgecnn.errors import BundleCorruptError, BundleMissingError, UserError
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.classifier import Classifier, Prediction
from edgecnn.runtime.golden import SelfTest, selftest
from edgecnn.runtime.manifest import MANIFEST
from edgecnn.runtime.preprocess import ImageSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgecnn.runtime.choice import Options

__all__ = ["HotClassifier", "ReloadFailed", "Reloaded"]

log = logging.getLogger("edgecnn.runtime")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """A new bundle answers from now on.

    Attributes:
        bundle: the new one. ``sha256``: of its manifest.
        selftest: that it passed.
    """

    bundle: Bundle
    sha256: str
    selftest: SelfTest


@dataclass(frozen=True, kw_only=True)
class ReloadFailed:
    """What is in the folder now cannot take over; the old bundle goes on answering.

    Attributes:
        error: why. ``sha256``: of the manifest in the folder, "" where there is none.
    """

    error: Exception
    sha256: str


OnReload = Callable[[Reloaded | ReloadFailed], None]


@dataclass(eq=False)
class _Generation:
    """A classifier with the number of calls that are in it."""

    classifier: Classifier
    sha256: str
    calls: int = 0
    retired: bool = False


class HotClassifier:
    """A :class:`~edgecnn.runtime.classifier.Classifier` that follows its bundle's folder. Safe to call from several threads at once.

    A thread looks at the folder now and then. When the hash of the manifest has changed, it opens the new bundle with all checks, runs
    its self-test, loads and warms it up beside the old one, and lets it take over between two calls. Calls that are under way finish on
    the bundle on which they began, which is closed after the last of them. A bundle that is bad, or not whole yet because it is still
    being copied, changes nothing; it is tried again as soon as anything in the folder changes.

    Replace the folder in one step (``edgecnn export -o ... --force`` does): then no reader ever sees a mixture.

    Args:
        path: the bundle's folder.
        variant, backend, options, allow_unverified: as of :func:`edgecnn.runtime.load`, for every bundle that will be there.
        interval: seconds between two looks; 0 looks when :meth:`check` is called, and starts no thread.
        on_reload: called with :class:`Reloaded` or :class:`ReloadFailed`, once for each, in the thread that looked. What it raises is
            logged.
        warm_up: batch sizes to warm a new bundle up with before it takes over.

    Raises:
        BundleError, UserError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`, for the first bundle.
    """

    def __init__(
        self,
        path: Path | str,
        variant: str | None = None,
        backend: str | None = None,
        *,
        options: Options | None = None,
        allow_unverified: bool = False,
        interval: float = 1.0,
        on_reload: OnReload | None = None,
        warm_up: Sequence[int] = (1,),
    ) -> None:
        """Load the bundle, and begin to watch its folder."""
        if not 0 <= interval < float("inf"):
            raise UserError(f"HotClassifier: interval must be 0 seconds or more, found {interval}")
        self.path = Path(path)
        self.interval = interval
        self._choice: dict[str, Any] = {"variant": variant, "backend": backend, "options": options}
        self._allow_unverified = allow_unverified
        self._on_reload = on_reload
        self._warm_up = tuple(warm_up)
        self._lock = threading.Lock()  # guards the generations
        self._checking = threading.Lock()  # one look at a time
        self._stop = threading.Event()
        self._tried = _signature(self.path)
        sha256 = _manifest_sha256(self.path)
        self._current = _Generation(self._load(Bundle.open(self.path, allow_unverified=allow_unverified)), sha256)
        self._watcher = threading.Thread(target=self._watch, name="edgecnn-reload", daemon=True)
        if interval:
            self._watcher.start()

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers now."""
        return self._current.classifier.bundle

    @property
    def variant(self) -> str:
        """The variant that answers now."""
        return self._current.classifier.variant

    @property
    def sha256(self) -> str:
        """The sha256 of the manifest of the bundle that answers now."""
        return self._current.sha256

    def __call__(self, images: ImageSource | Sequence[ImageSource], top: int = 5) -> Any:
        """Classify one picture or many, all on one bundle; see :meth:`Classifier.__call__`."""
        with self.using() as classifier:
            return classifier(images, top)

    def predict(self, image: ImageSource, top: int = 5) -> list[Prediction]:
        """Classify one picture; see :meth:`Classifier.predict`."""
        with self.using() as classifier:
            return classifier.predict(image, top)

    def predict_batch(self, images: Sequence[ImageSource], top: int = 5) -> list[list[Prediction]]:
        """Classify many pictures; see :meth:`Classifier.predict_batch`."""
        with self.using() as classifier:
            return classifier.predict_batch(images, top)

    def probabilities(self, images: Sequence[ImageSource]) -> NDArray[Any]:
        """Return the probabilities of all classes; see :meth:`Classifier.probabilities`."""
        with self.using() as classifier:
            return classifier.probabilities(images)

    def try_batch(
        self, images: Sequence[ImageSource], top: int | Sequence[int] = 5
    ) -> list[list[Prediction] | Exception]:
        """Classify many pictures in one run, so that a bad one fails alone; see :meth:`Classifier.try_batch`."""
        with self.using() as classifier:
            return classifier.try_batch(images, top)

    def warm_up(self, batch_sizes: Sequence[int] = (1,), runs: int = 2) -> float:
        """Run on made-up pictures; see :meth:`Classifier.warm_up`."""
        with self.using() as classifier:
            return classifier.warm_up(batch_sizes, runs)

    @contextmanager
    def using(self) -> Iterator[Classifier]:
        """Give the classifier that answers now, for several calls that must see the same bundle; it stays open meanwhile.

        Raises:
            UserError: closed.
        """
        with self._lock:
            if self._stop.is_set():
                raise UserError("this classifier is closed")
            generation = self._current
            generation.calls += 1
        try:
            yield generation.classifier
        finally:
            with self._lock:
                generation.calls -= 1
                last = generation.retired and not generation.calls
            if last:
                generation.classifier.close()

    def check(self) -> Reloaded | ReloadFailed | None:
        """Look at the folder now, and take over what is new. Returns what happened, None where nothing has changed."""
        with self._checking:
            signature = _signature(self.path)
            if signature == self._tried or self._stop.is_set():
                return None
            self._tried = signature
            sha256 = ""
            try:
                sha256 = _manifest_sha256(self.path)
                if sha256 == self._current.sha256:
                    return None
                event: Reloaded | ReloadFailed = self._take_over(sha256)
            except Exception as error:  # noqa: BLE001 -- whatever is wrong with the new one, the old one goes on
                event = ReloadFailed(error=error, sha256=sha256)
        self._tell(event)
        return event

    def close(self) -> None:
        """Stop watching, and close the classifier after the calls that are under way. Closing twice is fine."""
        self._stop.set()
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join()
        with self._checking:  # nothing takes over afterwards
            self._retire(self._current)

    def __enter__(self) -> Self:
        """Return the classifier."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _load(self, bundle: Bundle) -> Classifier:
        """Make a bundle ready."""
        return Classifier(bundle, **self._choice, allow_unverified=self._allow_unverified)

    def _take_over(self, sha256: str) -> Reloaded:
        """Load, test and warm up what is in the folder, and let it answer. Raises what is wrong with it."""
        bundle = Bundle.open(self.path, allow_unverified=self._allow_unverified)
        tested = selftest(bundle, **self._choice)
        if not tested:
            raise BundleCorruptError(f"{self.path}: {tested}")
        classifier = self._load(bundle)
        try:
            classifier.warm_up(self._warm_up)
            if _manifest_sha256(self.path) != sha256:
                raise BundleCorruptError(f"{self.path} was changed while it was loaded")
        except BaseException:
            classifier.close()
            raise
        with self._lock:
            old, self._current = self._current, _Generation(classifier, sha256)
        self._retire(old)
        return Reloaded(bundle=bundle, sha256=sha256, selftest=tested)

    def _retire(self, generation: _Generation) -> None:
        """Close a classifier, now or after the last call in it."""
        with self._lock:
            generation.retired = True
            idle = not generation.calls
        if idle:
            generation.classifier.close()

    def _tell(self, event: Reloaded | ReloadFailed) -> None:
        """Log what happened, and call the application."""
        if isinstance(event, Reloaded):
            log.info("%s: a new bundle answers, %s", self.path, event.sha256[:12])
        else:
            log.warning("%s: the old bundle goes on, because: %s", self.path, event.error)
        if self._on_reload is None:
            return
        try:
            self._on_reload(event)
        except Exception:
            log.exception("on_reload of %s failed", self.path)

    def _watch(self) -> None:
        """Look at the folder until closed."""
        while not self._stop.wait(self.interval):
            self.check()


def _signature(root: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when anything in a folder does, without reading its files: names, lengths, times, inodes."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.lstat()
            except OSError:  # gone since
                continue
            found.append((str(path.relative_to(root)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))


def _manifest_sha256(root: Path) -> str:
    """Return the sha256 of a bundle's manifest. Raises BundleMissingError."""
    try:
        return hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleMissingError(f"{root} has no readable {MANIFEST}: {error.strerror or error}") from error
