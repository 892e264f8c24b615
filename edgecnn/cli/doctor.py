"""``edgecnn doctor``."""

from __future__ import annotations

import click

from edgecnn._version import __version__
from edgecnn.cli.output import common_options, console, emit, table

__all__ = ["command"]


@click.command("doctor")
@common_options
def command(as_json: bool) -> int:
    """Check this machine: backends, versions, what is missing, known-bad combinations.

    Exits with 1 when something is wrong, 0 otherwise.
    """
    from edgecnn.doctor import diagnose

    report = diagnose()
    if as_json:
        emit(report.to_json())
        return 0 if report else 1
    here = report.machine
    line = f"edgecnn {__version__} on {here.system} {here.arch}, Python {here.python}, {here.cores} cores, {here.memory_gib:.1f} GiB"
    out = console()
    out.print(line + (f", NVIDIA {here.nvidia}" if here.nvidia else ", no NVIDIA GPU"))
    out.print("onnxruntime's execution providers: " + (", ".join(report.providers) or "none"))
    table(
        ("package", "version", "for", "to install"),
        [
            (package.distribution, package.version or "-", package.purpose, "" if package.version else package.install)
            for package in report.packages
        ],
    )
    for finding in report.findings:
        out.print(f"{finding.level}: {finding.what}\n    -> {finding.todo}")
    out.print("nothing is wrong" if report else "see the errors above")
    return 0 if report else 1
