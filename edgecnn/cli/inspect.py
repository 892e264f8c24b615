"""``edgecnn inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecnn.cli.output import common_options, console, emit, number, table, warn

__all__ = ["command"]


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Every node's decision with its reason (bundles with INT8 variants).")
@common_options
def command(path: Path, layers: bool, as_json: bool) -> None:
    """Show what is in a bundle or an ONNX file, and why."""
    from edgecnn.inspection import inspect_bundle, inspect_onnx

    found = inspect_bundle(path) if path.is_dir() else inspect_onnx(path)
    if as_json:
        emit(found)
    elif found["kind"] == "bundle":
        _print_bundle(found, layers)
    else:
        _print_onnx(found)


def _print_onnx(found: dict[str, Any]) -> None:
    """Print an ONNX file."""
    out = console()
    for role in ("inputs", "outputs"):
        for spec in found[role]:
            out.print(f"{role[:-1]} {spec['name']} {spec['dtype']} {spec['shape']}", markup=False)
    out.print(
        f"opset {found['opset']}, {found['nodes']} nodes, {found['weight_bytes'] / 1e6:.1f} MB of weights", markup=False
    )
    out.print(f"{found['int8_layers']} of {found['weighted_layers']} weighted layers in INT8", markup=False)
    table(("operator", "nodes"), [(name, str(count)) for name, count in found["operators"].items()])


def _print_bundle(found: dict[str, Any], layers: bool) -> None:
    """Print a bundle."""
    for text in found["warnings"]:
        warn(text)
    manifest = found["manifest"]
    weights = manifest["weights"]
    out = console()
    out.print(f"{manifest['model']['name']}, weights {weights['entry']} ({weights['source']})", markup=False)
    out.print("verified" if manifest["verified"] else "NOT verified", markup=False)
    if manifest["calibration"]:
        used = manifest["calibration"]
        out.print(
            f"calibrated on {used['count']} samples of {used['kind']}, method {used['method']['name']}", markup=False
        )
    rows = []
    for name, variant in manifest["variants"].items():
        placement = variant["placement"]
        rows.append(
            (
                name,
                number(manifest["files"][variant["file"]]["bytes"] / 1e6, 1),
                str(variant["nodes"]),
                str(placement["quantized"]) if placement else "-",
                str(placement["float"]) if placement else "-",
                number(variant["speed"]["ratio"]) if variant["speed"] else "-",
            )
        )
    table(("variant", "MB", "nodes", "INT8 nodes", "float nodes", "time of fp32"), rows)
    if not layers:
        return
    for name, variant in manifest["variants"].items():
        if variant["placement"]:
            decisions = variant["placement"]["decisions"]
            table(
                ("node", "operator", "INT8", "reason"),
                [(d["node"], d["op"], "yes" if d["quantized"] else "no", d["reason"]) for d in decisions],
                title=name,
            )
