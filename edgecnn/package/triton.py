"""A bundle as a model repository of Triton Inference Server: for those who outgrow one machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import UserError
from edgecnn.package.folder import check_verified, packaged
from edgecnn.package.pbtxt import Enum, dumps
from edgecnn.package.triton_backends import OnnxRuntime, OpenVino, TensorRt, TritonBackend, instance_kind
from edgecnn.package.triton_readme import readme
from edgecnn.runtime import Bundle
from edgecnn.spec import TensorSpec
from edgecnn.wheel import write_wheel
from edgecnn.writing import write_bytes, write_json

__all__ = ["LABELS", "TritonConfig", "TritonRepository", "choose_backend", "write_triton"]

LABELS = "labels.txt"
IMAGE = "IMAGE"
"""The ensemble's input: one encoded picture (JPEG, PNG ...) as BYTES."""

_TYPES = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "bool": "BOOL"} | {
    f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """How a bundle is served.

    Attributes:
        name: of the model that clients ask; the network's name where empty.
        max_batch: pictures in a run, at most; 0 takes the backend's own (8; 1 with OpenVINO, which fills every run up).
        instances: copies of the network that run side by side, on each device.
        delay: seconds that a request waits for others to fill its batch, at most.
        queue: requests that may wait; more are refused.
        versions: of the model that Triton serves, the latest ones.
    """

    name: str = ""
    max_batch: int = 0
    instances: int = 1
    delay: float = 0.002
    queue: int = 128
    versions: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if self.name and not _NAME.fullmatch(self.name):
            raise UserError(
                f"{self.name!r} is no name for a model: letters, digits, '.', '_' and '-', beginning with a letter or digit"
            )
        for name, least in (("max_batch", 0), ("instances", 1), ("queue", 1), ("versions", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"Triton: {name} must be a whole number of at least {least}, found {value!r}")
        if not 0 <= self.delay < 60:
            raise UserError(f"Triton: delay must be from 0 to 60 seconds, found {self.delay}")


@dataclass(frozen=True, kw_only=True)
class TritonRepository:
    """What was written.

    Attributes:
        path: the repository's folder.
        name: of the model that clients ask.
        models: all models in it.
        variant, backend, max_batch: what runs; a ``max_batch`` of 0 is a graph with a fixed batch.
        notes: what whoever runs it must know; the README in the folder has them too.
    """

    path: Path
    name: str
    models: tuple[str, ...]
    variant: str
    backend: str
    max_batch: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**vars(self), "path": str(self.path), "models": list(self.models), "notes": list(self.notes)}


def write_triton(
    bundle: Bundle,
    destination: Path,
    config: TritonConfig = TritonConfig(),
    *,
    backend: TritonBackend | None = None,
    variant: str | None = None,
    gpu: bool = False,
    force: bool = False,
    allow_unverified: bool = False,
) -> TritonRepository:
    """Write a model repository, whole or not at all.

    A graph that takes pixels (exported with ``--embed-preprocess``) becomes one model. For others three are written: the network, a
    model of Triton's python backend that decodes and preprocesses pictures with edgecnn's own code, and an ensemble of both, which has
    the name.

    Args:
        bundle: what is served.
        destination: the repository's folder.
        config: names, sizes, queue.
        backend: what runs the network; by default what :func:`choose_backend` chooses.
        variant: by default the one that the backend's choice goes with.
        gpu: choose among backends that run on GPUs.
        force: replace a repository that was written before.
        allow_unverified: package what failed verification.

    Raises:
        UserError: an unknown variant, a batch that the graph or engine does not take, or nothing in Triton that runs it correctly.
        BundleUnverifiedError: it failed verification.
        OutputError: the destination exists, or cannot be written.
    """
    backend, variant = choose_backend(bundle, backend, variant, gpu=gpu)
    check_verified(bundle, variant, backend.name, allow_unverified=allow_unverified)
    name = config.name or re.sub(r"[^A-Za-z0-9._-]", "_", bundle.spec.name)
    max_batch = _max_batch(bundle, variant, backend, config)
    embedded = bundle.manifest.embedded.preprocess
    network = name if embedded else f"{name}_network"
    models = {network: _network(bundle, variant, backend, config, max_batch)}
    if not embedded:
        models |= _ensemble(bundle, variant, name, max_batch, models[network])
    result = TritonRepository(
        path=destination,
        name=name,
        models=tuple(sorted(models)),
        variant=variant,
        backend=backend.name,
        max_batch=max_batch,
        notes=(*bundle.alarms(), *backend.notes(bundle, variant)),
    )
    facts = {key: value for key, value in result.to_json().items() if key != "path"}
    with packaged(bundle, destination, "triton", facts, force=force) as folder:
        for model, fields in models.items():
            _put_model(bundle, folder / model, fields)
        backend.put(bundle, variant, folder / network / "1")
        if not embedded:
            _put_preprocess(bundle, folder / f"{name}_preprocess")
            _keep(folder / name / "1")
        write_bytes(folder / "README.md", readme(bundle, result).encode())
    return result


def choose_backend(
    bundle: Bundle, backend: TritonBackend | None = None, variant: str | None = None, *, gpu: bool = False
) -> tuple[TritonBackend, str]:
    """Choose what the caller left open.

    A bundle with TensorRT engines is served by one of them. Otherwise the runtime's own choice decides, which is what was measured to be
    the fastest; where that is a quantized graph that Triton's onnxruntime backend could not run as it is, OpenVINO is taken if the
    graph was verified there.

    Raises:
        UserError: an unknown variant, or a graph that no backend of Triton is known to run correctly and fast; the message says what
            can be done.
    """
    if variant is not None:
        bundle.variant(variant)
    engines = [name.removesuffix(".tensorrt") for name in bundle.manifest.engines if name.endswith(".tensorrt")]
    if isinstance(backend, TensorRt) or (backend is None and engines and variant in (None, *engines)):
        if not engines and variant is None:
            variant = bundle.default_variant("gpu")  # has none either: the backend says what to build
        return backend or TensorRt(), variant or bundle.choose(None, "tensorrt").variant
    if backend is None and gpu:
        backend = OnnxRuntime(gpu=True)
    if backend is not None:
        own = bundle.default_variant("gpu") if backend.gpu else bundle.choose(None, backend.name).variant
        return backend, variant or own
    choice = bundle.choose(variant, "auto")
    if choice.backend == "openvino":
        return OpenVino(), choice.variant
    if not OnnxRuntime.unoptimized(bundle, choice.variant):
        return OnnxRuntime(), choice.variant
    speed = bundle.variant(choice.variant).speed
    if speed and "openvino" in speed.backends and bundle.variant(choice.variant).verified_on("openvino"):
        return OpenVino(), choice.variant
    raise UserError(
        f"{choice.variant} has layers that were left in float, which Triton's onnxruntime backend would quantize without being asked: "
        "serve another variant (--variant fp32), run it with --backend openvino, or with --backend onnxruntime, which then optimizes "
        "nothing and is slow"
    )


def _max_batch(bundle: Bundle, variant: str, backend: TritonBackend, config: TritonConfig) -> int:
    """Return the largest batch; 0 where the graph's is fixed."""
    batch = bundle.variant(variant).inputs[0].shape[0]
    if isinstance(batch, int):
        if config.max_batch not in (0, batch):
            raise UserError(
                f"{variant} has a fixed batch of {batch}: leave out --max-batch, or export with a dynamic batch"
            )
        return 0
    largest = backend.largest_batch(bundle, variant)
    if largest and config.max_batch > largest:
        raise UserError(
            f"the engine takes {largest} pictures at most: build it with --batch 1:{config.max_batch}:{config.max_batch}"
        )
    return config.max_batch or min(backend.default_batch, largest or backend.default_batch)


def _network(
    bundle: Bundle, variant: str, backend: TritonBackend, config: TritonConfig, max_batch: int
) -> dict[str, Any]:
    """Return the configuration of the graph or plan."""
    chosen = bundle.variant(variant)
    first, output = _tensor(chosen.inputs[0], max_batch), _tensor(chosen.outputs[0], max_batch)
    if bundle.labels:
        output["label_filename"] = LABELS
    rest = [_tensor(spec, max_batch) for spec in chosen.outputs[1:]]
    warm = {key: first[key] for key in ("data_type", "dims")}
    fields = {
        **backend.config(bundle, variant, max_batch),
        "max_batch_size": max_batch,
        "input": [first],
        "output": [output, *rest],
        "instance_group": [{"count": config.instances, "kind": instance_kind(backend)}],
        "version_policy": {"latest": {"num_versions": config.versions}},
        "model_warmup": [
            {
                "name": "one picture of noise",
                "batch_size": 1,
                "inputs": [{"key": first["name"], "value": {**warm, "random_data": True}}],
            }
        ],
    }
    policy = {"timeout_action": Enum("REJECT"), "max_queue_size": config.queue}
    if max_batch:
        fields["dynamic_batching"] = {
            "max_queue_delay_microseconds": round(config.delay * 1e6) if max_batch > 1 else 0,
            "default_queue_policy": policy,
        }
    return fields


def _ensemble(
    bundle: Bundle, variant: str, name: str, max_batch: int, network: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the configurations of the preprocessing and of the ensemble."""
    chosen = bundle.variant(variant)
    batch = chosen.inputs[0].shape[0]
    image = {"name": IMAGE, "data_type": Enum("TYPE_STRING"), "dims": [1] if isinstance(batch, str) else [batch]}
    made = network["input"][0]
    preprocess = {
        "backend": "python",
        "max_batch_size": max_batch,
        "input": [image],
        "output": [made],
        "instance_group": [{"count": 2, "kind": Enum("KIND_CPU")}],  # one decodes while another's result is taken
    }
    steps = [
        {"model_name": f"{name}_preprocess", "model_version": -1, **_maps({IMAGE: IMAGE}, {made["name"]: "pixels"})},
        {
            "model_name": f"{name}_network",
            "model_version": -1,
            **_maps({made["name"]: "pixels"}, {output["name"]: output["name"] for output in network["output"]}),
        },
    ]
    ensemble = {
        "platform": "ensemble",
        "max_batch_size": max_batch,
        "input": [image],
        "output": network["output"],
        "version_policy": network["version_policy"],
        "ensemble_scheduling": {"step": steps},
    }
    return {f"{name}_preprocess": preprocess, name: ensemble}


def _maps(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the two maps of an ensemble's step."""
    return {
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _tensor(spec: TensorSpec, max_batch: int) -> dict[str, Any]:
    """Return a tensor as ``config.pbtxt`` describes it: without the batch, where Triton adds that."""
    if spec.dtype not in _TYPES:
        raise UserError(f"tensor {spec.name!r} is {spec.dtype}, which Triton does not have")
    dims = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {
        "name": spec.name,
        "data_type": Enum(f"TYPE_{_TYPES[spec.dtype]}"),
        "dims": dims[1:] if max_batch else dims,
    }


def _put_model(bundle: Bundle, folder: Path, fields: Mapping[str, Any]) -> None:
    """Write a model's folder but for what its version holds."""
    (folder / "1").mkdir(parents=True)
    write_bytes(folder / "config.pbtxt", dumps({"name": folder.name, **fields}).encode())
    if any("label_filename" in output for output in fields["output"]):
        write_bytes(folder / LABELS, ("\n".join(map(_one_line, bundle.labels)) + "\n").encode())


def _put_preprocess(bundle: Bundle, folder: Path) -> None:
    """Write the python model, what it reads, and the edgecnn that it imports."""
    write_json(folder / "1" / "preprocess.json", bundle.preprocess.to_json())
    shutil.copyfile(Path(__file__).with_name("triton_preprocess.py"), folder / "1" / "model.py")
    write_wheel(folder)


def _keep(folder: Path) -> None:
    """Put something into the ensemble's version, whose folder must be there: a copy with git would drop an empty one."""
    write_bytes(folder / ".keep", b"")


def _one_line(label: str) -> str:
    """Return a label without characters that end a line for some readers."""
    return " ".join(label.splitlines())
