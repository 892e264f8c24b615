"""The page of a comparison: it stands alone, and its switches do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from page_tools import browser, parsed, visit

from edgecnn.comparison import Comparison, LeftOut, Measured, compare_zoo, front
from edgecnn.report import write_comparison
from edgecnn.report.compare_page import comparison_page


def measured(comparison: Comparison) -> Comparison:
    """Return the comparison with made-up latencies."""
    points = [
        replace(
            point,
            latency=Measured(
                milliseconds=(point.macs or 0) / 1e8, ratio=1.0, spread=0.1, rounds=9, backend="onnxruntime", threads=1
            ),
        )
        for point in comparison.points
        if point.name != "alexnet"
    ]
    return replace(comparison, points=(*points, comparison.points[-1]), device="a processor", reference="resnet18")


ZOO = measured(compare_zoo())


def test_the_page_stands_alone_and_is_escaped() -> None:
    odd = "<img src=x onerror=alert(1)>"
    points = (replace(ZOO.points[0], name=odd, label=odd, weights=odd, source="javascript:alert(1)"), *ZOO.points[1:])
    left = (LeftOut(name=odd, reason=odd),)
    page = comparison_page(replace(ZOO, points=points, title=odd, notes=(odd,), left_out=left, device=odd))
    checked = parsed(page)
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page
    assert not [link for link in checked.links if not link.startswith(("https://", "data:,", "#"))]
    assert 'href="javascript' not in page
    assert "href='javascript" not in page


def test_where_there_is_nothing_to_draw_the_table_is_there(tmp_path: Path) -> None:
    path = tmp_path / "zoo.html"
    write_comparison(replace(ZOO, points=tuple(replace(point, top1=None) for point in ZOO.points)), {"html": path})
    assert "No network has both an accuracy and a cost" in parsed(path.read_text()).text
    with browser() as opened:
        page, problems = visit(opened, path)
        page.get_by_role("button", name="Mparams").click()
        assert page.locator("#points tbody tr").count() == len(ZOO.points)
        assert problems == []


def test_a_browser_switches_toggles_sorts_and_has_nothing_to_complain_of(tmp_path: Path) -> None:
    path = tmp_path / "zoo.html"
    write_comparison(ZOO, {"html": path})
    with browser() as opened:
        page, problems = visit(opened, path)

        def front_of() -> int:
            return len(str(page.locator(".panel:visible .line.front").get_attribute("points")).split())

        def shown() -> list[str]:
            panels = page.locator(".panel:visible").all()
            return [f"{panel.get_attribute('data-axis')} {panel.get_attribute('data-scale')}" for panel in panels]

        assert shown() == ["latency log"]  # what was measured comes first
        page.get_by_label("Operations").check()
        assert shown() == ["macs log"]
        page.get_by_label("Log scale").uncheck()
        assert shown() == ["macs linear"]
        page.get_by_label("Log scale").check()
        assert front_of() == len(front(ZOO.points, "macs"))

        page.get_by_role("button", name="EfficientNet").click()
        without = [point for point in ZOO.points if point.family != "efficientnet"]
        assert front_of() == len(front(without, "macs"))
        visible = page.locator(".panel:visible .disc[data-key]:visible").count()
        assert visible == sum(point.drawn("macs") for point in without)
        assert page.locator("#points tbody tr:visible").count() == len(without)
        page.get_by_role("button", name="EfficientNet").click()
        assert page.locator("#points tbody tr:visible").count() == len(ZOO.points)

        page.get_by_role("button", name="Mparams").click()
        names = page.locator("#points tbody tr .name").all_inner_texts()
        assert names == [point.name for point in sorted(ZOO.points, key=lambda point: point.params or 0)]
        page.get_by_label("On a Pareto front only").check()
        best = {point.name for axis in ("macs", "latency") for point in front(ZOO.points, axis)}  # type: ignore[arg-type]
        assert set(page.locator("#points tbody tr:visible .name").all_inner_texts()) == best
        page.get_by_label("Filter").fill("mobile")
        assert set(page.locator("#points tbody tr:visible .name").all_inner_texts()) <= {
            "mobilenet_v3_small",
            "mobilenet_v3_large",
        }

        page.locator(".panel:visible .disc[data-key=googlenet]").hover()
        tip = page.locator("#tip").inner_text()
        assert "googlenet" in tip
        assert "Top-1 %: 69.78" in tip
        assert problems == []


def test_dark_narrow_and_printed(tmp_path: Path) -> None:
    path = tmp_path / "zoo.html"
    write_comparison(ZOO, {"html": path})
    colour = "getComputedStyle(document.querySelector('.disc.vgg')).fill"
    with browser() as opened:
        light, dark = (visit(opened, path, color_scheme=scheme)[0] for scheme in ("light", "dark"))
        assert light.evaluate(colour) != dark.evaluate(colour)
        dark.emulate_media(media="print")
        assert dark.evaluate(colour) == light.evaluate(colour)
        assert not dark.locator(".switches").is_visible()
        dark.set_viewport_size({"width": 1031, "height": 703})  # A4 landscape without its margins, at 96 dpi
        drawn = dark.locator(".plot:visible").bounding_box()
        assert drawn["x"] + drawn["width"] < 1031
        assert drawn["y"] + drawn["height"] < 703, "the picture is on the first page"
        light.set_viewport_size({"width": 390, "height": 800})
        assert light.evaluate("document.documentElement.scrollWidth") == 390


def test_without_scripts_the_picture_and_the_table_are_there(tmp_path: Path) -> None:
    path = tmp_path / "zoo.html"
    write_comparison(ZOO, {"html": path})
    with browser() as opened:
        page = opened.new_context(java_script_enabled=False).new_page()
        page.goto(path.as_uri())
        assert page.locator(".panel:visible").count() == 1
        assert not page.locator(".switches").is_visible()
        assert page.locator("#points tbody tr:visible").count() == len(ZOO.points)
