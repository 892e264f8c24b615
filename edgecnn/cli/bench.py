"""``edgecnn bench``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.backend import BACKENDS, provider_option
from edgecnn.cli.bench_show import print_result, warn_of
from edgecnn.cli.options import Names, usage
from edgecnn.cli.output import common_options, emit, progress_bar, warn
from edgecnn.cli.remote import OnCommand

if TYPE_CHECKING:
    from edgecnn.bench import BenchConfig, Candidate
    from edgecnn.runtime import Bundle

__all__ = ["command"]


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """``1,8``: whole numbers, each once."""

    name = "N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r"\d{1,6}", part.strip()) for part in parts):
            return self.fail(f"{value!r} is not a list of whole numbers, such as 1,8", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


class Span(click.ParamType):  # type: ignore[type-arg]
    """``3s``, ``500ms``, ``1m``, or plain seconds; ``unit`` is what the result is in, in seconds."""

    name = "TIME"

    def __init__(self, unit: float = 1.0) -> None:
        """Hold the unit of the result."""
        self.unit = unit

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the time."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min)?", str(value).strip())
        if not found or float(found.group(1)) <= 0:
            return self.fail(f"{value!r} is no time, such as 3s, 500ms or 1m", param, ctx)
        seconds = float(found.group(1)) * {"ms": 1e-3, "m": 60.0, "min": 60.0}.get(found.group(2) or "s", 1.0)
        return seconds / self.unit


@click.command("bench", cls=OnCommand)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=Names(),
    help="Only these, or all (repeatable). [as the bundle chooses]",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=Names(("auto", *BACKENDS)),
    help=f"auto, {', '.join(BACKENDS)} (repeatable). [auto]",
)
@click.option("--batch", "batches", type=Numbers(), default=(1,), help="Pictures in a request: a list is a matrix. [1]")
@click.option("--threads", type=Numbers(), default=(0,), help="Threads, likewise; 0: as the backend chooses. [0]")
@click.option("--streams", type=click.IntRange(min=1), default=1, help="Requests side by side. [1]")
@click.option("--duration", type=Span(), default=3.0, help="Of measuring, for each line of the table. [3s]")
@click.option("--count", type=click.IntRange(min=1), help="So many requests in place of a duration.")
@click.option("--warmup", type=Span(), default=5.0, help="At most, until latency is steady. [5s]")
@click.option(
    "--rate", metavar="HZ", help="Requests by the clock, such as 30 or poisson:30, whether the model keeps up or not."
)
@click.option("--deadline", type=Span(1e-3), help="Of a request after its arrival, with --rate. [the gap between two]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of Poisson arrivals. [0]")
@click.option(
    "--end-to-end", is_flag=True, help="A request goes from decoded pixels to classes, not from tensor to logits."
)
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Measure two in turns, each [BUNDLE:]VARIANT[@BACKEND] or a BUNDLE, and judge.",
)
@click.option("--profile", is_flag=True, help="Measure each layer too.")
@click.option("--no-roofline", is_flag=True, help="Leave out the matrix product that shows the device's peak.")
@click.option("--no-telemetry", is_flag=True, help="Leave the device's sensors alone.")
@provider_option
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Library of an engine's operators (repeatable).",
)
@click.option("--cuda-graph", is_flag=True, help="Run engines as one CUDA graph.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the table to this file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with charts to this file.")
@click.option("--allow-unverified", is_flag=True, help="Measure what failed verification.")
@common_options
def command(bundles: tuple[Path, ...], as_json: bool, csv_file: Path | None, html: Path | None, **options: Any) -> None:  # fmt: skip
    """Measure BUNDLE: latency, throughput, start-up, memory, stages, and what sensors say.

    \b
    edgecnn bench lite0-int8                             the variant and backend that the bundle chooses
    edgecnn bench lite0-int8 --variant all --batch 1,8   a matrix
    edgecnn bench lite0-int8 --compare fp32 int8-cpu     in turns, with a verdict
    edgecnn bench lite0-int8 --rate 30 --end-to-end      deadlines that a camera's frames miss
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from functools import partial

    from edgecnn.bench import bench
    from edgecnn.bench.files import write_csv
    from edgecnn.pipeline.engines import rebuilt
    from edgecnn.report import write_bench_page
    from edgecnn.runtime import Bundle
    from edgecnn.writing import check_writable

    for place in (csv_file, html):
        if place is not None:
            check_writable(place)
    opened = [Bundle.open(path, allow_unverified=options["allow_unverified"]) for path in bundles]
    config = _config(opened, bundles, options)
    with progress_bar(as_json) as progress:
        result = bench(opened, config, rebuild=partial(rebuilt, say=warn), progress=progress)
    warn_of(result)
    if csv_file is not None:
        write_csv(result, csv_file)
    if html is not None:
        write_bench_page(result, html)
    if as_json:
        emit(result.to_json())
        return
    print_result(result)


def _config(opened: Sequence[Bundle], paths: Sequence[Path], options: dict[str, Any]) -> BenchConfig:
    """Build the configuration. Raises UsageError."""
    from edgecnn.bench import BenchConfig, Rate
    from edgecnn.bench.sessions import check_options

    pair = options["compare"]
    if pair and (options["variants"] or options["backends"]):
        raise click.UsageError("--compare says what is measured: leave out --variant and --backend")
    with usage():
        config = BenchConfig(
            candidates=tuple(_named(text, paths) for text in pair) if pair else _candidates(opened, options),
            batches=options["batches"],
            threads=options["threads"],
            streams=options["streams"],
            duration=options["duration"],
            count=options["count"] or 0,
            warmup=options["warmup"],
            rate=Rate.parse(options["rate"]) if options["rate"] else None,
            deadline_ms=options["deadline"] or 0.0,
            end_to_end=options["end_to_end"],
            compare=bool(pair),
            profile=options["profile"],
            roofline=not options["no_roofline"],
            telemetry=not options["no_telemetry"],
            provider=options["provider"],
            plugins=options["plugins"],
            cuda_graph=options["cuda_graph"],
            allow_unverified=options["allow_unverified"],
            seed=options["seed"],
        )
        check_options(config)
    return config


def _candidates(opened: Sequence[Bundle], options: dict[str, Any]) -> tuple[Candidate, ...]:
    """Return every wanted variant of every bundle on every wanted backend."""
    from edgecnn.bench import Candidate

    wanted = list(dict.fromkeys(chain(*options["variants"]))) or [""]
    backends = list(dict.fromkeys(chain(*options["backends"]))) or ["auto"]
    found = [
        Candidate(bundle=place, variant=variant, backend=backend)
        for place, bundle in enumerate(opened)
        for backend in backends
        for variant in (list(bundle.variants) if "all" in wanted else wanted)
    ]
    return tuple(dict.fromkeys(found))


def _named(text: str, paths: Sequence[Path]) -> Candidate:
    """Read one side of a comparison. Raises UsageError."""
    from edgecnn.bench import Candidate

    rest, backend = text, "auto"
    head, at, tail = text.rpartition("@")
    if at and tail in (*BACKENDS, "auto"):
        rest, backend = head, tail
    places = {str(path): index for index, path in enumerate(paths)}
    names = [path.name for path in paths]
    places |= {name: index for index, name in enumerate(names) if names.count(name) == 1}
    if rest in places:
        return Candidate(bundle=places[rest], backend=backend)
    folder, _, variant = rest.rpartition(":")
    if not folder and len(paths) == 1:
        return Candidate(variant=variant, backend=backend)
    if folder not in places:
        shown = ", ".join(str(path) for path in paths)
        raise click.UsageError(f"--compare {text!r} names none of the bundles ({shown}): write BUNDLE:VARIANT@BACKEND")
    return Candidate(bundle=places[folder], variant=variant, backend=backend)
