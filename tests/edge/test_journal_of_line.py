"""A real line, its journal and its in-flight log, over a full disk and kills."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.follower import Follower
from heatline.edge.frames import Stamp, Watermark
from heatline.edge.inspection import in_flight_log
from heatline.edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from heatline.edge.wire.events import CountedEvent, Event, JournalEvent, StatusEvent, VerdictEvent, event_from
from tests.command import WITHIN_SECONDS, refused
from tests.edge.fault_boots import PATIENT, assert_the_crash_is_reported_first, boots, crashed, die, ids, in_flight
from tests.edge.fault_disks import fill, small_disk
from tests.edge.journals import events_in, stored_rows
from tests.edge.lines import ReceivedEvents, assert_every_frame_has_its_event, running, write_line_with

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0}
UNKNOWN_AFTER_A_CRASH = "after a crash nobody will know which frames were in flight"
FASTER_THAN_INSPECTION = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 200, "waiting_frames": 8}
MANY_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 222\n\n[engine]\nthreads = 1'
"""Dozens of tiles in a small frame, so that some frames are always in flight."""


def has_outage(event: Event, live_only: str | None) -> bool:
    """Return whether a status has this outage, also if a busy machine has a more severe reason."""
    if not isinstance(event, StatusEvent) or event.journal is None:
        return False
    if live_only is None:
        return event.journal.live_only is None
    degraded = event.handshake.state == "DEGRADED" and live_only in (event.handshake.detail or "")
    return degraded and live_only in (event.journal.live_only or "")


def is_of_journal(event: Event, kind: str) -> bool:
    return isinstance(event, JournalEvent) and event.kind == kind


def counted(received: ReceivedEvents) -> list[CountedEvent]:
    return [event for event in received.in_order if not isinstance(event, StatusEvent)]


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_over_a_full_disk_and_kill_9_no_event_is_lost(tmp_path: Path, bundle: Bundle, address: str, kills: int) -> None:
    """In each boot the disk is full twice: once until there is room again, and once until the line is killed."""
    served = f"ipc://{tmp_path}/journal"
    tables = f'heatmaps = "never"\n\n[journal]\nbind = "{served}"\nretain_mib = 4\n'
    line = write_line_with(tmp_path, bundle.path, address, {"top": CAMERA}, tables)
    delivered: list[bytes] = []
    with (
        small_disk(tmp_path / "state", mib=24) as state,
        boots(line, address, state) as lives,
        contextlib.ExitStack() as at_end,
    ):
        for kill in range(kills):
            with lives.boot() as run:
                run.until(lambda event: has_outage(event, None))
                if kill == 0:
                    consumer = at_end.enter_context(Follower(served, "mes1", timeout_s=WITHIN_SECONDS))
                    delivered.append(next(iter(consumer)).header)
                filler = fill(state)
                assert run.until(lambda event: is_of_journal(event, "live_only")).journal_id is None
                run.until(lambda event: has_outage(event, "no room"))
                for _ in range(5):
                    assert run.until_inspected().journal_id is None
                filler.unlink()
                run.until(lambda event: is_of_journal(event, "recording"))
                run.until(lambda event: has_outage(event, None))
                run.until_inspected()
                filler = fill(state)
                run.until(lambda event: is_of_journal(event, "live_only"))
                for _ in range(5):
                    run.until_inspected()
                die(run)
            filler.unlink()
        with lives.boot() as run:
            last = run.until_inspected()
            for event in consumer:  # what was acknowledged on the full disk does not come again
                delivered.append(event.header)
                if event.seq >= last.seq:
                    break
            run.end()
        stored = [header for _, _, header, _ in stored_rows(state)]
        received = lives.received
    assert delivered == stored[: len(delivered)], "each event as it was journalled"
    events = [event for event in map(event_from, stored) if not isinstance(event, StatusEvent)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.journal_id for event in events} == {last.journal_id}
    assert is_of_journal(events[0], "begun")
    assert list(dict.fromkeys(event.boot_id for event in events)) == list(received)
    unrecorded = {each.of_boot: each for each in events if isinstance(each, JournalEvent) and each.kind == "unrecorded"}
    for boot_id, of_boot in received.items():
        of_journal = [event for event in counted(of_boot) if event.journal_id is not None]
        assert of_journal == [event for event in events if event.boot_id == boot_id and event in of_journal]
        live_only = [event for event in counted(of_boot) if event.journal_id is None]
        outages = [event for event in of_boot.journal_events if event.kind == "recording"]
        reported = [seq for each in outages for seq in range(each.first_seq or 0, (each.last_seq or 0) + 1)]
        assert reported == [event.seq for event in live_only][: len(reported)]
        assert [each.events for each in outages] == [sum(each.by_topic.values()) for each in outages]
        if boot_id != last.boot_id:
            assert (unrecorded[boot_id].events or 0) >= 3  # the newest may not have been logged before the kill
            assert len(reported) < len(live_only)


def test_on_a_full_disk_all_frames_are_inspected_and_the_state_folder_stays_its_lines(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    """The in-flight log continues when there is room, and a second line with the same state folder is refused."""
    line = write_line_with(tmp_path, bundle.path, address, {"top": PATIENT}, 'heatmaps = "never"')
    (tmp_path / "other").mkdir()
    other = write_line_with(tmp_path / "other", bundle.path, f"ipc://{tmp_path}/other/events", {"side": PATIENT})
    with small_disk(tmp_path / "state", mib=32) as state:
        filler, env = fill(state), {"STATE_DIRECTORY": str(state)}
        with running(line, address, env=env) as run:
            run.until_inspected_frames(5)
            run.until_handshake("DEGRADED", "unjournalled")
            assert read_previous_run(state / FILE_NAME).reported == {}
            filler.unlink()
            run.until_handshake("READY")
            assert f"{state} belongs to another line that is running" in refused(7, "run", other, env=env)
            run.until_inspected_frames(1)
            run.process.send_signal(signal.SIGTERM)
            received = run.until_stopped(["top"])
            log = run.process.log()
        previous = read_previous_run(state / FILE_NAME)
    assert {event.reason for event in received.verdicts} <= {None, "dropped.stopped"}, "only at the end"
    assert received.alarms == []
    assert f"{state / FILE_NAME} cannot be written ({os.strerror(28)})" in log
    assert log.count(UNKNOWN_AFTER_A_CRASH) == 1
    assert previous.reported == {"top": Watermark(received.last.boot_id, received.last.ledger["top"].captured)}
    assert previous.in_flight == []


# A line is killed with frames in flight: the next start reports exactly these frames, before all others.


@pytest.mark.parametrize("deaths", [2, pytest.param(20, marks=pytest.mark.long)])
def test_after_kill_9_the_next_start_reports_frames(tmp_path: Path, bundle: Bundle, address: str, deaths: int) -> None:
    """Each boot is killed after another number of events, some after the first event."""
    state = tmp_path / "state"
    state.mkdir()
    line = write_line_with(tmp_path, bundle.path, address, {"top": FASTER_THAN_INSPECTION}, MANY_TILES)
    logged = []
    with boots(line, address, state) as lives:
        for death in range(deaths):
            with lives.boot() as run:
                while len(own_of(run.received.verdicts)) < 7 * (death + 1) % 20:
                    run.next()
                die(run)
            logged.append(in_flight(state))
        with lives.boot() as run:
            run.until_inspected()
            run.end()
    received = list(lives.received.values())
    assert_every_frame_has_its_event(received[-1], ["top"])
    stored = [event for event in events_in(state) if isinstance(event, VerdictEvent)]
    for boot_id, stamps, one, following in zip(lives.received, logged, received, received[1:], strict=False):
        assert_the_crash_is_reported_first(following)
        reported = [(event.frame_id, event.last_frame_id, event.frames) for event in crashed(following)]
        expected = [(stamp.frame_id, stamp.last_frame_id, stamp.frames) for stamp in stamps]
        assert reported == expected[: len(reported)]
        if own_of(following.verdicts):  # otherwise this boot was killed before it had sent all of them
            assert reported == expected
        own_ids = ids(own_of([event for event in stored if event.boot_id == boot_id]))
        assert own_ids == list(range(1, len(own_ids) + 1)), "each frame is reported once, in order"
        sent_ids = ids(own_of(one.verdicts))
        assert sent_ids == own_ids[: len(sent_ids)], "an event is journalled before it is sent"
        if own_ids:  # otherwise this boot was killed before its first event, and may have logged no frame
            assert stamps, "some frames are always in flight"
            assert stamps[0].frame_id == own_ids[-1] + 1, "no frame is lost between the events and those in flight"


def own_of(verdicts: list[VerdictEvent]) -> list[VerdictEvent]:
    """Return the events of frames that their boot captured itself."""
    return [event for event in verdicts if event.reason != "dropped.crashed"]


def frame(number: int, frames: int = 1, part_id: str | None = None) -> Stamp:
    """A stamp whose frame id is its number plus 1000."""
    last = number + 999 + frames if frames > 1 else None
    return Stamp("top", number + 1000, number=number, frames=frames, part_id=part_id, last_frame_id=last)


def numbers_of(stamps: list[Stamp]) -> list[int]:
    return [n for stamp in stamps for n in range(stamp.number, stamp.number + stamp.frames)]


def test_a_full_area_is_followed_by_one_with_what_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight_log, "AREA_BYTES", 2050)
    for foreign in (b"", b"something else", bytes(200_000)):
        (tmp_path / "f").write_bytes(foreign)
        assert read_previous_run(tmp_path / "f").in_flight == []
    for boot in "first", "second":
        log = InFlightLog(tmp_path / "f", boot)
        log.begin({"top": 0, "side": 7})
        for number in range(1, 200):
            log.announced(frame(number, part_id="P-1" if number == 1 else None))
            if number > 5:
                log.reported(frame(number - 5))
            found = read_previous_run(tmp_path / "f")
            assert numbers_of(found.in_flight) == list(range(max(number - 4, 1), number + 1))
            assert found.reported["side"] == Watermark(boot, 7)


def test_what_is_in_the_journal_was_not_in_flight_and_what_it_lacks_is_counted(tmp_path: Path) -> None:
    """The crash may come between the journal's commit and the write to the log, or a power cut after both."""
    log = InFlightLog(tmp_path / "f", "boot-1")
    log.begin({"top": 0, "side": 0, "new": 0})
    log.announced(frame(1, frames=9))
    log.announced(frame(10))
    log.reported(frame(1, frames=9))
    last = read_previous_run(tmp_path / "f", {"side": Watermark("boot-1", 9)})
    assert (numbers_of(last.in_flight), last.reported["top"]) == ([10], Watermark("boot-1", 9))
    assert read_previous_run(tmp_path / "f", {"top": Watermark("boot-1", 10)}).in_flight == []
    assert numbers_of(read_previous_run(tmp_path / "f", {"top": Watermark("boot-0", 70)}).in_flight) == [10]
    new, old = last.written_at_ns + 1, last.written_at_ns - 1
    for journalled, since_ns, missing in (
        ({"top": Watermark("boot-1", 9)}, old, {}),
        ({"top": Watermark("boot-1", 7)}, None, {"top": 2}),
        ({"top": Watermark("boot-0", 70)}, None, {"top": None}),
        ({"side": Watermark("boot-0", 70)}, None, {}),  # no frame of this camera was reported
        ({}, None, {}),  # there is no journal
        ({}, new, {}),  # the journal is new
        ({}, old, {"top": 9}),  # it existed, and the crash came before its first event
    ):
        assert last.unjournalled(journalled, since_ns) == missing
