"""``edgecnn plugin build``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.output import common_options, console, emit

__all__ = ["command"]


@click.command("plugin")
@click.argument("action", type=click.Choice(["build"]))
@click.option(
    "--tensorrt-root",
    type=click.Path(path_type=Path),
    help="TensorRT's folder, with include/. [EDGECNN_TENSORRT_ROOT, else /usr]",
)
@click.option("--arch", multiple=True, metavar="SM", help="A GPU, such as sm_87 (repeatable). [all that nvcc knows]")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("libedgecnn_plugin.so"),
    help="The library to write. [libedgecnn_plugin.so]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common_options
def command(
    action: str,  # noqa: ARG001 - build is the one there is
    tensorrt_root: Path | None,
    arch: tuple[str, ...],
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Compile the deformable-convolution plugin for TensorRT 10 or 11.

    Needs nvcc and TensorRT's headers. Then: trtexec --dynamicPlugins=libedgecnn_plugin.so
    """
    from edgecnn.native.build import PluginBuild, build_plugin

    built = build_plugin(PluginBuild(out=out, tensorrt_root=tensorrt_root, architectures=arch, force=force))
    if as_json:
        emit(
            {
                "out": str(built.path),
                "sha256": built.sha256,
                "tensorrt": built.tensorrt,
                "nvcc": built.nvcc,
                "architectures": list(built.architectures),
                "standard": built.standard,
            }
        )
        return
    gpus = ", ".join(built.architectures)
    console().print(f"{built.path}: for TensorRT {built.tensorrt}, {gpus}; compiled with nvcc {built.nvcc}")
