"""`make chaos`: nothing is lost under kills, cut links and a full disk, and no process outlives the run."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import Counts
from tests.system.chaos.clients import CLIENTS, Client, ClientPlan
from tests.system.chaos.expected import Broken, Expected, Stored
from tests.system.chaos.plan import DISK, LINE, LINK_FAULTS, Fault, kills_in, make_plan
from tests.system.chaos.records import Began, Got, Item, Record, StatusReceived
from tests.system.chaos.result import Chaos, Verified, faults, measure_chaos, to_facts, verify

WITHIN_SECONDS = 60.0
ROOT = Path(__file__).parents[2]
CHAOS = [sys.executable, "-m", "tests.system.chaos"]

# A run.

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


# All processes are ended.


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


def test_a_process_can_be_killed_and_started_again_and_is_ended_at_the_end(tmp_path: Path) -> None:
    log, program = tmp_path / "log", "print('here', flush=True); import time; time.sleep(1e6)"
    with WatchedProcess("sleeper", [sys.executable, "-c", program], log) as sleeper:
        assert not sleeper.runs
        sleeper.start()
        until_written(log, "here\n")
        first = sleeper.pid
        assert sleeper.pause() == first
        sleeper.kill()
        assert not sleeper.runs
        sleeper.start()
        sleeper.resume(first)  # a process that was killed before
        until_written(log, "here\nhere\n")
        assert sleeper.check() is None
        process = os.pidfd_open(sleeper.pid)
    assert has_ended(process)


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
LINKS = [link for client in CLIENTS for link in client.links]


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
    by_link: dict[str, list[Fault]] = defaultdict(list)
    for fault in plan:
        if fault.kind in LINK_FAULTS:
            by_link[fault.target].append(fault)
    if seconds >= 60:
        assert set(killed) == {LINE, *KILLABLE}
        assert {fault.kind for fault in plan} >= set(LINK_FAULTS)
        assert len(by_link) >= len(LINKS) - 2
    for one in by_link.values():
        assert all(before.at_s + before.for_s < after.at_s for before, after in pairwise(one))


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
        clients[plan.name] = client = Client(plan, {}, folder, folder / "hurry")
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


def chaos_with(broken: list[Broken], ended: list[str], noticed: bool | None = None) -> Chaos:
    return Chaos(
        bundle="b", commit=None, seed=1, seconds=1, rate_fps=200, plan=[], kills={}, faults={}, boots=1, reporting_s=1,
        events=100, events_per_s=100, live_only=0, unreceived=0, full_disk_noticed=noticed, recorded_again_s=None,
        drained_s=1, durable={}, live={}, line=broken, ended=ended,
    )  # fmt: skip


def test_broken_promises_ended_processes_and_an_unnoticed_full_disk_are_faults() -> None:
    assert faults(chaos_with([], [])) == faults(chaos_with([], [], True)) == []
    lost = Broken("mes", "lost", "1 of 5 events did not come: 1234-3")
    assert faults(chaos_with([lost], ["mes ended with exit code 1"])) == [
        "mes: 1 of 5 events did not come: 1234-3 (lost)",
        "mes ended with exit code 1",
    ]
    assert len(faults(chaos_with([lost] * 100, []))) == 21
    assert "on the full disk" in faults(chaos_with([], [], False))[0]
    assert "100 a second, NOT THE REQUESTED 200" in to_facts(chaos_with([], []))["events"]
