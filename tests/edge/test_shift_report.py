"""`heatline report` and the page count what the journal holds, by shifts of the wall clock."""

import csv
import json
import re
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.journal import Journal, JournalReader
from heatline.edge.monitor.shift_page import density_map
from heatline.edge.monitor.shift_report import Scope, make_report, p_limits
from heatline.edge.wire.events import Region, Verdict
from heatline.edge.wire.requests import to_bytes
from tests.command import complaint, heatline
from tests.edge.journals import LINE, change
from tests.edge.lines import write_line
from tests.edge.view_pages import marked, page, review_of

HW = 480, 640
BEGIN = datetime(2026, 10, 24, tzinfo=UTC)
"""The day before the clocks of Vilnius change to winter time."""
Frame = tuple[int, str, str | None, Verdict, int, tuple[int, int]]
"""Minutes after `BEGIN`, camera, product, verdict, number of frames, and the peak of its region."""


def written(folder: Path, rows: list[tuple[datetime, str, bytes]]) -> Path:
    """A journal that holds these events: when each was journalled, its topic and header."""
    Journal(folder, LINE).close()
    for seq, (at, topic, header) in enumerate(rows, 1):
        values = seq, int(at.timestamp()) * 10**9, topic, header
        change(folder, "INSERT INTO events (seq, at_ns, topic, header) VALUES (?, ?, ?, ?)", *values)
        change(folder, "INSERT OR REPLACE INTO topics VALUES (?, ?)", topic, seq)
    return folder


def row_of(frame: Frame) -> tuple[datetime, str, bytes]:
    minutes, camera, product, verdict, frames, (x, y) = frame
    region = Region(box_xyxy=(x, y, x + 1, y + 1), contour_xy=[(x, y)], area_px=1, peak_xy=(x, y), score=1.5)
    what: dict[str, Any] = {"camera": camera, "product": product, "frames": frames, "frame_hw": HW}
    what |= {
        "regions": [replace(region, tolerated=verdict != "DEFECT")] * (verdict != "NO_VERDICT"),
        "reason": "failed.engine" if verdict == "NO_VERDICT" else None,
    }
    event = marked(kind=verdict, **what)
    return BEGIN + timedelta(minutes=minutes), event.topic, to_bytes(event)


def part(minutes: int, verdict: Verdict) -> tuple[datetime, str, bytes]:
    header = f'{{"type":"part","part_id":"1","verdict":"{verdict}","reason":null,"product":"4711","at_ns":1}}'
    return BEGIN + timedelta(minutes=minutes), f"part.{verdict}", header.encode()


def report_of(folder: Path, **words: str) -> dict[str, Any]:
    with JournalReader.open(folder) as reader:
        return make_report(reader, Scope.parse(**words))[0]


def counts(rows: list[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    return {row["name"]: (row["good"], row["defect"], row["no_verdict"]) for row in rows}


CHANGES = datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)
"""Two days before the clocks go from 03:00 to 04:00, and from 04:00 to 03:00."""


@settings(max_examples=10, deadline=None)
@given(
    st.sets(st.builds(time, st.integers(0, 23), st.integers(0, 59)), min_size=1, max_size=4), st.sampled_from(CHANGES)
)
@example({time(6), time(14), time(22)}, CHANGES[0])
@example({time(6), time(14), time(22)}, CHANGES[1])
@example({time(3, 30), time(12)}, CHANGES[0])
@example({time(3, 30), time(12)}, CHANGES[1])
def test_shifts_begin_when_the_wall_clock_first_shows_their_time(shifts: set[time], first: datetime) -> None:
    scope = Scope.parse(shifts=",".join(f"{at:%H:%M}" for at in sorted(shifts)), zone="Europe/Vilnius")
    begins, seen = list[datetime](), set[tuple[object, time]]()
    for minute in range(4 * 24 * 60):  # a walk along the wall clock
        at = first + timedelta(minutes=minute)
        wall = at.astimezone(scope.zone)
        at_3 = 4 if f"{wall:%m-%d}" == "03-29" else 3  # what the clock shows in place of 03
        due = {each.replace(hour=at_3) if each.hour == 3 else each for each in shifts}
        if wall.time() in due and (wall.date(), wall.time()) not in seen:
            seen.add((wall.date(), wall.time()))
            begins.append(at)
        if begins:
            assert scope.period(int(at.timestamp()) * 10**9)[0] == begins[-1].timestamp() * 10**9


FRAMES = st.tuples(
    st.integers(0, 3000), st.sampled_from(["top", "side"]), st.sampled_from([None, "4711"]),
    st.sampled_from(["GOOD", "DEFECT", "NO_VERDICT"]), st.integers(1, 3),
    st.tuples(st.integers(0, HW[1] - 1), st.integers(0, HW[0] - 1)),
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(frames=st.lists(FRAMES, min_size=1, max_size=12), until=st.integers(1, 3001))
def test_a_report_is_a_naive_count(frames: list[Frame], until: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    frames = sorted([(0, "top", "4711", "GOOD", 1, (0, 0)), *frames], key=lambda each: each[0])
    expected = {by: dict[str, Counter[str]]() for by in ("rows", "by_camera", "by_product", "total")}
    zones = Counter[str]()
    for minutes, camera, product, verdict, number, (x, y) in [each for each in frames if each[0] < until]:
        at = BEGIN + timedelta(minutes=minutes)
        names = f"{at:%Y-%m-%d} {at.hour // 8 * 8:02}:00", camera, product or "none", "all"
        for by, name in zip(expected, names, strict=True):
            expected[by].setdefault(name, Counter())[verdict] += number
        if verdict == "DEFECT":
            down = "top " if y < HW[0] / 3 else "bottom " if y >= HW[0] * 2 / 3 else ""
            across = "left" if x < HW[1] / 3 else "right" if x >= HW[1] * 2 / 3 else ""
            zones[f"{camera} {down}{across}".strip()] += 1
    folder = written(tmp_path_factory.mktemp("journal"), [row_of(each) for each in frames])
    end = f"{BEGIN + timedelta(minutes=until):%Y-%m-%dT%H:%M}"
    report = report_of(folder, since="2026-10-24", until=end, shifts="00:00,08:00,16:00", zone="UTC")
    for by, rows in expected.items():
        assert counts([report[by]] if by == "total" else report[by]) == {
            name: (n["GOOD"], n["DEFECT"], n["NO_VERDICT"]) for name, n in rows.items()
        }
    assert zones == {f"{z['camera']} {z['zone']}".removesuffix(" centre"): z["defects"] for z in report["zones"]}


def test_control_limits_are_those_of_the_textbook() -> None:
    """Montgomery, example 7.1: 347 nonconforming cans in 30 samples of 50."""
    assert [*p_limits(347 / 1500, 50), p_limits(0.01, 50)[0]] == pytest.approx([0.0524, 0.4102, 0], abs=1e-4)


def test_the_map_changes_the_picture_around_a_defect_only() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*HW, 3), np.uint8)
    empty, hot = (density_map(picture, {(30, x): 3, (30, 2): 0}, HW).astype(int) for x in (1, 50))
    changed = np.argwhere((empty != hot).any(2) & (np.arange(HW[1]) > 200))
    assert np.abs(changed.mean(0) - (305, 505)).max() < 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A night with 25 hours on two cameras, and its parts after 00:00."""
    frames: list[Frame] = [(60 * hour, "top", "4711", "GOOD", 1, (0, 0)) for hour in range(30)]
    frames += [(60 * hour, "side", None, "DEFECT", 1, (600, 450)) for hour in (22, 23)]
    said = ("Ada", "false_alarm", 1), ("Ada", "right", 2), ("Bo", "right", 1), ("Bo", "false_alarm", 1)
    marks = [(BEGIN, "review", to_bytes(review_of(*each, seq=seq))) for seq, each in enumerate(said, 1)]
    return written(tmp_path / "state", [*sorted(map(row_of, frames)), *marks])


def test_the_command_prints_and_writes_the_same_rows(tmp_path: Path, folder: Path, bundle: Bundle) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")  # a line PC may have none
    line = write_line(tmp_path, bundle.path, "ipc://@x", {"top": 'path = "x"'}, '[journal]\nfolder = "state"\n')
    out = {name: tmp_path / f"report.{name}" for name in ("html", "csv", "parquet")}
    words = "report", line, "--since", "2026-10-24", "--zone", "Europe/Vilnius"
    shown = heatline(*words, *(each for name, path in out.items() for each in (f"--{name}", path)))
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = json.loads(heatline(*words, "--json").stdout)["rows"]
    assert [row["name"][8:] for row in rows] == ["23 22:00", "24 06:00", "24 14:00", "24 22:00", "25 06:00"]
    assert counts(rows)["2026-10-24 22:00"] == (9, 2, 0), "one hour more than on other nights"
    assert (rows[3]["begin"], rows[3]["end"]) == ("2026-10-24T22:00:00+03:00", "2026-10-25T06:00:00+02:00")
    assert re.search(r"2026-10-24 22:00 +9 +2 +0 +81.82 %", shown.stdout)
    for found in (csv.DictReader(out["csv"].read_text().splitlines()), pq.read_table(out["parquet"]).to_pylist()):
        assert [(row["name"], int(row["good"]), int(row["defect"])) for row in found] == [
            (row["name"], row["good"], row["defect"]) for row in rows
        ]
    html = out["html"].read_text()
    assert [html.count(word) for word in ("<script", "data:image/jpeg", "bottom right", "<circle")] == [0, 1, 1, 5]


def test_reviews_of_the_time_count_once_a_picture_and_parts_in_place_of_frames(folder: Path) -> None:
    assert report_of(folder, since="2026-09-21", zone="UTC")["false_alarm"] == pytest.approx(
        {"count": 1, "of": 2, "share": 0.5, "low": 0.0126, "high": 0.9874}, abs=1e-4
    )
    parts = part(1, "GOOD"), part(2, "DEFECT"), part(3, "GOOD")
    both = written(folder.parent / "parts", [row_of((0, "top", "4711", "GOOD", 1, (0, 0))), *parts])
    report = report_of(both, since="2026-10-24", zone="UTC")
    assert (report["counted"], counts([report["total"]])) == ("parts", {"all": (2, 1, 0)})
    of_cameras = report_of(both, since="2026-10-24", zone="UTC", by="camera")
    assert (of_cameras["counted"], counts(of_cameras["rows"])) == ("frames", {"top": (1, 0, 0)})


def test_a_users_mistake_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    for named, options, code, words in (
        (folder, ["--until", "2026-10-01"], 9, "is not before until"),
        (folder, ["--zone", "Europe/Nowhere"], 9, "there is no time zone 'Europe/Nowhere'"),
        (folder, ["--shifts", "6 o'clock"], 9, "expected the times at which they begin"),
        (folder, ["--shifts", "14:00,06:00"], 9, "not in order"),
        (folder, ["--since", "yesterday"], 9, "expected a date or a time"),
        (folder, ["--since", "2027-01-01"], 9, "has no verdict from 2027-01-01"),
        (written(tmp_path / "empty", []), [], 9, "has no verdict"),
        (tmp_path / "nothing" / "here", [], 19, "there is no journal"),
    ):
        result = heatline("report", named, "--since", "2026-10-24", *options)
        assert (result.returncode, words in complaint(result)) == (code, True), result.stderr
    assert heatline("report", folder, "--by", "week").returncode == 2


def test_the_page_serves_the_report_and_runs_no_script_in_it(folder: Path) -> None:
    asked = "since=2026-10-24&by=camera&zone=UTC"
    with page(line_socket=folder / "pictures" / "line") as served:
        assert counts(served.get(f"/api/report?{asked}").json["rows"]) == {"side": (0, 2, 0), "top": (30, 0, 0)}
        assert [served.get(f"/{name}?by=week").status for name in ("api/report", "report")] == [400, 200]
        shown = served.get(f"/report?{asked}")
        assert (b"Back to the line" in shown.body, shown.headers["content-security-policy"][:18]) == (
            True,
            "default-src 'none'",
        )
        assert b"has no verdict" in served.get("/report?since=2027-01-01").body
