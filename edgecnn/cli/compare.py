"""``edgecnn compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.backend import run_options, session_options
from edgecnn.cli.options import usage
from edgecnn.cli.output import common_options, console, emit, number, progress_bar, table, warn

if TYPE_CHECKING:
    from edgecnn.comparison import Comparison, Point

__all__ = ["command"]


@click.command("compare")
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path(path_type=Path))
@click.option("--zoo", "of_zoo", is_flag=True, help="Compare the networks of the zoo.")
@click.option("--models", metavar="GLOB", default="*", help="Of the zoo, such as 'resnet*'. [*]")
@click.option("--latency", is_flag=True, help="Measure the zoo on this device: about an hour, resumable, kept.")
@click.option("--fresh", is_flag=True, help="Measure again what was kept.")
@click.option("--variant", "variants", multiple=True, help="Of the bundles (repeatable). [all that are verified]")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled images: accuracy measured, not published.")
@click.option("--table", "sweep", type=click.Path(path_type=Path), help="Accuracy from a table of 'edgecnn sweep'.")
@click.option("--limit", type=click.IntRange(min=1), help="Images at most. [all]")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=2.0, help="Measuring time for each graph. [2]")
@click.option(
    "--axis", type=click.Choice(["auto", "operations", "latency"]), default="auto", help="Of --png and --svg. [auto]"
)
@click.option("--linear", is_flag=True, help="Draw --png and --svg without a logarithmic scale.")
@click.option("--png", type=click.Path(path_type=Path), help="Write the picture as pixels.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the picture as SVG.")
@click.option("--html", type=click.Path(path_type=Path), help="Write an interactive page.")
@run_options
@common_options
def command(bundles: tuple[Path, ...], of_zoo: bool, as_json: bool, **options: Any) -> None:
    """Compare networks: accuracy against operations, or against latency measured here.

    \b
    edgecnn compare --zoo --svg zoo.svg                published accuracy against operations
    edgecnn compare --zoo --latency --html zoo.html    against latency on this device
    edgecnn compare resnet50-int8 lite0-int8           every verified variant, measured in turns
    edgecnn compare lite0-int8 --table results.csv     with the accuracy that 'edgecnn sweep' found

    Networks on the Pareto front are marked: no other one is at least as accurate and cheaper.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from edgecnn.writing import check_writable

    if bool(bundles) == of_zoo:
        raise click.UsageError("Give either bundles or --zoo.")
    _check_combination(of_zoo, options)
    for name in ("png", "svg", "html"):
        if options[name] is not None:
            check_writable(options[name])
    with progress_bar(as_json) as progress:
        found = _of_zoo(options, progress) if of_zoo else _of_bundles(bundles, options, progress)
    for text in (*found.notes, *(f"{item.name} is left out: {item.reason}" for item in found.left_out)):
        warn(text)
    written = _write(found, options)
    if as_json:
        emit(found.to_json())
        return
    _print(found)
    for path in written:
        console().print(f"written: {path}")


def _check_combination(of_zoo: bool, options: dict[str, Any]) -> None:
    """Refuse options that would do nothing. Raises UsageError."""
    given = {"--variant": "variants", "--data": "data", "--table": "sweep", "--limit": "limit"}
    of_bundles = {name: options[key] for name, key in given.items()}
    of_the_zoo = {"--models": options["models"] != "*", "--latency": options["latency"], "--fresh": options["fresh"]}
    wrong, there = (of_bundles, "bundles") if of_zoo else (of_the_zoo, "--zoo")
    for name, given in wrong.items():
        if given:
            raise click.UsageError(f"{name} goes with {there}.")
    of_others = options["backend"] not in ("auto", "onnxruntime") or options["provider"] != "cpu" or options["plugins"]
    if of_zoo and of_others:
        raise click.UsageError(
            "--zoo --latency runs on onnxruntime's CPU kernels: compare bundles to choose a backend."
        )
    if options["limit"] and not options["data"]:
        raise click.UsageError("--limit goes with --data.")
    if options["data"] and options["sweep"]:
        raise click.UsageError("Give --data or --table, not both.")
    if options["fresh"] and not options["latency"]:
        raise click.UsageError("--fresh goes with --latency.")


def _of_zoo(options: dict[str, Any], progress: Any) -> Comparison:
    """Compare the zoo."""
    from edgecnn.comparison import ZooConfig, compare_zoo

    names = ("models", "latency", "threads", "seconds", "fresh")
    with usage():
        config = ZooConfig(**{name: options[name] for name in names})
    return compare_zoo(config, progress)


def _of_bundles(bundles: tuple[Path, ...], options: dict[str, Any], progress: Any) -> Comparison:
    """Compare bundles."""
    from edgecnn.comparison import BundleConfig, compare_bundles
    from edgecnn.scale.table import scores_of

    scores = scores_of(options["sweep"]) if options["sweep"] else ()
    with usage():
        config = BundleConfig(
            variants=options["variants"],
            options=session_options(options["backend"], options["threads"], options["provider"], options["plugins"]),
            data=options["data"],
            limit=options["limit"] or 0,
            scores=scores,
            seconds=options["seconds"],
            allow_unverified=options["allow_unverified"],
        )
    return compare_bundles(bundles, config, progress)


def _write(found: Comparison, options: dict[str, Any]) -> list[Path]:
    """Write what was asked for; return it."""
    from edgecnn.report import write_comparison

    kinds = {"operations": "macs", "latency": "latency", "auto": ""}
    places = {name: options[name] for name in ("png", "svg", "html") if options[name] is not None}
    return write_comparison(found, places, axis=kinds[options["axis"]], log=not options["linear"])


def _print(found: Comparison) -> None:
    """Print the networks, the most accurate first."""
    from edgecnn.comparison import front

    best = {axis: {point.name for point in front(found.points, axis)} for axis in found.axes}
    timed = any(point.latency for point in found.points)
    columns = ["network", "input", "top-1 %", "GMACs", "Mparams"]
    columns += ["ms", "ratio", "±", "backend"] if timed else []
    ranked = sorted(found.points, key=lambda point: -(point.top1 or 0.0))
    words = {"macs": "operations", "latency": "latency"}
    fronts = [", ".join(words[axis] for axis, names in best.items() if point.name in names) for point in ranked]
    rows = [[*_row(point, timed), on] for point, on in zip(ranked, fronts, strict=True)]
    table([*columns, "on the front of"], rows)
    if found.device:
        console().print(f"measured on {found.device}; ratios are to {found.reference}, in turns with it")


def _row(point: Point, timed: bool) -> list[str]:
    """Return one network's line."""
    note = "" if point.own_accuracy or point.top1 is None else " (fp32's)"
    cells = [
        point.name,
        "x".join(map(str, point.size)),
        number(point.top1) + note,
        number(None if point.macs is None else point.macs / 1e9),
        number(None if point.params is None else point.params / 1e6, 1),
    ]
    if timed:
        latency = point.latency
        timing = [latency.milliseconds, latency.ratio, latency.spread] if latency else [None] * 3
        cells += [*(number(value) for value in timing), latency.backend if latency else "-"]
    return cells
