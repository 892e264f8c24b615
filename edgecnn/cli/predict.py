"""``edgecnn predict``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.backend import run_options, session_options, warn_about
from edgecnn.cli.output import common_options, emit
from edgecnn.cli.remote import OnCommand

__all__ = ["command"]


@click.command("predict", cls=OnCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, help="Classes to show, most probable first. [5]")
@click.option("--variant", help="fp32, fp16, int8 or int8-cpu. [the bundle's default for this machine]")
@run_options
@common_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    variant: str | None,
    backend: str,
    plugins: tuple[Path, ...],
    threads: int,
    provider: str,
    allow_unverified: bool,
    as_json: bool,
) -> None:
    """Classify IMAGEs with a BUNDLE.

    One bad image does not stop the others; the exit code is then 1.
    """
    from edgecnn.errors import DataError
    from edgecnn.runtime import Bundle, Classifier

    opened = Bundle.open(bundle, allow_unverified=allow_unverified)
    warn_about(opened)
    results, failed = [], []
    options = session_options(backend, threads, provider, plugins)
    with Classifier(opened, variant, allow_unverified=allow_unverified, options=options) as classify:
        for image in images:
            try:
                predictions = classify.predict(image, top)
            except DataError as error:
                failed.append({"image": str(image), "error": str(error)})
                click.echo(f"error: {error}", err=True)
                continue
            results.append(
                {
                    "image": str(image),
                    "predictions": [
                        {"index": p.index, "label": p.label, "probability": round(p.probability, 6)}
                        for p in predictions
                    ],
                }
            )
            if not as_json:
                _print(image, [(p.label, p.probability) for p in predictions], many=len(images) > 1)
        used, ran = classify.variant, classify.session.backend
    if as_json:
        emit(
            {
                "bundle": str(bundle),
                "variant": used,
                "backend": ran,
                "untrained": opened.untrained,
                "results": results,
                "failed": failed,
            }
        )
    if failed:
        raise click.exceptions.Exit(1)


def _print(image: Path, rows: list[tuple[str, float]], *, many: bool) -> None:
    """Print one image's guesses, the probabilities in percent so that small ones can be told apart."""
    if many:
        click.echo(f"{image}:")
    for label, probability in rows:
        click.echo(f"{'  ' if many else ''}{100 * probability:6.2f} %  {label}")
