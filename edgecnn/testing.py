"""For your own test suite: assert that two forms of a network compute the same thing.

::

    from edgecnn.testing import assert_parity

    def test_the_bundle_is_my_network():
        assert_parity(MyNet.trained(), "build/my_net-int8", samples=my_validation_tensors)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.artifacts import OnnxModel
from edgecnn.errors import UserError
from edgecnn.parity.device import bundle_samples
from edgecnn.parity.report import ParityReport
from edgecnn.parity.samples import SampleSet, edge_inputs, from_arrays, gaussian, real_images
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.tolerance import DEFAULT_TOLERANCES, Tolerance, Tolerances, tolerances_for
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.ort import OrtSession
from edgecnn.runtime.session import Session
from edgecnn.spec import TensorSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["assert_parity", "tiny_model"]

Network = Any
"""An ``nn.Module``, a :class:`~edgecnn.runtime.session.Session`, an :class:`~edgecnn.artifacts.OnnxModel`, an opened
:class:`~edgecnn.runtime.bundle.Bundle`, or the path of an ``.onnx`` file or of a bundle's folder."""

_DEFAULT_INPUT = TensorSpec(name="input", shape=("batch", 3, 224, 224))


@dataclass(frozen=True)
class _Form:
    """A network as it was given, opened as far as it describes itself.

    Attributes:
        sessions: name -> (precision, session); empty for an ``nn.Module``.
        module, bundle: where it is one.
        probabilities: whether it gives probabilities.
    """

    sessions: Mapping[str, tuple[str, Session]]
    module: Any = None
    bundle: Bundle | None = None
    probabilities: bool | None = None


def assert_parity(
    reference: Network,
    candidate: Network,
    samples: Any = None,
    tolerance: Tolerances | Tolerance | str | None = None,
    *,
    batch: int = 4,
) -> ParityReport:
    """Raise AssertionError unless the candidate computes what the reference computes.

    Args:
        reference: see :data:`Network`; of a bundle its fp32 variant.
        candidate: see :data:`Network`; of a bundle every variant, each of which must pass.
        samples: what to run on: an array (N, C, H, W), a mapping {input: array}, a re-iterable of such mappings, a
            :class:`~edgecnn.parity.samples.SampleSet`, or a sequence of these sets. By default Gaussian noise and edge
            inputs, and the golden pictures of a bundle. Quantized graphs can be judged for accuracy on real images only, so
            give some; on noise they merely must not be grossly wrong.
        tolerance: a precision whose defaults to use (``"fp16"``), policies, or one policy for every kind of samples. By default
            that of the candidate's precision; float32 for a session, which does not tell.
        batch: size of the batched run, which must agree with batch 1; 1 leaves it out.

    Returns:
        The report, for further assertions.

    Raises:
        AssertionError: naming the stage, the metric, and the tolerance that would have passed.
        UserError: something that is no network, or samples that are none.
    """
    __tracebackhide__ = True
    with ExitStack() as stack:
        forms = _open(reference, stack), _open(candidate, stack)
        inputs = _inputs(forms, samples)
        stages = _stages(forms, inputs, stack)
        sets = _sets(samples, forms, inputs[0])
        report = verify(stages, sets, tolerances=_policies(tolerance, stages), batch=batch)
    if not report:
        raise AssertionError("\n".join(report.lines()))
    return report


def tiny_model(num_classes: int = 10, size: int = 32, seed: int = 0) -> nn.Module:
    """Return a small real network for tests, in evaluation mode, with weights fixed by ``seed``.

    Convolutions with BatchNorm, a residual add, pooling and a linear layer: (N, 3, ``size``, ``size``) to (N, ``num_classes``).
    """
    from edgecnn.parity.torch_runner import tiny_module

    return tiny_module(num_classes, size, seed)


def _open(network: Network, stack: ExitStack) -> _Form:
    """Open what was given."""
    if isinstance(network, Session):
        return _Form({"session": ("fp32", network)})
    if isinstance(network, OnnxModel):
        return _Form({network.path.stem: (network.precision, stack.enter_context(OrtSession(network.path)))})
    if isinstance(network, (str, Path)):
        path = Path(network)
        if path.is_dir():
            network = Bundle.open(path, allow_unverified=True)
        else:
            session = stack.enter_context(OrtSession(path))
            return _Form({path.stem: (session.metadata.get("edgecnn.precision", "fp32"), session)})
    if isinstance(network, Bundle):
        names = sorted(network.variants, key=lambda name: name != "fp32")
        opened = {
            name: (
                network.variants[name].precision,
                stack.enter_context(network.session(name, allow_unverified=True)),
            )
            for name in names
        }
        return _Form(opened, bundle=network, probabilities=network.manifest.embedded.softmax)
    # Whoever holds a module has imported torch.
    if "torch" in sys.modules:
        from edgecnn.parity.torch_runner import is_module

        if is_module(network):
            return _Form({}, module=network)
    raise UserError(
        f"{type(network).__name__} is no network: pass an nn.Module, a Session, an OnnxModel, a Bundle, or the path of an .onnx "
        "file or a bundle"
    )


def _inputs(forms: Sequence[_Form], samples: Any) -> tuple[TensorSpec, ...]:
    """Return the tensors that the networks take: what a session says, else what the samples look like, else 3 x 224 x 224."""
    for form in forms:
        for _, session in form.sessions.values():
            if session.inputs[0].dtype != "uint8":
                return tuple(
                    TensorSpec(name=spec.name, shape=("batch", *spec.shape[1:]), dtype=spec.dtype)
                    for spec in session.inputs
                )
            if form.bundle is not None:
                preprocess = form.bundle.preprocess
                shape = ("batch", preprocess.channels, *preprocess.size)
                return (TensorSpec(name=session.inputs[0].name, shape=shape),)
    feed = _first_feed(samples)
    if feed:
        return tuple(
            TensorSpec(name=name, shape=("batch", *array.shape[1:]), dtype=str(array.dtype))
            for name, array in feed.items()
        )
    return (_DEFAULT_INPUT,)


def _first_feed(samples: Any) -> Mapping[str, Any]:
    """Return the first feed of what was passed as samples, empty if there is none."""
    if isinstance(samples, np.ndarray):
        return {_DEFAULT_INPUT.name: samples}
    if isinstance(samples, Mapping):
        return samples
    if isinstance(samples, SampleSet):
        return next(iter(samples)).feed
    if isinstance(samples, Iterable) and iter(samples) is not samples:
        return _first_feed(next(iter(samples), None))
    return {}


def _stages(forms: tuple[_Form, _Form], inputs: Sequence[TensorSpec], stack: ExitStack) -> list[Stage]:
    """Return the reference's stage and the candidate's."""
    stages: list[Stage] = []
    for position, form in enumerate(forms):
        label = ("reference", "candidate")[position]
        sessions = dict(form.sessions)
        if form.module is not None:
            from edgecnn.parity.torch_runner import TorchSession

            sessions = {"pytorch": ("fp32", stack.enter_context(TorchSession(form.module, inputs)))}
        if position == 0:
            sessions = dict([next(iter(sessions.items()))])
        for name, (precision, session) in sessions.items():
            unique = name if name not in {stage.name for stage in stages} and name != "session" else f"{label} {name}"
            after = stages[0].name if stages else ""
            stages.append(Stage(unique, precision, session, after=after, probabilities=form.probabilities))
    return stages


def _sets(samples: Any, forms: Sequence[_Form], spec: TensorSpec) -> list[SampleSet]:
    """Return the sets to run on."""
    bundle = next((form.bundle for form in forms if form.bundle is not None), None)
    if samples is None:
        return bundle_samples(bundle) if bundle is not None else [gaussian(spec), edge_inputs(spec)]
    if isinstance(samples, SampleSet):
        return [samples]
    if isinstance(samples, np.ndarray):
        return [from_arrays([{spec.name: samples}])]
    if isinstance(samples, Mapping):
        return [from_arrays([samples])]
    if isinstance(samples, Sequence) and samples and all(isinstance(item, SampleSet) for item in samples):
        return list(samples)
    if isinstance(samples, Sequence) and samples and all(isinstance(item, np.ndarray) for item in samples):
        return [from_arrays([{spec.name: item} for item in samples])]
    if hasattr(samples, "pixels"):
        return [real_images(samples, name="given samples")]
    if isinstance(samples, Iterable):
        return [from_arrays(samples)]
    raise UserError(f"{type(samples).__name__} holds no samples: pass an array, a mapping, or a list of them")


def _policies(tolerance: Tolerances | Tolerance | str | None, stages: Sequence[Stage]) -> Mapping[str, Tolerances]:
    """Return the policies of every precision among the stages."""
    if tolerance is None:
        return DEFAULT_TOLERANCES
    if isinstance(tolerance, str):
        tolerance = tolerances_for(tolerance)
    policies: Tolerances
    if isinstance(tolerance, Tolerance):
        policies = Tolerances(images=tolerance, noise=tolerance, edge=tolerance, same=tolerance)
    else:
        policies = tolerance
    return {stage.precision: policies for stage in stages}
