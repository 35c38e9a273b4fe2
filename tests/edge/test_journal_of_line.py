"""A real line and its journal, over kills and over a full disk."""

import contextlib
import threading
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.delivery.subscriber import Gap, NewBoot, Received, Subscriber
from heatline.edge.wire.events import Event, JournalEvent, Message, StatusEvent, VerdictEvent, event_from
from tests.command import WITHIN_SECONDS
from tests.edge.fault_boots import boots, die
from tests.edge.fault_disks import fill, small_disk
from tests.edge.lines import assert_every_frame_has_its_event, running, write_line_with

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0}


def write_line_with_journal(folder: Path, bundle: Bundle, address: str, journal: str = "") -> tuple[Path, str]:
    """Write the file of a line that serves its journal; return it and the journal's address."""
    served = f"ipc://{folder}/journal"
    tables = f'heatmaps = "never"\n\n[journal]\nbind = "{served}"\n{journal}'
    return write_line_with(folder, bundle.path, address, {"top": CAMERA}, tables), served


def journalled(state: Path) -> list[bytes]:
    """Return the headers of a journal in order."""
    with JournalReader.open(state) as reader:
        return [record.header for record in reader.read(0, at_most=100_000, at_most_bytes=1 << 30).records]


def has_outage(event: Event, live_only: str | None) -> bool:
    """Return whether a status has this outage, also if a busy machine has a graver reason."""
    if not isinstance(event, StatusEvent) or event.journal is None:
        return False
    if live_only is None:
        return event.journal.live_only is None
    degraded = event.handshake.state == "DEGRADED" and live_only in (event.handshake.detail or "")
    return degraded and live_only in (event.journal.live_only or "")


class Listener(threading.Thread):
    """A live subscriber that reads continuously, as ZeroMQ subscribes again only while its socket is used."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.received: list[Received] = []
        self.received_verdict = threading.Event()
        self.counted = 0
        """The last number in the newest status."""
        self.until: int | None = None
        """The event after which to end, once a status has counted it."""

    def run(self) -> None:
        with Subscriber(self._address, timeout_s=WITHIN_SECONDS) as subscriber:
            for item in subscriber:
                match item:
                    case Message(event=StatusEvent(last_seq=last_seq)):
                        self.counted = last_seq
                        if self.until is not None and self.counted >= self.until:
                            return
                    case Message(event=VerdictEvent()):
                        self.received_verdict.set()
                self.received.append(item)


def is_of_journal(event: Event, kind: str) -> bool:
    return isinstance(event, JournalEvent) and event.kind == kind


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_after_kill_9_numbers_continue_and_no_event_is_lost_unreported(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    line, served = write_line_with_journal(tmp_path, bundle, address)
    state = tmp_path / "state"
    state.mkdir()
    received: list[bytes] = []
    listener = Listener(address)
    with (
        boots(line, address, state) as lives,
        contextlib.ExitStack() as at_end,
    ):
        listener.start()
        for kill in range(kills):
            with lives.boot() as run:
                if kill == 0:
                    assert listener.received_verdict.wait(WITHIN_SECONDS)
                    consumer = at_end.enter_context(Follower(served, "mes1", timeout_s=WITHIN_SECONDS))
                    received.append(next(iter(consumer)).header)
                for _ in range(5):
                    run.until_inspected()
                die(run)
        with lives.boot() as run:
            last = run.until_inspected()
            for delivered in consumer:
                received.append(delivered.header)
                if delivered.seq >= last.seq:
                    break
            listener.until = last.seq  # the next status completes its gaps
            listener.join()
            run.end()
        boot_ids = list(lives.received)
    assert listener.counted >= last.seq, "a status has counted all events"
    seqs = [m.event.seq for m in listener.received if isinstance(m, Message) and not isinstance(m.event, StatusEvent)]
    gaps = [gap for gap in listener.received if isinstance(gap, Gap)]
    assert seqs == sorted(set(seqs)), "each comes once, in order"
    assert [new.boot_id for new in listener.received if isinstance(new, NewBoot)] == boot_ids[1:]
    missed = {
        event.seq: event.topic
        for event in map(event_from, journalled(state))
        if not isinstance(event, StatusEvent) and seqs[0] < event.seq <= listener.counted and event.seq not in seqs
    }
    for seq, topic in missed.items():
        assert any(gap.topic == topic and gap.after_seq < seq <= gap.through_seq for gap in gaps), f"{seq} {topic}"
    for gap in gaps:
        assert any(topic == gap.topic and gap.after_seq < seq <= gap.through_seq for seq, topic in missed.items())
    stored = journalled(state)
    assert received == stored[: len(received)], "each event as it was journalled"
    events = [event_from(header) for header in stored]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))  # type: ignore[union-attr]
    assert {event.journal_id for event in events} == {last.journal_id}
    assert is_of_journal(events[0], "begun")
    assert list(dict.fromkeys(event.boot_id for event in events)) == boot_ids
    for boot_id in boot_ids:  # no frame has two events, also after a crash
        number = 0
        for event in events:
            if isinstance(event, VerdictEvent) and event.boot_id == boot_id:
                assert event.frame_number == number + 1
                number += event.frames


def test_on_a_full_disk_a_line_sends_live_only_and_reports_it(tmp_path: Path, bundle: Bundle, address: str) -> None:
    line, served = write_line_with_journal(tmp_path, bundle, address, "retain_mib = 1\n")
    with small_disk(tmp_path / "state", mib=4) as state:
        with (
            running(line, address, env={"STATE_DIRECTORY": str(state)}) as run,
            Follower(served, "mes1", timeout_s=WITHIN_SECONDS) as consumer,
        ):
            run.until(lambda event: has_outage(event, None))
            received = [next(iter(consumer)).seq]
            filler = fill(state)
            began = run.until(lambda event: is_of_journal(event, "live_only"))
            run.until(lambda event: has_outage(event, "no room"))
            for _ in range(5):
                assert run.until_inspected().journal_id is None
            filler.unlink()
            again = run.until(lambda event: is_of_journal(event, "recording"))
            run.until(lambda event: has_outage(event, None))
            run.until_inspected()
            for delivered in consumer:  # what was acknowledged on the full disk does not come again
                received.append(delivered.seq)
                if delivered.seq >= again.seq:
                    break
            events = run.end()
        stored = [event_from(header) for header in journalled(state)]
    assert_every_frame_has_its_event(events, ["top"])
    assert (began.journal_id, began.seq) == (None, 1)
    numbered = [event for event in events.in_order if not isinstance(event, StatusEvent)]
    # The disk may fill once more meanwhile.
    outages = [event for event in events.journal_events if event.kind == "recording"]
    reported = [seq for each in outages for seq in range(each.first_seq or 0, (each.last_seq or 0) + 1)]
    assert reported == [event.seq for event in numbered if event.journal_id is None]
    assert [each.events for each in outages] == [sum(each.by_topic.values()) for each in outages]
    assert {each.of_boot for each in outages} == {again.boot_id}
    assert received == list(range(received[0], again.seq + 1))
    in_journal = [event for event in numbered if event.journal_id is not None]
    assert [event for event in stored if event.seq >= in_journal[0].seq] == in_journal  # type: ignore[union-attr]


def test_the_next_boot_reports_the_live_only_events_of_a_killed_one(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line, _ = write_line_with_journal(tmp_path, bundle, address)
    with small_disk(tmp_path / "state", mib=24) as state, boots(line, address, state) as lives:
        with lives.boot() as run:
            run.until_inspected()
            filler = fill(state)
            run.until(lambda event: is_of_journal(event, "live_only"))
            for _ in range(5):
                last = run.until_inspected()
            die(run)
        filler.unlink()
        with lives.boot() as run:
            run.until_inspected()
            events = run.end()
    (report,) = [event for event in events.journal_events if event.kind == "unrecorded"]
    assert report.of_boot == last.boot_id
    assert report.events is not None
    assert report.events >= 3  # the newest may not have been logged before the kill
    assert report.journal_id is not None
