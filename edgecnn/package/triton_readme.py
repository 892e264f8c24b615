"""What the repository says to whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn._version import __version__
from edgecnn.runtime import Bundle
from edgecnn.wheel import wheel_name

if TYPE_CHECKING:
    from edgecnn.package.triton import TritonRepository

__all__ = ["readme"]


def readme(bundle: Bundle, made: TritonRepository) -> str:
    """Return the README of a repository."""
    gpus = "--gpus all " if made.backend == "tensorrt" else ""
    embedded = bundle.manifest.embedded.preprocess
    serve = "tritonserver --model-repository=/models"
    if not embedded:
        wheel = f"/models/{made.name}_preprocess/{wheel_name()}"
        serve = f"sh -c 'pip install {wheel} && exec {serve}'"
    height, width = bundle.preprocess.size
    tensor = bundle.variant(made.variant).inputs[0]
    unit = "probabilities" if bundle.manifest.embedded.softmax else "logits (no softmax: take it, or only the order)"
    output = bundle.variant(made.variant).outputs[0]
    batch = f"Up to {made.max_batch} in a request." if made.max_batch else f"{tensor.shape[0]} in every request."
    release = f"Take a release that has the {made.backend} backend."
    if not embedded:
        release = (
            f"Take a release that has the {made.backend} backend and Python 3.11 or newer. pip leaves the container's numpy as it is:\n"
            "leave it too, since Triton's python backend crashes with one that it was not built for (2.51 with numpy 2)."
        )
    notes = "".join(f"- {note}.\n" for note in made.notes) or "Nothing that is known.\n"
    asks = (
        f"`{tensor.name}`, {tensor.dtype} {list(tensor.shape)}: pixels, {bundle.preprocess.colour}, decoded, resized and cropped to\n"
        f"{height}x{width} by the client as `edgecnn.runtime.preprocess.fit(decode(picture), preprocess)` does; the graph normalises them."
        if embedded
        else "`IMAGE`, BYTES [N, 1]: pictures as they are in a file (JPEG, PNG ...); decoding, resizing and\nnormalisation are done by "
        f"edgecnn's own code in `{made.name}_preprocess`. A client that has preprocessed tensors asks `{made.name}_network`."
    )
    return f"""# {made.name} for Triton Inference Server

Written by `edgecnn package --triton` (edgecnn {__version__}): {made.variant} of {bundle.spec.name}, run by Triton's {made.backend} backend.
Configurations of this form are checked against Triton's own protobuf in edgecnn's tests; this repository was not loaded into a server.

    docker run --rm {gpus}-p 8000:8000 -p 8001:8001 -v "$PWD":/models:ro nvcr.io/nvidia/tritonserver:YY.MM-py3 {serve}

{release}

## What a client sends and gets

Model `{made.name}`. Input {asks} {batch}

Output `{output.name}`, {output.dtype}: {unit}.
With `class_count=5` in the request (Triton's classification extension) the answer is `score:index:label`.

    curl localhost:8000/v2/models/{made.name}/config

## What you must know

{notes}"""
