"""`heatline evidence` marks pictures at a running line, reports their rates, and exports what reviewers say."""

import contextlib
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.marks import Review
from heatline.edge.monitor.pictures import Picture, picture_socket
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import Mark, MarkKind, ReviewEvent, StatusEvent
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.evidences import DAY_NS, NOON_NS, mark, picture, writer
from tests.edge.journals import events_in, make_writer
from tests.edge.lines import RunningLine, running, small_frames, started, write_line, write_pictures
from tests.edge.secured import until

INPUT, CONFIG, DELIVERY, JOURNAL = 9, 3, 7, 19


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return heatline("evidence", *arguments)


def facts(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def name(number: int) -> str:
    return f"b007b007-top-{number}"


# A store without a line.

MARKED: list[tuple[Picture, list[tuple[MarkKind, str]]]] = [
    (picture(1, "GOOD"), [("right", "Ada")]),
    (picture(2, "GOOD"), [("missed", "Ada")]),
    (picture(3, "DEFECT"), [("right", "Ada"), ("right", "Bob")]),
    (picture(4, "DEFECT"), [("false_alarm", "Ada")]),
    (picture(5, "DEFECT"), [("right", "Ada"), ("false_alarm", "Bob")]),
    (picture(6, "DEFECT", at_ns=NOON_NS + DAY_NS), [("missed", "Ada")]),
    (picture(7, "DEFECT", at_ns=NOON_NS + DAY_NS), []),
    (picture(8, "NO_VERDICT"), []),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with reviewed pictures, beside a journal with the verdicts of the second day."""
    folder = tmp_path / "evidence"
    with writer(folder) as into:
        seq = 0
        for one, marks in MARKED:
            into.write(one)
            for kind, by in marks:
                seq += 1
                into.add_marks([mark(one, kind, by, seq)], "j1", seq)
    return folder


def test_reviews_are_listed_and_shown(folder: Path) -> None:
    listed = facts("list", folder)
    kinds = {entry["picture"]: entry["review"] and entry["review"]["kind"] for entry in listed["entries"]}
    assert kinds == {
        name(7): None, name(6): "missed", name(5): None, name(4): "false_alarm", name(3): "right", name(2): "missed",
        name(1): "right", name(8): None,
    }  # fmt: skip
    text = run("list", folder).stdout
    assert {line.split()[-2] for line in text.splitlines() if name(5) in line} == {"contradictory"}
    assert "false alarm" in text
    shown = run("show", folder, name(6)).stdout
    assert "missed a defect, says Ada" in shown
    assert "(3, 4)" in shown
    assert "contradictory: right, says Ada; false alarm, says Bob" in run("show", folder, name(5)).stdout
    contradictory = facts("show", folder, name(5))["entry"]["review"]
    assert (contradictory["truth"], contradictory["kind"], contradictory["by"]) == (None, None, ["Ada", "Bob"])
    assert [mark["kind"] for mark in contradictory["marks"]] == ["right", "false_alarm"]
    assert facts("show", folder, name(7))["entry"]["review"] is None


@pytest.mark.parametrize(
    ("options", "numbers"),
    [((), [7]), (("--verdict", "GOOD"), []), (("--since", "2026-11-30"), []), (("--verdict", "NO_VERDICT"), [])],
)
def test_what_nobody_has_reviewed_is_listed(folder: Path, options: tuple[str, ...], numbers: list[int]) -> None:
    listed = facts("list", folder, "--unreviewed", *options)
    assert [entry["event"]["frame_number"] for entry in listed["entries"]] == numbers


def test_reviewed_pictures_are_exported_by_the_reviewers_truth(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    result = run("export", folder, out, "--reviewed")
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 picture left out, as their reviewers contradict each other" in result.stdout
    assert "the line's own verdicts" not in result.stdout
    rows = {row["picture"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    assert {picture: row["file"].partition("/")[0] for picture, row in rows.items()} == {
        name(1): "good", name(2): "defective", name(3): "defective", name(4): "good", name(6): "defective",
    }  # fmt: skip
    review = rows[name(2)]["review"]
    assert (review["truth"], review["kind"], review["missed_xy"]) == ("defective", "missed", [[3, 4]])
    assert all((out / row["file"]).is_file() for row in rows.values())
    goods = facts("export", folder, tmp_path / "goods", "--reviewed", "--verdict", "GOOD")
    assert (goods["pictures"], goods["contradictory"]) == ({"good": 1, "defective": 1}, 0)


def test_an_export_by_verdict_has_the_reviews_too(folder: Path, tmp_path: Path) -> None:
    assert facts("export", folder, tmp_path / "all")["pictures"] == {"good": 2, "defective": 5}
    rows = map(json.loads, (tmp_path / "all" / "manifest.jsonl").read_text().splitlines())
    truths = {row["picture"]: row["review"] and row["review"]["truth"] for row in rows}
    assert (truths[name(4)], truths[name(5)], truths[name(7)]) == ("good", None, None)


def test_without_a_review_nothing_is_exported_as_reviewed(tmp_path: Path) -> None:
    with writer(tmp_path / "evidence") as into:
        into.write(picture(1))
    assert "holds no reviewed picture to export" in complaint(
        run("export", tmp_path / "evidence", tmp_path / "new", "--reviewed")
    )


def interval(count: int, of: int) -> list[Any]:
    """The interval of Clopper and Pearson, from the quantiles of the beta distribution."""
    from scipy.stats import beta

    low = 0.0 if count == 0 else beta.ppf(0.025, count, of - count + 1)
    high = 1.0 if count == of else beta.ppf(0.975, count + 1, of - count)
    return [pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9)]


def share(found: dict[str, float]) -> list[float]:
    return [found["count"], found["of"], found["low"], found["high"]]


def test_rates_are_those_of_the_marks(folder: Path) -> None:
    with writer(folder) as into:  # a frame that a person chose
        one = picture(10, "GOOD", at_ns=NOON_NS + DAY_NS)
        assert into.write(one, is_chosen=True)
        into.add_marks([mark(one, "missed", seq=50)], "j1", 50)
        alarm = picture(11, "DEFECT", at_ns=NOON_NS + DAY_NS)
        into.write(alarm)
        into.add_marks([mark(alarm, "false_alarm", seq=51)], "j1", 51)
    found = facts("report", folder)
    first, second = found["rows"]
    assert [(row["day"], row["camera"]) for row in found["rows"]] == [("2026-11-28", "top"), ("2026-11-29", "top")]
    assert (first["stored_defects"], first["reviewed_defects"], first["contradictory"]) == (3, 2, 1)
    assert (first["stored_goods"], first["reviewed_goods"]) == (2, 2)
    assert share(first["false_alarm"]) == [1, 2, *interval(1, 2)]
    assert share(first["missed"]) == [1, 2, *interval(1, 2)]
    assert (second["stored_defects"], second["reviewed_defects"]) == (3, 2)
    assert (second["stored_goods"], second["missed"]) == (0, None), "people chose it, so it is no sample"
    assert share(found["total"]["false_alarm"]) == [2, 4, *interval(2, 4)]
    assert [row["day"] for row in facts("report", folder, "--since", "2026-11-29")["rows"]] == ["2026-11-29"]
    text = run("report", folder).stdout
    for words in ("1: 50 % (1.26 to 98.7 %)", "A share is only as good as the choice of what was reviewed"):
        assert words in text
    assert "holds no such picture" in run("report", folder, "--since", "2030-01-01").stdout


# With a running line.


def write_marked_line(tmp_path: Path, bundle: Bundle, address: str, journal: str | None = "journal") -> Path:
    write_pictures(tmp_path / "pictures", small_frames(3))
    camera = f'path = "{tmp_path / "pictures"}"\nloop = true\nrate_fps = 10.0'
    tables = f'[evidence]\nfolder = "{tmp_path / "evidence"}"\n'
    if journal is not None:
        (tmp_path / journal).mkdir()
        tables += f'[journal]\nfolder = "{tmp_path / journal}"\n'
    return write_line(tmp_path, bundle.path, address, {"top": camera}, tables)


def until_stored(line: RunningLine, count: int) -> None:
    def is_wanted(event: object) -> bool:
        return isinstance(event, StatusEvent) and event.evidence is not None and event.evidence.kept >= count

    line.until(is_wanted)


def stored_defects(tmp_path: Path) -> list[str]:
    return [entry.picture for entry in EvidenceStore(tmp_path / "evidence").entries(verdicts=["DEFECT"])]


def test_marks_are_journalled_published_and_stored_and_none_of_two_reviewers_is_lost(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    file = write_marked_line(tmp_path, bundle, address)
    store = EvidenceStore(tmp_path / "evidence")

    def review(picture: str) -> Review | None:
        return store.require(picture).review

    with running(file, address) as line:
        until_stored(line, 2)
        one, two = stored_defects(tmp_path)[:2]
        made = facts("mark", file, one, "false-alarm", "--by", "Ada")
        heard = line.until(lambda event: isinstance(event, ReviewEvent))
        assert msgspec.to_builtins(heard) == made["event"]
        until(lambda: review(one) is not None)
        assert [mark.kind for mark in review(one).marks] == ["false_alarm"]  # type: ignore[union-attr]
        # Two people at once, each several times.
        command = (HEATLINE, "evidence", "mark", file, two)
        with contextlib.ExitStack() as processes:
            both = [
                processes.enter_context(started(*command, kind, "--by", by))
                for kind, by in (("right", "Ada"), ("false-alarm", "Bob"))
            ]
            assert [each.wait(WITHIN_SECONDS) for each in both] == [0, 0]
        until(lambda: len(getattr(review(two), "marks", ())) == 2)
        assert review(two).truth is None  # type: ignore[union-attr]
        missed = run("mark", file, two, "missed", "--by", "Cyd", "--at", "50,70", "--at", "1,2")
        assert (missed.returncode, missed.stderr) == (0, "")
        assert f"picture {two} is marked as missed by Cyd, event " in missed.stdout
        until(lambda: len(getattr(review(two), "marks", ())) == 3)
        withdrawn = run("mark", file, one, "withdraw", "--by", "Ada")
        assert (withdrawn.returncode, withdrawn.stderr) == (0, "")
        assert f"picture {one} is no longer marked by Ada, event " in withdrawn.stdout
        until(lambda: review(one) is None)
        again = complaint(run("mark", file, one, "withdraw", "--by", "Ada"))
        assert f"Ada has no mark of picture {one} to withdraw; heatline evidence show" in again
        assert "Bea has no mark" in complaint(run("mark", file, two, "withdraw", "--by", "Bea"))
        line.end()
    journalled = [event for event in events_in(tmp_path / "journal") if isinstance(event, ReviewEvent)]
    assert len(journalled) == 5
    assert {(event.mark.by, event.mark.kind) for event in journalled if event.mark.picture == two} == {
        ("Ada", "right"), ("Bob", "false_alarm"), ("Cyd", "missed"),
    }  # fmt: skip


def test_a_mark_that_is_not_journalled_is_no_success(tmp_path: Path, bundle: Bundle, address: str) -> None:
    file = write_marked_line(tmp_path, bundle, address, journal=None)
    with running(file, address) as line:
        until_stored(line, 1)
        result = run("mark", file, stored_defects(tmp_path)[0], "right", "--by", "Ada")
        line.end()
    assert result.returncode == JOURNAL
    assert "there is no journal" in complaint(result)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((name(9), "right", "--by", "Ada"), INPUT, "holds no picture b007b007-top-9; it was not stored or is deleted"),
        (("../x", "right", "--by", "Ada"), INPUT, "is not a picture id"),
        ((name(8), "right", "--by", "Ada"), INPUT, "has no verdict, so there is nothing to mark"),
        ((name(1), "false-alarm", "--by", "Ada"), INPUT, "is GOOD, which is not a false alarm"),
        ((name(1), "missed", "--by", "Ada"), INPUT, "no position of the missed defect came; give one with --at X,Y"),
        ((name(1), "missed", "--by", "Ada", "--at", "64,0"), INPUT, "(64, 0) lies outside the frame, which is 64 px"),
        ((name(1), "missed", "--by", "Ada", "--at", "-1,0"), INPUT, "(-1, 0) lies outside the frame"),
        ((name(1), "right", "--by", "Ada", "--at", "1,1"), INPUT, "--at came with right; --at belongs to missed only"),
        ((name(1), "right", "--by", " "), INPUT, "the name of the reviewer is empty; say who marks the picture"),
        (
            (name(1), "right", "--by", "A\x1b]0;x"),
            INPUT,
            "Expected printable characters",
        ),
        ((name(1), "missed", "--by", "Ada", "--at", "1;2"), 2, "is not a position; expected X,Y in px, as 640,480"),
        ((name(1), "wrong", "--by", "Ada"), 2, "'wrong' is not one of"),
        ((name(1), "right"), 2, "Missing option '--by'"),
        ((name(1), "right", "--by", "Ada"), DELIVERY, "check that the line runs, and that this user"),
    ],
)
def test_what_cannot_be_marked_is_refused_in_one_sentence(
    folder: Path,
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tables = '[evidence]\nfolder = "evidence"\n[journal]\nfolder = "."'
    file = write_line(tmp_path, tmp_path / "none.bundle", address, {"top": 'path = "p"'}, tables)
    result = run("mark", file, *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert sentence in (result.stderr if code == 2 else complaint(result))


def test_a_mark_that_the_line_does_not_confirm_is_an_error(
    folder: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("heatline.edge.monitor.pictures.JOURNALLED_WITHIN_SECONDS", 0.05)
    make_writer(tmp_path).close()
    file = write_line(
        tmp_path, tmp_path / "none.bundle", address, {"top": 'path = "p"'},
        '[evidence]\nfolder = "evidence"\n[journal]\nfolder = "."',
    )  # fmt: skip
    marks: list[Mark] = []
    with contextlib.closing(PictureFeed(picture_socket(file))) as feed:
        feed.on_mark = marks.append
        result = run("mark", file, name(7), "right", "--by", "Ada")
        until(lambda: [mark.picture for mark in marks] == [name(7)])
    assert result.returncode == DELIVERY
    assert "did not journal the mark of picture b007b007-top-7 within 0.05 s, so it may be lost" in complaint(result)


def test_a_mark_goes_to_a_line_not_to_a_folder(folder: Path) -> None:
    for line in (str(folder), "tcp://127.0.0.1:5556"):
        result = run("mark", line, name(1), "right", "--by", "Ada")
        assert result.returncode == CONFIG
        assert "is not a line, and only a running line takes a mark; name the line or its TOML file" in complaint(
            result
        )
