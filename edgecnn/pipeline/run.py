"""The main job, step by step: build, export, simplify, quantize, verify, measure, pack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import zoo
from edgecnn.artifacts import cache_dir
from edgecnn.export import export
from edgecnn.pack import BundleContents, VariantContents, check_destination, make_golden, pack
from edgecnn.pipeline.config import Outcome, PipelineConfig
from edgecnn.pipeline.samples import Data, gather
from edgecnn.pipeline.variants import Made, make_variants
from edgecnn.progress import Progress, silent
from edgecnn.runtime.manifest import Embedded, Speed
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.artifacts import OnnxModel
    from edgecnn.bench.timing import Timing
    from edgecnn.parity.report import ParityReport
    from edgecnn.runtime.session import Session

__all__ = ["run"]

GOLDEN_IMAGES = 3


def run(
    spec: ModelSpec,
    config: PipelineConfig = PipelineConfig(),
    *,
    to: Path,
    module: nn.Module | None = None,
    labels: Sequence[str] = (),
    progress: Progress = silent,
) -> Outcome:
    """Do the main job.

    Args:
        spec: of the zoo (:func:`edgecnn.zoo.find`) or the user's own (:func:`edgecnn.zoo.user_spec`).
        config: what to make.
        to: the bundle's folder.
        module: the network itself, in place of what the spec's builder returns.
        labels: class names, in place of the spec's label set.
        progress: told about steps.

    Returns:
        The bundle, written also when verification failed: it is then marked unverified, and the runtime refuses it.

    Raises:
        UserError: anything the caller can fix: the destination exists, no weights, unusable images.
        ToolError: torch.onnx or a runtime failed.
    """
    check_destination(to, force=config.force)
    clock = _Clock(progress)
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch, ExitStack() as stack:
        work = Path(scratch)
        with clock.step("build"):
            built = zoo.build(spec, config.weights, config.num_classes, progress, module=module)
        names = tuple(labels) or zoo.labels(built.spec)
        data = gather(built.spec, config)
        with clock.step("export"):
            exported = export(built.module, built.spec, config.export, to=work / "exported.onnx", labels=names)
        made = make_variants(exported, built.spec, data, config, work, clock.step, progress)
        sessions = {name: stack.enter_context(_open(model, config)) for name, model in made.models.items()}
        with clock.step("verify"):
            reference = stack.enter_context(_reference(built.module, built.spec, config))
            report = _verify(reference, exported, made, sessions, data, built.spec, config, progress)
        with clock.step("measure"):
            timings = _measure(sessions, data, config, progress)
        notes = (*data.notes, *made.notes, *built.weights.notes)
        with clock.step("pack"):
            contents = BundleContents(
                spec=built.spec,
                weights=built.weights.to_json(),
                variants=[_variant(name, model, made, report, timings, config) for name, model in made.models.items()],
                labels=names,
                embedded=Embedded(preprocess=config.embed_preprocess, softmax=config.embed_softmax),
                golden=make_golden(
                    data.pictures(GOLDEN_IMAGES), built.spec.preprocess, sessions | {"pytorch": reference}
                ),
                ranges=made.ranges,
                parity=report.to_json(),
                parity_summary=report.summary(),
                verified=bool(report),
                calibration=made.calibration,
                notes=notes,
                lineage=exported.lineage,
                tools=_tools(),
            )
            bundle = pack(to, contents, force=config.force)
    return Outcome(bundle=bundle, report=report, timings=timings, seconds=clock.seconds, notes=notes)
