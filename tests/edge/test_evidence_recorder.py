"""The recorder stores the pictures of a line, counts what it cannot store, and never delays the line."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.errors import DeliveryError
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
        self._waiting: queue.SimpleQueue[Picture | None] = queue.SimpleQueue()
        self.reports: list[EvidenceState] = []
        self.released: list[int] = []
        self.offer(*pictures)

    def offer(self, *pictures: Picture) -> None:
        for each in pictures:
            number = each.event.frame_number
            self._waiting.put(replace(each, release=lambda n=number: self.released.append(n)))  # type: ignore[misc]

    def end(self) -> None:
        self._waiting.put(None)

    def receive(self, timeout_s: float | None) -> Picture | None:
        try:
            found = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if found is None:
            raise DeliveryError("the line has ended")
        return found

    def report(self, state: EvidenceState, *, web_fault: str | None) -> None:
        self.reports.append(state)


@contextlib.contextmanager
def recording(
    offered: Offered, open_writer: Callable[[], EvidenceWriter], journal: Path | None = None
) -> Iterator[Recorder]:
    """A recorder on a thread of its own, which looks and retries often; it is stopped at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "RETRY_EVERY_SECONDS", 0.05)
        patch.setattr(recorder_module, "LOOK_EVERY_SECONDS", 0.01)
        recorder = Recorder(offered, open_writer, journal)  # type: ignore[arg-type]  # it has what a recorder uses
        thread = NamedThread("recorder", recorder.run)
        thread.start()
        yield recorder
        recorder.stop()
        thread.join(WITHIN_SECONDS)
        assert not thread.is_alive()


def stored(folder: Path) -> list[int]:
    return sorted(entry.event.frame_number for entry in EvidenceStore(folder).entries())


def test_a_fault_is_reported_and_counted_until_the_same_work_succeeds(tmp_path: Path) -> None:
    other = writer(tmp_path)
    other.write(picture(5), is_chosen=True)
    offered = Offered(picture(1))
    with recording(offered, lambda: writer(tmp_path)) as recorder:
        until(lambda: "is in use by another running line" in str(offered.reports[-1:]))
        until(lambda: offered.reports[-1].skipped == 1)
        assert "is in use by another running line" in str(recorder.choose(picture(2)))
        other.close()
        until(lambda: offered.reports[-1].fault is None)
        offered.offer(picture(name="no/name"))
        until(lambda: "is not a picture id" in str(offered.reports[-1].fault))
        assert "is not a picture id" in str(recorder.choose(picture(3))), "who marks it is told"
        until(lambda: offered.reports[-1].fault is None)
        assert recorder.choose(picture(4)) is None
        offered.offer(picture(5), picture(6))  # a page brought the first one before: it is not counted
        until(lambda: stored(tmp_path)[-1] == 6)
    last = offered.reports[-1]
    kept = len(stored(tmp_path)) - 1
    assert (last.kept, last.stored, last.fault) == (kept, kept + 1, None)
    assert offered.released == [1, 1, 5, 6]
    assert {1} & set(stored(tmp_path)) == set()
    writer(tmp_path).close()  # it holds the folder no more


def sent(of: Picture, kind: MarkKind = "right") -> Message:
    """A mark as the line publishes it, not yet numbered."""
    return Message(msgspec.structs.replace(mark(of, kind), seq=0, journal_id=None))


def reviewed(folder: Path) -> list[int]:
    return sorted(entry.event.frame_number for entry in EvidenceStore(folder).entries(is_reviewed=True))


def test_marks_of_before_and_during_a_run_and_chosen_pictures_are_stored_and_all_that_waits_at_the_lines_end(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "evidence"
    pictures = [picture(number) for number in range(9)]
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([sent(pictures[0]), sent(pictures[1])])  # while no recorder ran
        offered = Offered(pictures[0])
        with recording(offered, lambda: writer(folder), tmp_path) as recorder:
            until(lambda: reviewed(folder) == [0])
            offered.offer(pictures[1], pictures[2])
            journal.commit([sent(pictures[2]), sent(pictures[0], "withdrawn")])
            until(lambda: reviewed(folder) == [1, 2])
            assert recorder.choose(pictures[3]) is None
            until(lambda: 3 in stored(folder))
            journal.commit([sent(pictures[8])])
            offered.offer(*pictures[4:])
            offered.end()
            until(lambda: len(offered.reports) > 0 and offered.reports[-1].kept == 9)
    assert stored(folder) == list(range(9))
    assert offered.released == [0, 1, 2, 4, 5, 6, 7, 8]
    assert reviewed(folder) == [1, 2, 8]
    assert [entry.event.frame_number for entry in EvidenceStore(folder).entries() if entry.is_chosen] == [3]
    last = offered.reports[-1]
    assert (last.skipped, last.oldest_at_ns) == (0, picture().event.times.captured_at_ns)


def test_a_damaged_journal_stops_no_storing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(bytes(8192))
    offered = Offered(*(picture(number) for number in range(3)))
    with recording(offered, lambda: writer(tmp_path / "evidence"), tmp_path):
        until(lambda: stored(tmp_path / "evidence") == [0, 1, 2])
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
        assert os.getpriority(os.PRIO_PROCESS, recorder_of(line)) == 19
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
def test_a_recorder_that_is_killed_costs_the_line_no_verdict_and_leaves_whole_entries(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    folder = tmp_path / "evidence"
    file = line_with_evidence(tmp_path, bundle, address, folder)
    with running(file, address) as line:
        kept = 0
        for _ in range(kills):
            kept = kept_by(line, kept)
            os.kill(recorder_of(line), signal.SIGKILL)
            status = until_evidence(line, lambda state: state.fault is not None)
            assert (status.handshake.state, "the monitor" in str(status.handshake.detail)) == ("DEGRADED", True)
        kept_by(line, kept)
        heard = line.end()
    assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)
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
        assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)
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
        assert all(event.verdict != "NO_VERDICT" for event in heard.verdicts)
