"""A report's part on verification: every stage against PyTorch and its predecessor, on every set of samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from edgecnn.parity.evaluate import Evaluation
from edgecnn.parity.report import Comparison, ParityReport, StageResult
from edgecnn.report import html
from edgecnn.report.html import Column, Row, Table, cell, text_cell

__all__ = ["evaluation_section", "verification_section"]

COLUMNS = (
    Column("Stage", "Graph, and what runs it"),
    Column("Against", "What it is compared with"),
    Column("Samples", "Set of inputs; below it their kind"),
    Column("n", "How many", number=True),
    Column("SQNR dB", "Energy of the reference's outputs over that of the difference", number=True),
    Column("Max abs", "Largest difference of an output", number=True),
    Column("Cosine", "Similarity of the outputs as one vector", number=True),
    Column("Top-1 %", "Samples with the same most probable class", number=True),
    Column("Top-5 %", "Samples whose best class of the reference is among the five best", number=True),
    Column("KL", "Mean divergence of the softmax, nats", number=True),
    Column("Tolerance", "What may differ"),
    Column("Verdict"),
)
AGAINST = {"batch": "itself, other batch", "recorded": "what was recorded"}


def verification_section(report: ParityReport) -> Iterator[str]:
    """Yield the verdict, the table, and what is not in it."""
    culprit = report.first_departure
    stages = len([stage for stage in report.stages if stage.name != report.reference])
    if culprit is None:
        told = f"{stages} {'stage agrees' if stages == 1 else 'stages agree'} with {report.reference} on every set of samples."
    else:
        told = f"{culprit.name} is the first stage that departs{f' from {culprit.after}' if culprit.after else ''}."
    rows = [_row(stage, comparison) for stage in report.stages for comparison in stage.comparisons]
    every = Table(
        ident="parity",
        caption="Verification: every stage against its references, on every set of samples",
        columns=COLUMNS,
        rows=rows,
    )
    failed = sum(row.kind == "failed" for row in rows)
    controls = html.controls("parity", "stage or samples", kind="failed", label="Failed only")
    summary = f"<summary>All {len(rows)} comparisons{f', {failed} FAILED' if failed else ''}</summary>"
    details = f"<details{' open' if failed else ''}>{summary}{controls}{html.table(every)}</details>" if rows else ""
    asides = [f"{stage.name}: {text}" for stage in report.stages for text in (*stage.problems, *stage.skipped)]
    asides += [f"{used.name} ({used.count} {used.kind}): {used.note}" for used in report.samples if used.note]
    asides += report.notes
    lead = f"<p class='lead'>{_badge(report.passed)} {escape(told)}</p>"
    yield html.section(
        "Verification by stage",
        lead,
        html.table(_overview(report)),
        html.bullets(asides),
        details,
        ident="verification",
    )


def _overview(report: ParityReport) -> Table:
    """Return each stage against the reference, a column a set of samples."""
    sets = [used.name for used in report.samples]
    columns = [Column("Stage", "Graph, and what runs it")]
    for name in sets:
        columns += [
            Column(f"{name}: dB", f"SQNR of the outputs against {report.reference} on {name}", number=True),
            Column("top-1 %", "Samples with the same most probable class", number=True),
        ]
    columns += [Column("Verdict", "Of all comparisons of the stage")]
    rows = []
    for stage in report.stages:
        if stage.name == report.reference:
            continue
        running = ", ".join(part for part in (stage.precision, stage.backend) if part)
        cells = [text_cell(stage.name, f"<span class='name'>{escape(stage.name)}</span>", escape(running))]
        for name in sets:
            found = [
                c
                for c in stage.comparisons
                if c.samples == name and c.reference == report.reference and c.against != "batch"
            ]
            metrics = found[0].metrics if found else None
            cells += (
                [cell(None, "")] * 2 if metrics is None else [_ratio(metrics.sqnr_db), _number(metrics.top1, "{:.1f}")]
            )
        cells.append(text_cell("passed" if stage.passed else "FAILED", _badge(stage.passed)))
        rows.append(Row(cells=cells))
    return Table(ident="stages-passed", caption=f"Every stage against {report.reference}", columns=columns, rows=rows)


def _row(stage: StageResult, comparison: Comparison) -> Row:
    """Return one comparison's row."""
    metrics = comparison.metrics
    running = ", ".join(part for part in (stage.precision, stage.backend) if part)
    against = AGAINST.get(comparison.against, comparison.reference)
    reasons = "; ".join(comparison.verdict.reasons)
    cells = [
        text_cell(stage.name, f"<span class='name'>{escape(stage.name)}</span>", escape(running)),
        text_cell(against),
        text_cell(comparison.samples, small=escape(comparison.kind)),
        cell(metrics.samples, str(metrics.samples)),
        _ratio(metrics.sqnr_db),
        _number(metrics.max_abs, "{:.3g}"),
        _number(metrics.cosine, "{:.6f}"),
        _number(metrics.top1, "{:.1f}"),
        _number(metrics.top5, "{:.1f}"),
        _number(metrics.kl, "{:.2g}"),
        text_cell(_tolerance(comparison)),
        text_cell("passed" if comparison.passed else "FAILED", _badge(comparison.passed), escape(reasons)),
    ]
    return Row(cells=cells, kind="passed" if comparison.passed else "failed")


def _tolerance(comparison: Comparison) -> str:
    """Return the limits in words."""
    limits: dict[str, Any] = comparison.tolerance.to_json()
    words = {
        "min_sqnr_db": "SQNR ≥\N{NO-BREAK SPACE}{:g}\N{NO-BREAK SPACE}dB",
        "min_agreement": "top-1 ≥\N{NO-BREAK SPACE}{:g}\N{NO-BREAK SPACE}%",
        "max_kl": "KL ≤\N{NO-BREAK SPACE}{:g}",
        "min_headroom_db": "headroom ≥\N{NO-BREAK SPACE}{:g}\N{NO-BREAK SPACE}dB",
    }
    return ", ".join(words[name].format(value) for name, value in limits.items() if name in words and value is not None)


def _ratio(value: float) -> str:
    """Return a cell of a ratio; identical outputs sort above any."""
    if math.isinf(value):
        return cell(1e9, "exact")
    return _number(value, "{:.1f}")


def _number(value: float, form: str) -> str:
    """Return a number's cell, empty where there is none."""
    return cell(None, "") if not math.isfinite(value) else cell(value, form.format(value))


def _badge(passed: bool) -> str:
    """Return a verdict as a word in its colour."""
    return "<b class='pass'>passed</b>" if passed else "<b class='fail'>FAILED</b>"


def evaluation_section(evaluation: Evaluation, data: str, published: float | None) -> str:
    """Return the part on labelled images."""
    columns = (
        Column("Variant"),
        Column("Images", "Classified", number=True),
        Column("Top-1 %", "Right at the first guess", number=True),
        Column("Top-5 %", "Right among five guesses", number=True),
        Column("Like fp32 %", "Same first guess as fp32", number=True),
        Column("SQNR dB", "Of the logits, against fp32", number=True),
        Column("KL", "Mean divergence of the softmax from fp32's, nats", number=True),
    )
    rows = [
        Row(
            cells=[
                text_cell(score.variant, f"<span class='name'>{escape(score.variant)}</span>"),
                cell(score.images, str(score.images)),
                *(cell(value, html.number(value)) for value in (score.top1, score.top5, score.agreement)),
                cell(score.sqnr_db, html.number(score.sqnr_db, 1)),
                cell(score.mean_kl, "" if score.mean_kl is None else f"{score.mean_kl:.2g}"),
            ]
        )
        for score in evaluation.variants
    ]
    found = Table(ident="accuracy", caption=f"Accuracy of the variants on {data}", columns=columns, rows=rows)
    told = f"On the labelled images of {data}."
    if published is not None:
        told += f" Published for these weights: {published:.2f} % on the whole of ImageNet-1k's validation set."
    asides = [f"{len(evaluation.skipped)} files could not be decoded"] if evaluation.skipped else []
    parts = (f"<p class='lead'>{escape(told)}</p>", html.table(found), html.bullets(asides))
    return html.section("Accuracy on labelled images", *parts, ident="accuracy-measured")
