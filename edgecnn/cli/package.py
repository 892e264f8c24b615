"""``edgecnn package``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgecnn.cli.backend import warn_about
from edgecnn.cli.options import usage
from edgecnn.cli.output import common_options, console, emit, warn

if TYPE_CHECKING:
    from edgecnn.package import TritonBackend

__all__ = ["command"]


@click.command("package")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--triton", type=click.Path(path_type=Path), metavar="DIR", help="Write a Triton model repository.")
@click.option(
    "--docker", type=click.Path(path_type=Path), metavar="DIR", help="Write the context of a container image."
)
@click.option("--variant", help="fp32, fp16, int8, ... [what was measured to be the fastest]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt"]),
    default="auto",
    help="What runs it there; auto: the bundle's TensorRT engine (Triton), else what was measured to be the fastest. [auto]",
)
@click.option("--name", default="", help="Triton: of the model that clients ask. [the network's]")
@click.option("--max-batch", type=click.IntRange(min=1), help="Triton: pictures in a run. [8; 1 with OpenVINO]")
@click.option("--instances", type=click.IntRange(min=1), default=1, help="Triton: copies that run side by side. [1]")
@click.option("--gpu", is_flag=True, help="Triton: on GPUs.")
@click.option("--port", type=click.IntRange(1024, 65535), default=8000, help="Docker: of the service. [8000]")
@click.option("--base", default="", metavar="IMAGE", help="Docker: base image for servers. [python's slim one]")
@click.option("--jetson-base", metavar="IMAGE", help="Docker: base image for a Jetson. [NVIDIA's TensorRT image]")
@click.option("--allow-unverified", is_flag=True, help="Package a bundle whose verification failed.")
@click.option("--force", is_flag=True, help="Replace a folder that was written by this command.")
@common_options
def command(
    bundle: Path,
    triton: Path | None,
    docker: Path | None,
    variant: str | None,
    backend: str,
    name: str,
    max_batch: int | None,
    instances: int,
    gpu: bool,
    port: int,
    base: str,
    jetson_base: str | None,
    allow_unverified: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Package a BUNDLE for an existing engine: a Triton model repository, a container image, or both.

    \b
    edgecnn package efficientnet_lite0-int8 --triton models --max-batch 16
    edgecnn package efficientnet_lite0-int8 --docker image
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    if triton is None and docker is None:
        raise click.UsageError("Name what to write: --triton DIR, --docker DIR, or both.")
    _refuse_unused(triton is not None, "--triton", ("name", "max_batch", "instances", "gpu"))
    _refuse_unused(docker is not None, "--docker", ("port", "base", "jetson_base"))
    from edgecnn.package import DockerConfig, TritonConfig, write_docker, write_triton
    from edgecnn.runtime import Bundle

    with usage():
        config = TritonConfig(name=name, max_batch=max_batch or 0, instances=instances)
        image = DockerConfig(base=base, port=port, **({"jetson_base": jetson_base} if jetson_base else {}))
        engine = _triton_backend(backend, gpu=gpu) if triton is not None else None
    opened = Bundle.open(bundle, allow_unverified=allow_unverified)
    warn_about(opened)
    written: dict[str, Any] = {}
    if triton is not None:
        written["triton"] = write_triton(
            opened,
            triton,
            config,
            backend=engine,
            variant=variant,
            gpu=gpu,
            force=force,
            allow_unverified=allow_unverified,
        )
    if docker is not None:
        written["docker"] = write_docker(
            opened, docker, image, backend=backend, variant=variant, force=force, allow_unverified=allow_unverified
        )
    if as_json:
        emit({"bundle": str(bundle), **{kind: made.to_json() for kind, made in written.items()}})
        return
    for made in written.values():
        for note in made.notes:
            warn(note)
        console().print(f"{made.path}: {made.variant} on {made.backend}; see README.md in it", markup=False)


def _refuse_unused(used: bool, of: str, names: tuple[str, ...]) -> None:
    """Refuse options that would do nothing. Raises UsageError."""
    given = click.get_current_context()
    for name in names:
        if not used and given.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with {of}.")


def _triton_backend(name: str, *, gpu: bool) -> TritonBackend | None:
    """Build what was asked for; None leaves it to the library."""
    from edgecnn.package import BACKENDS

    if name == "auto":
        return None
    return BACKENDS[name](gpu=True) if gpu else BACKENDS[name]()
