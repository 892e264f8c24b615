"""The report of a bundle: it says everything, trusts nothing, and its code runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_results import whole_result
from page_tools import browser, parsed, visit
from parity_bundles import doubled, save_pictures, write_bundle
from PIL import Image
from quantized_bundles import NODES, write_quantized
from tiny_bundle import edit_manifest, photos, write_tiny

from edgecnn import native
from edgecnn.artifacts import EngineFacts, Lineage
from edgecnn.bench import BenchResult
from edgecnn.errors import BundleMissingError, DataError, UserError
from edgecnn.pack import add_results
from edgecnn.report import Findings, ReportConfig, bundle_page, gather, write_report
from edgecnn.report.embed import cpp_snippet, python_snippet
from edgecnn.runtime import Bundle
from edgecnn.runtime.engines import EngineRecord
from edgecnn.writing import write_json

FACTS = EngineFacts(
    flavour="tensorrt", version="10.3.0", cuda="12.6", driver_cuda="", compute_capabilities=("8.7",), platform="linux-aarch64",
    precision="int8", profile={"input": ((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))}, options={"optimization_level": 3},
    model_sha256="ab" * 32, timing_cache_sha256="", seconds=12.5,
    audit={"passed": False, "layers": {"Convolution": {"Int8": 3, "Float": 1}}, "problems": ["conv1 is <float>"]},
)  # fmt: skip


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Return the findings of a bundle with a verification."""
    return gather(write_bundle(tmp_path_factory.mktemp("verified")).path)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Return the findings of a bundle with decisions, analysed, and a benchmark with every part."""
    bundle = write_quantized(tmp_path_factory.mktemp("quantized"))
    return replace(gather(bundle.path, ReportConfig(analyze=True)), bench=whole_result())


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Bundle:
    """Return a tiny bundle whose manifest was changed."""
    bundle = write_tiny(folder)
    edit_manifest(bundle.path, change)
    return Bundle.open(bundle.path, allow_unverified=True)


def add_engine(data: dict[str, Any], bundle: Path) -> None:
    content = b"a plan"
    (bundle / "engine.int8.tensorrt.plan").write_bytes(content)
    record = EngineRecord(
        file="engine.int8.tensorrt.plan",
        variant="int8",
        facts=FACTS,
        lineage=(Lineage(stage="build", tools={"tensorrt": "10.3.0"}),),
    )
    data["engines"] = {"int8.tensorrt": record.to_json()}
    data["files"][record.file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_every_stage_and_every_set_is_shown(verified: Findings) -> None:
    page = bundle_page(verified)
    text = parsed(page).text
    assert verified.parity is not None
    for stage in verified.parity.stages:
        assert stage.name in text
        for comparison in stage.comparisons:
            assert comparison.samples in text
            sqnr = comparison.metrics.sqnr_db
            assert (f"{sqnr:.1f}" if sqnr < 1e9 else "exact") in text
    count = sum(len(stage.comparisons) for stage in verified.parity.stages)
    assert f"All {count} comparisons" in text
    assert page.count("data-kind='passed'") == count
    assert "Verified bundle" in text
    assert "FAILED" not in text


def test_files_hashes_tools_and_steps_are_shown(verified: Findings) -> None:
    text = parsed(bundle_page(verified)).text
    manifest = verified.bundle.manifest
    for path, record in manifest.files.items():
        assert path in text
        assert record.sha256 in text
    for variant in manifest.variants.values():
        for step in variant.lineage:
            assert step.stage in text
            assert all(value in text for value in (*step.inputs.values(), *step.tools.values()))


def test_a_bundle_that_failed_says_so_first(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, {"int8": doubled("dw.weight")})
    findings = gather(bundle.path)
    page = bundle_page(findings)
    text = parsed(page).text
    assert "role='alert'>UNVERIFIED" in page
    assert "Bundle, NOT verified" in text
    assert "int8 is the first stage that departs from fp32" in text
    assert findings.parity is not None
    for comparison in findings.parity.stage("int8").failures:
        assert all(reason in text for reason in comparison.verdict.reasons)
    assert "<details open>" in page
    assert ", allow_unverified=True" in python_snippet(findings.bundle)


def test_random_weights_are_an_alarm(tmp_path: Path) -> None:
    bundle = edited(tmp_path, lambda data: data["weights"].update(untrained=True))
    assert "role='alert'>UNTRAINED" in bundle_page(gather(bundle.path))


def test_decisions_layers_and_the_benchmark_are_shown(quantized: Findings) -> None:
    page = bundle_page(quantized)
    text = parsed(page).text
    assert quantized.analysis is not None
    assert quantized.bench is not None
    assert quantized.analysis.finding in text
    for node in NODES:
        assert text.count(node) >= 3  # the analysis, and two variants' decisions
    for run in quantized.bench.runs:
        assert run.label in text
    for words in (
        "2 of 90 missed the deadline of 33.3 ms", "38.5 of 100 GMAC/s (fp32): 38%; 0.39 G multiply-adds (the zoo)",
        "VDD_IN 9.5 W", "2.00x faster",
        "clocks are not locked, and the like of int8-cpu@onnxruntime", "On a board (aarch64, 6 cores, a GPU)",
    ):  # fmt: skip
        assert words in text


def test_engines_are_shown_with_their_audits(tmp_path: Path) -> None:
    bundle = write_quantized(tmp_path, ["int8"])
    edit_manifest(bundle.path, lambda data: add_engine(data, bundle.path))
    page = bundle_page(gather(bundle.path))
    text = parsed(page).text
    for words in (
        "int8.tensorrt",
        "10.3.0",
        "8.7",
        "1 : 4 : 8",
        "NOT as asked",
        "Convolution: 3 Int8, 1 Float",
        "conv1 is <float>",
    ):
        assert words in text
    assert "<float>" not in page


def test_the_page_stands_alone(quantized: Findings) -> None:
    page = bundle_page(quantized)
    checked = parsed(page)
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page
    anchors = {f"#{name}" for name in checked.ids}
    assert {link for link in checked.links if link != "data:,"} <= anchors


def test_what_a_manifest_holds_is_text(tmp_path: Path) -> None:
    odd = "<script>alert('x')</script>"

    def spoil(data: dict[str, Any]) -> None:
        data["model"]["name"] = data["model"]["family"] = odd
        data["weights"].update(source="javascript:alert(1)//" + odd, licence=odd, entry=odd)
        data["notes"] = [odd]
        data["tools"] = {odd: odd}
        data["calibration"] = {"kind": odd, "count": odd, "method": {"name": odd}}
        data["lineage"] = [
            {"stage": odd, "tools": {odd: odd}, "config": {odd: {odd: [odd]}}, "inputs": {odd: odd}, "notes": [odd]}
        ]
        data["variants"]["int8-cpu"]["placement"] = {
            "decisions": [{"node": odd, "op": odd, "quantized": True, "reason": odd}, 7]
        }
        data["parity"] = {"stages": odd}

    page = bundle_page(gather(edited(tmp_path, spoil).path))
    parsed(page)
    assert page.count("<script>") == 1
    assert "href='javascript" not in page
    assert "alert(&#x27;x&#x27;)" in page


def test_a_verification_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    findings = gather(write_tiny(tmp_path).path)  # whose parity.json is made up
    assert findings.parity is None
    assert findings.notes[0].startswith("the bundle's parity.json cannot be shown: not a parity report")
    assert findings.notes[0] in parsed(bundle_page(findings)).text


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny(tmp_path, 'it\'s "my" net')
    Image.fromarray(photos(1)[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(python_snippet(bundle), {})
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) == 3
    assert all(0 <= float(line.split()[0]) <= 1 and line.split(maxsplit=1)[1] in bundle.labels for line in lines)
    assert 'edgecnn::Classifier const classify("it\'s \\"my\\" net");' in cpp_snippet(bundle)


def test_the_cpp_of_the_page_compiles(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not Path("/usr/include/nlohmann/json.hpp").is_file():
        pytest.skip("no C++ compiler, or no nlohmann-json3-dev")
    include, _, code = cpp_snippet(write_tiny(tmp_path, 'it\'s "my" net')).partition("\n\n")
    start = "#include <iostream>\n#include <vector>\nint main() {\nstd::vector<std::uint8_t> pixels;\nint width = 0, height = 0;\n"
    whole = f"{include}\n{start}{code}}}\n"
    (tmp_path / "app.cpp").write_text(whole)
    headers = Path(native.__file__).parent / "include"
    done = subprocess.run(
        [compiler, "-std=c++17", "-fsyntax-only", f"-I{headers}", tmp_path / "app.cpp"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "C++17" in parsed(bundle_page(gather(write_tiny(tmp_path, "other").path))).text


def test_accuracy_on_labelled_images(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32",))
    for label in range(3):
        save_pictures(tmp_path / "data" / str(label), 2, seed=label)
    findings = gather(bundle.path, ReportConfig(data=tmp_path / "data"))
    assert findings.evaluation is not None
    (score,) = findings.evaluation.variants
    text = parsed(bundle_page(findings)).text
    assert "On the labelled images of data." in text
    assert f"{score.top1:.2f}" in text


def test_measured_now(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path)
    findings = gather(bundle.path, ReportConfig(measure=True, seconds=0.1))
    assert findings.bench is not None
    assert {run.variant for run in findings.bench.runs} == {"fp32", "int8-cpu"}
    assert "Latency distribution" in parsed(bundle_page(findings)).text


def test_a_benchmark_from_a_file(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path)
    result = whole_result()
    own = replace(result, runs=tuple(replace(run, bundle=f"elsewhere/{bundle.path.name}") for run in result.runs))
    write_json(tmp_path / "bench.json", own.to_json())
    findings = gather(bundle.path, ReportConfig(bench=tmp_path / "bench.json"))
    assert findings.bench == BenchResult.from_json(json.loads((tmp_path / "bench.json").read_text()))
    write_json(tmp_path / "mixed.json", replace(result, runs=(own.runs[0], result.runs[1])).to_json())
    mixed = gather(bundle.path, ReportConfig(bench=tmp_path / "mixed.json")).bench
    assert mixed is not None
    assert (mixed.runs, mixed.comparisons) == ((own.runs[0],), ())
    elsewhere = replace(result, runs=tuple(replace(run, bundle="/cache/ab12", model="tiny") for run in result.runs))
    write_json(tmp_path / "elsewhere.json", elsewhere.to_json())
    assert gather(bundle.path, ReportConfig(bench=tmp_path / "elsewhere.json")).bench == elsewhere
    write_json(tmp_path / "other.json", result.to_json())
    with pytest.raises(DataError, match=r"measured lite0, not bundle: run 'edgecnn bench .* --json'"):
        gather(bundle.path, ReportConfig(bench=tmp_path / "other.json"))
    (tmp_path / "junk.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        gather(bundle.path, ReportConfig(bench=tmp_path / "junk.json"))


def test_what_devices_made_of_commands_is_shown(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path)
    result = whole_result()
    own = replace(result, runs=tuple(replace(run, bundle=str(bundle.path)) for run in result.runs))
    about = {"device": "orin", "code": 0, "seconds": 12.34, "peak_rss_mb": 250.6, "when": "2026-11-30T12:00:00+00:00"}
    documents = {
        "orin/bench.json": {**about, "verb": "bench", "result": own.to_json()},
        "orin/verify.json": {**about, "verb": "verify", "code": 3, "result": {"passed": False}},
        "pi/evaluate.json": {"verb": "evaluate", "code": "<b>", "result": {"variants": 7}},
        "pi/predict.json": {"verb": "predict"},
    }
    found = gather(add_results(bundle, documents).path)
    assert dict(found.results) == json.loads(json.dumps(documents))
    page = parsed(bundle_page(found)).text
    assert own.comparisons[0].text in page
    for part in ("On devices", "12.3", "251", "FAILED", "2026-11-30T12:00:00+00:00"):
        assert part in page
    assert page.count("cannot be read") == 2
    kept = gather(bundle.path, ReportConfig(bench=bundle.path / "results" / "orin" / "bench.json")).bench
    assert kept == BenchResult.from_json(own.to_json())
    fresh = write_tiny(tmp_path, "fresh")
    assert "On devices" not in parsed(bundle_page(gather(fresh.path))).text
    (fresh.path / "results").mkdir()
    (fresh.path / "results" / "x.json").write_bytes(b"[]")
    record = {"sha256": hashlib.sha256(b"[]").hexdigest(), "bytes": 2}
    edit_manifest(fresh.path, lambda data: data["files"].update({"results/x.json": record}))
    note = gather(fresh.path).notes[-1]
    assert "what devices found cannot be shown: " in note
    assert "results/x.json holds no JSON object" in note


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError):
        gather(tmp_path / "none")
    with pytest.raises(UserError, match="one benchmark"):
        ReportConfig(measure=True, bench=tmp_path / "bench.json")
    with pytest.raises(UserError, match="seconds of measuring"):
        ReportConfig(seconds=float("nan"))
    with pytest.raises(UserError, match="quantized"):
        gather(write_bundle(tmp_path, precisions=("fp32",)).path, ReportConfig(analyze=True))


def test_a_browser_opens_sorts_and_filters(quantized: Findings, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, {"int8": doubled("dw.weight")})
    path = tmp_path / "report.html"
    write_report(replace(quantized, bundle=bundle, parity=gather(bundle.path).parity), path)
    with browser() as opened:
        page, problems = visit(opened, path)
        assert page.locator("[role=alert]").count() == 1
        page.get_by_label("Failed only").check()
        verdicts = page.locator("#parity tbody tr:visible td:last-child b").all_inner_texts()
        assert verdicts
        assert set(verdicts) == {"FAILED"}
        page.locator("#files").get_by_role("button", name="Bytes").click()
        sizes = [int(text.replace(" ", "")) for text in page.locator("#files td:nth-child(2)").all_inner_texts()]
        assert sizes == sorted(sizes)
        page.locator("input[type=search][data-for=layers]").fill("block")
        assert page.locator("#layers tbody tr:visible").count() == 2
        for link in page.locator("nav a").all():
            assert page.locator(str(link.get_attribute("href"))).count() == 1
        headings = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert page.locator("table:not(:has(caption))").count() == 0
        assert problems == []


def test_dark_narrow_and_printed(quantized: Findings, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(quantized, path)
    ink = "getComputedStyle(document.querySelector('.lead')).color"
    with browser() as opened:
        light, dark = (visit(opened, path, color_scheme=scheme)[0] for scheme in ("light", "dark"))
        assert light.evaluate(ink) != dark.evaluate(ink)
        for page in (light, dark):
            assert page.evaluate(CONTRAST) >= 4.5
        light.set_viewport_size({"width": 390, "height": 800})
        assert light.evaluate("document.documentElement.scrollWidth") == 390
        dark.emulate_media(media="print")
        assert not dark.locator("nav").is_visible()
        assert not dark.locator(".controls").first.is_visible()


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return light(parse(colour));
    }
    return 1;
  };
  const ratios = [...document.querySelectorAll("h1, h2, p, dt, dd, td, small, li, summary, nav a, b, code, th button")].map((element) => {
    const [a, b] = [light(parse(getComputedStyle(element).color)), below(element)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  return Math.min(...ratios);
})()"""
"""The least contrast of any text with what is below it, after WCAG 2's definition of relative luminance."""
