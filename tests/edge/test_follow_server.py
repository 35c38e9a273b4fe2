"""The journal served over real sockets, to bare ones: who follows gets every event, and nobody harms the others."""

import contextlib
import json
import logging
import os
import signal
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.delivery.durable.consumers import MOST_CONSUMERS, Consumers
from edge.delivery.durable.follow_server import BYTES_UNACKNOWLEDGED, REPLAYS_WAITING, FollowServer
from edge.delivery.durable.following import (
    Batch,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Former,
    Refused,
    ReplayRequest,
    events_of,
    reply_from,
    to_bytes,
)
from edge.delivery.journal.file import FILE_NAME as JOURNAL_FILE
from edge.delivery.journal.journal import Journal
from edge.delivery.router import LONGEST_REQUEST_BYTES
from edge.errors import DeliveryError
from tests.edge.fault_disks import fail, failing_disk, fill, small_disk
from tests.edge.followed_line import (
    ALARM,
    DEFECT,
    GOOD,
    HEARTBEAT_SECONDS,
    WITHIN_SECONDS,
    Client,
    FollowedLine,
    clients,
    keys,
    wait_until,
)

MakeClient = Callable[..., Client]


@pytest.fixture(params=["tcp", "ipc"])
def either_address(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> str:
    return address if request.param == "tcp" else f"ipc://{tmp_path}/follow"


@pytest.fixture
def line(address: str, tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", address) as line:
        yield line


@pytest.fixture
def client(line: FollowedLine) -> Iterator[MakeClient]:
    with clients(line.address) as client:
        yield client


# Events.


def test_a_consumer_gets_every_event_as_journalled_in_order_and_goes_on_after_what_it_acknowledged(
    tmp_path: Path, either_address: str
) -> None:
    with FollowedLine(tmp_path / "journal", either_address) as line, clients(either_address) as client:
        told = line.tell(GOOD, DEFECT, ALARM)
        first = client()
        following = first.follow()
        journal_id = line.journal.journal_id
        assert following == Following(
            name="mes1", journal_id=journal_id, acked_seq=0, first_seq=1, last_seq=3, heartbeat_s=HEARTBEAT_SECONDS
        )
        batch, events = first.batch()
        assert (batch.after_seq, batch.through_seq, batch.last_seq, batch.lost_through) == (0, 3, 3, None)
        assert events == told
        told += line.tell(GOOD) + line.tell(ALARM)
        assert events + first.events(2) == told
        first.ack(2, journal_id)
        wait_until(lambda: line.consumers.positions()["mes1"].acked_seq == 2, "it was acknowledged")
        first.close()
        again = client()
        assert again.follow().acked_seq == 2
        assert again.events(3) == told[2:]


def test_what_was_not_acknowledged_comes_again_with_the_same_keys(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 5)
    for _ in range(3):
        one = client()
        one.follow()
        assert one.events(5) == told
        one.close()
    assert len(set(keys(told))) == 5


def test_a_consumer_that_follows_again_on_its_socket_starts_again_after_what_it_acknowledged(
    line: FollowedLine, client: MakeClient
) -> None:
    told = line.tell(*[GOOD] * 5)
    one = client()
    one.follow()
    assert one.events(5) == told
    one.ack(2, line.journal.journal_id)
    assert one.follow().acked_seq == 2
    assert one.events(3) == told[2:]


def test_no_more_events_are_on_their_way_than_the_window(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 10)
    one = client()
    one.follow(window=3)
    assert one.events(3) == told[:3]
    one.heartbeat()  # so there was nothing else to send
    told += line.tell(GOOD)
    one.heartbeat()
    one.ack(1, line.journal.journal_id)
    assert one.events(1) == told[3:4]
    one.heartbeat()
    one.ack(4, line.journal.journal_id)
    assert one.events(3) == told[4:7]
    one.heartbeat()


def test_nor_are_more_bytes_on_their_way_than_four_mebibytes_and_one_event(
    line: FollowedLine, client: MakeClient
) -> None:
    told = [event for _ in range(6) for event in line.tell(GOOD, png=bytes(3 << 19))]  # 1.5 MiB each
    one = client()
    one.follow(window=1000, heatmaps=True)
    came = []
    while sum(len(event.png or b"") for event in came) < BYTES_UNACKNOWLEDGED:
        _, events = one.batch()
        assert len(events) == 1, "each is more than a batch may be"
        came += events
    assert came == told[:3]
    one.heartbeat()
    one.ack(1, line.journal.journal_id)
    assert one.events(1) == told[3:4]
    one.heartbeat()


def test_an_event_that_is_larger_than_all_that_may_be_on_its_way_comes_by_itself(
    line: FollowedLine, client: MakeClient
) -> None:
    told = line.tell(GOOD) + line.tell(GOOD, png=bytes(BYTES_UNACKNOWLEDGED + 1)) + line.tell(GOOD)
    one = client()
    one.follow(heatmaps=True)
    assert one.events(2) == told[:2]
    one.heartbeat()
    one.ack(2, line.journal.journal_id)
    assert one.events(1) == told[2:]


def test_heatmaps_come_only_where_they_were_asked_for(line: FollowedLine, client: MakeClient) -> None:
    (told,) = line.tell(DEFECT, png=b"a picture")
    with_them, without = client(), client()
    with_them.follow("a", heatmaps=True)
    without.follow("b")
    assert with_them.events(1)[0].png == b"a picture"
    assert without.events(1)[0] == type(told)(told.journal_id, told.seq, told.header)


def test_a_new_name_starts_with_the_first_event_or_with_the_next(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 5)
    line.journal.discard(2)
    first, following = client(), client()
    assert first.follow("a").acked_seq == 2
    batch, events = first.batch()
    assert (events, batch.lost_through) == (told[2:], None), "nothing is lost for one that was not there"
    assert following.follow("b", start="next").acked_seq == 5
    following.heartbeat()
    later = line.tell(ALARM)
    assert following.events(1) == later
    following.close()
    again = client()
    assert again.follow("b", client="c2", start="first").acked_seq == 5, "it is new no more"


def test_a_new_name_at_a_journal_that_has_lost_all_its_events_starts_with_the_next(
    line: FollowedLine, client: MakeClient
) -> None:
    line.tell(*[GOOD] * 5)
    line.journal.discard(5)
    one = client()
    following = one.follow()
    assert (following.acked_seq, following.first_seq, following.last_seq) == (5, 0, 5)
    told = line.tell(GOOD)
    assert one.batch()[1] == told


def test_only_events_of_the_topics_that_it_names_come(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(GOOD, DEFECT, "verdict.side.DEFECT", ALARM, GOOD)
    one = client()
    one.follow(topics=("verdict.top.D", "alarm"))
    batch, events = one.batch()
    assert events == [told[1], told[3]]
    assert (batch.after_seq, batch.through_seq) == (0, 5)
    one.ack(4, line.journal.journal_id)
    wait_until(lambda: line.consumers.acked(line.journal.journal_id) == {"mes1": 5}, "what it leaves out is done with")


def test_what_a_filter_leaves_out_keeps_no_event_from_being_deleted(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    one.follow(topics=("alarm",))
    line.tell(*[GOOD] * 7)
    one.heartbeat_until(lambda beat: beat.through_seq == 7)
    journal_id = line.journal.journal_id
    wait_until(lambda: line.consumers.acked(journal_id) == {"mes1": 7}, "nothing of it was wanted")
    (alarm,) = line.tell(ALARM)
    line.tell(GOOD)
    assert one.events(1) == [alarm]
    one.heartbeat_until(lambda beat: beat.through_seq == 9)
    assert line.consumers.positions()["mes1"].acked_seq == 7, "while it has an event in hand, what comes after waits"
    one.ack(alarm.seq, journal_id)
    wait_until(lambda: line.consumers.acked(journal_id) == {"mes1": 9}, "it is done")


def test_batches_follow_one_another_without_a_gap_whatever_a_filter_leaves_out(
    line: FollowedLine, client: MakeClient
) -> None:
    one = client()
    reached = one.follow(topics=("verdict.top.DEFECT",)).acked_seq
    for topics in ([GOOD], [DEFECT, GOOD], [GOOD, GOOD], [GOOD, DEFECT]):
        line.tell(*topics)
        while reached < line.journal.last_seq:
            reply, _ = one.receive()
            assert isinstance(reply, Batch)
            assert reply.after_seq == reached
            reached = reply.through_seq
    assert one.heartbeat().after_seq == 7


def test_events_that_went_before_a_consumer_had_got_them_are_told_until_it_says_that_it_knows(
    line: FollowedLine, client: MakeClient
) -> None:
    told = line.tell(*[GOOD] * 6)
    journal_id = line.journal.journal_id
    one = client()
    one.follow(window=1)
    assert one.events(1) == told[:1]
    line.journal.discard(4)
    for _ in range(2):
        again = client()
        again.follow(window=5)
        batch, events = again.batch()
        assert (batch.after_seq, batch.lost_through, batch.through_seq, events) == (0, 4, 6, told[4:])
        again.close()
    again = client()
    again.follow(window=5)
    again.batch()
    again.ack(4, journal_id)
    wait_until(lambda: line.consumers.positions()["mes1"].acked_seq == 4, "it knows")
    assert again.follow(window=5).acked_seq == 4
    batch, events = again.batch()
    assert (batch.lost_through, events) == (None, told[4:])


def test_that_events_went_is_told_at_once_also_where_none_is_left(line: FollowedLine, client: MakeClient) -> None:
    line.tell(*[ALARM] * 4)
    one = client()
    one.follow(window=2, topics=("alarm",))
    one.events(2)
    line.journal.discard(4)
    one.ack(2, line.journal.journal_id)
    batch, events = one.batch()
    assert (batch.after_seq, batch.lost_through, batch.through_seq, events) == (2, 4, 4, [])
    line.tell(GOOD)
    one.heartbeat_until(lambda beat: beat.through_seq == 5)
    assert line.consumers.positions()["mes1"].acked_seq == 2, "not done with until it says so"
    one.ack(4, line.journal.journal_id)
    wait_until(lambda: line.consumers.positions()["mes1"].acked_seq == 5, "it knows")


def test_many_events_of_which_few_are_wanted_are_gone_through(line: FollowedLine, client: MakeClient) -> None:
    """More than are looked at in one reading."""
    for _ in range(30):
        line.tell(*[GOOD] * 1000)
    (told,) = line.tell(ALARM)
    one = client()
    one.follow(topics=("alarm",))
    assert one.events(1) == [told]


# Several.


def test_consumers_are_independent(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD, DEFECT] * 10)
    slow, fast, picky = client(), client(), client()
    slow.follow("slow", window=1)
    fast.follow("fast", window=1000)
    picky.follow("picky", topics=(DEFECT,))
    assert fast.events(20) == told
    assert picky.events(10) == told[1::2]
    assert slow.events(1) == told[:1]
    journal_id = line.journal.journal_id
    fast.ack(20, journal_id, "fast")
    picky.ack(10, journal_id, "picky")
    wait_until(
        lambda: line.consumers.acked(journal_id) == {"slow": 0, "fast": 20, "picky": 10}, "each has its own position"
    )


def test_of_two_clients_of_one_name_the_newer_is_served_and_the_older_is_told_and_does_not_come_back(
    line: FollowedLine, client: MakeClient
) -> None:
    told = line.tell(*[GOOD] * 3)
    journal_id = line.journal.journal_id
    older, newer = client(), client()
    older.follow(client="old")
    assert older.events(3) == told
    assert newer.follow(client="new").acked_seq == 0
    assert newer.events(3) == told
    refused = older.refused()
    assert (refused.reason, "a newer client follows as mes1" in refused.detail) == ("superseded", True)
    older.ack(3, journal_id)
    assert older.refused().reason == "not_following"
    assert line.consumers.positions()["mes1"].acked_seq == 0
    older.send(FollowRequest(name="mes1", client="old"))
    assert older.refused().reason == "superseded"
    newer.ack(2, journal_id)
    told += line.tell(ALARM)
    assert newer.events(1) == told[3:]
    assert line.server.refused == {"superseded": 2, "not_following": 1}


def test_the_same_client_on_another_connection_takes_over_silently(line: FollowedLine, client: MakeClient) -> None:
    line.tell(GOOD)
    before, now = client(), client()
    before.follow()
    before.events(1)
    now.follow()
    now.events(1)
    now.heartbeat()
    assert line.server.refused == {}
    before.ack(1, line.journal.journal_id)
    assert before.refused().reason == "not_following"


def test_a_socket_that_follows_under_another_name_lets_go_of_the_first(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    one.follow("a")
    one.follow("b")
    assert {name: state.connected for name, state in line.server.states().items()} == {"a": False, "b": True}
    told = line.tell(GOOD)
    assert one.events(1) == told
    one.heartbeat()


def test_there_are_sixty_four_consumers_at_most_until_one_is_forgotten(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    for number in range(MOST_CONSUMERS):
        one.follow(f"mes{number}")
    one.send(FollowRequest(name="one-more", client="c"))
    refused = one.refused()
    assert refused.reason == "too_many_consumers"
    assert "64 consumers already; forget one" in refused.detail
    assert "one-more" not in line.consumers.positions()
    one.follow("mes5")
    one.send(ForgetRequest(request_id="f", name="mes7"))
    assert one.receive()[0] == Forgotten(request_id="f", name="mes7")
    one.follow("one-more")
    assert {"mes5", "one-more"} <= line.consumers.positions().keys()
    assert "mes7" not in line.consumers.positions()


def test_who_is_followed_is_not_forgotten_and_a_name_that_is_none_is_told(
    line: FollowedLine, client: MakeClient
) -> None:
    one, other = client(), client()
    other.send(ForgetRequest(request_id="f", name="mes1"))
    assert other.refused() == Refused(
        request_id="f", reason="unknown_consumer", detail="there is no consumer mes1; there is none"
    )
    one.follow()
    one.heartbeat()
    other.send(ForgetRequest(request_id="f", name="mes1"))
    refused = other.refused()
    assert (refused.reason, "end it first" in refused.detail) == ("busy", True)
    other.send(ForgetRequest(request_id="f", name="mes2"))
    assert other.refused().detail == "there is no consumer mes2; there are mes1"
    one.close()
    wait_until(lambda: not line.server.states()["mes1"].connected, "it is noticed")
    other.send(ForgetRequest(request_id="f", name="mes1"))
    assert other.receive()[0] == Forgotten(request_id="f", name="mes1")
    assert line.server.states() == {}


def test_how_each_consumer_is_can_be_asked(line: FollowedLine, client: MakeClient) -> None:
    line.tell(GOOD)
    one, other = client(), client()
    one.follow("a")
    other.follow("b")
    one.events(1)
    one.ack(1, line.journal.journal_id, "a")
    wait_until(lambda: line.server.states()["a"].acked_seq == 1, "it was acknowledged")
    other.close()
    wait_until(lambda: not line.server.states()["b"].connected, "it is noticed that b has gone")
    states = line.server.states()
    assert states["a"].connected
    assert states["b"].acked_seq == 0
    assert all((state.seen_at_ns or 0) > 10**18 for state in states.values())


# Those that do not read, or are gone.

FROZEN = """
import sys
import zmq

socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
request = {"type": "follow", "schema_version": 1, "name": "frozen", "client": "f", "window": 1000, "heatmaps": True}
socket.send_json(request)
while len(socket.recv_multipart()) < 3:
    pass
print("has one", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def frozen(address: str) -> Iterator["subprocess.Popen[str]"]:
    """A consumer that has got an event, and then stands still, its connection open."""
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "has one\n"
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_consumer_that_stands_still_costs_no_memory_and_keeps_nobody_waiting(
    line: FollowedLine, client: MakeClient
) -> None:
    line.tell(GOOD, png=b"a picture")
    with frozen(line.address):
        one = client()
        one.follow("other", window=1, heatmaps=True)
        reached = one.events(1)[0].seq
        before = 0
        for number in range(100):
            (told,) = line.tell(GOOD, png=bytes(1 << 20))
            one.ack(reached, line.journal.journal_id, "other")
            assert one.events(1) == [told]
            reached = told.seq
            if number == 10:
                before = resident_bytes()
        assert resident_bytes() - before < 32 << 20, "of 89 MiB that it did not take"
        assert line.consumers.positions()["frozen"].acked_seq == 0


def test_a_consumer_that_stands_still_is_noticed_in_seconds(line: FollowedLine) -> None:
    line.tell(GOOD)
    with frozen(line.address):
        wait_until(lambda: not line.server.states()["frozen"].connected, "ZeroMQ's heartbeats are not answered")


def test_a_consumer_that_was_killed_is_noticed(line: FollowedLine) -> None:
    line.tell(GOOD)
    with frozen(line.address) as process:
        process.kill()
        wait_until(lambda: not line.server.states()["frozen"].connected, "its connection was closed")


def test_a_consumer_that_reads_late_gets_all_in_order(tmp_path: Path) -> None:
    """Many batches wait for it, more than are kept: it gets the others when it has room."""
    address = f"ipc://{tmp_path}/follow"  # keeps less on its way than TCP
    with FollowedLine(tmp_path / "journal", address) as line, clients(address) as client:
        late, watcher = client(messages_kept=1), client()
        late.follow("late", window=1000)
        watcher.follow("watcher", window=1000)
        told = []
        for _ in range(150):
            (one,) = line.tell(GOOD, detail="x" * 20_000)
            assert watcher.events(1) == [one]  # so it was pushed by itself
            watcher.ack(one.seq, line.journal.journal_id, "watcher")
            told.append(one)
        session = line.server._sessions["late"]
        assert session.full_s > 0, "it was to be full, else this shows nothing"
        assert session.read < told[-1].seq
        assert late.events(150) == told


# The journal.


def test_a_journal_that_another_takes_the_place_of_is_told_and_followed_from_its_begin(
    line: FollowedLine, client: MakeClient
) -> None:
    line.tell(*[GOOD] * 3)
    former = line.journal.journal_id
    one = client()
    one.follow()
    one.events(3)
    one.ack(2, former)
    line.begin_another_journal()
    now = line.journal.journal_id
    told = line.tell(DEFECT)
    following = one.following()
    assert (following.journal_id, following.acked_seq) == (now, 0)
    assert following.former == Former(journal_id=former, acked_seq=2)
    assert one.events(1) == told
    one.ack(3, former)
    refused = one.refused()
    assert (refused.reason, now in refused.detail) == ("other_journal", True)
    again = client()
    assert again.follow().former == following.former, "until it acknowledges something of the new one"
    assert again.events(1) == told
    again.ack(1, now)
    wait_until(lambda: line.consumers.positions()["mes1"][:2] == (now, 1), "it was acknowledged")
    assert client().follow().former is None


def test_that_there_is_another_journal_must_be_acknowledged_also_by_who_wants_none_of_its_events(
    line: FollowedLine, client: MakeClient
) -> None:
    one = client()
    one.follow(topics=("alarm",))
    line.begin_another_journal()
    line.tell(GOOD)
    assert one.following().former is not None
    one.heartbeat_until(lambda beat: beat.through_seq == 1)
    now = line.journal.journal_id
    assert line.consumers.positions()["mes1"].journal_id != now, "not done with until it says so"
    one.ack(0, now)
    wait_until(lambda: line.consumers.acked(now) == {"mes1": 1}, "the rest was left out")
    assert client().follow().former is None


def test_without_a_journal_who_follows_is_refused_until_there_is_one(tmp_path: Path, address: str) -> None:
    folder = tmp_path / "journal"
    consumers = Consumers(folder)
    server = FollowServer(address, folder, consumers, heartbeat_s=HEARTBEAT_SECONDS)
    server.start()
    try:
        with clients(address) as client:
            one = client()
            one.send(FollowRequest(name="mes1", client="c"))
            refused = one.refused()
            assert (refused.reason, "there is no journal" in refused.detail) == ("unavailable", True)
            assert consumers.positions() == {}
            journal = Journal.open(folder, "line1")
            server.wake()
            assert one.follow().journal_id == journal.journal_id
            journal.close()
    finally:
        server.close()
        consumers.close()


def test_a_journal_that_cannot_be_read_keeps_sessions_and_says_so_to_replays_until_it_can(
    line: FollowedLine, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told = line.tell(GOOD)
    one = client()
    one.follow()
    assert one.events(1) == told
    path = line.folder / JOURNAL_FILE
    path.rename(path.with_name("elsewhere"))
    line.server.wake()
    replay = ReplayRequest(request_id="r", journal_id=line.journal.journal_id, after_seq=0, through_seq=1)
    other = client()
    other.send(replay)
    refused = other.refused()
    assert (refused.request_id, refused.reason) == ("r", "unavailable")
    assert one.heartbeat().last_seq == 1
    assert client().follow("late").last_seq == 1, "how far it was is known"
    path.with_name("elsewhere").rename(path)
    told += line.tell(DEFECT)
    assert one.events(1) == told[1:]
    other.send(replay)
    assert other.events(1) == told[:1]
    assert [record.levelname for record in caplog.records if record.name == "edge.delivery.durable.journal_watch"] == [
        "ERROR",
        "INFO",
    ]


def test_a_journal_that_has_gone_back_is_followed_on(
    line: FollowedLine, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody put an old copy in its place: what was acknowledged is more than there is."""
    line.tell(GOOD)
    line.journal.checkpoint()
    line.journal.close()
    path = line.folder / JOURNAL_FILE
    copy = path.read_bytes()
    line.journal = Journal.open(line.folder, "line1")
    line.tell(*[GOOD] * 4)
    one = client()
    one.follow()
    one.events(5)
    one.ack(5, line.journal.journal_id)
    wait_until(lambda: line.consumers.acked(line.journal.journal_id) == {"mes1": 5}, "it was acknowledged")
    line.journal.close()
    for file in line.folder.glob(f"{JOURNAL_FILE}*"):
        file.unlink()
    path.write_bytes(copy)
    line.server.wake()
    following = one.following()
    assert (following.acked_seq, following.last_seq) == (1, 1)
    assert "has acknowledged event 5, and the journal ends with 1" in caplog.text
    line.journal = Journal.open(line.folder, "line1")
    told = line.tell(DEFECT)
    assert one.events(1) == told
    wait_until(lambda: line.consumers.acked(line.journal.journal_id) == {"mes1": 1}, "it goes on from there")


def test_the_names_of_consumers_lost_a_new_one_starts_with_the_first_event_whatever_it_asks(
    line: FollowedLine, client: MakeClient
) -> None:
    told = line.tell(*[GOOD] * 3)
    (line.folder / "consumers.db.damaged").write_bytes(b"")
    one = client()
    assert one.follow(start="next").acked_seq == 0
    assert one.events(3) == told


@pytest.mark.parametrize("kind", [small_disk, failing_disk], ids=["tmpfs", "ext4"])
def test_on_a_disk_that_is_full_events_are_served_and_acknowledged(address: str, tmp_path: Path, kind: Any) -> None:
    """Its connections are opened anew on it, too."""
    with kind(tmp_path / "disk") as disk, FollowedLine(disk, address) as line, clients(address) as client:
        told = line.tell(*[GOOD] * 20)
        first = client()
        first.follow(window=5)
        assert first.events(5) == told[:5]
        fill(disk)
        first.ack(3, line.journal.journal_id)
        wait_until(lambda: line.consumers.acked(line.journal.journal_id) == {"mes1": 3}, "it is on the disk")
        assert first.events(3) == told[5:8]
        line.stop()
        line.start()
        again, new = client(), client()
        assert again.follow().acked_seq == 3
        assert again.events(17) == told[3:]
        again.ack(20, line.journal.journal_id)
        new.follow("new")
        assert new.events(20) == told
        wait_until(lambda: line.consumers.acked(line.journal.journal_id) == {"mes1": 20, "new": 0}, "on the disk")
        assert line.consumers.fault is None


def test_on_a_disk_that_has_failed_what_is_acknowledged_counts_until_the_line_ends(
    address: str, tmp_path: Path
) -> None:
    with failing_disk(tmp_path / "disk") as disk, FollowedLine(disk, address) as line, clients(address) as client:
        told = line.tell(*[GOOD] * 3)
        first, new = client(), client()
        first.follow()
        fail(disk)
        assert first.events(3) == told
        first.ack(3, line.journal.journal_id)
        wait_until(lambda: line.consumers.positions()["mes1"].acked_seq == 3, "it is in memory")
        wait_until(lambda: line.consumers.fault is not None, "it is said")
        assert line.consumers.acked(line.journal.journal_id) == {"mes1": 0}
        assert first.follow().acked_seq == 3
        new.send(FollowRequest(name="new", client="c"))
        refused = new.refused()
        assert (refused.reason, "cannot be" in refused.detail) == ("unavailable", True)


# Replays.


def replayed(client: Client, line: FollowedLine, after: int, through: int, **wanted: Any) -> tuple[Batch, list[Any]]:
    client.send(
        ReplayRequest(
            request_id="r", journal_id=line.journal.journal_id, after_seq=after, through_seq=through, **wanted
        )
    )
    reply, events = client.receive()
    assert isinstance(reply, Batch)
    assert reply.request_id == "r"
    return reply, events


def test_events_can_be_had_again_by_whoever_asks(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(GOOD, DEFECT, ALARM, GOOD, DEFECT, png=b"picture")
    bare = [type(each)(each.journal_id, each.seq, each.header) for each in told]
    one = client()
    assert replayed(one, line, 1, 4)[1] == bare[1:4]
    assert replayed(one, line, 1, 4, heatmaps=True)[1] == told[1:4]
    batch, events = replayed(one, line, 0, 5, topics=("verdict.top.DEFECT",))
    assert (events, batch.through_seq) == ([bare[1], bare[4]], 5)
    batch, events = replayed(one, line, 3, 2**60)
    assert (events, batch.through_seq, batch.last_seq) == (bare[3:], 5, 5)
    batch, events = replayed(one, line, 5, 5)
    assert (events, batch.through_seq) == ([], 5)
    line.journal.discard(2)
    batch, events = replayed(one, line, 0, 4)
    assert (events, batch.lost_through, batch.through_seq) == (bare[2:4], 2, 4)
    assert line.consumers.positions() == {}, "nothing is kept of it"


def test_a_long_replay_comes_in_batches_that_are_asked_for_one_by_one(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 2500)
    one = client()
    came, asked = [], 0
    while len(came) < 2500:
        batch, events = replayed(one, line, came[-1].seq if came else 0, 2500)
        assert batch.through_seq == events[-1].seq
        came += events
        asked += 1
    assert came == told
    assert asked > 2


def test_a_req_socket_can_ask_for_a_replay(line: FollowedLine) -> None:
    told = line.tell(GOOD, GOOD)
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        socket.connect(line.address)
        for _ in range(2):
            socket.send(to_bytes(ReplayRequest(journal_id=line.journal.journal_id, after_seq=0, through_seq=2)))
            parts = socket.recv_multipart()
            batch = reply_from(parts[0])
            assert isinstance(batch, Batch)
            assert events_of(batch, parts) == told


def test_a_replay_of_another_journal_is_refused(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    one.send(ReplayRequest(request_id="r", journal_id="b" * 32, after_seq=0, through_seq=1))
    refused = one.refused()
    assert (refused.request_id, refused.reason) == ("r", "other_journal")
    assert line.journal.journal_id in refused.detail


def test_who_asks_for_too_much_at_once_is_refused_and_others_are_served(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 50)
    greedy, one = client(), client()
    one.follow()
    assert one.events(50) == told
    replay = ReplayRequest(request_id="r", journal_id=line.journal.journal_id, after_seq=0, through_seq=50)
    count = 20 * REPLAYS_WAITING
    for _ in range(count):
        greedy.send(replay)
    later = line.tell(DEFECT)
    assert one.events(1) == later
    answered = refused = 0
    while not (refused and answered):  # some of each may be dropped, as it did not read them in time
        reply, _ = greedy.receive()
        refused += isinstance(reply, Refused) and reply.reason == "busy"
        answered += isinstance(reply, Batch)


# Bad requests.


def acked(name: str, journal_id: str, seq: int) -> bytes:
    return json.dumps({"type": "ack", "schema_version": 1, "name": name, "journal_id": journal_id, "seq": seq}).encode()


def test_what_cannot_be_acknowledged_is_refused_with_the_reason(line: FollowedLine, client: MakeClient) -> None:
    line.tell(*[GOOD] * 5)
    journal_id = line.journal.journal_id
    one = client()
    one.send(acked("mes1", journal_id, 0))
    assert one.refused().reason == "not_following"
    one.follow(window=2)
    one.events(2)
    for bad, reason, words in [
        (acked("mes1", journal_id, 3), "not_sent", "event 3 was acknowledged, and only those up to 2 were sent"),
        (acked("mes1", "b" * 32, 1), "other_journal", journal_id),
        (acked("mes2", journal_id, 1), "not_following", "does not follow as mes2"),
    ]:
        one.send(bad)
        refused = one.refused()
        assert refused.reason == reason
        assert words in refused.detail
    assert line.consumers.positions()["mes1"].acked_seq == 0
    one.ack(2, journal_id)
    one.ack(1, journal_id)  # an old one does no harm
    one.events(2)
    assert line.consumers.positions()["mes1"].acked_seq == 2


MALFORMED = [
    (b"", "malformed"),
    (b"follow", "malformed"),
    (b"\xff\xfe", "malformed"),
    (b'{"type":"follow","schema_version":2,"name":"mes1","client":"c"}', "version"),
    (b'{"type":"follow","schema_version":1,"name":"mes 1","client":"c"}', "malformed"),
    (b'{"type":"follow","schema_version":1,"name":"mes1","client":"c","topic":"alarm"}', "malformed"),
    (b'{"type":"batch","schema_version":1}', "malformed"),
    (b'{"x":' + b"[" * 60_000, "malformed"),
]


@pytest.mark.parametrize(("request_", "reason"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_request_is_refused_counted_and_starts_nothing(
    line: FollowedLine, client: MakeClient, request_: bytes, reason: str
) -> None:
    one = client()
    one.send(request_)
    assert one.refused().reason == reason
    assert line.server.refused == {reason: 1}
    assert line.server.states() == {}
    one.follow()


@pytest.mark.parametrize("delimiter", [[], [b""]])
def test_a_delimiter_is_tolerated_and_given_back(
    line: FollowedLine, client: MakeClient, delimiter: list[bytes]
) -> None:
    told = line.tell(GOOD)
    one = client()
    one.socket.send_multipart([*delimiter, to_bytes(FollowRequest(name="mes1", client="c"))])
    for expected in (1, 3):
        parts = one.socket.recv_multipart()
        assert parts[: len(delimiter)] == delimiter
        assert len(parts) == len(delimiter) + expected
    assert parts[-2] == told[0].header


def test_messages_of_too_many_parts_are_refused(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    for count in (2, 3, 10_000):
        one.socket.send_multipart([b"x"] * count)
        assert one.refused() == Refused(
            reason="malformed", detail="a message of too many parts came; send one JSON object"
        )


def test_who_sends_too_much_is_hung_up_on(line: FollowedLine, client: MakeClient) -> None:
    large, other = client(), client()
    other.follow("other")
    with large.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        large.send(b" " * (LONGEST_REQUEST_BYTES + 1))
        assert monitor.poll(int(WITHIN_SECONDS * 1000)), "nobody hung up"
        large.socket.disable_monitor()
    other.heartbeat()


def test_bytes_that_are_no_zeromq_harm_nobody(line: FollowedLine, client: MakeClient) -> None:
    host, _, port = line.address.removeprefix("tcp://").partition(":")
    with sockets.create_connection((host, int(port)), WITHIN_SECONDS) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: line\r\n\r\n" * 10)
        one = client()
        one.follow()
        one.heartbeat()


def test_refusals_are_logged_now_and_then(
    line: FollowedLine, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    one = client()
    for _ in range(200):
        one.send(b'{"type":"\x1b[2J"}')
        one.refused()
    assert line.server.refused == {"malformed": 200}
    logged = [record for record in caplog.records if record.name == "edge.delivery.security.refusals"]
    assert 1 <= len(logged) < 10, "whoever sends nonsense could fill the disk with it"
    assert logged[0].getMessage().isprintable()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FollowedLine, Client]]:
    """A client of one line for many examples."""
    folder = tmp_path_factory.mktemp("follow")
    with FollowedLine(folder / "journal", f"ipc://{folder}/socket", 3600) as line, clients(line.address) as client:
        line.tell(*[GOOD] * 20)
        yield line, client()


SEQS = st.integers(-2, 30) | st.integers()
ANY_NAME = st.sampled_from(["mes1", "mes2", "", "a b"])


def objects(journal_id: str) -> st.SearchStrategy[bytes]:
    """What is a request, or nearly."""
    ids = st.sampled_from([journal_id, "other"])
    return st.fixed_dictionaries(
        {"type": st.sampled_from(["follow", "ack", "replay", "forget", "x"]), "schema_version": st.integers(0, 2)},
        optional={
            "name": ANY_NAME,
            "client": st.sampled_from(["a", "b", "c"]),
            "window": st.integers(-1, 1001),
            "topics": st.lists(st.sampled_from(["", "verdict.", "alarm"]), max_size=3),
            "heatmaps": st.booleans(),
            "start": st.sampled_from(["first", "next", "last"]),
            "journal_id": ids,
            "seq": SEQS,
            "after_seq": SEQS,
            "through_seq": SEQS,
            "request_id": st.text("r", max_size=3),
        },
    ).map(lambda content: json.dumps(content).encode())


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_whatever_comes_the_server_lives_and_says_only_what_is_of_the_protocol(
    lasting: tuple[FollowedLine, Client], data: st.DataObject
) -> None:
    line, client = lasting
    part = objects(line.journal.journal_id) | st.binary(max_size=60) | st.just(b"")
    for parts in data.draw(st.lists(st.lists(part, min_size=1, max_size=3), min_size=1, max_size=4)):
        client.socket.send_multipart(parts)
    client.send(ForgetRequest(request_id="the end", name="nobody"))
    while True:
        parts = client.socket.recv_multipart()
        if not parts[0]:
            parts = parts[1:]
        reply = reply_from(parts[0])
        if isinstance(reply, Batch):
            events_of(reply, parts)
        if isinstance(reply, Refused) and reply.request_id == "the end":
            return
        assert not isinstance(reply, Refused) or reply.reason in {
            "malformed", "version", "superseded", "not_following", "not_sent", "other_journal", "unknown_consumer",
            "busy",
        }  # fmt: skip


def test_a_fault_of_ours_is_logged_and_the_others_are_served_on(
    line: FollowedLine, client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = client()
    one.follow()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(line.server, "_forget", fail)
    for _ in range(5):
        one.send(ForgetRequest(name="mes1"))
    told = line.tell(GOOD)
    assert one.events(1) == told
    assert caplog.text.count("boom") >= 1
    assert len([record for record in caplog.records if record.name == "edge.delivery.durable.follow_server"]) == 1


# Starting and stopping.


def test_what_was_acknowledged_outlives_a_restart(line: FollowedLine, client: MakeClient) -> None:
    told = line.tell(*[GOOD] * 5)
    one = client()
    one.follow()
    one.events(5)
    one.ack(3, line.journal.journal_id)
    wait_until(lambda: line.consumers.positions()["mes1"].acked_seq == 3, "it came")
    line.stop()
    line.start()
    again = client()
    assert again.follow().acked_seq == 3
    assert again.events(2) == told[3:]


def test_what_was_journalled_last_is_sent_before_the_server_ends(line: FollowedLine, client: MakeClient) -> None:
    one = client()
    one.follow()
    line.server._wake_up = lambda: None  # type: ignore[method-assign]  # nobody tells it
    told = line.tell(*[GOOD] * 5)
    del line.server._wake_up
    line.server.close()
    assert one.events(5) == told


def test_an_address_in_use_is_a_delivery_error_and_stays_with_its_owner(
    line: FollowedLine, client: MakeClient, tmp_path: Path
) -> None:
    other = FollowServer(line.address, line.folder, line.consumers)
    with pytest.raises(DeliveryError, match=r"is another line using it.*journal\.bind"):
        other.start()
    client().follow()


def test_a_closed_server_leaves_no_descriptor_and_no_thread_and_its_address_free(tmp_path: Path, address: str) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        with FollowedLine(tmp_path / "journal", address) as line, clients(address) as client:
            line.tell(GOOD)
            one = client()
            one.follow()
            one.batch()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_waking_and_closing_may_be_done_at_any_time(tmp_path: Path, address: str) -> None:
    consumers = Consumers(tmp_path)
    server = FollowServer(address, tmp_path, consumers)
    server.wake()
    server.close()
    server.start()
    server.wake()
    server.close()
    server.close()
    server.wake()
    consumers.close()
