"""The picture of a comparison: nothing lies on anything, everything is inside, and it says what it is told."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from edgecnn.comparison import Comparison, Measured, Point, compare_zoo, front
from edgecnn.comparison.names import FAMILIES
from edgecnn.errors import OutputError, UserError
from edgecnn.report import write_comparison
from edgecnn.report.drawing import LIGHT, Disc, Drawing, Line, Text, svg
from edgecnn.report.labels import Bubble, place_labels
from edgecnn.report.raster import png, text_width
from edgecnn.report.scatter import LABEL, Frame, scatter

ZOO = compare_zoo()


def timed(comparison: Comparison) -> Comparison:
    """Return the comparison with made-up latencies."""
    points = [
        replace(
            point,
            latency=Measured(
                milliseconds=(point.macs or 0) / 1e8 + index % 7,
                ratio=1 + index,
                spread=0.1,
                rounds=9,
                backend="onnxruntime",
                threads=1,
            ),
        )
        for index, point in enumerate(comparison.points)
    ]
    return replace(comparison, points=tuple(points), device="a processor", reference="resnet18")


def named(drawing: Drawing) -> list[Text]:
    return [shape for shape in drawing.shapes if isinstance(shape, Text) and shape.key]


@pytest.mark.parametrize(
    "frame", [Frame(axis=axis, log=log) for axis in ("macs", "latency") for log in (True, False)], ids=str
)
def test_every_network_has_a_name_and_no_name_lies_on_another(frame: Frame) -> None:
    comparison = timed(ZOO)
    drawing = scatter(comparison, frame)
    drawn = [point for point in comparison.points if point.drawn(frame.axis)]
    discs = [shape for shape in drawing.shapes if isinstance(shape, Disc) and shape.key]
    assert {disc.key for disc in discs} == {point.name for point in drawn}
    texts = named(drawing)
    assert len(texts) >= len(drawn) - (2 if frame.log else 8)  # a linear axis squeezes the small ones together
    boxes = [(t.x, t.y - LABEL * 0.7, t.x + text_width(t.text, LABEL), t.y) for t in texts]
    for (a, one), (b, other) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (a.text, b.text)
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert top >= 0
        assert right <= drawing.width
        assert bottom <= drawing.height


def test_areas_are_parameters_and_places_are_numbers() -> None:
    drawing = scatter(ZOO, Frame(log=False))
    discs = {shape.key: shape for shape in drawing.shapes if isinstance(shape, Disc) and shape.key}
    points = {point.name: point for point in ZOO.points}
    vgg, resnet = discs["vgg16"], discs["resnet50"]
    shares = (points["vgg16"].params or 0) / (points["resnet50"].params or 1)
    assert (vgg.r / resnet.r) ** 2 == pytest.approx(shares)

    def across(name: str) -> float:
        return (points[name].macs or 0) / 1e9

    slope = (vgg.x - resnet.x) / (across("vgg16") - across("resnet50"))
    for name, disc in discs.items():
        assert disc.x - resnet.x == pytest.approx(slope * (across(name) - across("resnet50")), abs=1e-6)
        assert (disc.y < resnet.y) == ((points[name].top1 or 0) > (points["resnet50"].top1 or 0))


def test_the_front_is_drawn_through_its_points() -> None:
    drawing = scatter(ZOO)
    (line,) = [shape for shape in drawing.shapes if isinstance(shape, Line) and shape.key == "front"]
    discs = {shape.key: shape for shape in drawing.shapes if isinstance(shape, Disc)}
    assert list(line.points) == [(discs[point.name].x, discs[point.name].y) for point in front(ZOO.points, "macs")]
    bold = {text.key for text in named(drawing) if text.bold}
    assert bold == {point.name for point in front(ZOO.points, "macs")}


def test_svg_is_xml_with_everything_escaped() -> None:
    odd = "<script>&\"'"
    points = [replace(point, name=f"{odd}{point.name}", label=odd + point.label) for point in ZOO.points[:3]]
    text = svg(scatter(replace(ZOO, points=tuple(points), title=odd)), alone=True)
    root = ET.fromstring(text)
    assert "<script" not in text
    assert any(odd in "".join(element.itertext()) for element in root.iter())
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on") or name == "href"]
    assert len(svg(scatter(ZOO), alone=True)) < 40_000


def test_pixels_show_the_families() -> None:
    drawing = scatter(ZOO)
    image = Image.open(io.BytesIO(png(drawing, scale=1))).convert("RGB")
    assert image.size == (drawing.width, drawing.height)
    rims = {colour for _, colour in image.getcolors(1 << 20) or []}
    for family in {point.family for point in ZOO.points if point.drawn("macs")}:
        value = LIGHT[family]
        wanted = tuple(int(value[at : at + 2], 16) for at in (1, 3, 5))
        assert min(sum(abs(a - b) for a, b in zip(colour, wanted, strict=True)) for colour in rims) < 24, family


def test_every_family_has_its_colours_and_a_rule_of_the_page() -> None:
    style = (Path(__file__).parents[2] / "edgecnn/report/compare.css").read_text()
    for family in FAMILIES:
        assert f"--c-{family}: {LIGHT[family]};" in style
        assert style.count(f"--c-{family}: ") == 3  # light, dark, print
        assert f".{family} {{ --own: var(--c-{family}); }}" in style


def test_one_point_and_points_that_are_the_same_are_drawn() -> None:
    one = Point(name="a", label="a", family="user", params=10, macs=1000, top1=50.0)
    for points in ((one,), (one, replace(one, name="b")), (replace(one, top1=0.0),), (replace(one, top1=100.0),)):
        for log in (True, False):
            assert named(scatter(Comparison(points=points, title="t"), Frame(log=log)))


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(UserError, match="no network has both an accuracy and a measured latency"):
        scatter(ZOO, Frame(axis="latency"))


def test_names_that_find_no_room_are_given_up_the_last_first() -> None:
    crowd = [Bubble(50, 50, 5, 90, 12) for _ in range(30)]
    placed = place_labels(crowd, (0, 0, 100, 100))
    assert placed[0] is not None
    assert any(item is None for item in placed)


def test_files_are_written_whole_and_places_checked(tmp_path: Path) -> None:
    places = {kind: tmp_path / f"zoo.{kind}" for kind in ("html", "svg", "png")}
    assert write_comparison(ZOO, places) == [places["png"], places["svg"], places["html"]]
    assert places["png"].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo.html", "zoo.png", "zoo.svg"]
    with pytest.raises(OutputError, match="it is a folder"):
        write_comparison(ZOO, {"svg": tmp_path})
    with pytest.raises(UserError, match="not as gif"):
        write_comparison(ZOO, {"gif": tmp_path / "zoo.gif"})
    with pytest.raises(UserError, match="axis 'accuracy'"):
        write_comparison(ZOO, places, axis="accuracy")
