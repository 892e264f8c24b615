"""Names the layer at which an engine departs from its graph: an engine of the same graph is built whose layers are all outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from edgecnn.artifacts import OnnxModel, sha256_file
from edgecnn.engine import Batch, BuildConfig, build
from edgecnn.engine.device import device
from edgecnn.errors import OutputError
from edgecnn.onnxio import data_path, expose, scratch_file
from edgecnn.parity.bisect import FLOORS, BisectReport, bisect_form
from edgecnn.parity.device import bundle_samples
from edgecnn.parity.samples import Sample, SampleSet, feed_for
from edgecnn.parity.trace import Graph, Reader, read_graph
from edgecnn.pipeline.engines import config_for, model_of
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession

__all__ = ["ENGINE_FLOORS", "bisect_engines"]

ENGINE_FLOORS: Mapping[str, float] = MappingProxyType({**FLOORS, "fp32": 60.0})
"""As :data:`edgecnn.parity.bisect.FLOORS`; FP32 on a GPU may sum in another order, or multiply in Winograd's transformed domain."""


class EngineReader(Reader):
    """Reads tensors of a graph from an engine in which they are outputs: marked before the builder could fuse them away.

    Args:
        graph: the graph. ``model``: it as an artefact.
        config: how to build. ``options``: how to run.
        tensors: to read.
        progress: told about the builder's phases.
    """

    def __init__(
        self,
        graph: Graph,
        model: OnnxModel,
        config: BuildConfig,
        options: TensorRtOptions,
        progress: Progress,
        tensors: Sequence[str],
    ) -> None:
        """Build the engine and load it. Raises as :func:`edgecnn.engine.build` and :class:`TensorRtSession`."""
        self._names, self._constants = list(dict.fromkeys(tensors)), graph.constants
        with ExitStack() as stack:
            try:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecnn-")))
            except OSError as error:
                raise OutputError(f"cannot make a temporary folder: {error.strerror or error}") from error
            file = stack.enter_context(scratch_file(expose(graph.path, self._names, typed=True)))
            marked = replace(model, path=file, sha256=sha256_file(*(p for p in (file, data_path(file)) if p.is_file())))
            engine = build(marked, config, to=folder / "marked.plan", progress=progress)
            session = TensorRtSession(engine.path, replace(options, rebuild=None), engine.facts)
        self._session = session
        batch = session.inputs[0].shape[0]
        self._copies = batch if isinstance(batch, int) else 1

    def read(self, sample: Sample) -> dict[str, NDArray[Any]]:
        """Run once."""
        found = self._session.run(feed_for(self._session, [sample] * self._copies), self._names)
        return {
            name: array if self._copies == 1 or name in self._constants else array[:1] for name, array in found.items()
        }

    def close(self) -> None:
        """Release the session."""
        self._session.close()


def bisect_engines(
    bundle: Bundle,
    options: TensorRtOptions,
    data: SampleSet | Path | str | None = None,
    *,
    limit: int = 4,
    progress: Progress = silent,
) -> dict[str, BisectReport]:
    """Find for each engine of a bundle the first layer that departs from its graph on this CPU.

    An engine cannot be looked into: another one is built from the same graph with the same options, for one image, whose layers are all
    outputs. Where many are compared, or large ones, that is done in parts. What is read is not fused into its neighbours; so where no
    layer departs and ``verify`` fails all the same, the fault is in what TensorRT fuses, or in a kernel for another batch size.

    Args:
        bundle: with engines of ``options.flavour``.
        options: how they run.
        data: pictures to use in place of the golden ones.
        limit: pictures.
        progress: told about the builder's phases, and once a pass.

    Returns:
        ``int8@tensorrt`` -> report.

    Raises:
        UserError: there is no engine, or this device lacks something.
        MissingDependencyError: the flavour, onnx-ir or onnxruntime is not installed.
        BackendError: an engine cannot be built or run.
    """
    bundle.choose(options=options)  # says what to do where there is no engine
    sets = bundle_samples(bundle, data, limit=limit)
    images = [used for used in sets if used.kind == "images"]
    samples = images[-1] if images else sets[0]  # the user's own come after the golden ones
    return {
        f"{variant}@{options.flavour}": bisect_form(
            f"{variant}@{options.flavour}",
            _reader(bundle, variant, options, progress),
            bundle.model_path(variant),
            samples,
            precision=bundle.variants[variant].precision,
            floor_db=ENGINE_FLOORS[bundle.variants[variant].precision],
            limit=limit,
            progress=progress,
        )
        for variant in bundle.engine_variants(options.flavour)
    }


def _reader(
    bundle: Bundle, variant: str, options: TensorRtOptions, progress: Progress
) -> Callable[[Sequence[str]], Reader]:
    """Return a function from tensors to a reader of them from an engine like the bundle's."""
    model = model_of(bundle, variant)
    config = config_for(bundle.manifest.engines[f"{variant}.{options.flavour}"].facts, options, device())
    fixed = isinstance(model.inputs[0].shape[0], int)
    config = replace(config, batch=None if fixed else Batch(1, 1, 1))
    return partial(EngineReader, read_graph(model.path), model, config, options, progress)
