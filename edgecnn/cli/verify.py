"""``edgecnn verify``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.backend import backend_option, provider_option, session_options, warn_about
from edgecnn.cli.output import common_options, console, emit, progress_bar
from edgecnn.cli.parity import print_report
from edgecnn.cli.remote import OnCommand

__all__ = ["command"]


@click.command("verify", cls=OnCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images to verify on besides the bundle's own.")
@click.option(
    "--bisect",
    is_flag=True,
    help="Name the first layer that departs: of a variant from fp32, of an engine from its graph.",
)
@backend_option
@provider_option
@click.option("--threads", type=click.IntRange(min=0), default=0, help="[as the backend chooses]")
@common_options
def command(
    bundle: Path,
    data: Path | None,
    bisect: bool,
    backend: str,
    plugins: tuple[Path, ...],
    provider: str,
    threads: int,
    as_json: bool,
) -> int:
    """Prove a BUNDLE on this device, without PyTorch.

    Golden pictures go through preprocessing and every variant and must give what PyTorch gave; variants are compared with
    fp32 on these, on --data, on noise and on edge inputs. Exits with 3 when something does not match.
    """
    from edgecnn.parity.device import bisect_bundle, verify_bundle
    from edgecnn.runtime import Bundle, TensorRtOptions

    options = session_options(backend, threads, provider, plugins)
    opened = Bundle.open(bundle, allow_unverified=True)
    warn_about(opened)
    with progress_bar(as_json) as progress:
        report = verify_bundle(opened, data, options=options, progress=progress)
        found = {}
        if bisect and isinstance(options, TensorRtOptions):
            from edgecnn.pipeline.engine_bisect import bisect_engines

            found = bisect_engines(opened, options, data, progress=progress)
        elif bisect:
            found = bisect_bundle(opened, data, progress=progress)
    if as_json:
        extra = {"bisect": {name: part.to_json() for name, part in found.items()}} if bisect else {}
        emit({"bundle": str(bundle), "untrained": opened.untrained, **report.to_json(), **extra})
        return 0 if report else 3
    print_report(report)
    for name, part in found.items():
        console().print(f"{name}:", *part.lines(), sep="\n  ", markup=False)
    return 0 if report else 3
