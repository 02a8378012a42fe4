"""The report of a run: whatever its classes and files are called, and however many there are."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import NASTY, run

from thaw.escape import printable
from thaw.page.chart import around, ticks, whole
from thaw.page.lines import Line, curves
from thaw.page.pictures import link
from thaw.page.points import Point, against_cost
from thaw.report.page.write import write


class Page(HTMLParser):
    """What a browser would make of a page: elements, addresses, ids, words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.alts: list[str | None] = []
        self.words, self.handlers, self.inside = "", [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.inside = tag
        self.addresses += [str(values[k]) for k in ("src", "href", "action") if k in values]
        self.handlers += [name for name in values if name.startswith("on")]
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(str(values["id"]))
        if tag == "img":
            self.alts.append(values.get("alt"))

    def handle_data(self, data: str) -> None:
        if self.inside not in ("style", "script"):
            self.words += data


@pytest.mark.parametrize(("classes", "each"), [(2, 1), (5, 4), (40, 3)])
def test_a_page_holds_all_and_loads_nothing(tmp_path, classes, each):
    page = Page(write(run(tmp_path, classes, each)))
    assert page.tags.count("script") == 1
    assert page.handlers == []
    for address in page.addresses:
        assert address.startswith(("#", "data:"))
        if address.startswith("#"):
            assert address[1:] in page.ids
    assert page.alts
    assert all(page.alts)
    for name in NASTY[: min(classes, 5)]:
        assert printable(name) in page.words
    photos = classes * each
    assert f"of {photos} photos" in page.words
    for words in ("95% interval", "bit-identical", "Look <b>here.", "<b>.jpg", "resnet18"):
        assert words in page.words
    assert "nan" not in page.words.split()
    cells = [i for i in page.ids if i.startswith("c") and "-" in i]
    assert {f"#{i}" for i in cells} <= {*page.addresses}, "each cell's photos can be opened"
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# resnet18")
    assert "\n<script>" not in card.replace("\\<", "")


def test_what_is_missing_is_left_out(tmp_path):
    folder = run(tmp_path, 3, 2, photos=False, history=False)
    (folder / "stages.json").unlink()
    page = Page(write(folder))
    assert page.alts == []
    assert "stages" not in page.ids
    assert "#stages" not in page.addresses


def test_charts_take_what_there_is():
    assert "no epoch" in curves("loss", [Line("val", [(1, float("nan"))], 0)])
    one = curves("loss", [Line("<i>", [(1, 0.5)], 0)], [(1, "a")], best=1)
    assert "&lt;i&gt;" in one
    assert "nan" not in one
    assert len(ticks(*around([0.1, 0.9]))) in range(3, 9)
    assert len(whole(0, 500)) < 9


def test_points_at_one_place_are_all_named():
    points = [Point(i, f"<{i}>", 12.0, 0.9, 0.8, 0.95) for i in (1, 2)]
    drawn = against_cost(points, "latency")
    assert ">1, 2</text>" in drawn
    assert "&lt;1&gt;" in drawn


def test_an_address_is_relative_and_quoted(tmp_path):
    to = tmp_path / "a=1,b 2#\udcff?" / "report.html"
    assert link(to, tmp_path) == "a%3D1%2Cb%202%23%FF%3F/report.html"
