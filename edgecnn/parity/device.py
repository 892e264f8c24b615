"""Verify a bundle where it will run: no PyTorch, no calibration data, only what the bundle brings and what the user adds.

Two questions. *Does this device compute what the writer saw?* is answered by the golden arrays: pictures, their preprocessed
tensors, and every variant's (and PyTorch's) logits as they were recorded. *Do the variants agree with fp32 here?* is answered
by running them side by side on the golden pictures, on the user's, on noise and on edge inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.calib.data import SUFFIXES
from edgecnn.errors import BackendError, BundleMissingError, DataError, UserError
from edgecnn.optional import available
from edgecnn.parity.bisect import BisectReport, bisect
from edgecnn.parity.metrics import compare, logits_of
from edgecnn.parity.report import Comparison, ParityReport, StageResult
from edgecnn.parity.samples import SampleSet, edge_inputs, from_pixels, gaussian
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.tolerance import DEFAULT_TOLERANCES, Tolerances, tolerances_for
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import BACKENDS, AutoOptions
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.preprocess import decode, fit, normalize
from edgecnn.runtime.session import Session
from edgecnn.runtime.tensorrt import TensorRtOptions
from edgecnn.spec import Preprocess, TensorSpec

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["bisect_bundle", "bundle_samples", "picture_set", "verify_bundle"]

Array = NDArray[Any]
GOLDEN_SET = "golden images"
PREPROCESS_STAGE = "preprocess"
_LEVELS_ALLOWED = 1.01
_SHIFT_ALLOWED = 0.2


def verify_bundle(
    bundle: Bundle | Path | str,
    data: SampleSet | Path | str | None = None,
    *,
    tolerances: Mapping[str, Tolerances] = DEFAULT_TOLERANCES,
    batch: int = 4,
    limit: int = 64,
    options: Options | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Verify a bundle on this device.

    Works on bundles that failed verification when they were written too: their report says what failed.

    Args:
        bundle: a folder, or an opened bundle.
        data: more samples: a folder of pictures, or a set.
        tolerances: per precision.
        batch: size of the batched run, see :func:`~edgecnn.parity.stages.verify`.
        limit: how many pictures of a folder to use, spread evenly.
        options: as of :func:`edgecnn.runtime.load`; by default every variant runs on the backend that would run it. Those of TensorRT
            verify the engines, each beside its graph and fp32 on the CPU, where a backend for it is installed.
        progress: called once a sample.

    Returns:
        A report whose stages are ``preprocess`` (golden pictures to golden tensors), the variants, fp32 first, and the engines
        (``int8@tensorrt``).

    Raises:
        BundleError: the bundle cannot be read.
        DataError: no usable picture in the folder.
        UserError: there is no engine to verify, or it does not fit this device.
        MissingDependencyError: the backend is not installed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=True)
    golden, notes = _golden(bundle)
    sets = bundle_samples(bundle, data, limit=limit)
    broken: list[StageResult] = []
    with ExitStack() as stack:
        stages: list[Stage] = []
        for name, variant, chosen in _runs(bundle, options):
            precision = bundle.variants[variant].precision
            try:
                session = stack.enter_context(bundle.session(variant, allow_unverified=True, options=chosen))
            except BackendError as error:
                broken.append(StageResult(name=name, precision=precision, problems=(f"cannot be loaded: {error}",)))
                continue
            softmax = bundle.manifest.embedded.softmax
            stages.append(Stage(name, precision, session, after=_before(stages, variant), probabilities=softmax))
        if not stages:
            return ParityReport(stages=tuple(broken), samples=(), notes=notes)
        report = verify(stages, sets, tolerances=tolerances, batch=batch, progress=progress)
        results = [
            _with_recorded(stage, result, bundle, golden, tolerances)
            for stage, result in zip(stages, report.stages, strict=True)
        ]
    first = (_preprocess_stage(golden, bundle.preprocess),) if golden else ()
    return replace(report, stages=(*first, *results, *broken), notes=notes, reference=stages[0].name)


def bisect_bundle(
    bundle: Bundle | Path | str,
    data: SampleSet | Path | str | None = None,
    *,
    variants: Sequence[str] | None = None,
    limit: int = 4,
    progress: Progress = silent,
) -> dict[str, BisectReport]:
    """Find for each variant the first layer that departs from fp32.

    Args:
        bundle: a folder, or an opened bundle.
        data: pictures to use in place of the golden ones.
        variants: names; all but fp32 by default.
        limit: pictures.
        progress: called once a pass.

    Raises:
        UserError: the bundle has no fp32, or an unknown variant was asked for.
        MissingDependencyError: onnx-ir or onnxruntime is not installed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=True)
    reference = bundle.model_path("fp32")
    names = list(variants) if variants is not None else [name for name in bundle.variants if name != "fp32"]
    sets = bundle_samples(bundle, data, limit=limit)
    images = [used for used in sets if used.kind == "images"]
    samples = images[-1] if images else sets[0]  # the user's own come after the golden ones
    return {
        name: bisect(
            reference,
            bundle.model_path(name),
            samples,
            precision=bundle.variants[name].precision,
            limit=limit,
            progress=progress,
        )
        for name in names
        if name != "fp32"
    }


def bundle_samples(bundle: Bundle, data: SampleSet | Path | str | None = None, *, limit: int = 64) -> list[SampleSet]:
    """Return the sets to verify a bundle on: golden pictures, the user's, noise and edge inputs.

    Raises:
        DataError: no usable picture in the folder.
    """
    preprocess, spec = bundle.preprocess, _tensor_input(bundle)
    sets = []
    golden, _ = _golden(bundle)
    if golden:
        pixels = [fit(image, preprocess) for image in golden["images"]]
        sets.append(from_pixels(pixels, preprocess, name=GOLDEN_SET, input_name=spec.name))
    if isinstance(data, SampleSet):
        sets.append(data)
    elif data is not None:
        sets.append(picture_set(Path(data), preprocess, limit=limit, input_name=spec.name))
    edges = edge_inputs(spec, preprocess, pixels=bundle.manifest.embedded.preprocess)
    return [*sets, gaussian(spec, preprocess), edges]


def picture_set(folder: Path, preprocess: Preprocess, *, limit: int = 64, input_name: str = "input") -> SampleSet:
    """Return pictures of a folder and of those in it as a set; those that cannot be decoded are left out, and its note counts them.

    Args:
        folder: to search.
        preprocess: of the network.
        limit: take so many, spread evenly over the sorted files.
        input_name: of the network.

    Raises:
        DataError: no folder, or no picture that can be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}")
    every = folder.rglob("*")
    found = sorted(p for p in every if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    count = min(limit, len(found))
    files = [found[index * len(found) // count] for index in range(count)]
    good, bad = [], 0
    for file in files:
        try:
            good.append(fit(decode(file), preprocess))
        except DataError:
            bad += 1
    if not good:
        raise DataError(f"no picture in {folder} that can be decoded ({bad} tried)")
    made = from_pixels(good, preprocess, name=folder.name or "data", input_name=input_name)
    return replace(made, note=f"{bad} file(s) could not be decoded") if bad else made


def _golden(bundle: Bundle) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the golden arrays, or none and a note."""
    try:
        return bundle.golden(), ()
    except BundleMissingError:
        return {}, (
            f"{bundle.path.name} has no golden arrays: this device's results were not compared with recorded ones",
        )


def _runs(bundle: Bundle, options: Options | None) -> list[tuple[str, str, Options | None]]:
    """Return what to run: the name of the stage, the variant, and the options that choose its backend. Raises UserError."""
    if not isinstance(options, TensorRtOptions):
        return [(name, name, options) for name in _order(bundle)]
    bundle.choose(options=options)  # says what to do where there is no engine
    held = bundle.engine_variants(options.flavour)
    engines = [name for name in _order(bundle) if name in held]
    graphs: list[tuple[str, str, Options | None]] = []
    if any(available(name) for name in BACKENDS):
        graphs = [(name, name, AutoOptions()) for name in _order(bundle) if name == "fp32" or name in engines]
    return [*graphs, *((f"{name}@{options.flavour}", name, options) for name in engines)]


def _before(stages: Sequence[Stage], variant: str) -> str:
    """Return what a stage is compared with: the graph of its variant, should it have run, else the first."""
    names = [stage.name for stage in stages]
    return variant if variant in names else names[0] if names else ""


def _order(bundle: Bundle) -> list[str]:
    """Return the variants, fp32 first."""
    return sorted(bundle.variants, key=lambda name: name != "fp32")


def _tensor_input(bundle: Bundle) -> TensorSpec:
    """Return the normalised input, also where the graphs take pixels."""
    spec = next(iter(bundle.variants.values())).inputs[0]
    preprocess = bundle.preprocess
    return TensorSpec(name=spec.name, shape=("batch", preprocess.channels, *preprocess.size))


def _preprocess_stage(golden: Mapping[str, Array], preprocess: Preprocess) -> StageResult:
    """Compare this device's preprocessing of the golden pictures with the recorded tensors.

    Versions of Pillow may round a resized pixel differently, by one grey level here and there; a wrong mean, channel order or crop
    shifts whole channels.
    """
    problems = []
    found = normalize(np.stack([fit(image, preprocess) for image in golden["images"]]), preprocess)
    expected = golden["tensors"]
    if found.shape != expected.shape:
        problems.append(f"gives {list(found.shape)} where {list(expected.shape)} was recorded")
    else:
        std = np.asarray(preprocess.std)[:, None, None]
        levels = (found.astype(np.float64) - expected) * std * 255
        largest = float(np.abs(levels).max())
        shift = float(np.abs(levels.mean(axis=(0, 2, 3))).max())
        if not largest <= _LEVELS_ALLOWED or not shift <= _SHIFT_ALLOWED:
            problems.append(
                f"golden pictures give other tensors than recorded: up to {largest:.1f} grey levels apart, a channel by {shift:.2f} "
                f"on average (allowed 1 and {_SHIFT_ALLOWED:g}): mean, std, channel order, resizing or crop differ"
            )
    return StageResult(name=PREPROCESS_STAGE, precision="fp32", backend="numpy, Pillow", problems=tuple(problems))


def _with_recorded(
    stage: Stage,
    result: StageResult,
    bundle: Bundle,
    golden: Mapping[str, Array],
    tolerances: Mapping[str, Tolerances],
) -> StageResult:
    """Add the comparisons with recorded outputs to a stage's result."""
    policies = tolerances_for(stage.precision, tolerances)
    found: list[Comparison] = []
    problems: list[str] = []
    variant, _, engine = stage.name.partition("@")  # an engine's arithmetic is not that of the graph that was recorded
    for name, policy in ((variant, policies.images if engine else policies.same), ("pytorch", policies.images)):
        key = f"logits.{name}"
        if key not in golden:
            continue
        # A recorded variant gave what this one gives; PyTorch always gave logits.
        recorded = golden[key]
        softmax = stage.gives_probabilities
        reference = logits_of(recorded) if softmax and name != "pytorch" else recorded
        try:
            output = _outputs(stage.session, golden["images"], bundle.preprocess)
            metrics = compare(reference, output, probabilities=softmax, margin=policy.margin)
        except UserError as error:
            problems.append(f"against recorded {name}: {error}")
            continue
        except BackendError:
            continue  # the result has it already
        found.append(
            Comparison(
                reference=f"recorded {name}",
                against="recorded",
                samples=GOLDEN_SET,
                kind="images",
                metrics=metrics,
                tolerance=policy,
                verdict=policy.judge(metrics),
            )
        )
    return replace(result, comparisons=(*found, *result.comparisons), problems=(*result.problems, *problems))


def _outputs(session: Session, images: Array, preprocess: Preprocess) -> Array:
    """Run decoded pictures one at a time."""
    return np.concatenate([run_pixels(session, fit(image, preprocess)[None], preprocess) for image in images])
