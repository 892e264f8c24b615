"""The page of an analysis: what it says, that it stands alone, and how it behaves in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from quantized_bundles import NODES, write_quantized

from edgecnn.analysis import Analysis, analyze
from edgecnn.errors import OutputError
from edgecnn.report import analysis_page, check_place, write_page

VOID = {"meta", "link", "input", "wbr", "br"}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(write_quantized(tmp_path_factory.mktemp("page"), ["int8"]))


class Checked(HTMLParser):
    """Checks that tags close in order, and keeps what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[name]) for name in ("href", "src") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Checked:
    checked = Checked()
    checked.feed(page)
    assert checked.open == []
    return checked


def test_the_page_is_whole_and_stands_alone(analysis: Analysis) -> None:
    page = analysis_page(analysis)
    checked = parsed(page)
    assert len(checked.ids) == len(set(checked.ids))
    assert {link for link in checked.links if link != "data:,"} <= {f"#{name}" for name in checked.ids}
    assert "//" not in re.sub(r"(?m)^\s*//.*$|; // .*$", "", page)  # no address anywhere, but comments of the script
    assert "default-src 'none'" in page
    for item in analysis.layers:
        assert item.node in checked.text
        assert item.reason in checked.text
    assert analysis.finding in checked.text


def test_what_names_hold_is_text(analysis: Analysis) -> None:
    first = replace(analysis.layers[0], node="<script>alert('x')</script>", reason="a & b <i>", op='"Conv"')
    page = analysis_page(replace(analysis, model="<b>net", layers=(first, *analysis.layers[1:]), notes=("<u>note",)))
    assert page.count("<script>") == 1
    assert "<b>net" not in page
    assert "<u>note" not in page
    assert "a &amp; b &lt;i&gt;" in page
    parsed(page)


def test_an_exact_variant_has_a_page_too(analysis: Analysis) -> None:
    exact = [
        replace(item, isolated_db=float("inf"), cumulative_db=float("inf"), logits_db=float("inf"), share=0.0)
        for item in analysis.layers
    ]
    page = analysis_page(replace(analysis, layers=tuple(exact), logits_db=float("inf"), added_db=float("inf")))
    assert "they are fp32&#x27;s" in page
    assert "nan" not in page
    assert ">inf" not in page
    parsed(page)


def test_a_file_is_replaced_whole(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    write_page(analysis, path)
    assert path.read_text(encoding="utf-8") == analysis_page(analysis)
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"it is a folder; give the name of a file, such as .*analysis\.html"):
        check_place(tmp_path)
    with pytest.raises(OutputError, match="there is no folder"):
        check_place(tmp_path / "no" / "page.html")


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a headless chromium; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as driver:
        # Without its sandbox, which root and many containers lack: the page is our own.
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def test_a_browser_sorts_filters_and_has_nothing_to_complain_of(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(analysis, path)
    with browser() as opened:
        page = opened.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url == path.as_uri() or problems.append(request.url))
        page.goto(path.as_uri())

        def names() -> list[str]:
            found: list[str] = page.locator("#layers tbody tr:visible .name").all_inner_texts()
            return found

        ranked = [item.node for item in analysis.worst]
        assert names() == [*ranked, "ReduceMean"]
        page.get_by_role("button", name="#").click()
        assert names() == NODES
        page.get_by_role("button", name="#").click()
        assert names() == NODES[::-1]
        page.get_by_role("button", name="Isolated").click()
        noisy = sorted((item for item in analysis.worst), key=lambda item: item.isolated_db or 0)
        assert names() == [*(item.node for item in noisy), "ReduceMean"]
        assert page.locator("th[aria-sort]").all_inner_texts() == ["Isolated"]
        page.get_by_label("INT8 only").check()
        assert "ReduceMean" not in names()
        page.get_by_label("Filter").fill("BLOCK")
        assert sorted(names()) == ["block.conv/Conv", "block/Add"]
        assert problems == []


def test_dark_and_narrow(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(analysis, path)
    paper = "getComputedStyle(document.body).backgroundColor"
    with browser() as opened:
        light, dark = (opened.new_page(color_scheme=scheme) for scheme in ("light", "dark"))
        light.goto(path.as_uri())
        dark.goto(path.as_uri())
        assert light.evaluate(paper) != dark.evaluate(paper)
        light.set_viewport_size({"width": 390, "height": 800})
        assert light.evaluate("document.documentElement.scrollWidth") == 390  # tables scroll in themselves
