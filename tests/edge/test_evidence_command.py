"""`heatline evidence` tells what is stored, marks pictures at a running line, reports rates, and exports."""

import contextlib
import json
import re
import shutil
from collections import Counter
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
from heatline.edge.wire.events import ForeignArea, MarkKind, Pose, ReviewEvent, Stroke
from heatline.train.readers.folder import read_folder
from tests.command import heatline, refused
from tests.edge.evidences import (
    DAY_NS,
    NOON_NS,
    assert_stored_as_heard,
    frame,
    kept_by,
    line_with_evidence,
    mark,
    names,
    picture,
    writer,
)
from tests.edge.journals import events_in, make_writer
from tests.edge.lines import running, write_line
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
        result = run(*[places.get(word, word).replace("NEW", str(tmp_path / "new")) for word in command.split()])
        told.append(f"$ heatline evidence {command}\n{result.stdout}{result.stderr}exit code {result.returncode}\n")
    return "\n".join(told)


TOLD = f"""
list F
list F --verdict DEFECT --limit 2
list LINE --camera side
list F --unreviewed
list F --unreviewed --verdict GOOD
show F {name(2)}
show F {name(5)}
show F {name(7)}
show F {name(8, "side")}
report F
report F --since 2026-11-29
export F NEW1
export F NEW2 --reviewed
export F NEW3 --since 2026-11-29 --json
export F NEW4 --verdict GOOD --verdict NO_VERDICT --json
"""
REFUSED = f"""
list /nowhere/at/all
list tcp://127.0.0.1:5556
show F {name(9)}
show F -- ../../etc/passwd
export F NEW0 --since 2030-01-01
export F NEW0 --since 2030-01-01 --reviewed
export F F
mark LINE {name(8, "side")} right --by Ada
mark LINE {name(1)} missed --by Ada
mark LINE {name(1)} missed --by Ada --at 64,0
mark LINE {name(1)} missed --by Ada --box 60,1,5,5
mark LINE {name(1)} missed --by Ada --stroke 60,1,61,48:4
mark LINE {name(1)} missed --by Ada --stroke 60,1:0
mark LINE {name(1)} right --by Ada --at 1,1
mark LINE {name(1)} right --by BLANK
mark LINE {name(1)} missed --by Ada --at 1;2
mark LINE {name(1)} missed --by Ada --box 1,2,3
mark LINE {name(1)} missed --by Ada --stroke 1,2,3:4
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
    assert_golden(golden, re.sub("line-[0-9a-f]{12}", "SOCKET", transcript(tmp_path, commands)), tmp=tmp_path)
    assert [(each, (folder / each).read_bytes()) for each in names(folder)] == before


def test_a_line_without_a_folder_of_evidence_uses_the_journals_or_is_refused(folder: Path, tmp_path: Path) -> None:
    assert len(facts("list", line_file(tmp_path, '[evidence]\n[journal]\nfolder = "."'))["entries"]) == len(MARKED)
    for tables, sentence in (
        ("[evidence]", "names no folder for the pictures, and there is no state folder; set evidence.folder or "),
        ("", "has no table [evidence], so this line stores no pictures; add it to store them"),
    ):
        file = line_file(tmp_path, tables)
        for command in (["evidence", "list"], *([["run"]] if tables else [])):
            assert sentence in refused(3, *command, file)


def test_a_frame_that_a_person_chose_is_no_sample_of_the_rates(folder: Path) -> None:
    with writer(folder) as into:
        one, alarm = picture(10, "GOOD", at_ns=NOON_NS + DAY_NS), picture(11, at_ns=NOON_NS + DAY_NS)
        into.write(one, is_chosen=True)
        into.write(alarm)
        into.add_marks([mark(one, "missed", seq=150), mark(alarm, "false_alarm", seq=151)], "j1", 151)
    found = facts("report", folder)
    _, second = found["rows"]
    assert (second["stored_defects"], second["reviewed_defects"]) == (3, 2)
    assert (second["stored_goods"], second["missed"]) == (0, None)
    assert (found["total"]["false_alarm"]["count"], found["total"]["false_alarm"]["of"]) == (2, 4)


def exported(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of the manifest by picture, each with a whole copy, and no copy without its row."""
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert sorted(row["file"] for row in rows) == sorted(str(path.relative_to(out)) for path in out.glob("*/*.png"))
    for row in rows:
        assert row["picture"] == row["event"]["picture"]
        np.testing.assert_array_equal(read_rgb(out / row["file"]), frame(row["event"]["frame_number"]))
    return {row["picture"]: row for row in rows}


def test_an_export_is_read_by_train_and_leads_back_to_events_and_reviews_also_if_it_is_interrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, interrupted = tmp_path / "by-verdict", tmp_path / "by-review", tmp_path / "interrupted"
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
    review = rows[name(2)]["review"]
    assert (review["kind"], review["missed_xy"], review["boxes_xywh"]) == ("missed", [[3, 4]], [[1, 2, 30, 16]])
    assert review["strokes"] == [{"points_xy": [[5, 6], [20, 9]], "width_px": 4}]
    copied = shutil.copyfile

    def interrupt_after(source: Path, target: Path) -> None:
        copied(source, target)
        if source.stem == name(4):
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupt_after)
    assert run("export", folder, interrupted).returncode == INTERRUPTED
    assert exported(interrupted).keys() == {name(1), name(2)}


def test_a_line_stores_its_defects_and_some_good_frames_and_the_marks_that_commands_send_it(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    file = line_with_evidence(tmp_path, bundle, address, '[evidence]\ngood_every = 3\n[journal]\nfolder = "."')
    store = EvidenceStore(tmp_path / "evidence")

    def marks(picture: str) -> Counter[str]:
        review = store.require(picture).review
        return Counter() if review is None else Counter(each.kind for each in review.marks)

    with running(file, address) as line:
        kept_by(line, 5)
        threads = Path(f"/proc/{line.child('monitor.sidecar')}/task").glob("*/stat")
        assert {each.read_text().rpartition(") ")[2].split()[16] for each in threads} == {"19"}, "nice of each"
        one, two = [entry.picture for entry in store.entries(verdicts=["DEFECT"])][:2]
        made = facts("mark", file, one, "false-alarm", "--by", "Ada")
        assert msgspec.to_builtins(line.until(lambda event: isinstance(event, ReviewEvent))) == made["event"]
        until(lambda: marks(one) == {"false_alarm": 1})
        for kind, by in (("right", "Ada"), ("false-alarm", "Bob")):
            assert run("mark", file, two, kind, "--by", by).returncode == 0
        areas = "--box", "20,10,30,40", "--stroke", "5,6,20,9:4", "--stroke", "7,8:9"
        missed = run("mark", file, two, "missed", "--by", "Cyd", "--at", "50,70", "--at", "1,2", *areas)
        assert f"picture {two} is marked as missed by Cyd, event " in missed.stdout
        until(lambda: marks(two) == {"right": 1, "false_alarm": 1, "missed": 1})
        review = store.require(two).review
        assert review is not None
        assert (review.missed_xy, review.boxes_xywh) == ([(50, 70), (1, 2)], [(20, 10, 30, 40)])
        assert review.strokes == [Stroke(((5, 6), (20, 9)), 4), Stroke(((7, 8),), 9)]
        withdrawn = run("mark", file, one, "withdraw", "--by", "Ada")
        assert f"picture {one} is no longer marked by Ada, event " in withdrawn.stdout
        until(lambda: not marks(one))
        received = line.end()
    found = assert_stored_as_heard(store.folder, received.verdicts)
    defects = sum(event.verdict == "DEFECT" for event in found)
    assert len(found) >= received.last.evidence.kept >= 6
    assert abs(len(found) - defects - defects * 2 // 3) <= 2, "one in three of twice as many"
    assert len([event for event in events_in(tmp_path) if isinstance(event, ReviewEvent)]) == 5


def test_a_mark_that_the_line_does_not_journal_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("heatline.edge.monitor.pictures.JOURNALLED_WITHIN_SECONDS", 0.05)
    file, marks = line_file(tmp_path), list[Any]()
    with contextlib.closing(PictureFeed(picture_socket(file))) as feed:
        feed.on_user_action = marks.append
        command = "evidence", "mark", file, name(7), "right", "--by", "Ada"
        assert "there is no journal" in refused(JOURNAL, *command)
        assert marks == []
        make_writer(tmp_path).close()
        lost = refused(DELIVERY, *command)
        until(lambda: [each.mark.picture for each in marks] == [name(7)])
    assert f"did not journal the mark of picture {name(7)} within 0.05 s, so it may be lost" in lost
