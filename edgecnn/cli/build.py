"""``edgecnn build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecnn.cli.backend import warn_about
from edgecnn.cli.engines import print_engines, print_gate
from edgecnn.cli.options import usage
from edgecnn.cli.output import common_options, console, emit, progress_bar, warn
from edgecnn.cli.remote import OnCommand

__all__ = ["command"]


@click.command("build", cls=OnCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    required=True,
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="tensorrt builds for the GPU or Jetson it runs on; tensorrt-rtx for RTX GPUs, on any machine.",
)
@click.option("--variant", "variants", multiple=True, help="Only these (repeatable). [all that TensorRT takes]")
@click.option("--batch", metavar="MIN:OPT:MAX", help="Batch sizes, such as 1:8:32, or one. [the graph's own, or 1]")
@click.option("--workspace", metavar="SIZE", help="Device memory a layer may use, such as 512M or 1G. [the builder's]")
@click.option("--level", type=click.IntRange(0, 5), default=3, help="How long the builder searches. [3]")
@click.option("--strip-weights", is_flag=True, help="Leave out weights; loading takes them from the graph.")
@click.option("--dla", type=click.IntRange(min=0), metavar="CORE", help="Build for a DLA core, the rest on the GPU.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Measured kernels: read, and written.")
@click.option("--version-compatible", is_flag=True, help="Later versions of the same major one load the plan too.")
@click.option(
    "--hardware",
    type=click.Choice(["this", "ampere+", "same-compute-capability"]),
    default="this",
    help="GPUs that load the plan of tensorrt. [this]",
)
@click.option("--gpu", "gpus", multiple=True, metavar="CC", help="Compute capability for tensorrt-rtx, such as 8.6.")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Library of operators.")
@click.option(
    "--gate",
    type=click.Choice(["latency"]),
    help="INT8 is the default only if it is faster than fp16, which is built too: both are measured here.",
)
@click.option("--allow-unverified", is_flag=True, help="Use a bundle whose verification failed.")
@common_options
def command(
    bundle: Path, variants: tuple[str, ...], gate: str | None, allow_unverified: bool, as_json: bool, **options: Any
) -> int:
    """Build engines of a BUNDLE's graphs, audit their precision, and put them into it.

    \b
    edgecnn build resnet50-int8 --target tensorrt --batch 1:8:32 --timing-cache orin.cache
    edgecnn build resnet50-int8 --target tensorrt --gate latency
    edgecnn build resnet50-int8 --target tensorrt-rtx --variant int8-fp16

    Exits with 3 when an engine does not have the precision that was asked for, such as no convolution in INT8, or when INT8 is not
    faster and --gate latency was given; the bundle then runs the faster engine by default.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from edgecnn.pipeline.engines import build_into, unsound
    from edgecnn.runtime import Bundle

    config = _config(options)
    opened = Bundle.open(bundle, allow_unverified=allow_unverified)
    warn_about(opened)
    with progress_bar(as_json) as progress:
        outcome = build_into(
            opened,
            config,
            variants=variants,
            allow_unverified=allow_unverified,
            latency_gate=gate == "latency",
            progress=progress,
        )
    for text in unsound(outcome.engines):
        warn(text)
    if as_json:
        emit(outcome.to_json())
        return 0 if outcome else 3
    print_engines(outcome.engines)
    for engine in outcome.engines.values():
        console().print(str(engine.path), markup=False)
    print_gate(outcome.gate)
    return 0 if outcome else 3


def _config(options: dict[str, Any]) -> Any:
    """Build the configuration. Raises UsageError."""
    from edgecnn.engine import Batch, BuildConfig, parse_bytes

    batch = options.pop("batch")
    with usage():
        return BuildConfig(
            batch=None if batch is None else Batch.parse(batch),
            workspace=parse_bytes(options.pop("workspace") or "0"),
            **options,
        )
