"""A real line and its journal: what its events say of it, over kills, and over a disk that fills."""

from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.durable.follower import Follower
from edge.delivery.journal.reader import JournalReader
from edge.delivery.messages import Event, JournalEvent, StatusEvent, VerdictEvent, event_from
from edge.delivery.subscriber import Subscriber
from tests.command import WITHIN_SECONDS
from tests.edge.fault_boots import boots, die
from tests.edge.fault_disks import fill, small_disk
from tests.edge.lines import assert_every_frame_has_its_event, running, write_line_with

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 30.0}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def kept_line(folder: Path, bundle: Bundle, address: str, journal: str = "") -> tuple[Path, str]:
    """A line that serves its journal, and where."""
    served = f"ipc://{folder}/journal"
    tables = f'heatmaps = "never"\n\n[journal]\nbind = "{served}"\n{journal}'
    return write_line_with(folder, bundle.path, address, {"top": CAMERA}, tables), served


def journalled(state: Path) -> list[bytes]:
    """The headers in a journal, in their order."""
    with JournalReader.open(state) as reader:
        return [record.header for record in reader.read(0, at_most=100_000, at_most_bytes=1 << 30).records]


@pytest.mark.long
def test_seq_goes_on_over_a_kill_and_a_follower_gets_each_event_as_it_was_journalled(
    tmp_path: Path, bundle: Bundle, address: str, state: Path
) -> None:
    line, served = kept_line(tmp_path, bundle, address)
    got: list[bytes] = []
    with boots(line, address, state) as lives, Follower(served, "mes1", timeout_s=WITHIN_SECONDS) as events:
        for _ in range(3):
            with lives.boot() as run:
                for _ in range(5):
                    run.until_inspected()
                die(run)
        with lives.boot() as run:
            run.until_inspected()
            last = run.end().last
            boot_ids = list(lives.heard)
        kept = journalled(state)
        with lives.boot() as run:  # whoever was cut off by the end has the rest now
            for delivered in events:
                got.append(delivered.header)
                if delivered.seq == last.last_seq:
                    break
            run.end()
    assert got == kept
    told = [event_from(header) for header in kept]
    assert [event.seq for event in told if not isinstance(event, StatusEvent)] == list(range(1, last.last_seq + 1))
    assert {event.journal_id for event in told} == {last.journal_id}
    assert isinstance(told[0], JournalEvent)
    assert told[0].what == "begun"
    assert list(dict.fromkeys(event.boot_id for event in told)) == boot_ids
    for boot_id in boot_ids:  # no frame is told of twice, as crashed and otherwise
        assert_each_frame_is_told_of_once([event for event in told if event.boot_id == boot_id])


def assert_each_frame_is_told_of_once(events: list[Event]) -> None:
    number = 0
    for event in events:
        if isinstance(event, VerdictEvent):
            assert event.frame_number == number + 1
            number += event.frames


def test_a_disk_that_fills_makes_a_line_go_on_live_only_and_say_so_until_there_is_room(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line, served = kept_line(tmp_path, bundle, address, "keep_mib = 1\n")

    def says(event: Event, reason: str | None) -> bool:
        return isinstance(event, StatusEvent) and event.handshake is not None and event.handshake.reason == reason

    with small_disk(tmp_path / "state", mib=4) as state:
        with (
            running(line, address, env={"STATE_DIRECTORY": str(state)}) as run,
            Follower(served, "mes1", timeout_s=WITHIN_SECONDS) as events,
        ):
            run.until(lambda event: says(event, None))
            first = next(iter(events))
            filler = fill(state)
            began = run.until(lambda event: isinstance(event, JournalEvent) and event.what == "live_only")
            degraded = run.until(lambda event: says(event, "unjournalled"))
            for _ in range(5):
                assert run.until_inspected().journal_id is None
            filler.unlink()
            again = run.until(lambda event: isinstance(event, JournalEvent) and event.what == "recording")
            run.until(lambda event: says(event, None))
            run.until_inspected()
            got = [first]
            for delivered in events:  # what was acknowledged on the full disk does not come again
                got.append(delivered)
                if delivered.seq >= again.seq:
                    break
            heard = run.end()
        kept = [event_from(header) for header in journalled(state)]
    assert_every_frame_has_its_event(heard, ["top"])
    assert (began.journal_id, began.seq) == (None, 1)
    assert "no room" in degraded.journal.live_only
    live_only = [event for event in heard.came if not isinstance(event, StatusEvent) and event.journal_id is None]
    outages = [event for event in heard.of_journal if event.what == "recording"]  # it may have filled anew meanwhile
    told_of = [seq for each in outages for seq in range(each.first_seq or 0, (each.last_seq or 0) + 1)]
    assert told_of == [event.seq for event in live_only]
    assert [each.events for each in outages] == [sum(each.by_topic.values()) for each in outages]
    assert {each.of_boot for each in outages} == {again.boot_id}
    assert [delivered.seq for delivered in got] == list(range(got[0].seq, again.seq + 1))
    in_journal = [event for event in heard.came if not isinstance(event, StatusEvent) and event.journal_id is not None]
    assert [event for event in kept if event.seq >= in_journal[0].seq] == in_journal  # type: ignore[union-attr]


def test_what_a_boot_told_live_alone_before_it_died_is_told_by_the_next(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line, _ = kept_line(tmp_path, bundle, address)
    with small_disk(tmp_path / "state", mib=24) as state, boots(line, address, state) as lives:
        with lives.boot() as run:
            run.until_inspected()
            filler = fill(state)
            run.until(lambda event: isinstance(event, JournalEvent) and event.what == "live_only")
            for _ in range(5):
                last = run.until_inspected()
            die(run)
        filler.unlink()
        with lives.boot() as run:
            run.until_inspected()
            heard = run.end()
    (told,) = [event for event in heard.of_journal if event.what == "unrecorded"]
    assert told.of_boot == last.boot_id
    assert told.events is not None
    assert told.events >= 3  # of the newest, the death may have come before they were noted as told
    assert told.journal_id is not None


def test_a_line_without_a_state_folder_keeps_nothing_and_says_nothing_of_it(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line, _ = kept_line(tmp_path, bundle, address)
    with running(line, address) as run:
        run.until_inspected()
        heard = run.end()
    assert heard.last.journal is None
    assert {event.journal_id for event in heard.came} == {None}
    assert heard.of_journal == []
    assert_every_frame_has_its_event(heard, ["top"])


def test_a_listener_has_again_from_the_line_what_was_told_before_a_kill(
    tmp_path: Path, bundle: Bundle, address: str, state: Path
) -> None:
    line, served = kept_line(tmp_path, bundle, address)
    with (
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=served) as other,
        boots(line, address, state) as lives,
    ):
        with lives.boot() as run:
            before = next(message.event for message in other if isinstance(message.event, VerdictEvent))
            for _ in range(5):
                run.until_inspected()
            die(run)
        with lives.boot() as run:  # meanwhile the other listener has not read on
            last = run.until_inspected()
            seqs = [before.seq]
            missing = set(range(before.seq + 1, last.seq + 1))
            while missing:  # each topic comes in order, and not all of them together
                event = next(iter(other)).event
                if not isinstance(event, StatusEvent):
                    seqs.append(event.seq)
                    missing.discard(event.seq)
            run.end()
    assert len(set(seqs)) == len(seqs), "none comes twice"
