"""The overlays and the page of a complete archive. Its verdicts are made up, the overlays are small pictures."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pytest

from heatline.edge.archive import report
from heatline.edge.archive.report import name_of, wanted_overlays, write_overlays, write_report
from heatline.edge.archive.results import Finding, Results, read_results
from heatline.edge.heatmap_picture import JPEG_SIDE_PX, jpeg
from tests.edge.archive.made_archives import NEW, OLD, UNREADABLE, Made, Seen, made_archive

SAME = Made("day 1", "good", {OLD: Seen(-1.0), NEW: Seen(-1.5)})
ESCAPE = Made("day 1", "defective", {OLD: Seen(0.25), NEW: Seen(-0.25)})
REJECT = Made("day 2", "good", {OLD: Seen(-2.0), NEW: Seen(3.0)})
UNLABELLED = Made("<day 3>", None, {OLD: Seen(1.0), NEW: Seen(-1.0)})
LOST = Made("day 2", None, {OLD: Seen(1.0), NEW: Seen(None)})
MISSING = Made("day 2", None, {OLD: UNREADABLE, NEW: UNREADABLE})
CHANGED = Made("day 2", None, {OLD: Seen(1.0), NEW: Seen(-1.0, content="c1")})
ALL = [SAME, REJECT, ESCAPE, UNLABELLED, LOST, MISSING, CHANGED]
DOCS = Path(__file__).parents[3] / "docs" / "archive-compare.md"


class Page(HTMLParser):
    """The text of a page, and the addresses that it loads or links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.sources, self.links, self._in = list[str](), list[str](), list[str](), ""
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        values = dict(attrs)
        if tag != "dialog":
            self.sources += [source for name in ("src", "data") if (source := values.get(name))]
        self.links += [link] if (link := values.get("href")) else []

    def handle_data(self, data: str) -> None:
        if self._in not in ("style", "script"):
            self.words.append(data)


class Drawing:
    """Draws a grey picture for each wanted one, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, digest: str, wanted: Sequence[Finding]) -> Iterable[tuple[Finding, bytes | None]]:
        return self._draw(digest, wanted)

    def _draw(self, digest: str, wanted: Sequence[Finding]) -> Iterator[tuple[Finding, bytes | None]]:
        for each in reversed(wanted):
            self.asked.append((digest, each.number))
            yield each, jpeg(np.full((80, 100, 3), 60, np.uint8), 90)


def results_of(folder: Path, pictures: Sequence[Made] = ALL, worst: int = 50) -> tuple[Results, Page]:
    """Write archive, overlays and page; return the results and the page."""
    plan = made_archive(folder, pictures)
    results = read_results(plan, NEW, OLD if OLD in pictures[0].seen else None, worst=worst)
    write_overlays(plan.dest, results, Drawing())
    write_report(plan, results)
    return results, Page((folder / "report.html").read_text())


def test_overlays_are_those_of_the_worst_pictures_and_flips_and_are_drawn_once(tmp_path: Path) -> None:
    plan = made_archive(tmp_path, ALL)
    results = read_results(plan, NEW, OLD, worst=2)
    drawing = Drawing()
    write_overlays(plan.dest, results, drawing)
    # Highest margins of the new bundle: 1 and 2. Worst flips: the new escape 2, then 1, whose score moved furthest.
    assert sorted(drawing.asked) == [(OLD, 1), (OLD, 2), (NEW, 1), (NEW, 2)]
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "overlays").rglob("*.jpg"))
    expected = [name_of(digest, each) for digest, found in wanted_overlays(results).items() for each in found]
    assert files == sorted(expected)
    write_overlays(plan.dest, results, drawing)
    assert len(drawing.asked) == 4, "overlays that are there are not drawn again"
    (tmp_path / files[0]).unlink()
    write_overlays(plan.dest, results, drawing)
    assert drawing.asked[4:] == [(OLD, 1)]


def test_pictures_that_could_not_be_read_are_not_drawn(tmp_path: Path) -> None:
    flip = Made("a", None, {OLD: Seen(None, "failed.crashed", content=None), NEW: UNREADABLE})
    judged = Made("a", None, {OLD: Seen(1.0), NEW: Seen(None)})
    plan = made_archive(tmp_path, [flip, judged])
    drawing = Drawing()
    write_overlays(plan.dest, read_results(plan, NEW, OLD), drawing)
    assert sorted(drawing.asked) == [(OLD, 1), (NEW, 1)]


def test_an_overlay_keeps_its_size_and_its_colours() -> None:
    rgb = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    rgb[:, 31] = (30, 30, 200)  # a line of one pixel, off the grid of halved colours
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg(rgb, 90), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert shown.shape == rgb.shape
    assert np.abs(shown.astype(int) - rgb).max() < 40
    longest = jpeg(np.zeros((2, JPEG_SIDE_PX + 100, 3), np.uint8), 90)
    assert cv2.imdecode(np.frombuffer(longest, np.uint8), cv2.IMREAD_COLOR).shape[1] == JPEG_SIDE_PX


def test_the_page_begins_with_what_flips(tmp_path: Path) -> None:
    _, page = results_of(tmp_path)
    assert "boards 2 against boards 1" in page.text
    assert (
        "With boards 2 instead of boards 1, 4 of 6 pictures get another verdict: 2 from DEFECT to GOOD and 1 from GOOD "
        "to DEFECT ; 1 loses its verdict." in page.text
    )
    assert "Of 1 defective picture, 0 escape with boards 1 and 1 with boards 2: 1 new escape ." in page.text
    assert "Of 2 good pictures, 0 are rejected with boards 1 and 1 with boards 2." in page.text
    assert "1 picture had another content when the other bundle inspected it, or" in page.text
    assert "No intervals: a bootstrap needs at least 10 groups, and there are 3" in page.text
    flips = [page.text.index(f"{name}.png", page.text.index("the worst first")) for name in ("/2", "/1", "/3", "/4")]
    assert flips == sorted(flips), "a new escape first, then by how far the score moved, then without a score"
    assert "New escape in day 1, labelled defective" in page.text
    assert "failed.unreadable 1 day 2/5.png the picture <5> is odd" in page.text


def test_the_page_needs_no_other_file_and_escapes_names(tmp_path: Path) -> None:
    _, page = results_of(tmp_path)
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert all((tmp_path / link).is_file() for link in page.links)
    text = (tmp_path / "report.html").read_text()
    assert "<day 3>" not in text
    assert html.escape("<day 3>") in text
    assert "prefers-color-scheme: dark" in text


def test_a_score_on_the_threshold_has_no_sign_and_groups_without_a_flip_are_in_the_order_of_names(
    tmp_path: Path,
) -> None:
    on_it = Made("day 3", None, {OLD: Seen(-1e-15), NEW: Seen(-1e-15)})
    flip = Made("day 2", None, {OLD: Seen(1.0), NEW: Seen(-1.0)})
    stays = Made("day 2", None, {OLD: Seen(1.0), NEW: Seen(1.0)})
    others = [Made(f"day {day}", None, stays.seen) for day in (5, 4, 1)]
    whole = Made("day 6", None, flip.seen)
    results, page = results_of(tmp_path, [on_it, flip, flip, stays, *others, whole])
    assert "on the threshold, 0 regions" in page.text
    assert results.comparison is not None
    order = [figures["group"] for figures in results.comparison.worst_groups(10)]
    assert order == ["day 6", "day 2", "day 1", "day 3", "day 4", "day 5"], "by share, then by name"


def test_the_page_of_one_bundle_compares_nothing(tmp_path: Path) -> None:
    _, page = results_of(tmp_path, [Made(each.group, each.label, {NEW: each.seen[NEW]}) for each in ALL])
    assert "boards 2 gives DEFECT to 1 and GOOD to 4 of 7 pictures. 2 have no verdict ." in page.text
    assert "against" not in page.text
    assert "another verdict" not in page.text


def test_the_page_is_bounded_and_says_where_the_rest_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_PICTURES", 6)
    monkeypatch.setattr(report, "MOST_GROUPS", 4)
    many = [Made(f"day {number:02}", None, UNLABELLED.seen) for number in range(12)]
    results, page = results_of(tmp_path, many, worst=8)
    assert len(page.sources) == 6, "3 flips with two overlays each, and none is left for the highest scores"
    assert "9 more pictures have another verdict." in page.text
    assert "The overlays of 8 more pictures are in overlays/ ." in page.text
    assert page.text.count("The table shows 4 of 12 groups") == 2
    query = re.search(r"SELECT .* DESC", page.text)
    assert query is not None
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(query[0]).fetchall()
    assert len(found) == results.comparison.counts(None)["flip"] == 12  # type: ignore[union-attr]
    assert found[0][1:] == ("DEFECT", "GOOD", 1.0, -1.0)


def test_archive_compare_md_lists_flips_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_archive(tmp_path, ALL)
    monkeypatch.chdir(tmp_path)
    query = block_of("sql").replace("OLD/", f"{OLD}/").replace("NEW/", f"{NEW}/")
    found = duckdb.sql(query).fetchall()
    assert [row[0] for row in found if row[3] and row[4]] == ["day 2/1.png", "<day 3>/3.png", "day 1/2.png"]
    assert len(found) == 4


def block_of(language: str) -> str:
    """Return the block of code in docs/archive-compare.md."""
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1]
