"""``edgecnn devices``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.output import common_options, console, emit, table

if TYPE_CHECKING:
    from edgecnn.remote.fleet import Answer
    from edgecnn.remote.inventory import Inventory

__all__ = ["command"]


@click.command("devices")
@click.argument("names", nargs=-1, metavar="[DEVICE...]")
@click.option("--probe", is_flag=True, help="Ask each what it is and has; nothing is installed there.")
@common_options
def command(names: tuple[str, ...], probe: bool, as_json: bool) -> int:
    """List the devices of ~/.config/edgecnn/devices.toml, or those that are named, in the words of --on.

    \b
    edgecnn devices --probe
    edgecnn devices --probe ssh://nvidia@orin.local

    Exits with 1 when one of them cannot be reached.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from edgecnn.remote.inventory import Inventory
    from edgecnn.remote.probe import probe_all

    inventory = Inventory.read()
    found = {one.name: one for name in names for one in inventory.find(name)} if names else inventory.devices
    devices = list(found.values())
    answers = probe_all(devices) if probe else ()
    code = 1 if any(answer.error for answer in answers) else 0
    if as_json:
        probed = {answer.device.name: answer.value or {"error": answer.error_json()} for answer in answers}
        rows = [{**one.to_json(), **({"probe": probed[one.name]} if probe else {})} for one in devices]
        fleets = {name: list(members) for name, members in inventory.fleets.items()}
        emit({"file": str(inventory.path), "devices": rows, "fleets": fleets})
        return code
    if not devices:
        console().print(f"no devices: name them in {inventory.path} (docs/DEPLOY.md), or use --on ssh://user@host")
    elif probe:
        _print_probed(answers)
    else:
        _print_listed(inventory, devices)
    return code


def _print_listed(inventory: Inventory, devices: Sequence[Any]) -> None:
    """Print what the file says."""
    rows = [
        (
            one.name,
            one.address,
            one.python or f"its own, from {one.base_python}",
            ", ".join(name for name, members in inventory.fleets.items() if one.name in members) or "-",
        )
        for one in devices
    ]
    table(("device", "address", "edgecnn runs in", "fleets"), rows)


def _print_probed(answers: Sequence[Answer[dict[str, Any]]]) -> None:
    """Print what each device says of itself."""
    rows = []
    for answer in answers:
        if answer.value is None:
            text = f"{answer.error}".removeprefix(f"{answer.device.name}: ")
            rows.append((answer.device.name, "NOT REACHED", text))
            continue
        rows += [(answer.device.name if first else "", *row) for first, row in _described(answer.value)]
    table(("device", "", ""), rows)


def _described(facts: Mapping[str, Any]) -> list[tuple[bool, tuple[str, str]]]:
    """Return rows of what a device has; the first is marked."""
    jetson = f"{facts['jetpack'] or 'unknown'}, L4T {facts['l4t']}" if facts["l4t"] else ""
    temperatures = ", ".join(f"{name} {value:.0f}" for name, value in facts["temperatures_c"].items())
    rows = [
        ("system", f"{facts['os']}, {facts['kernel']}, {facts['arch']}"),
        ("model", facts["model"]),
        ("JetPack", jetson),
        ("GPU", facts["gpu"]),
        ("power mode", facts["power_mode"]),
        ("temperatures C", temperatures),
        ("cores, memory", f"{facts['cores']}, {facts['memory_mb'] / 1000:.1f} GB"),
        ("disk free", f"{facts['free_mb'] / 1000:.1f} GB in {facts['root']}"),
        ("Python", facts["python"] or facts.get("problem", "")),
        ("packages", ", ".join(f"{name} {version}" for name, version in facts["packages"].items()) or "none of ours"),
        ("TensorRT", facts["libnvinfer"]),
        ("rsync", "" if facts["rsync"] else "not there: files are sent through ssh, without it"),
    ]
    return [(number == 0, row) for number, row in enumerate(row for row in rows if row[1])]
