"""``edgecnn models``."""

from __future__ import annotations

from typing import Any

import click

from edgecnn.cli.output import common_options, emit, number, table

__all__ = ["command"]


@click.command("models")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common_options
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the models of the zoo and their published weights.

    With NAMEs, only these, each with all of its weights entries.
    """
    from edgecnn import zoo

    for name in names:
        zoo.find(name)
    rows = [row for row in zoo.table() if not names or row["name"] in names]
    if as_json:
        emit({"models": rows})
        return
    if names:
        for row in rows:
            _print_weights(row)
        return
    table(
        ("model", "family", "input", "Mparams", "GMACs", "default weights", "top-1 %"),
        [_row(row) for row in rows],
    )


def _print_weights(row: dict[str, Any]) -> None:
    """Print all of a model's weights; not as a table, which would break the addresses."""
    click.echo(f"{row['name']} (default weights: {row['default_weights'] or 'none published'})")
    for entry in row["weights"]:
        accuracy = f"top-1 {number(entry['top1'])} %, top-5 {number(entry['top5'])} %" if entry["top1"] else ""
        click.echo(f"  {entry['name']}: input {_size(entry['input_size'])}, {accuracy or 'no accuracy published'}")
        click.echo(f"    from {entry['url'] or 'the package ' + entry['package']}")
        click.echo(f"    licence: {entry['licence'] or 'not stated'}")


def _size(lengths: Any) -> str:
    """Write (C, H, W) as ``--input-size`` takes it."""
    return "x".join(map(str, lengths))


def _row(row: dict[str, object]) -> tuple[str, ...]:
    """Return one model's line."""
    weights = row["weights"]
    assert isinstance(weights, list)
    default = next((entry for entry in weights if entry["name"] == row["default_weights"]), None)
    params, macs = row["num_params"], row["macs"]
    return (
        str(row["name"]),
        str(row["family"]),
        _size(row["input_size"]),
        number(params / 1e6, 1) if isinstance(params, (int, float)) else "-",
        number(macs / 1e9, 2) if isinstance(macs, (int, float)) else "-",
        str(row["default_weights"] or "-"),
        number(default["top1"] if default else None),
    )
