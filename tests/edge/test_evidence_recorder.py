"""The recorder stores the pictures of a line, counts what it cannot store, and never delays the line."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor import recorder as recorder_module
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.pictures import Picture, picture_socket
from heatline.edge.monitor.recorder import EvidenceWriter, Recorder
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.events import EvidenceState, MarkKind, Message, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS, heatline, process_env
from tests.edge.evidences import mark, names, picture, writer
from tests.edge.fault_disks import failing_disk, fill, frozen, small_disk
from tests.edge.journals import make_writer
from tests.edge.lines import RunningLine, children, running, small_frames, write_line, write_pictures
from tests.edge.secured import free_port, until


class Offered:
    """The line's end: pictures that wait for the recorder, and what the recorder reports."""

    def __init__(self, *pictures: Picture) -> None:
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._waiting: deque[Picture] = deque()
        self.reports: list[EvidenceState] = []
        self.released: list[int] = []
        self.offer(*pictures)

    def offer(self, *pictures: Picture) -> None:
        for each in pictures:
            number = each.event.frame_number
            self._waiting.append(
                Picture(each.event, each.image, each.evidence, lambda n=number: self.released.append(n))  # type: ignore[misc]
            )
            self._far.send(b"picture")

    def end(self) -> None:
        self._far.close()

    def close(self) -> None:
        self._near.close()
        self._far.close()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def receive(self, timeout_s: float | None) -> Picture | None:
        self._near.settimeout(timeout_s)
        try:
            if not self._near.recv(100):
                raise DeliveryError("the line has ended")
        except TimeoutError:
            return None
        return self._waiting.popleft()

    def report(self, state: EvidenceState, *, web_fault: str | None) -> None:
        self.reports.append(state)


class Running:
    """A recorder on a thread of its own."""

    def __init__(
        self, offered: Offered, open_writer: Callable[[], EvidenceWriter], journal: Path | None = None
    ) -> None:
        self.recorder = Recorder(offered, open_writer, journal)  # type: ignore[arg-type]  # it has what a recorder uses
        self._offered = offered
        self.error: BaseException | None = None
        self._thread = NamedThread("recorder", self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._offered):
                self.recorder.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


class HangingWriter:
    """A writer whose disk does not answer until the test lets it."""

    def __init__(self, inner: EvidenceWriter) -> None:
        self._inner = inner
        self.hangs, self.answers = threading.Event(), threading.Event()
        self.tidy, self.state, self.close = inner.tidy, inner.state, inner.close

    def write(self, picture: Picture, *, is_chosen: bool) -> bool:
        self.hangs.set()
        assert self.answers.wait(30)
        return self._inner.write(picture, is_chosen=is_chosen)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Any]:
    made = HangingWriter(writer(tmp_path))
    yield made
    made.answers.set()


def stored(folder: Path) -> list[int]:
    return sorted(entry.event.frame_number for entry in EvidenceStore(folder).entries())


def test_every_picture_is_stored_released_and_counted_also_those_that_wait_when_the_line_ends(tmp_path: Path) -> None:
    offered = Offered(*(picture(number) for number in range(4)))
    offered.end()
    Running(offered, lambda: writer(tmp_path)).join()
    assert stored(tmp_path) == offered.released == [0, 1, 2, 3]
    first, *_, last = offered.reports
    assert first == EvidenceState(), "it reports as soon as it has opened the store"
    assert (last.kept, last.skipped, last.stored, last.fault) == (4, 0, 4, None)
    assert last.size_bytes > 0
    assert last.oldest_at_ns == picture().event.times.captured_at_ns
    writer(tmp_path).close()  # it holds the folder no more


def test_it_ends_after_the_entry_in_hand_if_it_is_stopped(tmp_path: Path, hanging: Any) -> None:
    offered = Offered(picture(1), picture(2))
    running = Running(offered, lambda: hanging)
    assert hanging.hangs.wait(30)
    running.recorder.stop()
    hanging.answers.set()
    running.join()
    assert (stored(tmp_path), offered.waiting) == ([1], 1)
    assert offered.reports[-1].kept == 1


def test_a_store_that_cannot_be_opened_is_reported_and_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    other = writer(tmp_path)
    offered = Offered(picture(1))
    running = Running(offered, lambda: writer(tmp_path))
    until(lambda: "is in use by another running line" in str(offered.reports[-1:]))
    until(lambda: offered.reports[-1].skipped == 1)
    assert offered.released == [1]
    other.close()
    until(lambda: offered.reports[-1].fault is None)
    offered.offer(picture(2))
    until(lambda: offered.reports[-1].kept == 1)
    running.recorder.stop()
    running.join()
    assert stored(tmp_path) == [2]


def test_a_picture_that_people_choose_while_a_fault_stands_is_said_not_to_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    other = writer(tmp_path)
    running = Running(Offered(), lambda: writer(tmp_path))
    until(lambda: running.recorder.state().fault is not None)
    assert "is in use by another running line" in str(running.recorder.choose(picture(1)))
    other.close()
    until(lambda: running.recorder.state().fault is None)
    running.recorder.choose(picture(name="no/name"))
    until(lambda: running.recorder.state().fault is not None)
    assert "is not a picture id" in str(running.recorder.choose(picture(2)))
    until(lambda: running.recorder.state().fault is None)
    assert running.recorder.choose(picture(3)) is None
    until(lambda: 3 in stored(tmp_path))
    running.recorder.stop()
    running.join()


def test_a_picture_that_cannot_be_stored_is_counted_and_the_next_one_clears_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    offered = Offered(picture(1), picture(name="no/name"))
    running = Running(offered, lambda: writer(tmp_path))
    until(lambda: "is not a picture id" in str(offered.reports[-1:]))
    offered.offer(picture(2))
    until(lambda: offered.reports[-1].fault is None)
    running.recorder.stop()
    running.join()
    last = offered.reports[-1]
    assert (last.kept, last.skipped, last.stored, offered.released) == (2, 1, 2, [1, 1, 2])


def test_a_picture_that_the_page_brought_before_is_neither_counted_again_nor_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    with writer(tmp_path) as into:
        into.write(picture(1), is_chosen=True)
    offered = Offered(picture(1))
    running = Running(offered, lambda: writer(tmp_path))
    until(lambda: offered.released == [1])
    running.recorder.stop()
    running.join()
    last = offered.reports[-1]
    assert (last.kept, last.skipped, last.stored, last.fault) == (0, 0, 1, None)


def test_a_bug_ends_the_recorder_so_that_the_line_starts_another(tmp_path: Path) -> None:
    wrong = Picture(picture(1).event, np.zeros((2, 2, 2), np.uint8), None)  # no picture has two channels
    offered = Offered(wrong)
    running = Running(offered, lambda: writer(tmp_path))
    running.join()
    assert running.error is not None
    assert not isinstance(running.error, InputError)
    assert offered.released == [1]


# Marks, and pictures that people chose.


def sent(of: Picture, kind: MarkKind = "right") -> Message:
    """A mark as the line publishes it, not yet numbered."""
    return Message(msgspec.structs.replace(mark(of, kind), seq=0, journal_id=None))


def reviewed(folder: Path) -> set[str]:
    return {entry.picture for entry in EvidenceStore(folder).entries(is_reviewed=True)}


def test_marks_of_before_and_during_a_run_and_pictures_that_people_chose_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    folder = tmp_path / "evidence"
    pictures = [picture(number) for number in range(5)]
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([sent(pictures[0]), sent(pictures[1])])  # while no recorder ran
        offered = Offered(pictures[0])
        running = Running(offered, lambda: writer(folder), tmp_path)
        until(lambda: reviewed(folder) == {"b007b007-top-0"})
        offered.offer(pictures[1], pictures[2])
        journal.commit([sent(pictures[2]), sent(pictures[0], "withdrawn")])
        until(lambda: reviewed(folder) == {"b007b007-top-1", "b007b007-top-2"})
        for number in (3, 4):
            assert running.recorder.choose(pictures[number]) is None
        until(lambda: stored(folder) == [0, 1, 2, 3, 4])
        until(lambda: offered.reports[-1].kept == 5)
        running.recorder.stop()
        running.join()
    assert offered.reports[-1].skipped == 0
    chosen = [entry.event.frame_number for entry in EvidenceStore(folder).entries() if entry.is_chosen]
    assert sorted(chosen) == [3, 4]


def test_what_was_marked_last_is_stored_when_the_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 3600.0)
    folder = tmp_path / "evidence"
    with contextlib.closing(make_writer(tmp_path)) as journal:
        offered = Offered(picture(1))
        running = Running(offered, lambda: writer(folder), tmp_path)
        until(lambda: offered.released == [1])
        journal.commit([sent(picture(1))])
        offered.end()
        running.join()
    assert reviewed(folder) == {"b007b007-top-1"}


def test_a_damaged_journal_stops_no_storing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
    folder = tmp_path / "evidence"
    (tmp_path / FILE_NAME).write_bytes(bytes(8192))
    offered = Offered(*(picture(number) for number in range(3)))
    running = Running(offered, lambda: writer(folder), tmp_path)
    until(lambda: stored(folder) == [0, 1, 2])
    running.recorder.stop()
    running.join()
    assert offered.reports[-1].fault is None
    assert caplog.text.count("marks of people are not stored") == 1, "at a limited rate"


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


def test_sigterm_ends_the_process(
    tmp_path: Path, bundle: Bundle, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = line_with_evidence(tmp_path, bundle, address, tmp_path / "evidence")
    with contextlib.closing(PictureFeed(picture_socket(file))) as feed, recorder_process(file) as process:
        until(lambda: feed.evidence()[1] is not None)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert names(tmp_path / "evidence") == []


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
    assert process.returncode == 0
    assert "the entry in hand is given up" in errors


def test_what_keeps_the_process_from_its_work_is_one_sentence_in_the_log(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    file = line_with_evidence(tmp_path, bundle, address, tmp_path / "evidence")
    with recorder_process(file) as process:
        _, errors = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 7
    assert "there are no pictures at" in errors
    assert len(errors.splitlines()) == 1


def test_the_page_is_served_without_the_pictures_of_the_line(tmp_path: Path, bundle: Bundle, address: str) -> None:
    port = free_port()
    keys = f'[web]\nlisten = "127.0.0.1:{port.number}"'
    file = line_with_evidence(tmp_path, bundle, address, tmp_path / "evidence", keys)
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


def recorder_of(line: RunningLine) -> int | None:
    """The process of the recorder."""
    for pid in children(line.process.pid):
        with contextlib.suppress(OSError):
            if b"heatline.edge.monitor.sidecar" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def until_evidence(line: RunningLine, wanted: Callable[[EvidenceState], bool]) -> EvidenceState:
    def is_wanted(event: object) -> bool:
        return isinstance(event, StatusEvent) and event.evidence is not None and wanted(event.evidence)

    found = line.until(is_wanted).evidence
    assert isinstance(found, EvidenceState)
    return found


def assert_stored_as_heard(folder: Path, events: list[VerdictEvent]) -> list[str]:
    """Every entry is whole, and is that of an event; return the ids, oldest first."""
    by_id = {event.picture: event for event in events}
    store, found = EvidenceStore(folder), []
    for entry in store.entries(newest_first=False):
        heard = by_id[entry.picture]
        assert (entry.event.verdict, entry.event.frame_score, entry.event.regions) == (
            heard.verdict, heard.frame_score, heard.regions,
        )  # fmt: skip
        path = store.frame_path(entry.picture, entry.day)
        assert path is not None
        assert read_rgb(path).shape[:2] == entry.event.frame_hw
        assert entry.heatmap is not None
        found.append(entry.picture)
    return found


def test_a_line_stores_its_defects_and_some_good_frames_and_the_commands_find_them(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder, "good_every = 3")
    with running(file, address) as line:
        until_evidence(line, lambda state: state.kept >= 6)
        pid = recorder_of(line)
        assert pid is not None
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        heard = line.end()
    ids = assert_stored_as_heard(folder, heard.verdicts)
    defects = [event.picture for event in heard.verdicts if event.verdict == "DEFECT" and event.picture in ids]
    goods = [event.picture for event in heard.verdicts if event.verdict == "GOOD" and event.picture in ids]
    assert heard.last.evidence is not None
    assert len(ids) == len(defects) + len(goods) >= heard.last.evidence.kept >= 6
    assert len(goods) in range(len(defects) * 2 // 3 - 2, len(defects) * 2 // 3 + 3), "one in three of twice as many"
    shown = heatline("evidence", "show", file, str(defects[0]))
    assert (shown.returncode, shown.stderr) == (0, "")
    exported = heatline("evidence", "export", file, tmp_path / "new")
    assert f"{len(defects)} pictures in" in exported.stdout


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.long)])
def test_a_recorder_that_is_killed_costs_the_line_no_verdict_and_leaves_whole_entries(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder)
    with running(file, address) as line:
        kept = 0
        for _ in range(kills):
            kept = until_evidence(line, lambda state, kept=kept: state.kept > kept).kept  # type: ignore[misc]
            pid = recorder_of(line)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        until_evidence(line, lambda state, kept=kept: state.kept > kept and state.fault is None)  # type: ignore[misc]
        heard = line.end()
    assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)
    ids = assert_stored_as_heard(folder, heard.verdicts)
    writer(folder).close()  # a start deletes what the last entry left if it was given up at the end of the line
    assert len(names(folder)) == 2 * len(ids), "nothing half written is left"


@pytest.mark.long
def test_a_full_disk_costs_the_line_no_verdict_and_is_in_its_status(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        file = line_with_evidence(tmp_path, bundle, address, disk / "evidence")
        with running(file, address) as line:
            state = until_evidence(line, lambda state: state.skipped > 2 and state.fault is not None)
            assert "make room on the disk" in str(state.fault)
            line.until_inspected_frames(10)
            heard = line.end()
        assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)
        assert names(disk / "evidence") == []


@pytest.mark.long
def test_a_disk_that_does_not_answer_costs_the_line_no_verdict(tmp_path: Path, bundle: Bundle, address: str) -> None:
    with failing_disk(tmp_path / "disk", mib=2048) as disk:  # 1 GiB of a disk is kept free
        file = line_with_evidence(tmp_path, bundle, address, disk / "evidence")
        with running(file, address) as line:
            until_evidence(line, lambda state: state.kept > 0)
            with frozen(disk):
                kept = until_evidence(line, lambda state: "has not answered" in str(state.fault)).kept
                line.until_inspected_frames(20)
            state = until_evidence(line, lambda state: state.fault is None and state.kept > kept + 1)
            assert state.skipped > 0
            heard = line.end()
        assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)


def test_a_frame_that_was_stored_is_the_frame_that_was_inspected(tmp_path: Path, bundle: Bundle, address: str) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder)
    with running(file, address) as line:
        until_evidence(line, lambda state: state.kept >= 2)
        line.end()
    shown = small_frames(6)
    found = list(EvidenceStore(folder).entries())
    assert len(found) >= 2
    for entry in found:
        path = EvidenceStore(folder).frame_path(entry.picture, entry.day)
        assert path is not None
        np.testing.assert_array_equal(read_rgb(path), shown[str(entry.event.source)])
