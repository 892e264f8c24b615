"""The page of an analysis: what it says, that it stands alone, and how it behaves in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from page_tools import browser, parsed, visit
from quantized_bundles import NODES, write_quantized

from edgecnn.analysis import Analysis, analyze
from edgecnn.report import analysis_page, write_page


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(write_quantized(tmp_path_factory.mktemp("page"), ["int8"]))


def test_the_page_is_whole_and_stands_alone(analysis: Analysis) -> None:
    page = analysis_page(analysis)
    checked = parsed(page)
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


def test_a_browser_sorts_filters_and_has_nothing_to_complain_of(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(analysis, path)
    with browser() as opened:
        page, problems = visit(opened, path)

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
