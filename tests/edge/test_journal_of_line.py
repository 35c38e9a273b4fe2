"""A real line and its journal, over a full disk and kills."""

import contextlib
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.wire.events import CountedEvent, Event, JournalEvent, StatusEvent, VerdictEvent, event_from
from tests.command import WITHIN_SECONDS
from tests.edge.fault_boots import boots, die
from tests.edge.fault_disks import fill, small_disk
from tests.edge.lines import ReceivedEvents, write_line_with

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0}


def journalled(state: Path) -> list[bytes]:
    """Return the headers of a journal in order."""
    with JournalReader.open(state) as reader:
        return [record.header for record in reader.read(0, at_most=100_000, at_most_bytes=1 << 30).records]


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
def test_over_a_full_disk_and_kill_9_no_event_is_lost_unreported(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
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
                began = run.until(lambda event: is_of_journal(event, "live_only"))
                assert began.journal_id is None
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
        stored = journalled(state)
        received = lives.received
    assert delivered == stored[: len(delivered)], "each event as it was journalled"
    events = [event for event in map(event_from, stored) if not isinstance(event, StatusEvent)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.journal_id for event in events} == {last.journal_id}
    assert is_of_journal(events[0], "begun")
    assert list(dict.fromkeys(event.boot_id for event in events)) == list(received)
    unrecorded = {
        event.of_boot: event for event in events if isinstance(event, JournalEvent) and event.kind == "unrecorded"
    }
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
        number = 0  # no frame has two events, also after a crash
        verdicts = [event for event in [*events, *live_only] if isinstance(event, VerdictEvent)]
        of_this = sorted((e for e in verdicts if e.boot_id == boot_id), key=lambda event: event.frame_number)
        for event in of_this:
            assert event.frame_number == number + 1
            number += event.frames
