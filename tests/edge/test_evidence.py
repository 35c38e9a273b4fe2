"""The evidence store holds whole entries within its limits, and the recorder never delays the line."""

import contextlib
import json
import os
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.journal import FILE_NAME, JournalReader, database_files
from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor import recorder as recorder_module
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.marks import combine
from heatline.edge.monitor.pictures import PictureClient, picture_socket
from heatline.edge.monitor.recorder import Recorder
from heatline.edge.monitor.store import INDEX, EvidenceStore
from heatline.edge.wire.events import EvidenceState, MarkKind, Message
from tests.command import WITHIN_SECONDS, in_python
from tests.edge.evidences import (
    ALL,
    DAY_NS,
    LINE,
    MISSED,
    NOON_NS,
    Clock,
    assert_stored_as_heard,
    frame,
    kept_by,
    line_with_evidence,
    mark,
    names,
    picture,
    room,
    store,
    until_evidence,
    writer,
)
from tests.edge.fault_disks import failing_disk, fill, frozen, power_cut, small_disk
from tests.edge.journals import all_records, change, good, make_writer
from tests.edge.lines import running, started
from tests.edge.secured import free_port, until
from tests.edge.supervised import in_thread
from tests.edge.view_pages import Page, page_at

KINDS: list[MarkKind] = ["right", "false_alarm", "missed", "withdrawn"]
HOUR_NS = 3600 * 10**9


def stored(folder: Path) -> list[str]:
    return [entry.picture for entry in EvidenceStore(folder).entries(newest_first=False)]


def pixels_of(found: EvidenceStore, name: str, day: str = "2026-11-28") -> Any:
    return read_rgb(found.frame_path(name, day))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written, grey = picture(7, at_ns=NOON_NS + 5), picture(3, "NO_VERDICT", image=frame(3, grey=True))
    found = store(tmp_path, written, grey)
    entry = found.require("b007b007-top-7")
    assert (entry.line, entry.stored_at_ns, entry.day, entry.event) == (LINE, NOON_NS, "2026-11-28", written.event)
    assert (entry.tiles.origins_yx, entry.tiles.logits, entry.tiles.tile_px) == ([(0, 0), (0, 16)], [-3.5, 4.25], 48)
    np.testing.assert_array_equal(pixels_of(found, entry.picture), written.image)
    unjudged = found.require("b007b007-top-3")
    assert (unjudged.heatmap, unjudged.tiles, found.heatmap_path(unjudged.picture, entry.day)) == (None, None, None)
    kept = cv2.imread(str(found.frame_path(unjudged.picture, entry.day)), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(kept, grey.image)


def test_the_group_may_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store(tmp_path / "evidence", picture())
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "evidence.lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o750}


def test_one_id_is_stored_once_a_day_and_found_on_its_newest_day(tmp_path: Path) -> None:
    later = picture(1, "GOOD", image=frame(3), at_ns=NOON_NS + DAY_NS)
    with writer(tmp_path) as into:
        assert into.write(picture(1, image=frame(1)))
        assert not into.write(picture(1, image=frame(2)))
        assert into.write(later)
    found = EvidenceStore(tmp_path)
    assert found.require("b007b007-top-1").event == later.event
    np.testing.assert_array_equal(pixels_of(found, "b007b007-top-1"), frame(1))
    np.testing.assert_array_equal(pixels_of(found, "b007b007-top-1", "2026-11-29"), frame(3))


def test_an_id_that_could_lead_elsewhere_is_never_a_path(tmp_path: Path) -> None:
    found = store(tmp_path / "evidence", picture())
    (tmp_path / "secret.png").write_text("secret")
    with writer(tmp_path / "evidence") as into:
        for name in ("../secret", "/etc/passwd", "a.json", "..", "a\0b", "x" * 129):
            with pytest.raises(InputError, match="is not a picture id"):
                found.require(name)
            with pytest.raises(InputError, match="is not a picture id"):
                into.write(picture(name=name))


def test_an_index_that_cannot_be_read_is_refused_and_its_pictures_stay(tmp_path: Path) -> None:
    assert list(EvidenceStore(tmp_path / "nowhere").entries()) == []
    found, index = store(tmp_path, picture(1)), tmp_path / INDEX
    with contextlib.closing(sqlite3.connect(index)) as newer:
        newer.execute("PRAGMA user_version = 9")
    for damage, reason in (
        (index.read_bytes(), "has schema version 9, this heatline knows version 2"),
        (b"no index", "file is not a database"),
        (b"", r"holds pictures and no index\.sqlite .*; move the folders of days away"),
    ):
        index.write_bytes(damage)
        if damage:  # to a reader, an empty one is being made
            with pytest.raises(InputError, match=reason):
                list(found.entries())
        with pytest.raises(InputError, match=reason):
            writer(tmp_path)
    assert len(names(tmp_path)) == 2


def test_only_files_of_entries_are_deleted(tmp_path: Path) -> None:
    found = store(tmp_path, *(picture(number, at_ns=NOON_NS + number * DAY_NS) for number in range(3)))
    day = tmp_path / "2026-11-28"
    mine = [day / name for name in ("notes.txt", "copy_of_b007b007-top-1.png", ".b007b007-top-2.png")]
    for path in mine:
        path.write_bytes(b"mine")
    (tmp_path / "2026-11-29" / "b007b007-top-1.png").unlink()
    with writer(tmp_path, replace(ALL, keep_bytes=0)) as into:
        into.tidy()
    assert list(found.entries()) == []
    left = "evidence.lock", INDEX, f"{INDEX}-journal"
    assert sorted(tmp_path.rglob("*.*")) == sorted([*mine, *(tmp_path / each for each in left)])


def test_the_oldest_make_room_reviewed_ones_last_and_what_is_too_old_and_not_reviewed_goes(tmp_path: Path) -> None:
    clock, small = Clock(), 8192  # the room of a small frame and its heatmap
    limits = replace(ALL, keep_bytes=4 * small, keep_s=2 * 86400.0)
    pictures = {
        number: picture(number, image=frame(number, (8, 8)), at_ns=NOON_NS + hours * HOUR_NS)
        for number, hours in ((1, 0), (2, 2), (3, 1), (4, 3), (5, 4), (6, 5))
    }
    found = EvidenceStore(tmp_path)

    def held() -> list[int]:
        assert room(tmp_path) == into.state().size_bytes <= limits.keep_bytes
        return [entry.event.frame_number for entry in found.entries(newest_first=False)]

    with writer(tmp_path, limits, clock) as into:
        for number in (1, 2, 3, 4):
            into.write(pictures[number])
        into.add_marks([mark(pictures[1], "right", seq=1), mark(pictures[2], "right", seq=2)], "j1", 2)
        assert held() == [1, 3, 2, 4], "by their capture"
        entries, count = found.unreviewed(1)
        assert ([entry.event.frame_number for entry in entries], count) == ([4], 2)
        into.write(pictures[5])
        assert held() == [1, 2, 4, 5], "the oldest that nobody has reviewed"
        into.add_marks([mark(pictures[1], "withdrawn", seq=3)], "j1", 3)
        into.write(pictures[6])
        assert held() == [2, 4, 5, 6]
        with pytest.raises(InputError, match=r"a picture takes \d\.\d MiB, and evidence.retain_mib is 0; set more"):
            into.write(picture(7, image=frame(7, (120, 120))))
        clock.wall_ns += 48 * HOUR_NS + 4 * HOUR_NS
        into.tidy()
        assert held() == [2, 5, 6], "exactly as old as the limit is not too old"
        clock.wall_ns += 48 * HOUR_NS
        into.tidy()
        oldest = pictures[2].event.times.captured_at_ns
        assert into.state() == EvidenceState(stored=1, size_bytes=small, oldest_at_ns=oldest)
        clock.wall_ns -= 300 * HOUR_NS  # somebody sets the clock
        into.tidy()
        assert held() == [2]


def marked(number: int, kind: MarkKind = "right") -> Message:
    """A mark as a line publishes it, not yet numbered."""
    return Message(msgspec.structs.replace(mark(picture(number), kind, seq=0), journal_id=None))


def test_each_mark_of_each_journal_is_copied_once_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"

    def read() -> list[int]:
        """Read the journal; return the numbers of all frames with a mark."""
        with JournalReader.open(tmp_path) as journal:
            into.read_marks(journal)
        return sorted(entry.event.frame_number for entry in EvidenceStore(folder).entries(is_reviewed=True))

    with writer(folder) as into:
        for number in range(1, 7):
            into.write(picture(number, image=frame(number, (8, 8))))
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([good(), marked(1), good(), marked(2)])
            assert read() == read() == [1, 2]
            journal.commit([marked(1, "withdrawn"), good(), marked(3)])
            assert read() == [2, 3]
        for file in database_files(tmp_path / FILE_NAME):
            file.unlink(missing_ok=True)
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(4), marked(5), marked(6), marked(7)])  # the last one's picture is not stored yet
        with JournalReader.open(tmp_path) as reader:
            four, five, *_ = [each for each in all_records(reader) if each.topic == "review"]
        other = four.header.replace(b'"schema_version":2', b'"schema_version":9')
        change(tmp_path, "UPDATE events SET header = ? WHERE seq = ?", other, four.seq)
        change(tmp_path, "UPDATE events SET header = x'00' WHERE seq = ?", five.seq)
        assert read() == [2, 3, 6]
        into.write(picture(7))
        assert read() == [2, 3, 6, 7]


MARKS = st.lists(st.tuples(st.sampled_from(["A", "B", "C"]), st.sampled_from(KINDS), st.sampled_from([1, 2])))


@given(MARKS, st.sampled_from(["GOOD", "DEFECT"]))
def test_the_last_mark_of_each_reviewer_counts_and_those_who_agree_tell_the_truth(
    marks: list[tuple[str, MarkKind, int]], verdict: Any
) -> None:
    possible = [each for each in marks if (verdict, each[1]) != ("GOOD", "false_alarm")]
    found = combine(mark(picture(number, verdict), kind, by) for by, kind, number in possible)
    for number in (1, 2):
        last = {by: kind for by, kind, of in possible if of == number}
        counting = {by: kind for by, kind in last.items() if kind != "withdrawn"}
        review = found.get(f"b007b007-top-{number}")
        assert (review is None) == (not counting)
        if review is not None:
            assert {each.by: each.kind for each in review.marks} == counting
            assert sorted(review.by) == sorted(counting)
            good_kinds = {"right"} if verdict == "GOOD" else {"false_alarm"}
            truths = {"good" if kind in good_kinds else "defective" for kind in counting.values()}
            assert review.truth == (truths.pop() if len(truths) == 1 else None)
            kinds = set(counting.values())
            agreed = "missed" if "missed" in kinds else min(kinds)
            assert review.kind == (None if review.truth is None else agreed)
            places = review.missed_xy, review.boxes_xywh, review.strokes
            assert places == (MISSED if "missed" in kinds else ([], [], [])), "each place once"


def test_free_space_of_the_disk_is_kept_also_if_another_program_fills_it_to_the_last_byte(tmp_path: Path) -> None:
    spare = 1 << 20
    with small_disk(tmp_path / "disk", 4) as disk, writer(disk / "evidence", replace(ALL, spare_bytes=spare)) as into:
        for number in range(1, 30):
            into.write(picture(number, image=frame(number, (230, 300)), at_ns=NOON_NS + number))
            free = os.statvfs(disk).f_bavail * 4096
            assert free >= spare - 4096 * 24, "folders and the index take room too"
        before = stored(disk / "evidence")
        fill(disk)
        into.tidy()
        left = stored(disk / "evidence")
        assert 0 < len(left) < len(before) < 29, "the oldest make room for the other program"
        assert left == before[-len(left) :]
        fill(disk)
        into.tidy()
        fill(disk)
        with pytest.raises(InputError, match="all stored pictures take less"):
            into.write(picture(9999))


def test_on_a_full_disk_nothing_is_left_of_an_entry_and_later_ones_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = os.statvfs("/")
    with small_disk(tmp_path / "disk", 2) as disk, writer(disk / "evidence") as into:
        into.write(picture(1))
        filler = fill(disk)
        os.truncate(filler, filler.stat().st_size - 30 * 4096)
        # There is room by the figures, and another program takes it.
        monkeypatch.setattr(os, "statvfs", lambda _: roomy)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
            into.write(picture(2, image=frame(2, (400, 400))))
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        assert len(names(disk / "evidence")) == 2
        filler.unlink()
        into.write(picture(2))
        assert into.state().stored == 2


def test_an_entry_that_was_written_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = list[str](), os.fsync

    def note_and_sync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    with failing_disk(tmp_path / "disk") as disk:
        into = writer(disk / "evidence")
        monkeypatch.setattr(os, "fsync", note_and_sync)
        into.write(picture(1))
        with power_cut(disk):
            into.close()
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        np.testing.assert_array_equal(pixels_of(EvidenceStore(disk / "evidence"), "b007b007-top-1"), frame(1))
        # This disk's file system writes a folder with the index; others do not.
        assert str(disk / "evidence" / "2026-11-28") in synced


KILLED_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from tests.edge.evidences import frame, picture, writer
folder, number, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def count(event, arguments):
    global steps
    if event in ("open", "os.mkdir", "os.chmod", "os.rename", "os.remove", "os.rmdir"):
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)

with writer(folder) as into:
    into.write(picture(number, image=frame(number, (230, 300))))
    one = picture(number + 1, image=frame(number + 1, (230, 300)))
    sys.addaudithook(count)
    into.write(one)
    steps = -1
"""


@pytest.mark.parametrize("steps", [(3, 9), pytest.param(range(1, 22), marks=pytest.mark.long)])
def test_a_writer_that_is_killed_at_any_step_leaves_whole_entries_only(tmp_path: Path, steps: Sequence[int]) -> None:
    whole: list[int] = []
    ends = []
    for number, step in enumerate(steps):
        ends.append(in_python(KILLED_AT_A_STEP, tmp_path, str(2 * number), str(step)).returncode)
        before, found = whole, EvidenceStore(tmp_path)
        whole = sorted(entry.event.frame_number for entry in found.entries())
        assert whole[: len(before) + 1] == [*before, 2 * number], "what was written is there"
        for entry in found.entries():
            heatmap = found.heatmap_path(entry.picture, entry.day)
            np.testing.assert_array_equal(pixels_of(found, entry.picture), frame(entry.event.frame_number, (230, 300)))
            assert read_rgb(heatmap).shape == (29, 38, 3)
    assert ends[:2] == [-signal.SIGKILL] * 2
    assert len(ends) == 2 or ends[-1] == 0, "each step was one of them"
    writer(tmp_path).close()
    assert len(names(tmp_path)) == 2 * len(whole), "the next start deletes what the killed one left"


HANGING = """
import sys, threading
from heatline.edge.monitor import sidecar
def open_writer(*_):
    print("the disk hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
sidecar.EvidenceWriter = open_writer
sys.exit(sidecar.main())
"""
"""The process, on a disk that does not answer."""


def test_a_disk_that_does_not_answer_holds_up_no_end(
    tmp_path: Path, bundle: Bundle, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = line_with_evidence(tmp_path, bundle, address)
    with (
        contextlib.closing(PictureFeed(picture_socket(file))),
        started(sys.executable, "-c", HANGING, file) as process,
    ):
        assert process.stderr.readline() == "the disk hangs\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, "the entry in hand is given up" in errors) == (0, True)


def test_pictures_that_come_while_another_line_uses_the_folder_are_skipped_and_later_ones_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETRY_EVERY_SECONDS", "LOOK_EVERY_SECONDS"):
        monkeypatch.setattr(recorder_module, name, 0.05)
    folder, socket = tmp_path / "evidence", tmp_path / "pictures" / "line"
    feed = PictureFeed(socket)

    def is_told(wanted: Callable[[EvidenceState], bool]) -> None:
        until(lambda: wanted(feed.evidence()[0]))

    with contextlib.closing(feed), writer(folder) as other, PictureClient(socket, slots=1) as client:
        recorder, ended = Recorder(client, lambda: writer(folder)), threading.Event()
        thread = in_thread(lambda: recorder.run(ended))
        assert recorder.choose(picture(1)) is not None
        in_use = "is in use by another running line; give each line its own evidence.folder"
        is_told(lambda state: state.skipped == 1 and in_use in str(state.fault))
        other.close()
        is_told(lambda state: state.fault is None)
        assert recorder.choose(picture(2)) is None
        is_told(lambda state: (state.kept, state.stored) == (1, 1))
        ended.set()
        thread.join()
    assert stored(folder) == ["b007b007-top-2"]


def mark_a_good_frame(page: Page) -> list[str]:
    """Mark a GOOD frame of which the page has the picture; return its id, or nothing if there is none yet."""
    with contextlib.suppress(OSError):  # the page is not served yet
        for row in page.get("/api/verdicts").json["rows"][::-1]:
            if row["verdict"] == "GOOD" and page.get(f"/api/pictures/{row['id']}").status == 200:
                body = json.dumps({"picture": row["id"], "kind": "right", "by": "Ada"})
                answer = page.request("POST", "/api/marks", body, {"Content-Type": "application/json"})
                assert (answer.status, answer.json["stored"]) == (200, True)
                return [row["id"]]
    return []


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_a_killed_monitor_costs_no_verdict_and_leaves_whole_entries_and_the_next_one_stores_and_serves(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    port, store, marked = free_port(), EvidenceStore(tmp_path / "evidence"), list[str]()
    tables = f'[journal]\nfolder = "."\n[web]\nlisten = "127.0.0.1:{port.number}"\n'
    file = line_with_evidence(tmp_path, bundle, address, tables, rate_fps=5.0)

    def is_marked_good_frame_stored(_: object) -> bool:
        if not marked:
            marked.extend(mark_a_good_frame(page_at(port.number)))
        return bool(marked) and store.find(marked[0]) is not None

    with running(file, address) as line:
        kept = 0
        for _ in range(kills):
            kept = kept_by(line, kept)
            os.kill(line.child("monitor.sidecar"), signal.SIGKILL)
            status = until_evidence(line, lambda state: state.fault is not None)
            assert (status.handshake.state, "the monitor" in str(status.handshake.detail)) == ("DEGRADED", True)
            assert "the monitor" in str(status.web.fault)
        kept_by(line, kept)
        line.until(is_marked_good_frame_stored)
        heard = line.end()
    assert heard.refusals() == []
    found = assert_stored_as_heard(store.folder, heard.verdicts)
    entry = store.require(marked[0])
    assert (entry.is_chosen, entry.event.verdict, entry.review is not None) == (True, "GOOD", True)
    writer(store.folder).close()  # a start deletes what the last entry left if it was given up at the end of the line
    assert len(names(store.folder)) == 2 * len(found), "nothing half written is left"


@pytest.mark.long
def test_a_full_disk_costs_the_line_no_verdict_and_is_in_its_status(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        file = line_with_evidence(tmp_path, bundle, address, f'[evidence]\nfolder = "{disk}/evidence"')
        with running(file, address) as line:
            status = until_evidence(line, lambda state: state.skipped > 2 and state.fault is not None)
            assert "make room on the disk" in str(status.evidence)
            line.until_inspected_frames(10)
            heard = line.end()
        assert (heard.refusals(), names(disk / "evidence")) == ([], [])


@pytest.mark.long
def test_a_disk_that_does_not_answer_costs_the_line_no_verdict(tmp_path: Path, bundle: Bundle, address: str) -> None:
    with failing_disk(tmp_path / "disk", mib=2048) as disk:  # 1 GiB of a disk is kept free
        file = line_with_evidence(tmp_path, bundle, address, f'[evidence]\nfolder = "{disk}/evidence"')
        with running(file, address) as line:
            kept = kept_by(line, 0)
            with frozen(disk):
                until_evidence(line, lambda state: "has not answered" in str(state.fault))
                line.until_inspected_frames(20)
            kept_by(line, kept + 1)
            heard = line.end()
        assert heard.last.evidence.skipped > 0
        assert heard.refusals() == []
