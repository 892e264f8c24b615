"""The page of a benchmark: what it says, that it stands alone, and how it behaves in a browser."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_results import run, whole_result

from edgecnn.bench import BenchConfig, Candidate, bench
from edgecnn.report import bench_page, write_bench_page

VOID = {"meta", "link", "input", "wbr", "br"}


class Checked(HTMLParser):
    """Checks that tags close in order, and keeps the text and what the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [str(found[name]) for name in ("href", "src") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_everything_and_refers_to_nothing() -> None:
    checked = Checked(bench_page(whole_result()))
    for text in ("efficientnet_lite0", "2.00x faster", "int8-cpu@onnxruntime", "2 of 90 missed the deadline of 33.3 ms",
                 "VDD_IN 9.5 W",
                 "300 mJ an image", "Power mode", "thermal", "conv", "75.0%", "a warning", "clocks are not locked"):  # fmt: skip
        assert text in checked.text, text
    assert [link for link in checked.links if link != "data:,"] == []


def test_a_page_of_little() -> None:
    bare = replace(run("fp32", 3.0), stages={}, load=None, telemetry=None, roofline=None, layers=(), warnings=())
    checked = Checked(bench_page(replace(whole_result(), runs=(bare,), comparisons=(), warnings=())))
    assert "Stages of a request" not in checked.text
    assert "under load" not in checked.text


def test_names_are_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script>'\"&"
    one = replace(run(evil, 3.0), model=evil, warnings=(evil,))
    page = bench_page(replace(whole_result(), runs=(one,), device=replace(whole_result().device, name=evil)))
    assert "<script>alert" not in page
    assert evil in Checked(page).text


def test_a_browser_shows_sorts_and_filters(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tiny_bundle import write_tiny

    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")
    bundle = write_tiny(tmp_path_factory.mktemp("tiny"))
    config = BenchConfig(candidates=(Candidate(variant="fp32"), Candidate(variant="int8-cpu")), threads=(1,), batches=(1, 4), count=30,
                         warmup=0.2, profile=True, roofline=False)  # fmt: skip
    path = tmp_path / "bench.html"
    write_bench_page(bench([bundle], config), path)
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = opened.new_page()
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: request.url == path.as_uri() or problems.append(request.url))
            page.goto(path.as_uri())
            names = "#runs tbody tr:visible td:nth-child(2)"
            before = page.locator(names).all_inner_texts()
            assert [name.split("@")[0] for name in before] == ["fp32", "fp32", "int8-cpu", "int8-cpu"]
            page.get_by_role("button", name="#").click()
            assert page.locator(names).all_inner_texts() == before
            page.get_by_role("button", name="#").click()
            assert page.locator(names).all_inner_texts() == before[::-1]
            page.get_by_label("INT8 only").check()
            assert {name.split("@")[0] for name in page.locator(names).all_inner_texts()} == {"int8-cpu"}
            page.get_by_label("Filter").fill("batch 4")
            assert len(page.locator(names).all_inner_texts()) == 1
            assert page.locator("svg.histogram").count() == 4
            page.set_viewport_size({"width": 390, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert problems == []
        finally:
            opened.close()
