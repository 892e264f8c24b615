"""A bundle's variants, run on the same pictures as an application runs them: one at a time, decoded once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from edgecnn.artifacts import sha256_file
from edgecnn.errors import BundleCorruptError, DataError, EdgecnnError
from edgecnn.parity.labelled import Row
from edgecnn.parity.tally import REFERENCE, Tally, check_finite
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import AutoOptions
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.manifest import MANIFEST
from edgecnn.runtime.preprocess import decode, fit
from edgecnn.runtime.session import Session
from edgecnn.runtime.tensorrt import TensorRtOptions

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["Plan", "Runner", "bundle_hash"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to run: enough to start it in another process.

    Attributes:
        bundle: the absolute folder. ``manifest``: sha256 of its manifest, which holds that of every file.
        names: of the variants.
        options: as of :func:`edgecnn.runtime.load`.
        allow_unverified: run also what failed verification.
    """

    bundle: str
    manifest: str
    names: tuple[str, ...]
    options: Options | None = None
    allow_unverified: bool = False

    @classmethod
    def of(
        cls, bundle: Bundle, names: Sequence[str], options: Options | None = None, *, allow_unverified: bool = False
    ) -> Self:
        """Describe how to run variants of an opened bundle."""
        return cls(
            bundle=str(bundle.path.absolute()),
            manifest=bundle_hash(bundle),
            names=tuple(names),
            options=options,
            allow_unverified=allow_unverified,
        )

    def open(self) -> Bundle:
        """Open the bundle again. Raises BundleError, also where it is another one by now."""
        bundle = Bundle.open(self.bundle, allow_unverified=True, check="sizes")
        if bundle_hash(bundle) != self.manifest:
            raise BundleCorruptError(f"{self.bundle} was written anew while it was evaluated: start again")
        return bundle

    def reference_options(self, bundle: Bundle) -> Options | None:
        """Return the options of fp32 where it is the reference alone: its graph runs where it has no engine."""
        if isinstance(self.options, TensorRtOptions) and REFERENCE not in bundle.engine_variants(self.options.flavour):
            return AutoOptions()
        return self.options


class Runner:
    """Sessions of a plan's variants and of fp32, the reference. A context manager.

    A variant that fails is left out from then on, and :attr:`failed` says why; the others go on. Without the reference there is nothing
    to compare with, so that its failure is everyone's.

    Attributes:
        failed: variant -> error.
    """

    def __init__(self, plan: Plan, bundle: Bundle | None = None) -> None:
        """Make the variants ready.

        Raises:
            BundleError: it cannot be opened.
        """
        bundle = bundle or plan.open()
        self.failed: dict[str, EdgecnnError] = {}
        self._names = plan.names
        self._preprocess = bundle.preprocess
        self._softmax = bundle.manifest.embedded.softmax
        self._sessions: dict[str, Session] = {}
        self._stack = ExitStack()
        with ExitStack() as stack:
            for name in dict.fromkeys((*([REFERENCE] if REFERENCE in bundle.variants else []), *plan.names)):
                # The reference need not be verified to be a reference; the variants that were asked for must.
                asked = name in plan.names
                own = plan.options if asked else plan.reference_options(bundle)
                try:
                    session = bundle.session(name, allow_unverified=plan.allow_unverified or not asked, options=own)
                except EdgecnnError as error:
                    self._fail(name, error)
                else:
                    self._sessions[name] = stack.enter_context(session)
            self._stack = stack.pop_all()

    def run(
        self, rows: Sequence[Row], names: Sequence[str], *, first: int = 0, progress: Progress = silent
    ) -> dict[str, Tally]:
        """Run variants on pictures.

        Args:
            rows: the pictures.
            names: variants of the plan.
            first: position of the first picture in the listing.
            progress: called once a picture.

        Returns:
            A tally of every variant that did not fail.
        """
        tallies = {name: Tally() for name in names}
        for done, (file, label) in enumerate(rows):
            running = [name for name in names if name not in self.failed]
            if not running:
                break
            try:
                pixels = fit(decode(Path(file)), self._preprocess)[None]
            except DataError as error:
                for name in running:
                    tallies[name].skip(first + done, file, str(error))
            else:
                self._one(pixels, label, {name: tallies[name] for name in running})
            progress("evaluate", done + 1, len(rows))
        return {name: tally for name, tally in tallies.items() if name not in self.failed}

    def _one(self, pixels: Array, label: int | None, tallies: dict[str, Tally]) -> None:
        """Run one picture."""
        reference: Array | None = None
        for name in _reference_first(self._sessions, tallies):
            started = time.perf_counter()
            try:
                output = run_pixels(self._sessions[name], pixels, self._preprocess)
                elapsed = time.perf_counter() - started
                if name == REFERENCE:
                    check_finite(output)  # also where it is nothing but the reference
                    reference = output
                if name in tallies:
                    tallies[name].add(output, reference, label, softmax=self._softmax)
                    tallies[name].seconds += elapsed
            except EdgecnnError as error:
                self._fail(name, error)
                if name == REFERENCE:
                    return

    def _fail(self, name: str, error: EdgecnnError) -> None:
        """Leave a variant out from now on."""
        if name != REFERENCE:
            self.failed[name] = error
            return
        text = f"fp32, the reference, failed: {error}"
        for other in self._names:
            self.failed.setdefault(other, error if other == REFERENCE else type(error)(text))

    def close(self) -> None:
        """Close the sessions."""
        self._stack.close()

    def __enter__(self) -> Self:
        """Return the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sessions."""
        self.close()


def _reference_first(sessions: dict[str, Session], wanted: dict[str, Tally]) -> Iterator[str]:
    """Yield what is to run."""
    if REFERENCE in sessions:
        yield REFERENCE
    yield from (name for name in wanted if name != REFERENCE)


def bundle_hash(bundle: Bundle) -> str:
    """Return the sha256 of a bundle's manifest, which holds the sha256 of every other file."""
    return sha256_file(bundle.path / MANIFEST)
