"""The evidence store holds whole entries within its limits, and the recorder never delays the line."""

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.journal import FILE_NAME, database_files
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.marks import combine
from heatline.edge.monitor.pictures import Picture, picture_socket
from heatline.edge.monitor.recorder import encode_frame, room_of
from heatline.edge.monitor.store import INDEX, EvidenceStore, day_of
from heatline.edge.wire.events import EvidenceState, MarkKind, Message, ReviewEvent, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS, heatline, process_env
from tests.edge.evidences import ALL, DAY_NS, LINE, NOON_NS, Clock, frame, mark, names, picture, room, store, writer
from tests.edge.fault_disks import failing_disk, fill, frozen, power_cut, small_disk
from tests.edge.journals import all_records, change, good, make_writer
from tests.edge.lines import RunningLine, children, running, small_frames, write_line, write_pictures
from tests.edge.secured import free_port

ROOT = Path(__file__).parents[2]
KINDS: list[MarkKind] = ["right", "false_alarm", "missed", "withdrawn"]
HOUR_NS = 3600 * 10**9


def stored(folder: Path) -> list[str]:
    return [entry.picture for entry in EvidenceStore(folder).entries(newest_first=False)]


def pixels_of(found: EvidenceStore, name: str, day: str = "2026-11-28") -> Any:
    path = found.frame_path(name, day)
    assert path is not None
    return read_rgb(path)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = picture(7, at_ns=NOON_NS + 5)
    grey = picture(3, "NO_VERDICT", image=frame(3, grey=True))
    found = store(tmp_path, written, grey)
    entry = found.require("b007b007-top-7")
    assert (entry.line, entry.stored_at_ns, entry.day, entry.event) == (LINE, NOON_NS, "2026-11-28", written.event)
    assert entry.tiles is not None
    assert (entry.tiles.origins_yx, entry.tiles.logits, entry.tiles.tile_px) == ([(0, 0), (0, 16)], [-3.5, 4.25], 48)
    np.testing.assert_array_equal(pixels_of(found, entry.picture), written.image)
    assert entry.heatmap is not None
    assert written.evidence is not None
    heatmap = cv2.imread(str(found.heatmap_path(entry.picture, entry.day)), cv2.IMREAD_UNCHANGED)
    assert heatmap.shape == entry.heatmap.hw
    low, high = entry.heatmap.logit_at_0, entry.heatmap.logit_at_255
    logits = np.clip(np.nan_to_num(written.evidence.heatmap, nan=low), low, high)
    np.testing.assert_allclose(low + heatmap / 255 * (high - low), logits, atol=(high - low) / 255)
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
    for name in ("../secret", "a/../../secret", "/etc/passwd", "a.json", "", ".", "..", "a\0b", "x" * 129):
        with pytest.raises(InputError, match="is not a picture id"):
            found.require(name)
        with writer(tmp_path / "evidence") as into, pytest.raises(InputError, match="is not a picture id"):
            into.write(picture(name=name or "/"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"no index", "file is not a database"),
        (b"", r"holds pictures and no index\.sqlite .*; move the folders of days away"),
        (None, "has schema version 9, this heatline knows version 2"),
    ],
)
def test_an_index_that_cannot_be_read_is_refused_and_its_pictures_stay(
    tmp_path: Path, damage: bytes | None, reason: str
) -> None:
    assert list(EvidenceStore(tmp_path / "nowhere").entries()) == []
    found = store(tmp_path, picture(1))
    if damage is None:
        with contextlib.closing(sqlite3.connect(tmp_path / INDEX)) as index:
            index.execute("PRAGMA user_version = 9")
    else:
        (tmp_path / INDEX).write_bytes(damage)
    if damage != b"":  # to a reader, an empty one is being made
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


# Limits and marks.


class Stores(RuleBasedStateMachine):
    """A small store, and a slow and simple model of what it must hold: all is counted without the store."""

    def __init__(self) -> None:
        super().__init__()
        self.at_end = contextlib.ExitStack()
        self.folder = Path(self.at_end.enter_context(tempfile.TemporaryDirectory()))
        self.clock, self.number, self.seq = Clock(), 0, 0
        self.held: dict[str, tuple[Picture, int]] = {}
        """Pictures that must be there, each with its room on the disk, in the order in which they were stored."""
        self.marked: dict[str, list[ReviewEvent]] = {}
        """Marks of pictures that are there, or that may come."""
        self.waiting: dict[str, Picture] = {}

    @initialize(keep_kib=st.integers(16, 44), keep_days=st.integers(1, 4))
    def open(self, keep_kib: int, keep_days: int) -> None:
        self.limits = replace(ALL, keep_bytes=keep_kib << 10, keep_s=keep_days * 86400.0)
        self.into = writer(self.folder, self.limits, self.clock)

    @rule(
        side=st.sampled_from([8, 8, 48, 90]),
        hours_ago=st.integers(0, 50),
        verdict=st.sampled_from(["DEFECT", "GOOD", "NO_VERDICT"]),
        camera=st.sampled_from(["top", "side"]),
        is_offered=st.sampled_from([True, True, True, False]),
        review=st.none() | st.sampled_from(KINDS),
    )
    def capture(self, side: int, hours_ago: int, verdict: Any, camera: str, is_offered: bool, review: Any) -> None:
        self.number += 1
        at_ns, image = self.clock.wall_ns - hours_ago * HOUR_NS, frame(self.number, (side, side))
        one = picture(self.number, verdict, camera=camera, at_ns=at_ns, image=image)
        self.waiting[str(one.event.picture)] = one
        if review is not None and verdict == "DEFECT":
            self.add_mark(one, review, "Ada")
        if is_offered:
            self.write(-1)

    @rule(which=st.integers(0, 9))
    def write(self, which: int) -> None:
        if not self.waiting:
            return
        name = list(self.waiting)[which % len(self.waiting)]
        one = self.waiting.pop(name)
        size = room_of(len(encode_frame(one.image))) + (0 if one.evidence is None else 4096)
        if size > self.limits.keep_bytes:
            with pytest.raises(InputError, match=r"a picture takes \d\.\d MiB, and evidence.retain_mib is 0; set more"):
                self.into.write(one)
            self.forget_old_marks()
        else:
            assert self.into.write(one)
            self.make_room(size)
            self.held[name] = one, size

    @rule(which=st.integers(0, 30), kind=st.sampled_from(KINDS), by=st.sampled_from(["Ada", "Bob"]))
    def mark(self, which: int, kind: MarkKind, by: str) -> None:
        known = [each for each, _ in self.held.values()] + list(self.waiting.values())
        judged = [each for each in known if each.event.verdict == "DEFECT"]
        if judged:
            self.add_mark(judged[which % len(judged)], kind, by)

    def add_mark(self, of: Picture, kind: MarkKind, by: str) -> None:
        self.seq += 1
        event = mark(of, kind, by, self.seq)
        self.marked.setdefault(event.mark.picture, []).append(event)
        self.into.add_marks([event], "j1", self.seq)

    @rule()
    def read_marks_again(self) -> None:
        again = sorted((event for events in self.marked.values() for event in events), key=lambda each: each.seq)
        self.into.add_marks(again, "j1", self.seq)

    @rule(hours=st.integers(-80, 80))
    def wait(self, hours: int) -> None:
        self.clock.wall_ns += hours * HOUR_NS  # backwards: somebody sets the clock

    @rule()
    def tidy(self) -> None:
        self.into.tidy()
        self.make_room(0)

    @rule()
    def restart(self) -> None:
        self.into.close()
        self.into = writer(self.folder, self.limits, self.clock)

    @rule(
        verdicts=st.none() | st.sets(st.sampled_from(["GOOD", "DEFECT", "NO_VERDICT"])),
        camera=st.none() | st.sampled_from(["top", "side"]),
        is_reviewed=st.none() | st.booleans(),
        days=st.none() | st.integers(-3, 3),
        limit=st.none() | st.integers(0, 4),
        newest_first=st.booleans(),
    )
    def select(self, verdicts: Any, camera: Any, is_reviewed: Any, days: Any, limit: Any, newest_first: bool) -> None:
        since = None if days is None else day_of(self.clock.wall_ns + days * DAY_NS)
        expected = [
            name
            for name in (reversed(self.by_capture()) if newest_first else self.by_capture())
            if (event := self.held[name][0].event)
            and (verdicts is None or event.verdict in verdicts)
            and camera in (None, event.camera)
            and is_reviewed in (None, self.is_reviewed(name))
            and (since is None or day_of(event.times.captured_at_ns) >= since)
        ]
        found = EvidenceStore(self.folder).entries(
            newest_first=newest_first,
            verdicts=verdicts,
            camera=camera,
            is_reviewed=is_reviewed,
            since=since,
            limit=limit,
        )
        assert [entry.picture for entry in found] == expected[:limit]

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "into"):
            return
        found = EvidenceStore(self.folder)
        reviews = {entry.picture: entry.review for entry in found.entries(newest_first=False)}
        assert list(reviews) == self.by_capture()
        assert reviews == {name: combine(self.marked.get(name, [])).get(name) for name in reviews}
        times = [one.event.times.captured_at_ns for one, _ in self.held.values()]
        assert self.into.state() == EvidenceState(
            stored=len(times),
            size_bytes=sum(size for _, size in self.held.values()),
            oldest_at_ns=min(times, default=None),
        )
        assert room(self.folder) == self.into.state().size_bytes <= self.limits.keep_bytes
        to_review = [name for name in reversed(self.by_capture()) if self.is_to_review(name)]
        entries, count = found.unreviewed(2)
        assert ([entry.picture for entry in entries], count) == (to_review[:2], len(to_review))
        newer = dict.fromkeys(to_review[:1], True)  # a mark that only the page knows yet
        assert found.unreviewed(2, newer)[1] == len(to_review) - len(newer)

    def teardown(self) -> None:
        if hasattr(self, "into"):
            self.into.close()
        self.at_end.close()

    def is_reviewed(self, name: str) -> bool:
        return bool(combine(self.marked.get(name, [])))

    def is_to_review(self, name: str) -> bool:
        return self.held[name][0].event.verdict != "NO_VERDICT" and not self.is_reviewed(name)

    def by_capture(self, reviewed_last: bool = False) -> list[str]:
        def place(name: str) -> tuple[bool, int]:
            return reviewed_last and self.is_reviewed(name), self.held[name][0].event.times.captured_at_ns

        return sorted(self.held, key=place)

    def make_room(self, size: int) -> None:
        """Delete what is too old and not reviewed, and then the oldest, reviewed ones last, until there is room."""
        self.forget_old_marks()
        for name in self.by_capture(reviewed_last=True):
            one, _ = self.held[name]
            is_old = not self.is_reviewed(name) and one.event.times.captured_at_ns < self.oldest_ns
            if is_old or size + sum(each for _, each in self.held.values()) > self.limits.keep_bytes:
                del self.held[name]
                self.marked.pop(name, None)

    def forget_old_marks(self) -> None:
        for name, one in self.waiting.items():
            if one.event.times.captured_at_ns < self.oldest_ns:
                self.marked.pop(name, None)

    @property
    def oldest_ns(self) -> int:
        return self.clock.wall_ns - int(self.limits.keep_s * 1e9)


TestStores = Stores.TestCase
TestStores.settings = settings(stateful_step_count=20)


# The journal's marks.


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
        for number in range(1, 9):
            into.write(picture(number, image=frame(number, (8, 8))))
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([good(), marked(1), good(), marked(2)])
            assert read() == read() == [1, 2]
            journal.commit([marked(1, "withdrawn"), good(), marked(3)])
            assert read() == [2, 3]
        for file in database_files(tmp_path / FILE_NAME):
            file.unlink(missing_ok=True)
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(4), marked(5), marked(6), marked(7)])
        with JournalReader.open(tmp_path) as reader:
            four, five, *_ = [each for each in all_records(reader) if each.topic == "review"]
        other = four.header.replace(b'"schema_version":2', b'"schema_version":9')
        change(tmp_path, "UPDATE events SET header = ? WHERE seq = ?", other, four.seq)
        change(tmp_path, "UPDATE events SET header = x'00' WHERE seq = ?", five.seq)
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
            assert review.missed_xy == ([(3, 4)] if "missed" in kinds else []), "each place once"


# Disks.


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


def test_an_entry_that_was_written_survives_a_power_cut(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        into = writer(disk / "evidence")
        into.write(picture(1))
        with power_cut(disk):
            into.close()
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        np.testing.assert_array_equal(pixels_of(EvidenceStore(disk / "evidence"), "b007b007-top-1"), frame(1))


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


@pytest.mark.parametrize("steps", [(1, 2, 3), pytest.param(range(1, 22), marks=pytest.mark.long)])
def test_a_writer_that_is_killed_at_any_step_leaves_whole_entries_only(tmp_path: Path, steps: Sequence[int]) -> None:
    whole: list[int] = []
    ends = []
    for number, step in enumerate(steps):
        command = [sys.executable, "-c", KILLED_AT_A_STEP, tmp_path, str(2 * number), str(step)]
        ends.append(subprocess.run(command, cwd=ROOT, timeout=WITHIN_SECONDS, check=False).returncode)
        before, found = whole, EvidenceStore(tmp_path)
        whole = sorted(entry.event.frame_number for entry in found.entries())
        assert whole[: len(before) + 1] == [*before, 2 * number], "what was written is there"
        for entry in found.entries():
            heatmap = found.heatmap_path(entry.picture, entry.day)
            assert heatmap is not None
            np.testing.assert_array_equal(pixels_of(found, entry.picture), frame(entry.event.frame_number, (230, 300)))
            assert read_rgb(heatmap).shape == (29, 38, 3)
    assert ends[:3] == [-signal.SIGKILL] * 3
    assert len(ends) == 3 or ends[-1] == 0, "each step was one of them"
    writer(tmp_path).close()
    assert len(names(tmp_path)) == 2 * len(whole), "the next start deletes what the killed one left"


# As a process.


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


def recorder_process(file: Path, *program: str) -> "subprocess.Popen[str]":
    command = [sys.executable, *(program or ("-m", "heatline.edge.monitor.sidecar")), file]
    return subprocess.Popen(command, env=process_env(None), stderr=subprocess.PIPE, text=True)


def test_a_disk_that_does_not_answer_holds_up_no_end(
    tmp_path: Path, bundle: Bundle, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = line_with_evidence(tmp_path, bundle, address, tmp_path / "evidence")
    feed = PictureFeed(picture_socket(file))
    with contextlib.closing(feed), recorder_process(file, "-c", HANGING) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "the disk hangs\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, "the entry in hand is given up" in errors) == (0, True)


def test_without_the_pictures_of_the_line_the_page_is_served_and_without_a_page_the_reason_is_one_sentence(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    port = free_port()
    file = line_with_evidence(tmp_path, bundle, address, tmp_path / "evidence")
    with recorder_process(file) as process:
        _, errors = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, len(errors.splitlines()), "there are no pictures at" in errors) == (7, 1, True)
    file = line_with_evidence(
        tmp_path, bundle, address, tmp_path / "evidence", f'[web]\nlisten = "127.0.0.1:{port.number}"'
    )
    with recorder_process(file) as process:
        assert process.stderr is not None
        assert "no pictures are stored: there are no pictures at" in process.stderr.readline()
        assert "the page of the line is http://" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 0


# With a line.


def line_with_evidence(tmp_path: Path, bundle: Bundle, address: str, folder: Path, keys: str = "") -> Path:
    write_pictures(tmp_path / "pictures", small_frames(6))
    # On a busy machine, frames wait.
    camera = f'path = "{tmp_path / "pictures"}"\nloop = true\nrate_fps = 10.0\nwaiting_frames = 64'
    table = f'[evidence]\nfolder = "{folder}"\n{keys}'
    return write_line(tmp_path, bundle.path, address, {"top": camera}, table)


def recorder_of(line: RunningLine) -> int:
    """The process of the recorder."""
    (found,) = (
        pid
        for pid in children(line.process.pid)
        if b"heatline.edge.monitor.sidecar" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return found


def until_evidence(line: RunningLine, wanted: Callable[[EvidenceState], bool]) -> StatusEvent:
    def is_wanted(event: object) -> bool:
        return isinstance(event, StatusEvent) and event.evidence is not None and wanted(event.evidence)

    found = line.until(is_wanted)
    assert isinstance(found, StatusEvent)
    return found


def kept_by(line: RunningLine, count: int) -> int:
    """Wait until more pictures than that are stored, and nothing is wrong; return how many."""
    found = until_evidence(line, lambda state: state.kept > count and state.fault is None).evidence
    assert found is not None
    return found.kept


def assert_stored_as_heard(folder: Path, events: list[VerdictEvent]) -> list[VerdictEvent]:
    """Every entry is whole, and is that of an event; return the events, oldest first."""
    by_id = {event.picture: event for event in events}
    store, shown, found = EvidenceStore(folder), small_frames(6), []
    for entry in store.entries(newest_first=False):
        heard, path = by_id[entry.picture], store.frame_path(entry.picture, entry.day)
        assert (entry.event.verdict, entry.event.frame_score, entry.event.regions) == (
            heard.verdict,
            heard.frame_score,
            heard.regions,
        )
        assert path is not None
        np.testing.assert_array_equal(read_rgb(path), shown[str(entry.event.source)])
        assert entry.heatmap is not None
        found.append(heard)
    return found


def test_a_line_stores_its_defects_and_some_good_frames_and_the_commands_find_them(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder, "good_every = 3")
    with running(file, address) as line:
        kept_by(line, 5)
        threads = Path(f"/proc/{recorder_of(line)}/task").glob("*/stat")
        assert {each.read_text().rpartition(") ")[2].split()[16] for each in threads} == {"19"}, "nice of each"
        heard = line.end()
    found = assert_stored_as_heard(folder, heard.verdicts)
    defects = [event.picture for event in found if event.verdict == "DEFECT"]
    goods = len(found) - len(defects)
    assert heard.last.evidence is not None
    assert len(found) >= heard.last.evidence.kept >= 6
    assert goods in range(len(defects) * 2 // 3 - 2, len(defects) * 2 // 3 + 3), "one in three of twice as many"
    assert heatline("evidence", "show", file, str(defects[0])).returncode == 0
    assert f"{len(defects)} pictures in" in heatline("evidence", "export", file, tmp_path / "new").stdout


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.long)])
def test_a_recorder_that_cannot_store_or_is_killed_costs_the_line_no_verdict_and_leaves_whole_entries(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder)
    with writer(folder) as other, running(file, address) as line:
        status = until_evidence(line, lambda state: state.fault is not None and state.skipped > 1)
        assert "is in use by another running line; give each line its own evidence.folder" in str(status.evidence)
        other.close()
        kept = 0
        for _ in range(kills):
            kept = kept_by(line, kept)
            os.kill(recorder_of(line), signal.SIGKILL)
            status = until_evidence(line, lambda state: state.fault is not None)
            assert (status.handshake.state, "the monitor" in str(status.handshake.detail)) == ("DEGRADED", True)
        kept_by(line, kept)
        heard = line.end()
    assert heard.refusals() == []
    found = assert_stored_as_heard(folder, heard.verdicts)
    writer(folder).close()  # a start deletes what the last entry left if it was given up at the end of the line
    assert len(names(folder)) == 2 * len(found), "nothing half written is left"


@pytest.mark.long
def test_a_full_disk_costs_the_line_no_verdict_and_is_in_its_status(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        file = line_with_evidence(tmp_path, bundle, address, disk / "evidence")
        with running(file, address) as line:
            status = until_evidence(line, lambda state: state.skipped > 2 and state.fault is not None)
            assert "make room on the disk" in str(status.evidence)
            line.until_inspected_frames(10)
            heard = line.end()
        assert heard.refusals() == []
        assert names(disk / "evidence") == []


@pytest.mark.long
def test_a_disk_that_does_not_answer_costs_the_line_no_verdict(tmp_path: Path, bundle: Bundle, address: str) -> None:
    with failing_disk(tmp_path / "disk", mib=2048) as disk:  # 1 GiB of a disk is kept free
        file = line_with_evidence(tmp_path, bundle, address, disk / "evidence")
        with running(file, address) as line:
            kept = kept_by(line, 0)
            with frozen(disk):
                until_evidence(line, lambda state: "has not answered" in str(state.fault))
                line.until_inspected_frames(20)
            kept_by(line, kept + 1)
            heard = line.end()
        assert heard.last.evidence is not None
        assert heard.last.evidence.skipped > 0
        assert heard.refusals() == []
