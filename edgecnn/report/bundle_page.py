"""The page of a bundle: everything that there is to know of it, in one HTML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgecnn.comparison.published import Stated, stated_of
from edgecnn.report import html
from edgecnn.report.devices import devices_section
from edgecnn.report.embed import embed_section
from edgecnn.report.gather import Findings
from edgecnn.report.measured import measured_sections
from edgecnn.report.page import analysis_sections
from edgecnn.report.provenance import provenance_sections
from edgecnn.report.variants import engines_section, placement_sections, variants_section
from edgecnn.report.verification import evaluation_section, verification_section

__all__ = ["bundle_page", "write_report"]


def write_report(findings: Findings, path: Path) -> None:
    """Write the page, whole or not at all; a file of that name is replaced. Raises OutputError."""
    html.write_text(bundle_page(findings), path)


def bundle_page(findings: Findings) -> str:
    """Return the page's HTML."""
    sections = list(_sections(findings))
    body = [*_head(findings), _contents(sections), *sections, html.footer()]
    return html.document(f"{findings.bundle.spec.name}: report of a bundle", body, styles=("bench.css", "bundle.css"))


def _sections(findings: Findings) -> Iterator[str]:
    """Yield the parts in the order in which a reader asks."""
    manifest = findings.bundle.manifest
    yield _about(findings)
    yield variants_section(findings)
    if findings.parity is not None:
        yield from verification_section(findings.parity)
    if findings.evaluation is not None:
        published = _published(findings)
        yield evaluation_section(findings.evaluation, findings.data, published.top1 if published else None)
    if findings.bench is not None:
        yield from measured_sections(findings.bench)
    if findings.results:
        yield devices_section(findings.results)
    if findings.analysis is not None:
        yield f"<h2 class='part' id='analysis'>{escape(findings.analysis.variant)}, layer by layer</h2>"
        yield from analysis_sections(findings.analysis)
    yield from placement_sections(manifest)
    yield from engines_section(manifest)
    yield embed_section(findings.bundle)
    yield from provenance_sections(manifest)


def _contents(sections: list[str]) -> str:
    """Return links to the sections that have an anchor."""
    found = [
        re.match(r"<(?:section|h2 class='part') ?id=[\"']([^\"']+)[\"']>(?:.*?<h2>)?([^<]+)</h2>", part)
        for part in sections
    ]
    links = "".join(f"<li><a href='#{match[1]}'>{match[2]}</a></li>" for match in found if match)
    return f"<nav aria-label='Contents'><ul>{links}</ul></nav>"


def _head(findings: Findings) -> Iterator[str]:
    """Yield the title, alarms, notes and figures."""
    bundle = findings.bundle
    manifest = bundle.manifest
    kicker = "Verified bundle" if manifest.verified else "Bundle, NOT verified"
    names = ", ".join(manifest.variants)
    yield (
        f"<header><p class='kicker'>{kicker}</p><h1>{escape(bundle.spec.name)} <span>{escape(names)}</span></h1>"
        f"<p class='source'>{escape(bundle.path.resolve().name)}, written {escape(manifest.created or 'at an unknown time')}</p></header>"
    )
    for alarm in bundle.alarms():
        yield f"<p class='note alarm' role='alert'>{escape(alarm)}</p>"
    for note in findings.notes:
        yield f"<p class='note'>{escape(note)}</p>"
    yield from html.figures(_figures(findings))


def _figures(findings: Findings) -> Iterator[tuple[str, str, str]]:
    """Yield four numbers: accuracy, speed, size, verification."""
    bundle = findings.bundle
    manifest, choice = bundle.manifest, bundle.choose()
    score = (
        next((one for one in findings.evaluation.variants if one.variant == choice.variant), None)
        if findings.evaluation
        else None
    )
    if score is not None and score.top1 is not None:
        yield "Top-1", f"{score.top1:.2f} %", f"{choice.variant}, measured on {score.images} images"
    elif (published := _published(findings)) is not None:
        yield "Top-1", f"{published.top1:.2f} %", "of the weights in fp32, as published"
    else:
        yield "Top-1", "none", "published for these weights"
    speed = bundle.variants[choice.variant].speed
    ratio = None
    if speed is not None:
        ratio = (
            speed.ratio
            if choice.backend == speed.backend
            else getattr(speed.backends.get(choice.backend), "ratio", None)
        )
    if ratio is None:
        yield "Default", choice.variant, f"on {choice.backend}; speed was not measured at export"
    else:
        yield "Time of fp32", f"{ratio:.2f} x", f"{choice} at export"
    size = manifest.files[bundle.variants[choice.variant].file].bytes
    whole = f", of {html.count(findings.params)} parameters" if findings.params else ""
    yield "Size", f"{size / 1e6:.3g} MB", f"graph of {choice.variant}{whole}"
    passed = sum(variant.verified for variant in manifest.variants.values())
    yield "Verified", f"{passed} of {len(manifest.variants)}", "variants against PyTorch"


def _published(findings: Findings) -> Stated | None:
    """Return the accuracy of the weights, and where it is stated if that is not where they are from."""
    manifest = findings.bundle.manifest
    if manifest.weights.top1 is not None:
        return Stated(manifest.weights.top1, "")
    return stated_of(manifest.weights.sha256, manifest.preprocess.size[0])


def _about(findings: Findings) -> str:
    """Return what it is."""
    manifest = findings.bundle.manifest
    model, weights, steps = manifest.model, manifest.weights, manifest.preprocess
    size = "x".join(map(str, steps.size))
    numbers = [", ".join(f"{value:.4g}" for value in values) for values in (steps.mean, steps.std)]
    picture = f"{steps.order}, {steps.resize} to {size}, {steps.interpolation}, {steps.colour}; mean {numbers[0]}; std {numbers[1]}"
    inside = [
        name
        for name, given in (("preprocessing", manifest.embedded.preprocess), ("softmax", manifest.embedded.softmax))
        if given
    ]
    given = next(iter(manifest.variants.values())).inputs[0]
    published = _published(findings)
    stated = html.source_link(published.source) if published else ""
    accuracy = [
        f"top-{k} {value:.2f} %"
        for k, value in ((1, published and published.top1), (5, weights.top5))
        if value is not None
    ]
    items = [
        ("Model", escape(f"{model.name} ({model.family or 'own'}), {model.num_classes} classes")),
        ("Size", escape(_size_told(findings))),
        ("Weights", f"{escape(weights.entry or 'not named')} {html.source_link(weights.source)}"),
        ("Licence of the weights", escape(weights.licence or "not stated")),
        ("Published accuracy", f"{escape(', '.join(accuracy) or 'none')} {stated}"),
        ("sha256 of the weights", f"<code class='hash'>{escape(weights.sha256)}</code>" if weights.sha256 else ""),
        ("Input", escape(f"{given.name}: {given.dtype} ({', '.join(map(str, given.shape))})")),
        ("Preprocessing", escape(picture)),
        ("In the graph", escape(", ".join(inside))),
        ("Labels", escape(f"{manifest.labels.count} names in {manifest.labels.file}") if manifest.labels else "none"),
        ("Calibration", escape(_calibration_told(manifest.calibration))),
    ]  # fmt: skip
    alarms = findings.bundle.alarms()
    asides = [text for text in findings.bundle.warnings() if text not in alarms]
    return html.section("What it is", html.facts(items), html.bullets(asides), ident="about")


def _calibration_told(used: Mapping[str, Any] | None) -> str:
    """Return how ranges were calibrated in words; nothing for a bundle without INT8."""
    if not used:
        return ""
    method = used.get("method")
    name = method.get("name") if isinstance(method, Mapping) else method
    return f"{used.get('count', '?')} samples ({used.get('kind', 'unknown')}){f', method {name}' if name else ''}"


def _size_told(findings: Findings) -> str:
    """Return parameters and operations in words."""
    parts = []
    if findings.params is not None:
        parts.append(f"{html.count(findings.params)} parameters")
    if findings.macs is not None:
        parts.append(f"{html.count(findings.macs)} multiply-adds for one image")
    return ", ".join(parts)
