"""``edgecnn inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgecnn.cli.output import common_options, console, emit, number, table, warn
from edgecnn.cli.placement import print_decisions

__all__ = ["command"]


@click.command("inspect")
@click.argument("path", metavar="BUNDLE|ONNX", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Every node's decision with its reason (bundles with INT8 variants).")
@common_options
def command(path: Path, layers: bool, as_json: bool) -> None:
    """Show what is in a bundle or an ONNX file, and why."""
    from edgecnn.errors import UserError
    from edgecnn.inspection import inspect_bundle, inspect_onnx

    if not path.exists():
        raise UserError(f"there is nothing at {path}: give the folder of a bundle, or an ONNX file")
    if layers and not path.is_dir():
        raise click.UsageError(
            f"--layers is for bundles: {path} holds no decisions; 'edgecnn quantize --layers' shows its own"
        )
    found = inspect_bundle(path) if path.is_dir() else inspect_onnx(path)
    for text in found.get("warnings", ()):
        warn(text)
    if as_json:
        emit(found)
    elif found["kind"] == "bundle":
        _print_bundle(found, layers)
    else:
        _print_onnx(found)


def _print_onnx(found: dict[str, Any]) -> None:
    """Print an ONNX file."""
    _print_borders(found)
    out = console()
    megabytes = number(found["weight_bytes"] / 1e6, 1)
    out.print(f"opset {found['opset']}, {found['nodes']} nodes, {megabytes} MB of weights")
    out.print(f"{found['int8_layers']} of {found['weighted_layers']} convolutions and Gemms in INT8")
    table(("operator", "nodes"), [(name, str(count)) for name, count in found["operators"].items()])
    faults, target = found["lint"]["findings"], found["lint"]["target"]
    if faults:
        table(("node", "fault", f"for {target}"), [(item["node"], item["kind"], item["text"]) for item in faults])
    elif found["int8_layers"]:
        out.print(f"Q/DQ without fault for {target}")


def _print_borders(graph: dict[str, Any]) -> None:
    """Print a graph's inputs and outputs."""
    for role in ("inputs", "outputs"):
        for spec in graph[role]:
            shape = ", ".join(map(str, spec["shape"]))
            console().print(f"{role[:-1]:<6}  {spec['name']}: {spec['dtype']} ({shape})")


def _print_bundle(found: dict[str, Any], layers: bool) -> None:
    """Print a bundle."""
    manifest = found["manifest"]
    for line in _about(manifest):
        console().print(line)
    _print_borders(next(iter(manifest["variants"].values())))
    table(
        ("variant", "MB", "opset", "nodes", "INT8 nodes", "float nodes", "ms", "of fp32's time", "verified"),
        [_variant_row(name, variant, manifest["files"]) for name, variant in manifest["variants"].items()],
    )
    if manifest["engines"]:
        table(
            ("engine", "MB", "version", "for", "batch", "as asked"),
            [_engine_row(name, engine, manifest["files"]) for name, engine in manifest["engines"].items()],
        )
    console().print(f"runs by default on this CPU: {found['default_variant']} on {found['default_backend']}")
    if layers:
        _print_layers(manifest["variants"])


def _about(manifest: dict[str, Any]) -> list[str]:
    """Say in a few lines which network this is, with which numbers, and how far it can be relied on."""
    weights, model, steps = manifest["weights"], manifest["model"], manifest["preprocess"]
    accuracy = f", published top-1 {number(weights['top1'])} %" if weights["top1"] is not None else ""
    licence = f", licence {weights['licence']}" if weights["licence"] else ""
    picture = (
        f"{steps['order']} {steps['resize']} -> {_size(steps['size'])}, {steps['interpolation']}, {steps['colour']}"
    )
    lines = [
        f"{model['name']}: {model['num_classes']} classes, written {manifest['created']}",
        f"weights {weights['entry']} from {weights['source']}{accuracy}{licence}",
        f"preprocess: {picture}, mean {_numbers(steps['mean'])}, std {_numbers(steps['std'])}",
    ]
    if used := manifest["calibration"]:
        method = used.get("method", {}).get("name", "not recorded")
        lines.append(f"calibrated on {used.get('count')} samples of {used.get('kind')}, method {method}")
    verdict = "verified against PyTorch" if manifest["verified"] else "NOT verified: see parity.json"
    return [*lines, verdict]


def _size(size: Sequence[int]) -> str:
    """Write height and width."""
    return "x".join(map(str, size))


def _numbers(values: Sequence[float]) -> str:
    """Write one number a channel, as ``--mean`` takes them."""
    return ",".join(f"{value:g}" for value in values)


def _variant_row(name: str, variant: dict[str, Any], files: dict[str, Any]) -> tuple[str, ...]:
    """Return one variant's line."""
    placement, speed = variant["placement"], variant["speed"]
    return (
        name,
        number(files[variant["file"]]["bytes"] / 1e6, 1),
        str(variant["opset"]),
        str(variant["nodes"]),
        str(placement.get("quantized", "-")) if placement else "-",
        str(placement.get("float", "-")) if placement else "-",
        number(speed["milliseconds"]) if speed else "-",
        number(speed["ratio"]) if speed else "-",
        "yes" if variant["verified"] else "NO",
    )


def _engine_row(name: str, engine: dict[str, Any], files: dict[str, Any]) -> tuple[str, ...]:
    """Return one engine's line."""
    batches = dict.fromkeys(str(shape[0]) for shapes in engine["profile"].values() for shape in shapes)
    return (
        name,
        number(files[engine["file"]]["bytes"] / 1e6, 1),
        engine["version"],
        f"{', '.join(engine['compute_capabilities'])} on {engine['platform']}",
        ":".join(batches),
        "yes" if engine["audit"].get("passed") else "NO",
    )


def _print_layers(variants: dict[str, Any]) -> None:
    """Print every node's decision."""
    decided = {name: (variant["placement"] or {}).get("decisions") for name, variant in variants.items()}
    if not any(decided.values()):
        warn("no variant of this bundle is quantized, so there are no decisions to show")
    for name, decisions in decided.items():
        if decisions:
            print_decisions(decisions, name)
