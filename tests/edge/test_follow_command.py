"""`heatline follow` as an integrator runs it: it acknowledges what it has stored, and nothing else."""

import contextlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from heatline.edge.cli import follow
from heatline.edge.delivery.follow import FILE_NAME
from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.wire.following import Delivered
from tests.command import HEATLINE, heatline, refused
from tests.edge.fault_disks import fill, small_disk
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, wait_until
from tests.edge.lines import started


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow") as line:
        yield line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def run(line: FollowedLine, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return heatline("follow", line.address, "--name", "mes1", *arguments)


def following_into(line: FollowedLine, file: Path) -> tuple[str | Path, ...]:
    return "follow", line.address, "--name", "mes1", "--jsonl", file


def following(address: str, *arguments: str | Path) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
    """In a process of its own, killed at the end."""
    return started(HEATLINE, "follow", address, "--name", "mes1", *arguments)


def lines(events: Sequence[Delivered]) -> str:
    return "".join(f"{each.header.decode()}\n" for each in events)


def test_events_are_printed_one_per_line_in_order_after_the_last_acknowledged(line: FollowedLine) -> None:
    events = line.add(GOOD, DEFECT, ALARM)
    done = run(line, "--count", "2")
    assert (done.returncode, done.stdout) == (0, lines(events[:2]))
    assert f"2 events received, the last is {events[1].key}\n" in done.stderr
    events += line.add(GOOD)
    assert run(line, "--count", "2").stdout == lines(events[2:])
    done = run(line, "--timeout", "0.2")
    assert (done.returncode, done.stdout, "0 events received\n" in done.stderr) == (0, "", True)
    new = ("--name", "new", "--from", "next", "--topic", DEFECT, "--topic", "alarm")
    wait_until(lambda: run(line, *new, "--timeout", "0.2").stdout == "" and line.acked("new") == 4, "it is registered")
    events = line.add(GOOD, DEFECT, ALARM)
    assert run(line, *new, "--count", "2").stdout == lines(events[1:])


def test_follow_waits_for_a_line_and_ends_when_its_reader_has_gone(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/follow"
    with following(address) as process:
        assert "is silent; following again until it answers" in process.stderr.readline()
        with FollowedLine(tmp_path / "journal", address) as line:
            line.add(GOOD)
            assert json.loads(process.stdout.readline())["seq"] == 1
            process.stdout.close()
            line.add(GOOD)
            assert process.wait(WITHIN_SECONDS) == 0
            line.wait_until_gone()
            assert line.acked() == 1, "unread events come again"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_file_gets_every_event_once_though_its_follower_is_killed(line: FollowedLine, file: Path, kills: int) -> None:
    file.touch()
    events: list[Delivered] = []

    def stored() -> int:
        count = file.read_bytes().count(b"\n")
        if count + 20 > len(events):
            events.extend(line.add(GOOD, DEFECT))
        return count

    for kill in range(kills):
        with following(line.address, "--jsonl", file):
            wait_until(lambda kill=kill: stored() > 20 * kill, "it can be killed")
    line.wait_until_gone()
    events += line.add(ALARM)
    assert run(line, "--jsonl", file, "--count", str(len(events) - line.acked())).returncode == 0
    assert file.read_text() == lines(events)


def test_an_event_is_acknowledged_only_after_the_disk_has_it(
    line: FollowedLine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = line.add(DEFECT, GOOD, png=b"a picture")
    fsync, synced = os.fsync, list[int]()

    def observed(fd: int) -> None:
        is_of_line = FILE_NAME in os.readlink(f"/proc/self/fd/{fd}")  # it runs in this process
        if stat.S_ISREG(os.fstat(fd).st_mode) and not is_of_line:
            synced.append(os.fstat(fd).st_size)
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", observed)
    done = run(line, "--jsonl", file, "--count", "2")
    both = len(lines(events))
    assert (done.returncode, file.stat().st_size, synced) == (InputError.exit_code, both, [both])
    line.wait_until_gone()
    assert line.acked() == 0


def test_events_in_the_file_are_not_appended_again_and_a_cut_event_is_rewritten(line: FollowedLine, file: Path) -> None:
    """The follower was killed between storing and acknowledging, or the machine while it stored."""
    events = line.add(*[GOOD] * 5)
    for n, torn in enumerate(("", "{", '{"type":"verdict","seq":4', '{"type":"verdict",' + "x" * 200_000)):
        file.write_text(lines(events[:3]) + torn)
        done = heatline("follow", line.address, "--name", f"mes{n}", "--jsonl", file, "--count", "5")
        assert (done.returncode, "which was cut off" in done.stderr) == (0, torn != "")
        assert file.read_text() == lines(events)


def test_a_file_without_events_is_not_changed_nor_one_of_another_follower(line: FollowedLine, file: Path) -> None:
    line.add(GOOD)
    for content in (b"{}\n", b"\xff\n", b"[" * 10_000 + b"\n", b"my only copy", b'{"type":"verdict"}\n{"ty'):
        file.write_bytes(content)
        assert "name another file" in refused(InputError.exit_code, *following_into(line, file))
        assert file.read_bytes() == content
    file.write_bytes(b"")
    with follow.appending(file):
        assert "is being written by another follower" in refused(InputError.exit_code, *following_into(line, file))


def test_a_full_disk_ends_follow_and_unwritten_events_come_again(line: FollowedLine, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        file = disk / "events.jsonl"
        events = line.add(*[GOOD] * 20)
        assert run(line, "--jsonl", file, "--count", "20").returncode == 0
        filler = fill(disk)
        events += line.add(*[DEFECT] * 100, detail="x" * 100)
        assert "No space left" in refused(InputError.exit_code, *following_into(line, file))
        kept = file.read_text().count("\n")
        assert "".join(file.read_text().splitlines(keepends=True)[:kept]) == lines(events[:kept])
        line.wait_until_gone()
        assert line.acked() <= kept
        filler.unlink()
        assert run(line, "--jsonl", file, "--count", str(120 - line.acked())).returncode == 0
        assert file.read_text() == lines(events)


def test_a_command_runs_for_each_event_with_its_key_and_topic(line: FollowedLine, tmp_path: Path) -> None:
    defect, alarm = line.add(DEFECT, png=b"a picture") + line.add(ALARM)
    out = tmp_path / "out"
    command = f'cat >> {out}; echo "$HEATLINE_KEY $HEATLINE_TOPIC" >> {out}'
    assert run(line, "--exec", command, "--count", "2").returncode == 0
    assert out.read_text() == f"{lines([defect])}{defect.key} {DEFECT}\n{lines([alarm])}{alarm.key} alarm\n"
    line.add(GOOD, detail="x" * 100_000)
    assert run(line, "--exec", "true", "--count", "1").returncode == 0, "a command need not read the event"


def test_a_command_that_fails_runs_again_until_it_succeeds_and_no_event_is_left_out(
    line: FollowedLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PAUSE_SECONDS", 0.01)
    keys = [each.key for each in line.add(*[GOOD] * 3)]
    log, seen = tmp_path / "log", tmp_path / "seen"
    command = (
        f'echo "$HEATLINE_KEY" >> {log}; test "$HEATLINE_KEY" = {keys[1]} || exit 0; '
        f"echo >> {seen}; case $(wc -l < {seen}) in 1) exit 3;; 2) kill -9 $$;; 3) exit 1;; esac"
    )
    done = run(line, "--exec", command, "--count", "3")
    assert (done.returncode, log.read_text().split()) == (0, [keys[0], *[keys[1]] * 4, keys[2]])
    assert [each for each in done.stderr.splitlines() if each.startswith("heatline:")] == [
        f"heatline: the command ended with exit code 3 at event {keys[1]}; trying again in 0.01 s",
        f"heatline: the command was killed by signal 9 at event {keys[1]}; trying again in 0.01 s",
        f"heatline: the command ended with exit code 1 at event {keys[1]}; trying again in 0.01 s",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_commands_event_comes_again(line: FollowedLine, tmp_path: Path, number: signal.Signals) -> None:
    line.add(GOOD)
    begun, never = tmp_path / "begun", tmp_path / "never"
    os.mkfifo(begun)
    os.mkfifo(never)
    with following(line.address, "--exec", f"echo $$ > {begun}; read x < {never}") as process:
        command = int(begun.read_bytes())
        process.send_signal(number)
        assert process.wait(WITHIN_SECONDS) == 130
    wait_until(lambda: not Path(f"/proc/{command}/cwd").exists(), "it was killed, too")
    assert line.acked() == 0


def test_a_consumer_can_be_deleted(line: FollowedLine) -> None:
    line.add(GOOD)
    run(line, "--count", "1")
    line.wait_until_gone()
    done = run(line, "--forget")
    assert (done.returncode, done.stdout) == (0, "consumer mes1 is deleted\n")
    assert line.consumers.positions == {}
    sentence = refused(DeliveryError.exit_code, "follow", line.address, "--name", "mes1", "--forget")
    assert "there is no consumer mes1" in sentence
