"""`heatline evidence` tells what is stored, marks pictures at a running line, reports rates, and exports."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.images import read_rgb
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.pictures import Picture, picture_socket
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import ForeignArea, Mark, MarkKind, Pose, ReviewEvent, StatusEvent
from heatline.train.readers.folder import read_folder
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.evidences import DAY_NS, NOON_NS, frame, mark, names, picture, store, writer
from tests.edge.journals import events_in, make_writer
from tests.edge.lines import running, small_frames, started, write_line, write_pictures
from tests.edge.secured import until
from tests.golden import assert_golden

INTERRUPTED, DELIVERY, JOURNAL = 130, 7, 19
SECOND_NS = 10**9
TABLES = '[evidence]\nfolder = "evidence"\n[journal]\nfolder = "."'


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return heatline("evidence", *arguments)


def facts(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def name(number: int, camera: str = "top") -> str:
    return f"b007b007-{camera}-{number}"


def area_and_pose(of: Picture) -> Picture:
    area = ForeignArea((0, 0, 90, 40), "x 0 to 90, y 0 to 40 px does not look like the product")
    pose = Pose(x_px=12.04, y_px=-3.0, degrees=0.5, confidence=0.98, error_px=0.2)
    return replace(of, event=msgspec.structs.replace(of.event, foreign_areas=[area], pose=pose))


MARKED: list[tuple[Picture, list[tuple[MarkKind, str]]]] = [
    (picture(1, "GOOD"), [("right", "Ada")]),
    (picture(2, "GOOD", at_ns=NOON_NS + SECOND_NS), [("missed", "Ada")]),
    (picture(3, at_ns=NOON_NS + 2 * SECOND_NS), [("right", "Ada"), ("right", "Bob")]),
    (picture(4, at_ns=NOON_NS + 3 * SECOND_NS), [("false_alarm", "Ada")]),
    (picture(5, at_ns=NOON_NS + 4 * SECOND_NS), [("right", "Ada"), ("false_alarm", "Bob")]),
    (picture(6, at_ns=NOON_NS + DAY_NS), [("missed", "Ada")]),
    (area_and_pose(picture(7, at_ns=NOON_NS + DAY_NS + SECOND_NS)), []),
    (picture(8, "NO_VERDICT", camera="side", at_ns=NOON_NS + 5 * SECOND_NS), []),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with pictures of two days, reviewed ones among them."""
    folder = tmp_path / "evidence"
    with writer(folder) as into:
        for seq, (one, marks) in enumerate(MARKED):
            into.write(one)
            into.add_marks([mark(one, kind, by, 10 * seq + i) for i, (kind, by) in enumerate(marks, 1)], "j1", 10 * seq)
    return folder


def line_file(tmp_path: Path, tables: str = TABLES) -> Path:
    """The file of a line that does not run."""
    return write_line(tmp_path, tmp_path / "none.bundle", "tcp://127.0.0.1:5556", {"top": 'path = "p"'}, tables)


def transcript(tmp_path: Path, commands: str) -> str:
    """Run commands, one a line, and return what each prints; LINE is the line's file, F the store."""
    line, told = line_file(tmp_path), []
    for command in commands.strip().splitlines():
        places = {"F": str(tmp_path / "evidence"), "LINE": str(line), "BLANK": " "}
        words = [places.get(word, word).replace("NEW", str(tmp_path / "new")) for word in command.split()]
        result = run(*words)
        told.append(f"$ heatline evidence {command}\n{result.stdout}{result.stderr}exit code {result.returncode}\n")
    return "\n".join(told)


TOLD = f"""
list F
list F --since 2026-11-29
list F --verdict DEFECT --limit 2
list LINE --camera side
list F --unreviewed
list F --unreviewed --verdict GOOD
show F {name(6)}
show F {name(5)}
show F {name(7)}
show F {name(8, "side")}
report F
report F --since 2026-11-29
report F --since 2030-01-01
export F NEW1
export F NEW2 --reviewed
export F NEW3 --since 2026-11-29 --json
export F NEW4 --verdict GOOD --verdict NO_VERDICT --json
export F NEW5 --reviewed --verdict GOOD --json
"""
REFUSED = f"""
list F --since yesterday
list /nowhere/at/all
list tcp://127.0.0.1:5556
list no-such-line
show F {name(9)}
show F -- ../../etc/passwd
show F b007b007-top-2.json
export F NEW0 --since 2030-01-01
export F NEW0 --since 2030-01-01 --reviewed
export F F
mark LINE {name(9)} right --by Ada
mark LINE {name(8, "side")} right --by Ada
mark LINE {name(1)} missed --by Ada
mark LINE {name(1)} missed --by Ada --at 64,0
mark LINE {name(1)} right --by Ada --at 1,1
mark LINE {name(1)} right --by BLANK
mark LINE {name(1)} missed --by Ada --at 1;2
mark LINE {name(1)} wrong --by Ada
mark LINE {name(1)} right
mark LINE {name(1)} withdraw --by Bea
mark LINE {name(1)} right --by Ada
mark F {name(1)} right --by Ada
"""


@pytest.mark.parametrize(("golden", "commands"), [("evidence", TOLD), ("evidence-refused", REFUSED)])
def test_commands_tell_what_is_stored_or_refuse_in_one_sentence_and_change_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: str, commands: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = [(each, (folder / each).read_bytes()) for each in names(folder)]
    told = re.sub("line-[0-9a-f]{12}", "SOCKET", transcript(tmp_path, commands))
    assert_golden(golden, told, tmp=tmp_path)
    assert [(each, (folder / each).read_bytes()) for each in names(folder)] == before


def test_a_line_is_named_by_its_file_or_its_folder(folder: Path, tmp_path: Path, bundle: Bundle, address: str) -> None:
    # Without a folder of its own, the pictures are in the folder of the journal.
    assert len(facts("list", line_file(tmp_path, '[evidence]\n[journal]\nfolder = "."'))["entries"]) == len(MARKED)
    for tables, sentence in (
        ("[evidence]", "names no folder for the pictures, and there is no state folder; set evidence.folder or "),
        ("", "has no table [evidence], so this line stores no pictures; add it to store them"),
    ):
        result = run("list", line_file(tmp_path, tables))
        assert (result.returncode, sentence in complaint(result)) == (3, True)
    result = heatline("run", write_line(tmp_path, bundle.path, address, {"top": f'path = "{tmp_path}"'}, "[evidence]"))
    assert (result.returncode, "set evidence.folder or journal.folder" in result.stderr) == (3, True)


def test_what_is_known_of_a_picture_is_also_json(folder: Path) -> None:
    listed, shown = facts("list", folder, "--limit", "1"), facts("show", folder, name(5))
    assert (listed["folder"], listed["entries"][0]["picture"]) == (str(folder), name(7))
    assert shown["frame"] == str(folder / "2026-11-28" / f"{name(5)}.png")
    assert (shown["entry"]["review"]["truth"], shown["entry"]["review"]["by"]) == (None, ["Ada", "Bob"])
    assert "2026-11-29 12:00:01  DEFECT" in run("list", folder).stdout


def interval(count: int, of: int) -> list[Any]:
    """The interval of Clopper and Pearson, from the quantiles of the beta distribution."""
    from scipy.stats import beta

    low = 0.0 if count == 0 else beta.ppf(0.025, count, of - count + 1)
    high = 1.0 if count == of else beta.ppf(0.975, count + 1, of - count)
    return [count, of, pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9)]


def share(found: dict[str, float]) -> list[float]:
    return [found["count"], found["of"], found["low"], found["high"]]


def test_rates_are_those_of_the_marks(folder: Path) -> None:
    with writer(folder) as into:  # a frame that a person chose
        one, alarm = picture(10, "GOOD", at_ns=NOON_NS + DAY_NS), picture(11, at_ns=NOON_NS + DAY_NS)
        into.write(one, is_chosen=True)
        into.write(alarm)
        into.add_marks([mark(one, "missed", seq=150), mark(alarm, "false_alarm", seq=151)], "j1", 151)
    found = facts("report", folder)
    first, second = found["rows"]
    assert [(row["day"], row["camera"]) for row in found["rows"]] == [("2026-11-28", "top"), ("2026-11-29", "top")]
    assert (first["stored_defects"], first["reviewed_defects"], first["contradictory"]) == (3, 2, 1)
    assert (first["stored_goods"], first["reviewed_goods"]) == (2, 2)
    assert share(first["false_alarm"]) == share(first["missed"]) == interval(1, 2)
    assert (second["stored_defects"], second["reviewed_defects"]) == (3, 2)
    assert (second["stored_goods"], second["missed"]) == (0, None), "people chose it, so it is no sample"
    assert share(found["total"]["false_alarm"]) == interval(2, 4)


# Export.


def exported(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of the manifest by picture, each with a whole copy, and no copy without its row."""
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert sorted(row["file"] for row in rows) == sorted(str(path.relative_to(out)) for path in out.glob("*/*.png"))
    for row in rows:
        assert row["picture"] == row["event"]["picture"]
        np.testing.assert_array_equal(read_rgb(out / row["file"]), frame(row["event"]["frame_number"]))
    return {row["picture"]: row for row in rows}


def test_an_export_is_read_by_train_and_leads_back_to_events_and_reviews(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "by-verdict", tmp_path / "by-review"
    (folder / "2026-11-28" / f"{name(3)}.png").unlink()
    result = run("export", folder, one, "--json")
    assert json.loads(result.stdout)["missing"] == 1
    assert result.stderr == "warning: 1 picture could not be copied, as they were deleted meanwhile\n"
    truths = {number: row["review"] and row["review"]["truth"] for number, row in exported(one).items()}
    assert (truths[name(4)], truths[name(5)], truths[name(7)]) == ("good", None, None)
    labels = {image.path.name: image.defective for image in read_folder(one, mixed=True).images}
    assert (labels[f"2026-11-28_{name(4)}.png"], labels[f"2026-11-28_{name(1)}.png"]) == (True, False)
    copy = one / "good" / f"2026-11-28_{name(1)}.png"
    assert not copy.samefile(folder / "2026-11-28" / f"{name(1)}.png"), "not a link"
    run("export", folder, two, "--reviewed")
    rows = exported(two)
    assert {number: row["file"].partition("/")[0] for number, row in rows.items()} == {
        name(1): "good",
        name(2): "defective",
        name(4): "good",
        name(6): "defective",
    }
    assert (rows[name(2)]["review"]["kind"], rows[name(2)]["review"]["missed_xy"]) == ("missed", [[3, 4]])


def test_an_interrupted_export_has_whole_pictures_each_with_its_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "evidence", *(picture(number, at_ns=NOON_NS + number) for number in range(5)))
    import heatline.edge.cli.evidence as command

    copy: Callable[..., object] = command.shutil.copyfile

    def interrupted(source: Path, target: Path) -> None:
        copy(source, target)
        if source.stem.endswith("-3"):
            raise KeyboardInterrupt

    monkeypatch.setattr(command.shutil, "copyfile", interrupted)
    assert run("export", tmp_path / "evidence", tmp_path / "new").returncode == INTERRUPTED
    assert exported(tmp_path / "new").keys() == {name(0), name(1), name(2)}


# With a running line.


def test_marks_are_journalled_published_and_stored_and_none_of_two_reviewers_is_lost(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "pictures", small_frames(3))
    camera = f'path = "{tmp_path / "pictures"}"\nloop = true\nrate_fps = 10.0'
    file = write_line(tmp_path, bundle.path, address, {"top": camera}, TABLES)
    store = EvidenceStore(tmp_path / "evidence")

    def marks(picture: str) -> Counter[str]:
        review = store.require(picture).review
        return Counter() if review is None else Counter(each.kind for each in review.marks)

    with running(file, address) as line:
        line.until(lambda event: isinstance(event, StatusEvent) and event.evidence and event.evidence.kept >= 2)
        one, two = [entry.picture for entry in store.entries(verdicts=["DEFECT"])][:2]
        made = facts("mark", file, one, "false-alarm", "--by", "Ada")
        heard = line.until(lambda event: isinstance(event, ReviewEvent))
        assert msgspec.to_builtins(heard) == made["event"]
        until(lambda: marks(one) == {"false_alarm": 1})
        with contextlib.ExitStack() as processes:  # two people at once
            command = (HEATLINE, "evidence", "mark", file, two)
            both = [
                processes.enter_context(started(*command, kind, "--by", by))
                for kind, by in (("right", "Ada"), ("false-alarm", "Bob"))
            ]
            assert [each.wait(WITHIN_SECONDS) for each in both] == [0, 0]
        missed = run("mark", file, two, "missed", "--by", "Cyd", "--at", "50,70", "--at", "1,2")
        assert f"picture {two} is marked as missed by Cyd, event " in missed.stdout
        until(lambda: marks(two) == {"right": 1, "false_alarm": 1, "missed": 1})
        withdrawn = run("mark", file, one, "withdraw", "--by", "Ada")
        assert f"picture {one} is no longer marked by Ada, event " in withdrawn.stdout
        until(lambda: not marks(one))
        line.end()
    journalled = [event.mark for event in events_in(tmp_path) if isinstance(event, ReviewEvent)]
    assert {(mark.by, mark.kind) for mark in journalled if mark.picture == two} == {
        ("Ada", "right"),
        ("Bob", "false_alarm"),
        ("Cyd", "missed"),
    }
    assert len(journalled) == 5


def test_a_mark_that_the_line_does_not_journal_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("heatline.edge.monitor.pictures.JOURNALLED_WITHIN_SECONDS", 0.05)
    file, marks = line_file(tmp_path), list[Mark]()
    with contextlib.closing(PictureFeed(picture_socket(file))) as feed:
        feed.on_mark = marks.append
        none = run("mark", file, name(7), "right", "--by", "Ada")
        assert (none.returncode, "there is no journal" in complaint(none), marks) == (JOURNAL, True, [])
        make_writer(tmp_path).close()
        result = run("mark", file, name(7), "right", "--by", "Ada")
        until(lambda: [mark.picture for mark in marks] == [name(7)])
    assert result.returncode == DELIVERY
    assert f"did not journal the mark of picture {name(7)} within 0.05 s, so it may be lost" in complaint(result)
