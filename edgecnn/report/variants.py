"""A report's parts on what is in the bundle: variants with their speed, decisions of the quantizer, engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from edgecnn.report import html
from edgecnn.report.gather import Findings
from edgecnn.report.html import Column, Row, Table, cell, text_cell
from edgecnn.runtime.manifest import Manifest, Variant

__all__ = ["engines_section", "placement_sections", "variants_section"]

MOST_REASONS = 6


def variants_section(findings: Findings) -> str:
    """Return the table of the variants, with what was measured when they were exported."""
    manifest = findings.bundle.manifest
    backends = list(dict.fromkeys(name for variant in manifest.variants.values() for name in _speeds(variant)))
    columns = [
        Column("Variant", "Name, and below it its file"),
        Column("Precision"),
        Column("MB", "Size of the graph's file", number=True),
        Column("Nodes", "Of the graph", number=True),
        Column("INT8", "Nodes that compute in INT8", number=True),
        Column("Float", "Nodes that do not", number=True),
        Column("Agrees %", "Images with the same most probable class as PyTorch, when it was verified", number=True),
        *(
            Column(
                f"ms, {name}", "Median latency of one image at export; below it the share of fp32's time", number=True
            )
            for name in backends
        ),
        Column("Verified"),
    ]
    chosen = findings.bundle.choose()
    most = max(
        (ratio for variant in manifest.variants.values() for _, ratio, _ in _speeds(variant).values()), default=1.0
    )
    rows = [_variant_row(manifest, name, backends, most, name == chosen.variant) for name in manifest.variants]
    found = Table(
        ident="variants",
        caption="The graphs of the bundle, their size, agreement and speed",
        columns=columns,
        rows=rows,
    )
    told = f"An application gets {chosen} on a CPU like this one, unless it asks for another."
    machine = next((variant.speed for variant in manifest.variants.values() if variant.speed), None)
    if machine is not None:
        threads = f", {machine.threads} threads" if machine.threads else ""
        told += f" Latencies: machine of the export ({machine.machine or 'unknown'}{threads}); ratios are to fp32 on {machine.backend}."
    return html.section(
        "Variants and backends", f"<p class='lead'>{escape(told)}</p>", html.table(found), ident="variants-measured"
    )


def _speeds(variant: Variant) -> dict[str, tuple[float, float, bool]]:
    """Return backend -> (milliseconds, ratio to fp32 on the main one, verified)."""
    speed = variant.speed
    if speed is None:
        return {}
    found = {speed.backend: (speed.milliseconds, speed.ratio, variant.verified)}
    return found | {name: (other.milliseconds, other.ratio, other.verified) for name, other in speed.backends.items()}


def _variant_row(manifest: Manifest, name: str, backends: list[str], most: float, default: bool) -> Row:
    """Return one variant's row."""
    variant = manifest.variants[name]
    placement = variant.placement or {}
    agreement = _agreement(manifest, name)
    speeds = _speeds(variant)
    timing = []
    for backend in backends:
        if backend not in speeds:
            timing.append(cell(None, ""))
            continue
        milliseconds, ratio, verified = speeds[backend]
        note = f"{ratio:.2f}x" if verified else f"{ratio:.2f}x, failed there"
        bar = html.filled(ratio / most if most else 0)
        timing.append(
            f"<td class='number bars' data-v='{milliseconds:.6g}'>{milliseconds:.2f}<small>{note}</small>{bar}</td>"
        )
    mark = " <b class='chosen'>default</b>" if default else ""
    counts = [placement.get(key) for key in ("quantized", "float")]
    cells = [
        text_cell(name, f"<span class='name'>{escape(name)}{mark}</span>", escape(variant.file)),
        text_cell(variant.precision, small=f"opset {variant.opset}"),
        cell(manifest.files[variant.file].bytes, f"{manifest.files[variant.file].bytes / 1e6:.3g}"),
        cell(variant.nodes, str(variant.nodes)),
        *(cell(value, str(value)) if isinstance(value, int) else cell(None, "") for value in counts),
        cell(agreement, html.number(agreement, 1)),
        *timing,
        text_cell(
            "yes" if variant.verified else "NO",
            "<b class='pass'>yes</b>" if variant.verified else "<b class='fail'>NO</b>",
        ),
    ]
    return Row(cells=cells)


def _agreement(manifest: Manifest, name: str) -> float | None:
    """Return the top-1 agreement of a variant's verification; the manifest may hold anything."""
    stages = manifest.parity.get("stages")
    stage = stages.get(name) if isinstance(stages, Mapping) else None
    value = stage.get("top1") if isinstance(stage, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def placement_sections(manifest: Manifest) -> Iterator[str]:
    """Yield every quantized variant's decisions with their reasons."""
    for name, variant in manifest.variants.items():
        decisions = (variant.placement or {}).get("decisions")
        found = [item for item in decisions if isinstance(item, Mapping)] if isinstance(decisions, list) else []
        if not found:
            continue
        reasons = Counter(str(item.get("reason", "")) for item in found if not item.get("quantized"))
        told = [f"{count} float: {reason}" for reason, count in reasons.most_common(MOST_REASONS)]
        ident = f"placement-{name.replace('.', '-')}"
        table = Table(
            ident=ident,
            caption=f"Nodes of {name}: which compute in INT8, and why",
            columns=(
                Column("#", "Position in the graph", number=True),
                Column("Node"),
                Column("Operator"),
                Column("Computes in"),
                Column("Reason"),
            ),
            rows=[_decision_row(position, item) for position, item in enumerate(found, 1)],
        )
        whole = sum(bool(item.get("quantized")) for item in found)
        summary = f"<summary>All {len(found)} nodes, {whole} in INT8</summary>"
        controls = html.controls(ident, "node, operator or reason", kind="float", label="Float only")
        body = f"<details>{summary}{controls}{html.table(table)}</details>"
        yield html.section(f"Placement of {name}", html.bullets(told), body, ident=f"decisions-{ident}")


def _decision_row(position: int, item: Mapping[str, Any]) -> Row:
    """Return one decision's row."""
    kind = "int8" if item.get("quantized") else "float"
    node, operator = str(item.get("node", "")), str(item.get("op", ""))
    return Row(
        cells=[
            cell(position, str(position)),
            text_cell(node, f"<span class='name'>{escape(node)}</span>"),
            text_cell(operator, html.breakable(operator)),
            text_cell(kind, f"<b class='{kind}'>{'INT8' if kind == 'int8' else kind}</b>"),
            text_cell(str(item.get("reason", ""))),
        ],
        kind=kind,
    )


def engines_section(manifest: Manifest) -> Iterator[str]:
    """Yield the engines: what each needs, how it was built, and what the audit found."""
    if not manifest.engines:
        return
    columns = (
        Column("Engine", "Variant and flavour, and below it the file"),
        Column("MB", number=True),
        Column("Version", "Of the flavour; below it of CUDA"),
        Column("Runs on", "Compute capabilities of GPUs, and the platform"),
        Column("Batch", "Least, best, largest"),
        Column("Seconds", "Of the build", number=True),
        Column("Audit", "Whether its layers have the precision that was asked for"),
    )
    rows, asides = [], []
    for name, engine in manifest.engines.items():
        facts = engine.facts
        batches = dict.fromkeys(str(shape[0]) for shapes in facts.profile.values() for shape in shapes)
        verdict = "<b class='pass'>as asked</b>" if facts.passed else "<b class='fail'>NOT as asked</b>"
        layers = facts.audit.get("layers")
        counted = _layers_told(layers) if isinstance(layers, Mapping) else ""
        size = manifest.files[engine.file].bytes
        rows.append(
            Row(
                cells=[
                    text_cell(name, f"<span class='name'>{escape(name)}</span>", escape(engine.file)),
                    cell(size, f"{size / 1e6:.3g}"),
                    text_cell(facts.version, small=escape(f"CUDA {facts.cuda}" if facts.cuda else "")),
                    text_cell(", ".join(facts.compute_capabilities), small=escape(facts.platform)),
                    text_cell(" : ".join(batches)),
                    cell(facts.seconds, f"{facts.seconds:.1f}"),
                    text_cell("yes" if facts.passed else "NO", verdict, escape(counted)),
                ]
            )
        )
        problems = facts.audit.get("problems")
        asides += [f"{name}: {text}" for text in problems] if isinstance(problems, list) else []
    found = Table(ident="engines", caption="Engines of the bundle and their audits", columns=columns, rows=rows)
    yield html.section("Engines and audits", html.table(found), html.bullets(asides), ident="engines-built")


def _layers_told(layers: Mapping[str, Any]) -> str:
    """Return how many layers of each kind have which precision."""
    parts = []
    for kind, counts in layers.items():
        if isinstance(counts, Mapping) and counts:
            parts.append(f"{kind}: " + ", ".join(f"{count} {precision}" for precision, count in counts.items()))
    return "; ".join(parts)
