"""`heatline bench chaos`: that all of it runs, that what it starts is gone at the end, and that it finds what is lost.

How long anything takes is not tested.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from bench.chaos.actor import Actor
from bench.chaos.cast import Part, Player
from bench.chaos.chaos import Chaos, faults, judge, measure_chaos, to_facts
from bench.chaos.disk import small_disk
from bench.chaos.plan import LINE, Fault
from bench.chaos.records import Began, Got, Heard, Item, Record
from bench.chaos.run import Seen
from bench.chaos.truth import Broken, Kept, Truth
from edge.bundle import Bundle
from edge.delivery.messages import Counts
from edge.errors import BenchError

WITHIN_SECONDS = 60.0
HEATLINE = Path(sys.executable).with_name("heatline")
SLEEPER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(1e6)")


def until_said(file: Path, words: str) -> None:
    give_up = time.monotonic() + WITHIN_SECONDS
    while not (file.exists() and words in file.read_text()):
        assert time.monotonic() < give_up, f"{words!r} was not said"
        time.sleep(0.01)


# A run.

FEW = (
    Part(name="gateway", kind="Follower", killed=True),
    Part(name="screen", kind="Subscriber", replay=True),
)
TWO_KILLS = [Fault(0.3, "killed", "gateway", 0.0), Fault(0.5, "killed", LINE, 0.0)]


@pytest.mark.long
def test_a_line_and_a_consumer_that_are_killed_lose_nothing(bundle: Bundle) -> None:
    said: list[str] = []
    found = measure_chaos(bundle, "f32", seed=1, seconds=0.6, rate_fps=50, say=said.append, cast=FEW, plan=TWO_KILLS)
    assert faults(found) == []
    assert found.kills == {"line": 1, "clients": 1}
    assert found.faults == {"killed": 2}
    assert found.boots >= 3, "one before the kill, one after it, one that takes no frames"
    assert found.durable["gateway"].events == found.durable["gateway"].wanted == found.events > 20
    assert found.live["screen"].events > 0
    assert to_facts(found)["promises"] == "all kept"
    assert [line for line in said if "seed 1: 2 faults, 2 kills" in line] != []


@pytest.mark.long
def test_under_all_faults_every_promise_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    done = subprocess.run(
        [HEATLINE, "bench", "chaos", "--seconds", "10", "--rate", "60", "--seed", "5", "--out", out],
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "seed 5: " in done.stderr
    found = msgspec.json.decode(out.read_bytes(), type=Chaos)
    assert (found.broken, found.ended) == ([], [])
    assert sum(found.kills.values()) >= 4
    assert all(one.events == one.wanted == found.durable[name].wanted > 0 for name, one in found.durable.items())
    assert len(found.durable) == 5
    assert "all kept" in done.stdout


# What it starts is gone at the end.


@contextmanager
def under_way(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A bench whose line has told something."""
    said = folder / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            [HEATLINE, "bench", "chaos", "--seconds", "600", "--rate", "20", "--seed", "1"],
            text=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    try:
        until_said(said, "s  ")
        yield process
    finally:
        process.kill()
        process.wait()


def started_by(process: "subprocess.Popen[str]") -> list[int]:
    """Descriptors of the processes that it has started."""
    tasks = Path(f"/proc/{process.pid}/task")
    pids = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    found = []
    for pid in pids:
        found.append(os.pidfd_open(pid))
    assert len(found) >= 5
    return found


def assert_gone(processes: list[int]) -> None:
    for process in processes:
        assert select.select([process], [], [], WITHIN_SECONDS)[0], "a process outlives the bench"
        os.close(process)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with under_way(tmp_path) as process:
        started = started_by(process)
        process.send_signal(number)
        assert process.wait(WITHIN_SECONDS) == 130
    assert_gone(started)
    assert list(tmp_path.iterdir()) == [tmp_path / "said"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.mark.long
def test_a_bench_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    try:
        with under_way(tmp_path) as process:
            started = started_by(process)
            process.kill()
            process.wait()
            assert_gone(started)
    finally:
        for disk in tmp_path.glob("heatline-chaos-*/disk"):
            subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)


def test_an_actor_is_killed_stopped_and_started_again_and_is_gone_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Actor("sleeper", SLEEPER, log) as actor:
        assert not actor.runs
        actor.start()
        until_said(log, "here\n")
        first = actor.pid
        assert actor.stop() == first
        actor.kill()
        assert not actor.runs
        actor.start()
        actor.go_on(first)  # that was another life
        until_said(log, "here\nhere\n")
        assert actor.check() is None
        process = os.pidfd_open(actor.pid)
    assert_gone([process])


def test_an_actor_that_ends_by_itself_is_told_of_with_what_it_said_last(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('it cannot go on')"]
    with Actor("mes", command, tmp_path / "log") as actor:
        actor.start()
        process = os.pidfd_open(actor.pid)
        assert select.select([process], [], [], WITHIN_SECONDS)[0]
        os.close(process)
        assert actor.check() == "mes ended with exit code 1: its log ends with: it cannot go on"
        assert not actor.runs
        assert actor.check() is None


def test_an_actor_that_does_not_end_is_killed_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.chaos.actor.END_WITHIN_S", 0.1)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(1e6)"
    with Actor("deaf", [sys.executable, "-c", deaf], tmp_path / "log") as actor:
        actor.start()
        until_said(tmp_path / "log", "here")
        with pytest.raises(BenchError, match="deaf did not end"):
            actor.end()
        assert not actor.runs


def test_a_small_disk_is_full_once_filled_and_has_room_once_freed(tmp_path: Path) -> None:
    said: list[str] = []
    with small_disk(tmp_path / "disk", 1, said.append) as disk:
        if disk is None:
            pytest.skip(f"no disk can be mounted here: {said}")
        (disk.path / "kept").write_bytes(bytes(100_000))
        disk.fill()
        assert os.statvfs(disk.path).f_bavail == 0
        (disk.path / "kept").unlink()
        disk.fill()
        assert os.statvfs(disk.path).f_bavail == 0, "also what became free since"
        disk.free()
        assert os.statvfs(disk.path).f_bavail > 200
    assert not os.path.ismount(tmp_path / "disk")
    assert said == []


def test_where_no_disk_can_be_mounted_that_is_said_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mount").write_text("#!/bin/sh\necho only root can do that >&2\nexit 1\n")
    (tmp_path / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with small_disk(tmp_path / "disk", 1, said.append) as disk:
        assert disk is None
    assert said == ["NO DISK CAN BE MOUNTED HERE, SO NONE IS FILLED: only root can do that"]


# What it finds.


def header(seq: int, at_ns: int = 1) -> bytes:
    return msgspec.json.encode(
        {
            "type": "verdict",
            "boot_id": "boot1",
            "seq": seq,
            "journal_id": "1234",
            "previous_seq": seq - 1,
            "camera": "left",
            "verdict": "GOOD",
            "frame_id": seq,
            "frame_number": seq,
            "times": {"captured_at_ns": at_ns + seq},
        }
    )


def seen_with(folder: Path, durable: list[int], live: list[int], through: int = 5) -> Seen:
    """Of five events in the journal, what two clients got."""
    headers = [header(seq) for seq in range(1, 6)]
    counts = Counts(journal_id="1234", journalled={"verdict.left.GOOD": 5})
    players = {}
    for part, got in zip(FEW, (durable, live), strict=True):
        player = Player(part, {}, folder, folder / "hurry")
        items: list[Item] = [Began(at_ns=1), *(Got(at_ns=2, header=msgspec.Raw(headers[seq - 1])) for seq in got)]
        with Record(player.record) as record:
            for item in items:
                record.add(item)
            if not part.durable:
                record.add(Heard(at_ns=3, boot_id="boot1", counts=counts))
        players[part.name] = player
    return Seen(
        truth=Truth({"1234": [Kept(seq, "verdict.left.GOOD", headers[seq - 1]) for seq in range(1, 6)]}, headers),
        players=players,
        told_s=1.0,
        boots=1,
        kills=Counter(),
        faults=Counter(),
        ended=[],
        drained_s=1.0,
        felt_full=None,
        recorded_again_s=None,
        through={"1234": through},
    )


def test_what_everybody_got_is_judged(tmp_path: Path) -> None:
    durable, live, broken = judge(seen_with(tmp_path, [1, 2, 3, 2, 3, 4, 5], [2, 3, 4, 5]))
    assert broken == []
    assert (durable["gateway"].events, durable["gateway"].duplicates, durable["gateway"].wanted) == (5, 2, 5)
    assert live["screen"].events == 4


def test_what_one_of_them_did_not_get_is_a_broken_promise(tmp_path: Path) -> None:
    durable, _, broken = judge(seen_with(tmp_path, [1, 2, 4, 5], [1, 2, 5]))
    assert [(one.who, one.promise) for one in broken] == [("gateway", "lost"), ("screen", "gap")]
    assert durable["gateway"].events == 4


def test_what_was_journalled_after_the_clients_were_ended_is_no_loss(tmp_path: Path) -> None:
    durable, _, broken = judge(seen_with(tmp_path, [1, 2, 3], [1, 2, 3, 4, 5], through=3))
    assert broken == []
    assert durable["gateway"].wanted == 3


def chaos_with(broken: list[Broken], ended: list[str], felt: bool | None = None) -> Chaos:
    return Chaos(
        bundle="b",
        precision="f32",
        commit=None,
        seed=1,
        seconds=1,
        rate_fps=200,
        plan=[],
        kills={},
        faults={},
        boots=1,
        told_s=1,
        events=100,
        events_per_s=100,
        live_only=0,
        unheard=0,
        full_disk_felt=felt,
        recorded_again_s=None,
        drained_s=1,
        durable={},
        live={},
        broken=broken,
        ended=ended,
    )


def test_broken_promises_processes_that_ended_and_a_disk_that_was_not_felt_are_told_the_first_of_many_by_name() -> None:
    assert faults(chaos_with([], [])) == faults(chaos_with([], [], True)) == []
    lost = Broken("mes", "lost", "1 of 5 events did not come: 1234-3")
    assert faults(chaos_with([lost], ["mes ended with exit code 1"])) == [
        "mes: 1 of 5 events did not come: 1234-3 (lost)",
        "mes ended with exit code 1",
    ]
    assert len(faults(chaos_with([lost] * 100, []))) == 21
    assert "on the disk that was full" in faults(chaos_with([], [], False))[0]
    assert to_facts(chaos_with([lost], []))["promises"] == "1 broken"


def test_a_rate_that_the_machine_cannot_do_is_told() -> None:
    assert "100 a second, NOT 200 AS ASKED FOR" in to_facts(chaos_with([], []))["events"]
