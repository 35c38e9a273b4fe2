"""`make chaos`: no event is lost under faults, each broken promise is found, and no process outlives a run."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.publisher import Count
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import (
    AlarmEvent,
    BundleName,
    CountedEvent,
    Counts,
    JournalEvent,
    Times,
    VerdictEvent,
    header_of,
)
from tests.system.chaos.__main__ import Chaos, Verified, faults, measure_chaos, verify
from tests.system.chaos.checks import (
    Broken,
    Expected,
    Stored,
    check_durable,
    check_frames,
    check_journal,
    check_live,
    check_reports,
    unreceived_events,
)
from tests.system.chaos.clients import (
    CLIENTS,
    Began,
    Client,
    ClientPlan,
    Got,
    Item,
    Missed,
    Record,
    StatusReceived,
    head_of,
)
from tests.system.chaos.run import DISK, LINE, LINK_FAULTS, Fault, kills_in, make_plan
from tests.system.chaos.tcp_proxy import Link, Proxy

WITHIN_SECONDS = 60.0
ROOT = Path(__file__).parents[2]
CHAOS = [sys.executable, "-m", "tests.system.chaos"]

FEW = (
    ClientPlan(name="gateway", kind="Follower", killed=True),
    ClientPlan(name="screen", kind="Subscriber"),
)


def test_under_a_kill_a_cut_link_and_a_full_disk_a_few_clients_lose_nothing(bundle: Bundle) -> None:
    plan = [
        Fault(0.1, "cut", "screen events", 0.1),
        Fault(0.1, "full", DISK, 0.0),
        Fault(0.2, "killed", "gateway", 0.0),
        Fault(0.3, "killed", LINE, 0.0),
    ]
    output: list[str] = []
    found = measure_chaos(bundle, seed=1, seconds=0.4, rate_fps=50, report_line=output.append, clients=FEW, plan=plan)
    assert faults(found) == []
    assert found.kills == {"line": 1, "clients": 1}
    has_disk = found.full_disk_noticed is not None
    assert has_disk == (not any("NO DISK CAN BE MOUNTED" in line for line in output))
    assert found.faults == {"killed": 2, "cut": 1, **({"full": 1} if has_disk else {})}
    assert found.boots >= 3, "one before the kill, one after it, one that takes no frames"
    assert found.durable["gateway"].events == found.durable["gateway"].wanted == found.events > 0
    assert found.live["screen"].events > 0


@pytest.mark.long
def test_under_all_faults_all_clients_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    arguments = ["--seconds", "10", "--rate", "60", "--seed", "5", "--out", str(out)]
    done = subprocess.run([*CHAOS, *arguments], cwd=ROOT, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 5: " in done.stderr
    found = msgspec.json.decode(out.read_bytes(), type=Chaos)
    assert (found.broken, found.ended) == ([], [])
    assert sum(found.kills.values()) >= 4
    assert len(found.durable) == 5
    assert all(one.events == one.wanted > 0 for one in found.durable.values())


def until_written(file: Path, text: str) -> None:
    """Wait until a file contains a text."""
    give_up = time.monotonic() + WITHIN_SECONDS
    while not (file.exists() and text in file.read_text()):
        assert time.monotonic() < give_up, f"{text!r} was not written"
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Return whether the process of this descriptor has ended, after a wait if necessary."""
    try:
        return bool(select.select([process], [], [], WITHIN_SECONDS)[0])
    finally:
        os.close(process)


def test_a_process_that_ends_by_itself_is_reported_and_keeps_its_exit_code(tmp_path: Path) -> None:
    with WatchedProcess("quitter", [sys.executable, "-c", "raise SystemExit('enough')"], tmp_path / "log") as quitter:
        quitter.start()
        assert quitter.wait() == 1
        assert not quitter.runs
        for _ in range(2):
            with pytest.raises(BenchError, match="quitter ended with exit code 1: its log ends with: enough"):
                quitter.require_running()
        quitter.start()
        os.waitid(os.P_PID, quitter.pid, os.WEXITED | os.WNOWAIT)
        assert "exit code 1" in str(quitter.check())
        assert quitter.check() is None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short path: paths of the run's sockets below it may have at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_behind(short_path: Path, number: signal.Signals) -> None:
    output = short_path / "output"
    command = [*CHAOS, "--seconds", "600", "--rate", "20", "--seed", "1"]
    with (
        output.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(short_path)}
        ) as process,
    ):
        try:
            until_written(output, "s  ")
            tasks = Path(f"/proc/{process.pid}/task")
            pids = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
            started = [os.pidfd_open(pid) for pid in pids]
            process.send_signal(number)
            assert process.wait(WITHIN_SECONDS) == (-number if number == signal.SIGKILL else 130)
        finally:
            process.kill()
            for disk in short_path.glob("heatline-chaos-*/disk") if number == signal.SIGKILL else ():
                subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)
    assert len(started) >= 5
    assert all(map(has_ended, started))
    if number != signal.SIGKILL:
        assert list(short_path.iterdir()) == [output]
        assert str(short_path) not in Path("/proc/mounts").read_text()


# The plan.


KILLABLE = [client.name for client in CLIENTS if client.killed]
STOPPABLE = [client.name for client in CLIENTS if client.stopped]
LINKS = [client.link for client in CLIENTS]


@given(st.integers(0, 2**32), st.sampled_from([5.0, 60.0, 300.0]), st.booleans())
def test_a_seed_always_gives_the_same_plan_with_the_promised_number_of_faults(
    seed: int, seconds: float, has_disk: bool
) -> None:
    def plan_of(seed: int) -> list[Fault]:
        return make_plan(seed, seconds, killable=KILLABLE, stoppable=STOPPABLE, links=LINKS, has_disk=has_disk)

    plan = plan_of(seed)
    assert plan == plan_of(seed) != plan_of(seed + 1)
    times = [fault.at_s for fault in plan]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= seconds
    assert sum(fault.kind == "full" for fault in plan) == has_disk
    killed = [fault.target for fault in plan if fault.kind.startswith("killed")]
    assert kills_in(plan) >= (20 if seconds >= 60 else 4)
    assert killed.count(LINE) >= (5 if seconds >= 60 else 2)
    if seconds >= 60:
        assert set(killed) == {LINE, *KILLABLE}
        assert {fault.kind for fault in plan} >= set(LINK_FAULTS)
    for link in LINKS:
        of_link = [fault for fault in plan if fault.target == link]
        assert all(before.at_s + before.for_s < after.at_s for before, after in pairwise(of_link))


# The result.


def verified(folder: Path, durable: Sequence[int], live: Sequence[int], through: int = 5) -> Verified:
    """Verify two clients that received some of the five events in the journal."""
    headers = [
        msgspec.json.encode({
            "type": "verdict", "boot_id": "boot1", "seq": seq, "journal_id": "1234", "previous_seq": seq - 1,
            "camera": "left", "verdict": "GOOD", "frame_id": seq, "frame_number": seq,
            "times": {"captured_at_ns": 1 + seq},
        })
        for seq in range(1, 6)
    ]  # fmt: skip
    counts = Counts(journal_id="1234", journalled={"verdict.left.GOOD": 5})
    clients = {}
    for plan, got in zip(FEW, (durable, live), strict=True):
        clients[plan.name] = client = Client(plan, "", folder, folder / "hurry")
        items: list[Item] = [Began(at_ns=1), *(Got(at_ns=2, header=msgspec.Raw(headers[seq - 1])) for seq in got)]
        with contextlib.closing(Record(client.record)) as record:
            for item in [*items, *([] if plan.durable else [StatusReceived(at_ns=3, boot_id="boot1", counts=counts)])]:
                record.add(item)
    stored = [Stored(seq, "verdict.left.GOOD", header) for seq, header in enumerate(headers, 1)]
    return verify(Expected({"1234": stored}, headers), clients, {"1234": through})


def test_the_received_events_of_each_client_are_verified(tmp_path: Path) -> None:
    found = verified(tmp_path, [1, 2, 3, 2, 3, 4, 5], [2, 3, 4, 5])
    assert found.broken == []
    gateway = found.durable["gateway"]
    assert (gateway.events, gateway.duplicates, gateway.wanted) == (5, 2, 5)
    assert found.live["screen"].events == 4
    (tmp_path / "b").mkdir()
    found = verified(tmp_path / "b", [1, 2, 4], [1, 2, 5], through=4)
    assert [(one.who, one.promise) for one in found.broken] == [("gateway", "lost"), ("screen", "gap")]
    assert found.durable["gateway"].wanted == 4, "events after the clients were ended are not lost"


# The rules, one by one.


JOURNAL = "1234"
EVERYTHING = ("",)


def verdict(number: int, camera: str = "left", boot: str = "boot1", **changed: Any) -> VerdictEvent:
    given: dict[str, Any] = {"verdict": "GOOD", "frames": 1, "frame_id": number, "reason": None, **changed}
    last = given["frame_id"] + given["frames"] - 1 if given["frames"] > 1 else None
    times = Times(captured_at_ns=1000 * int(boot[-1]) + number, captured_monotonic_ns=1)
    return VerdictEvent(
        boot_id=boot, seq=0, camera=camera, last_frame_id=last, frame_number=number, times=times, score_threshold=0,
        evidence_threshold=0, precision="f32", bundle=BundleName(name="darkness", version="1", digest="0" * 64),
        latency_ms=1, acting=True, previous_seq=0, **given,
    )  # fmt: skip


def crashed(number: int, boot: str, frame_id: int, **changed: Any) -> VerdictEvent:
    """Return a boot's event of a frame that was in flight when the boot before was killed."""
    of: dict[str, Any] = {"boot": boot, "frame_id": frame_id, "reason": "dropped.crashed", "verdict": "NO_VERDICT"}
    return verdict(number, **of, **changed)


def alarm() -> AlarmEvent:
    return AlarmEvent(
        boot_id="boot1", seq=0, at_ns=1, line="line", camera="left", alarm="silent", detail="", active=True,
        began_at_ns=1, acting=True, previous_seq=0,
    )  # fmt: skip


def unrecorded(events: int, of_boot: str = "boot1", first_seq: int | None = None) -> JournalEvent:
    """Return the journal's report of events that it does not hold: their numbers, or after a kill only how many."""
    known: dict[str, Any] = {} if first_seq is None else {"first_seq": first_seq, "last_seq": first_seq + events - 1}
    return JournalEvent(
        boot_id="boot3" if first_seq is None else "boot1", seq=0, at_ns=1, line="line", detail="", events=events,
        kind="unrecorded" if first_seq is None else "recording", of_boot=of_boot, previous_seq=0, **known,
    )  # fmt: skip


def counted(events: Sequence[CountedEvent], journal_id: str | None = JOURNAL) -> list[bytes]:
    """Headers as a line sends them."""
    count = Count(journal_id)
    return [header_of(count.next(event)) for event in events]


def stored_of(headers: Sequence[bytes]) -> list[Stored]:
    return [Stored(head_of(header).seq, head_of(header).topic, header) for header in headers]


def expected_of(headers: Sequence[bytes], received: Sequence[bytes] = (), boots: Sequence[str] = ()) -> Expected:
    return Expected({JOURNAL: stored_of(headers)}, received, boots)


def promises(broken: Sequence[Broken]) -> list[str]:
    return [one.promise for one in broken]


def got(headers: Sequence[bytes]) -> list[Item]:
    return [Got(at_ns=0, header=msgspec.Raw(header)) for header in headers]


def missed(topic: str, after_seq: int, through_seq: int, boot: str = "boot1") -> Missed:
    return Missed(at_ns=0, journal_id=JOURNAL, boot_id=boot, topic=topic, after_seq=after_seq, through_seq=through_seq)


HEADERS = counted([verdict(1), verdict(2), verdict(3), verdict(1, "right")])
A, B, C, RIGHT = HEADERS
OTHER_BYTES = B.replace(b":2", b": 2")
(FOREIGN,) = counted([verdict(7)], "5678")
(UNJOURNALLED,) = counted([verdict(8)], None)
KNOWS = missed("verdict.left.GOOD", 1, 2)


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        ([A, B, C], []),
        ([A, B, A, B, C], []),
        ([A, C], ["lost"]),
        ([A, C, B], ["order"]),
        ([A, OTHER_BYTES, C], ["bytes", "lost"]),
        ([A, B, OTHER_BYTES, C], ["bytes"]),
        ([A, B, C, RIGHT], ["unsubscribed"]),
        ([A, B, C, FOREIGN, UNJOURNALLED, b"{"], ["unknown"] * 3),
    ],
)
def test_a_durable_consumer_must_get_all_events_of_its_topics_in_order(came: list[bytes], broken: list[str]) -> None:
    found = check_durable("mes", ("verdict.left.",), came, expected_of(HEADERS))
    assert promises(found.broken) == broken


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        (got([A, B, C]), []),
        ([*got([A]), KNOWS, *got([C])], []),
        ([*got([A]), Began(at_ns=0), *got([C])], []),
        (got([A, C]), ["gap"]),
        ([*got([A, B]), KNOWS, *got([C])], ["gap"]),
        (got([A, A, B, C]), ["order"]),
        (got([A, C, B]), ["order"]),
        (got([A, OTHER_BYTES, C]), ["bytes"]),
        (got([A, B, C, RIGHT]), ["unsubscribed"]),
        (got([FOREIGN]), ["unknown"]),
    ],
)
def test_a_live_subscriber_must_report_what_it_missed(came: list[Item], broken: list[str]) -> None:
    assert promises(check_live("screen", ("verdict.left.",), came, expected_of(HEADERS)).broken) == broken


def test_a_subscriber_must_receive_the_journals_report_of_a_killed_boot() -> None:
    kept = counted([verdict(1), verdict(1, boot="boot3"), unrecorded(2, "boot2"), verdict(2, boot="boot3")])
    unheld = counted([verdict(1, boot="boot2"), verdict(2, boot="boot2")], None)
    expected = expected_of(kept, unheld, ["boot1", "boot2", "boot3"])
    items = got(kept)
    for came in (items, [*items[:2], missed("journal", 0, 3, "boot3"), items[3]]):
        found = check_live("screen", EVERYTHING, came, expected)
        assert (found.broken, found.beyond) == ([], 2)
    silent = check_live("screen", EVERYTHING, [*items[:2], items[3]], expected)
    assert any("a killed boot" in one.what for one in silent.broken)
    assert check_live("lamp", ("verdict.left.",), [*items[:2], items[3]], expected).broken == [], "not subscribed"


STORED = stored_of(counted([verdict(1), verdict(2), alarm(), verdict(3)]))
SHIFTED = msgspec.structs.replace(STORED[3], header=STORED[3].header.replace(b'"previous_seq":2', b'"previous_seq":1'))


@pytest.mark.parametrize(
    ("stored", "broken"),
    [
        (STORED, False),
        (STORED[2:], False),  # retention deletes the oldest
        ([STORED[0], *STORED[2:]], True),
        ([STORED[0], *STORED], True),
        ([*STORED[:2], msgspec.structs.replace(STORED[2], topic="change"), STORED[3]], True),
        ([*STORED[:2], msgspec.structs.replace(STORED[2], header=STORED[3].header), STORED[3]], True),
        ([*STORED[:3], SHIFTED], True),
    ],
)
def test_a_journal_must_have_no_gap_and_no_wrong_topic(stored: list[Stored], broken: bool) -> None:
    assert set(promises(check_journal(Expected({JOURNAL: stored}, [])))) == ({"journal"} if broken else set())


def test_events_that_are_sent_live_as_journalled_must_be_in_the_journal() -> None:
    assert expected_of([A, B], [A, B]).broken == []
    assert promises(expected_of([A], [A, B]).broken) == ["unknown"]
    assert promises(expected_of([A, B], [OTHER_BYTES]).broken) == ["bytes"]


FIVE = [verdict(number) for number in range(1, 6)]
AGAIN = msgspec.structs.replace(verdict(1), boot_id="boot2", reason="dropped.crashed", verdict="NO_VERDICT")


@pytest.mark.parametrize(
    ("events", "received", "broken"),
    [
        ([verdict(1), verdict(1, "right"), verdict(2, frames=5), verdict(7), crashed(1, "boot2", 8),
          crashed(2, "boot2", 9, frames=2), verdict(4, boot="boot2", frame_id=1)], [], 0),
        ([verdict(1), verdict(3)], [], 1),
        ([verdict(2)], [], 1),
        ([verdict(1), verdict(2), crashed(1, "boot2", 4)], [], 1),
        ([verdict(1), AGAIN], [], 1),
        ([verdict(1), msgspec.structs.replace(verdict(1), times=verdict(2).times)], [], 1),
        # Frames of live-only events count if a subscriber received them, or if the journal reports them.
        ([*FIVE[:1], unrecorded(3, first_seq=1), *FIVE[4:]], FIVE[1:4], 0),
        ([*FIVE[:1], unrecorded(3), *FIVE[4:]], [], 0),
        ([*FIVE[:1], *FIVE[4:]], [], 1),
        ([*FIVE[:1], unrecorded(3, "boot7"), *FIVE[4:]], [], 1),
        # The events were sent, but the killed boot had not logged that.
        ([verdict(1), unrecorded(1), crashed(1, "boot3", 3)], [verdict(2), verdict(3)], 0),
    ],
)  # fmt: skip
def test_each_frame_must_be_reported_once_over_all_boots(
    events: list[CountedEvent], received: list[CountedEvent], broken: int
) -> None:
    expected = expected_of(counted(events), counted(received, None))
    assert len(check_frames(expected, unreceived_events(expected))) == broken


def test_the_journal_must_report_how_many_events_it_does_not_hold() -> None:
    unheld = counted([verdict(1), verdict(2, frames=3), alarm(), verdict(5)], None)
    for enough in ([unrecorded(4, first_seq=1)], [unrecorded(5)], [unrecorded(2, first_seq=1), unrecorded(1)]):
        assert check_reports(expected_of(counted(enough), unheld)) == []
    for too_few in ([unrecorded(3, first_seq=1)], [unrecorded(4)], [unrecorded(5, "boot7")], [verdict(4)]):
        assert set(promises(check_reports(expected_of(counted(too_few), unheld)))) == {"report"}


WITHIN_SECONDS = 30.0
# The proxy.


FOR_EVER = 1e6


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture
def link(server: socket.socket) -> Iterator[Link]:
    with Proxy() as proxy:
        yield linked(proxy, server)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WITHIN_SECONDS)
    return listener


def linked(proxy: Proxy, server: socket.socket) -> Link:
    return proxy.link("127.0.0.1", server.getsockname()[1])


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), WITHIN_SECONDS)


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(WITHIN_SECONDS)
    return connection


@contextlib.contextmanager
def connected(link: Link, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect through the link; return the client's socket and the server's."""
    before = link.connected
    with connect(link) as client, accept(server) as at_server:
        until_done(lambda: link.connected > before)  # the proxy has connected both sides
        yield client, at_server


def received(end: socket.socket, count: int) -> bytes:
    """Receive this many bytes, or fewer if the connection ends before."""
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def until_done(done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WITHIN_SECONDS
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def nothing_came(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    finally:
        end.settimeout(WITHIN_SECONDS)
    return False


def test_a_cut_link_ends_both_and_refuses_connections_until_it_is_healed(server: socket.socket, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.cut()
        assert (client.recv(1), at_server.recv(1)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    link.heal()
    with connected(link, server) as (client, at_server):
        client.sendall(b"again")
        assert received(at_server, 5) == b"again"


@pytest.mark.parametrize(
    ("hold", "release"),
    [
        (Link.silence, Link.heal),
        (lambda link: link.delay(FOR_EVER), lambda link: link.delay(0.01)),
        (lambda link: link.throttle(1 / FOR_EVER), Link.heal),
    ],
    ids=["silent", "delayed", "throttled"],
)
def test_bytes_that_a_link_holds_back_come_completely_later(
    hold: Callable[[Link], None], release: Callable[[Link], None], server: socket.socket, link: Link
) -> None:
    with connected(link, server) as (client, at_server):
        hold(link)
        client.sendall(b"a pulled cable")
        until_done(lambda: link.held_bytes >= 13)  # a throttled link lets the first byte through
        through = received(at_server, 14 - link.held_bytes) if link.held_bytes < 14 else b""
        assert nothing_came(at_server)
        release(link)
        assert through + received(at_server, 14 - len(through)) == b"a pulled cable"
