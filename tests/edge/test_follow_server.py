"""The server of durable consumers over real sockets: each consumer gets every event, and none can harm another."""

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatline.edge.delivery import reader
from heatline.edge.delivery.follow import BYTES_UNACKNOWLEDGED, FollowServer
from heatline.edge.delivery.journal import FILE_NAME as JOURNAL_FILE
from heatline.edge.delivery.journal import Journal
from heatline.edge.wire.following import (
    AckRequest,
    Delivered,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Former,
)
from heatline.edge.wire.requests import to_bytes
from tests.edge.fault_disks import fill, small_disk
from tests.edge.followed_line import (
    ALARM,
    DEFECT,
    GOOD,
    HEARTBEAT_SECONDS,
    FollowedLine,
    wait_until,
)


@pytest.fixture
def line(address: str, tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", address) as line:
        yield line


# Events.


def test_a_consumer_gets_events_in_order_and_resumes_after_its_acknowledgement(line: FollowedLine) -> None:
    events = line.add(GOOD, DEFECT, ALARM)
    first = line.client()
    assert first.follow() == Following(
        name="mes1", journal_id=line.journal_id, acked_seq=0, first_seq=1, last_seq=3, heartbeat_s=HEARTBEAT_SECONDS
    )
    batch, received = first.batch()
    assert (batch.after_seq, batch.through_seq, batch.last_seq, batch.lost_through) == (0, 3, 3, None)
    assert received == events
    events += line.add(GOOD) + line.add(ALARM)
    assert received + first.events(2) == events
    assert first.follow().acked_seq == 0
    assert first.events(5) == events, "without an acknowledgement, a consumer that follows again gets the same events"
    first.ack(2)
    line.wait_until_acked(2)
    first.close()
    again = line.client()
    assert again.follow().acked_seq == 2
    assert again.events(3) == events[2:]
    again.ack(3)
    line.wait_until_acked(3)
    line.restart()
    after_restart = line.client()
    assert after_restart.follow().acked_seq == 3
    assert after_restart.events(2) == events[3:]


def test_at_most_the_window_is_unacknowledged(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 10)
    one = line.client()
    one.follow(window=3)
    assert one.events(3) == events[:3]
    one.heartbeat()  # there was nothing else to send
    events += line.add(GOOD)
    one.heartbeat()
    for acked, expected in ((1, events[3:4]), (4, events[4:7])):
        one.ack(acked)
        assert one.events(len(expected)) == expected
        one.heartbeat()


def test_at_most_four_mebibytes_and_one_event_are_unacknowledged(line: FollowedLine) -> None:
    events = [event for _ in range(4) for event in line.add(GOOD, png=bytes(3 << 19))]  # 1.5 MiB each
    one, other = line.client(), line.client()
    one.follow(window=1000, heatmaps=True)
    assert [one.batch()[1] for _ in range(3)] == [[event] for event in events[:3]], "two do not fit one batch"
    one.heartbeat()
    one.ack(1)
    assert one.events(1) == events[3:]
    one.heartbeat()
    other.follow("other", heatmaps=True, start="next")
    events = line.add(GOOD) + line.add(GOOD, png=bytes(BYTES_UNACKNOWLEDGED + 1)) + line.add(GOOD)
    assert other.events(2) == events[:2], "an event that is larger than the limit comes by itself"
    other.heartbeat()
    other.ack(events[1].seq)
    assert other.events(1) == events[2:]


def test_consumers_are_independent_and_get_only_their_topics(line: FollowedLine) -> None:
    events = line.add(*[GOOD, DEFECT] * 10, png=b"a picture")
    bare = [Delivered(each.journal_id, each.seq, each.header) for each in events]
    slow, fast, filtered = line.client(), line.client(), line.client()
    slow.follow("slow", window=1)
    fast.follow("fast", window=1000, heatmaps=True)
    filtered.follow("filtered", topics=(DEFECT,))
    assert fast.events(20) == events
    assert filtered.events(10) == bare[1::2]
    assert slow.events(1) == bare[:1]
    fast.ack(20)
    filtered.ack(10)
    line.wait_until_on_disk(slow=0, fast=20, filtered=10)
    slow.close()
    line.wait_until_gone("slow")
    states = line.server.states()
    assert {name: (state.acked_seq, state.connected) for name, state in states.items()} == {
        "slow": (0, False), "fast": (20, True), "filtered": (10, True),
    }  # fmt: skip
    assert all((state.seen_at_ns or 0) > 10**18 for state in states.values())


def test_a_new_consumer_starts_with_the_first_stored_or_the_next_event(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 5)
    line.journal.discard(2)
    first, following = line.client(), line.client()
    assert first.follow("a").acked_seq == 2
    batch, received = first.batch()
    assert (received, batch.lost_through) == (events[2:], None), "a new consumer has lost nothing"
    assert following.follow("b", start="next").acked_seq == 5
    following.heartbeat()
    later = line.add(ALARM)
    assert following.events(1) == later
    assert line.client().follow("b", client="c2", start="first").acked_seq == 5, "the name is no longer new"
    line.journal.discard(6)
    nothing_left = line.client()
    started = nothing_left.follow("c")
    assert (started.acked_seq, started.first_seq, started.last_seq) == (6, 0, 6)
    later = line.add(GOOD)
    assert nothing_left.batch()[1] == later


def test_after_damage_to_the_consumer_list_new_names_start_with_the_first_event(line: FollowedLine) -> None:
    """The name may be one that was in the damaged file."""
    events = line.add(*[GOOD] * 3)
    (line.folder / "consumers.json.damaged").write_bytes(b"")
    one = line.client()
    assert one.follow(start="next").acked_seq == 0
    assert one.events(3) == events


def test_events_of_other_topics_are_skipped_and_count_as_acknowledged(line: FollowedLine) -> None:
    events = line.add(GOOD, DEFECT, "verdict.side.DEFECT", ALARM, GOOD)
    one = line.client()
    one.follow(topics=("verdict.top.D", "alarm"))
    batch, received = one.batch()
    assert received == [events[1], events[3]]
    assert (batch.after_seq, batch.through_seq) == (0, 5)
    one.ack(4)
    line.wait_until_on_disk(mes1=5)
    line.add(*[GOOD] * 7)
    one.heartbeat_through(12)
    line.wait_until_on_disk(mes1=12)
    (alarm,) = line.add(ALARM)
    line.add(GOOD)
    assert one.events(1) == [alarm]
    one.heartbeat_through(14)
    assert line.acked() == 12, "while an event is unacknowledged, the position stays before it"
    one.ack(alarm.seq)
    line.wait_until_on_disk(mes1=14)


def test_an_acknowledgement_that_keeps_the_position_makes_room_and_loses_no_event(line: FollowedLine) -> None:
    events = line.add(ALARM, GOOD, ALARM, GOOD)
    one = line.client()
    one.follow(topics=("alarm",), window=1)
    assert one.events(1) == events[:1]
    one.ack(1, keep_position=True)
    assert one.events(1) == events[2:3]
    one.ack(3, keep_position=True)
    line.add(GOOD)
    one.heartbeat_through(5)
    assert line.server.states()["mes1"].acked_seq == 3, "the consumer is not behind"
    assert line.acked() == 0, "events of other topics do not move the position beyond one that comes again"
    one.ack(1)
    line.wait_until_acked(1)
    one.ack(3)
    line.wait_until_on_disk(mes1=5)


def test_a_matching_event_is_found_beyond_the_limit_of_one_scan(
    line: FollowedLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SCANNED_AT_MOST", 10)
    line.add(*[GOOD] * 35)
    expected = line.add(ALARM)
    one = line.client()
    one.follow(topics=("alarm",))
    assert one.events(1) == expected


def test_a_loss_is_reported_until_the_consumer_acknowledges_it(line: FollowedLine) -> None:
    events = line.add(*[ALARM] * 6)
    one = line.client()
    one.follow(window=1, topics=("alarm",))
    assert one.events(1) == events[:1]
    line.journal.discard(4)
    for _ in range(2):
        again = line.client()
        again.follow(topics=("alarm",))
        batch, received = again.batch()
        assert (batch.after_seq, batch.lost_through, batch.through_seq, received) == (0, 4, 6, events[4:])
    again.ack(4)
    line.wait_until_acked(4)
    assert again.follow(window=1, topics=("alarm",)).acked_seq == 4
    batch, received = again.batch()
    assert (batch.lost_through, received) == (None, events[4:5])
    line.journal.discard(6)
    again.ack(5)
    batch, received = again.batch()
    assert (batch.after_seq, batch.lost_through, batch.through_seq, received) == (5, 6, 6, [])
    line.add(GOOD)
    again.heartbeat()
    assert line.acked() == 5, "the loss is not acknowledged yet"
    again.ack(6)
    line.wait_until_acked(7)


# Names.


def test_a_newer_client_supersedes_the_older_client_of_its_name(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 3)
    older, newer = line.client(), line.client()
    older.follow(client="old")
    assert older.events(3) == events
    assert newer.follow(client="new").acked_seq == 0
    assert newer.events(3) == events
    refused = older.refused()
    assert (refused.reason, "a newer client follows as mes1" in refused.detail) == ("superseded", True)
    older.ack(3)
    assert older.refused().reason == "not_following"
    assert line.acked() == 0
    later = line.add(ALARM)
    assert newer.events(1) == later
    assert line.refused == {"superseded": 1, "not_following": 1}


def test_a_client_may_change_its_connection_or_its_name(line: FollowedLine) -> None:
    line.add(GOOD)
    before, now = line.client(), line.client()
    before.follow()
    before.events(1)
    now.follow()
    now.events(1)
    now.heartbeat()
    assert line.refused == {}, "the same client takes over silently"
    before.ack(1)
    assert before.refused().reason == "not_following"
    now.follow("b", start="next")
    assert {name: state.connected for name, state in line.server.states().items()} == {"mes1": False, "b": True}
    events = line.add(GOOD)
    assert now.events(1) == events
    now.heartbeat()


def test_a_sixty_fifth_consumer_is_refused_until_one_is_forgotten(
    line: FollowedLine,
) -> None:
    one, other = line.client(), line.client()

    def refused(request: FollowRequest | ForgetRequest) -> tuple[str, str]:
        other.send(request)
        refused = other.refused()
        return refused.reason, refused.detail

    nobody, mes1 = ForgetRequest(name="nobody"), ForgetRequest(request_id="f", name="mes1")
    assert refused(nobody) == ("unknown_consumer", "there is no consumer nobody; there is none")
    one.follow()
    reason, detail = refused(mes1)
    assert (reason, "end it first" in detail) == ("busy", True)
    assert refused(nobody) == ("unknown_consumer", "there is no consumer nobody; there are mes1")
    one.close()
    line.wait_until_gone()
    other.send(mes1)
    assert other.receive()[0] == Forgotten(request_id="f", name="mes1")
    other.follow("one-more")
    assert (line.acked(), line.acked("one-more")) == (-1, 0)


# Consumers that do not read, or vanish.

FROZEN = """
import sys
import zmq

socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
request = {"type": "follow", "schema_version": 2, "name": "frozen", "client": "f", "window": 1000, "heatmaps": True}
socket.send_json(request)
while len(socket.recv_multipart()) < 3:
    pass
print("has one", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def frozen(address: str) -> Iterator[None]:
    """A consumer process that received an event and is then stopped, with its connection open."""
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "has one\n"
            process.send_signal(signal.SIGSTOP)
            yield
        finally:
            process.kill()


def test_a_frozen_consumer_has_bounded_memory_delays_nobody_and_is_noticed(line: FollowedLine) -> None:
    line.add(GOOD, png=b"a picture")
    with frozen(line.address):
        subscription = line.server._subscriptions["frozen"]
        one = line.client()
        one.follow("other", window=1, heatmaps=True)
        reached = one.events(1)[0].seq
        for _ in range(10):
            (added,) = line.add(GOOD, png=bytes(1 << 20))
            one.ack(reached)
            assert one.events(1) == [added]
            reached = added.seq
            assert subscription.unacknowledged_bytes < BYTES_UNACKNOWLEDGED + (2 << 20)
        assert line.acked("frozen") == 0
        line.wait_until_gone("frozen")


def test_a_slow_consumer_gets_all_events_in_order(tmp_path: Path) -> None:
    """More batches wait for it than ZeroMQ queues; the others come when it reads."""
    address = f"ipc://{tmp_path}/follow"  # buffers less than TCP
    with FollowedLine(tmp_path / "journal", address) as line:
        late, watcher = line.client(receive_queue=1), line.client()
        late.follow("late", window=1000)
        watcher.follow("watcher", window=1000)
        events = []
        for _ in range(150):
            (one,) = line.add(GOOD, detail="x" * 20_000)
            assert watcher.events(1) == [one]  # each event is a batch of its own
            watcher.ack(one.seq)
            events.append(one)
        subscription = line.server._subscriptions["late"]
        assert subscription.full_s > 0, "its queue must become full, otherwise the test shows nothing"
        assert subscription.scanned_through < events[-1].seq
        assert late.events(150) == events


# The journal.


def test_a_journal_that_replaces_another_is_reported_and_followed_from_its_beginning(line: FollowedLine) -> None:
    line.add(*[GOOD] * 3)
    former = line.journal_id
    one, filtered = line.client(), line.client()
    one.follow()
    one.events(3)
    one.ack(2)
    line.wait_until_acked(2)
    filtered.follow("filtered", topics=("alarm",))
    line.replace_journal()
    now = line.journal_id
    events = line.add(DEFECT)
    following = one.following()
    assert (following.journal_id, following.acked_seq) == (now, 0)
    assert following.former == Former(journal_id=former, acked_seq=2)
    assert one.events(1) == events
    one.ack(3, journal_id=former)
    refused = one.refused()
    assert (refused.reason, now in refused.detail) == ("other_journal", True)
    again = line.client()
    assert again.follow().former == following.former, "the new journal is not acknowledged yet"
    assert again.events(1) == events
    again.ack(1)
    line.wait_until_on_disk(mes1=1, filtered=0)
    assert line.client().follow().former is None

    assert filtered.following().former is not None
    filtered.heartbeat_through(1)
    assert line.consumers.positions["filtered"].journal_id == former, (
        "skipped events do not acknowledge the new journal"
    )
    filtered.ack(0)
    line.wait_until_on_disk(mes1=1, filtered=1)
    assert line.client().follow("filtered").former is None


def test_consumers_are_refused_until_there_is_a_journal(line: FollowedLine) -> None:
    line.stop()
    line.journal.close()
    shutil.rmtree(line.folder)
    line.start()
    one = line.client()
    one.send(FollowRequest(name="mes1", client="c"))
    refused = one.refused()
    assert (refused.reason, "there is no journal" in refused.detail) == ("unavailable", True)
    assert line.consumers.positions == {}
    line.journal = Journal.open(line.folder, "line1")
    wait_until(lambda: line.server._journal.fault is None, "the journal is found")
    assert one.follow().journal_id == line.journal_id


def test_subscriptions_wait_while_the_journal_is_unreadable(
    line: FollowedLine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events = line.add(GOOD)
    one = line.client()
    one.follow()
    assert one.events(1) == events
    path = line.folder / JOURNAL_FILE
    path.rename(path.with_name("elsewhere"))
    line.server.wake()
    assert one.heartbeat().last_seq == 1
    assert line.client().follow("late").last_seq == 1, "the last known end is reported"
    path.with_name("elsewhere").rename(path)
    events += line.add(DEFECT)
    assert one.events(1) == events[1:]
    logged = [record.levelname for record in caplog.records if record.name == "heatline.edge.delivery.follow"]
    assert logged == ["ERROR", "INFO"]


def test_a_full_disk_stops_neither_serving_nor_acknowledging(address: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, FollowedLine(disk, address) as line:
        events = line.add(*[GOOD] * 20)
        first = line.client()
        first.follow(window=5)
        assert first.events(5) == events[:5]
        first.ack(1)
        line.wait_until_on_disk(mes1=1)
        fill(disk)
        first.ack(3)
        assert first.events(3) == events[5:8]
        line.restart()
        again, new = line.client(), line.client()
        assert again.follow().acked_seq == 1, "what the disk did not take comes again"
        assert again.events(19) == events[1:]
        new.send(FollowRequest(name="new", client="c"))
        assert new.refused().reason == "unavailable", "its events could be deleted before it gets them"
        (disk / "filler").unlink()
        again.ack(20)
        new.follow("new")
        assert new.events(20) == events
        line.wait_until_on_disk(mes1=20, new=0)
        assert line.consumers.fault is None


# Bad requests.


def test_invalid_acknowledgements_are_refused_with_the_reason(line: FollowedLine) -> None:
    line.add(*[GOOD] * 5)
    one = line.client()
    one.ack(0)
    assert one.refused().reason == "not_following"
    one.follow(window=2)
    one.events(2)
    for bad, reason, excerpt in [
        (AckRequest(name="mes1", journal_id=line.journal_id, seq=3), "not_sent", "event 3 .* only events up to 2 were"),
        (AckRequest(name="mes1", journal_id="b" * 32, seq=1), "other_journal", line.journal_id),
        (AckRequest(name="mes2", journal_id=line.journal_id, seq=1), "not_following", "does not follow as mes2"),
    ]:
        one.send(bad)
        refused = one.refused()
        assert refused.reason == reason
        assert re.search(excerpt, refused.detail)
    assert line.acked() == 0
    one.ack(2)
    one.ack(1)  # an old acknowledgement is ignored
    one.events(2)
    assert line.acked() == 2


def test_invalid_requests_are_refused_counted_and_logged_at_a_limited_rate(
    line: FollowedLine, caplog: pytest.LogCaptureFixture
) -> None:
    one = line.client()
    one.send(b'{"type":"follow","schema_version":3,"name":"mes1","client":"c"}')
    assert one.refused().reason == "version"
    for parts in ([b""], [b"x"] * 2, [b"x"] * 10_000, *[[b'{"type":"\x1b[2J"}']] * 200):
        one.socket.send_multipart(parts)
        assert one.refused().reason == "malformed"
    assert line.refused == {"version": 1, "malformed": 203}
    logged = [record for record in caplog.records if record.name == "heatline.edge.delivery.auth"]
    assert 2 <= len(logged) < 12, "any client could fill the disk"
    assert all(record.getMessage().isprintable() for record in logged)
    assert line.server.states() == {}
    one.follow()


def test_a_delimiter_is_accepted_and_returned(line: FollowedLine) -> None:
    (event,) = line.add(GOOD)
    one = line.client()
    one.socket.send_multipart([b"", to_bytes(FollowRequest(name="mes1", client="c"))])
    assert len(one.socket.recv_multipart()) == 2
    delimiter, _, header, _ = one.socket.recv_multipart()
    assert (delimiter, header) == (b"", event.header)


def test_a_server_fault_is_logged_once_and_serving_continues(
    line: FollowedLine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = line.client()
    one.follow()

    def raise_fault(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(line.server, "_forget", raise_fault)
    for _ in range(5):
        one.send(ForgetRequest(name="mes1"))
    events = line.add(GOOD)
    assert one.events(1) == events
    assert "boom" in caplog.text
    assert len([record for record in caplog.records if record.name == "heatline.edge.delivery.servers"]) == 1


# Starting and stopping.


def test_the_last_journalled_events_are_sent_before_the_server_ends(line: FollowedLine) -> None:
    one = line.client()
    one.follow()
    events = line.add(*[GOOD] * 5, wake=False)
    line.server.close()
    assert one.events(5) == events


def test_a_closed_server_leaves_nothing_open_and_frees_its_address(tmp_path: Path, address: str) -> None:
    descriptors, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(2):
        with FollowedLine(tmp_path, address) as line:
            never_started = FollowServer(address, tmp_path, line.consumers)
            for server in (never_started, line.server):  # none of this may hang or raise
                server.wake()
                server.close()
                server.close()
                server.wake()
            line.restart()
            assert line.client().follow().last_seq == 0
    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= descriptors
