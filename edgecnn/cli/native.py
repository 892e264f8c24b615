"""``edgecnn native``."""

from __future__ import annotations

import click

from edgecnn.cli.output import common_options, emit, table

__all__ = ["command"]


@click.command("native")
@click.option("--cmake-dir", is_flag=True, help="Print the folder for CMake's edgecnn_DIR.")
@click.option("--include-dir", is_flag=True, help="Print the folder of the headers.")
@click.option("--example-dir", is_flag=True, help="Print the folder of the app 'classify'.")
@common_options
def command(as_json: bool, **wanted: bool) -> None:
    """Say where the C++ runtime is: headers, CMake configuration, an example app.

    cmake -S app -B build -Dedgecnn_DIR="$(edgecnn native --cmake-dir)"
    """
    from edgecnn.native import CMAKE, EXAMPLE, INCLUDE

    places = {"cmake_dir": str(CMAKE), "include_dir": str(INCLUDE), "example_dir": str(EXAMPLE)}
    if as_json:
        emit(places)
    elif any(wanted.values()):
        for name, place in places.items():
            if wanted[name]:
                click.echo(place)
    else:
        table(("option", "folder"), [(f"--{name.replace('_', '-')}", place) for name, place in places.items()])
