"""``edgecnn models``."""

from __future__ import annotations

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
            table(
                ("weights", "top-1 %", "top-5 %", "source"),
                [
                    (entry["name"], number(entry["top1"]), number(entry["top5"]), entry["url"] or entry["package"])
                    for entry in row["weights"]
                ],
                title=f"{row['name']} (default weights: {row['default_weights'] or 'none published'})",
            )
        return
    table(
        ("model", "family", "input", "Mparams", "GMACs", "default weights", "top-1 %"),
        [_row(row) for row in rows],
    )


def _row(row: dict[str, object]) -> tuple[str, ...]:
    """Return one model's line."""
    weights = row["weights"]
    assert isinstance(weights, list)
    default = next((entry for entry in weights if entry["name"] == row["default_weights"]), None)
    params, macs = row["num_params"], row["macs"]
    return (
        str(row["name"]),
        str(row["family"]),
        str(row["input_size"]),
        number(params / 1e6, 1) if isinstance(params, (int, float)) else "-",
        number(macs / 1e9, 2) if isinstance(macs, (int, float)) else "-",
        str(row["default_weights"] or "-"),
        number(default["top1"] if default else None),
    )
