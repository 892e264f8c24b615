"""``edgecnn native``."""

from __future__ import annotations

import click

from edgecnn.cli.output import common_options, emit, table

__all__ = ["command"]


@click.command("native")
@click.option("--cmake-dir", "wanted", flag_value="cmake_dir", help="Print the folder for CMake's edgecnn_DIR.")
@click.option("--include-dir", "wanted", flag_value="include_dir", help="Print the folder of the headers.")
@click.option("--example-dir", "wanted", flag_value="example_dir", help="Print the folder of the app 'classify'.")
@common_options
def command(wanted: str | None, as_json: bool) -> None:
    """Say where the C++ runtime is: headers, CMake configuration, an example app.

    cmake -S app -B build -Dedgecnn_DIR="$(edgecnn native --cmake-dir)"
    """
    from edgecnn.native import CMAKE, EXAMPLE, INCLUDE

    places = {"cmake_dir": str(CMAKE), "include_dir": str(INCLUDE), "example_dir": str(EXAMPLE)}
    if as_json:
        emit(places)
    elif wanted:
        click.echo(places[wanted])
    else:
        table(("option", "folder"), [(f"--{name.replace('_', '-')}", place) for name, place in places.items()])
