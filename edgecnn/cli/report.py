"""``edgecnn report``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.backend import warn_about
from edgecnn.cli.options import usage
from edgecnn.cli.output import common_options, console, emit, progress_bar, warn

__all__ = ["command"]


@click.command("report")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The HTML file to write.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled images: accuracy of every variant.")
@click.option("--limit", type=click.IntRange(min=1), help="Of these images at most. [all]")
@click.option("--analyze", is_flag=True, help="INT8 layer by layer, as 'edgecnn analyze' does.")
@click.option("--variant", default="", help="That --analyze explains. [int8, or the first]")
@click.option("--bench", type=click.Path(path_type=Path), help="Show the result of 'edgecnn bench --json' from a file.")
@click.option("--measure", is_flag=True, help="Measure every verified variant on this device.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, help="Of --measure, for each graph. [3]")
@common_options
def command(
    bundle: Path,
    output: Path,
    data: Path | None,
    limit: int | None,
    analyze: bool,
    variant: str,
    bench: Path | None,
    measure: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Write everything there is to know of a BUNDLE into one HTML page.

    What it is, verification by stage, variants and their speed, why layers are INT8 or float, engines, lineage with hashes, and how to
    embed it. Options add accuracy, layer-by-layer noise, latency distributions, roofline and telemetry. The page needs no network.
    """
    from edgecnn.report import ReportConfig, gather, write_report
    from edgecnn.writing import check_writable

    if variant and not analyze:
        raise click.UsageError("--variant goes with --analyze.")
    if limit and data is None:
        raise click.UsageError("--limit goes with --data.")
    if bench is not None and measure:
        raise click.UsageError("Give --bench FILE or --measure, not both.")
    check_writable(output)
    with usage():
        config = ReportConfig(
            data=data, limit=limit or 0, analyze=analyze, variant=variant, bench=bench, measure=measure, seconds=seconds
        )
    with progress_bar(as_json) as progress:
        found = gather(bundle, config, progress)
    warn_about(found.bundle)
    for text in found.notes:
        warn(text)
    write_report(found, output)
    if as_json:
        emit(
            {
                "bundle": str(bundle),
                "page": str(output),
                "verified": found.bundle.manifest.verified,
                "untrained": found.bundle.untrained,
                "notes": list(found.notes),
                "evaluation": None if found.evaluation is None else found.evaluation.to_json(),
                "analysis": None if found.analysis is None else found.analysis.to_json(),
                "bench": None if found.bench is None else found.bench.to_json(),
            }
        )
        return
    console().print(f"written: {output}")
