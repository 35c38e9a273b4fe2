"""`heatline follow` as an integrator runs it: what it has put away is acknowledged, and nothing else is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli import follow_sinks
from edge.cli.follow import follow
from edge.cli.named_line import journal_address
from edge.errors import ConfigError, DeliveryError, InputError
from tests.command import HEATLINE, complaint, heatline
from tests.edge.fault_disks import fill, small_disk
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, wait_until


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow") as line:
        yield line


def run(line: FollowedLine, *arguments: str | Path) -> Result:
    """In this process."""
    return CliRunner().invoke(follow, [line.address, "--name", "mes1", *map(str, arguments)])


@contextlib.contextmanager
def following(line: FollowedLine, *arguments: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """In a process of its own, killed at the end."""
    with subprocess.Popen(
        [HEATLINE, "follow", line.address, "--name", "mes1", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def acked(line: FollowedLine) -> int:
    try:
        return line.consumers.positions()["mes1"].acked_seq
    except KeyError:
        return -1


def headers(told: Sequence[object]) -> list[bytes]:
    return [each.header for each in told]  # type: ignore[attr-defined]


def test_events_are_printed_one_per_line_as_journalled_and_go_on_after_the_last(line: FollowedLine) -> None:
    told = line.tell(GOOD, DEFECT, ALARM)
    shown = run(line, "--count", "2")
    assert (shown.exit_code, shown.stdout_bytes.splitlines()) == (0, headers(told[:2]))
    told += line.tell(GOOD)
    shown = run(line, "--timeout", "0.5")
    assert (shown.exit_code, shown.stdout_bytes.splitlines()) == (0, headers(told[2:]))
    assert run(line, "--timeout", "0.2").stdout_bytes == b""


def test_topics_and_the_start_of_a_new_name_can_be_chosen(line: FollowedLine) -> None:
    line.tell(DEFECT)
    assert run(line, "--from", "next", "--topic", DEFECT, "--topic", "alarm", "--timeout", "0.2").stdout_bytes == b""
    told = line.tell(GOOD, DEFECT, ALARM)
    assert run(line, "--topic", DEFECT, "--topic", "alarm", "--count", "2").stdout_bytes.splitlines() == headers(
        told[1:]
    )


def test_who_reads_only_the_first_events_ends_it(line: FollowedLine) -> None:
    line.tell(GOOD)
    with following(line) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seq"] == 1
        process.stdout.close()
        line.tell(GOOD)
        assert process.wait(WITHIN_SECONDS) == 0
    assert acked(line) == 1, "what nobody read comes again"


# A file.


def test_a_file_gets_every_event_once_however_often_its_follower_is_killed(line: FollowedLine, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.touch()
    told = []
    for killed_after in (1, 40, 90):
        with following(line, "--jsonl", file, "--window", "10"):
            while (there := file.read_bytes().count(b"\n")) < killed_after:
                if there + 20 > len(told):
                    told += line.tell(GOOD, DEFECT)
    assert run(line, "--jsonl", file, "--timeout", "1").exit_code == 0
    assert file.read_bytes().splitlines() == headers(told)


@pytest.mark.long
def test_a_follower_that_stood_still_for_long_goes_on_and_misses_nothing(line: FollowedLine, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    told = line.tell(GOOD)
    with following(line, "--jsonl", file) as process:
        wait_until(lambda: acked(line) == 1, "it is there")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not line.server.states()["mes1"].connected, "the line takes it for gone")
        told += line.tell(*[DEFECT] * 500)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: acked(line) == 501, "it goes on")
    assert file.read_bytes().splitlines() == headers(told)


def test_what_was_in_the_file_before_its_acknowledgement_was_lost_is_not_added_again(
    line: FollowedLine, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    told = line.tell(*[GOOD] * 5)
    file.write_bytes(b"".join(each.header + b"\n" for each in told[:3]))
    assert run(line, "--jsonl", file, "--count", "5").exit_code == 0
    assert file.read_bytes().splitlines() == headers(told)


@pytest.mark.parametrize("torn", [b"{", b'{"type":"verdict","seq":4', b'{"type":"verdict",' + b"x" * 200_000])
def test_an_event_that_a_crash_has_cut_off_is_written_anew(line: FollowedLine, tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "events.jsonl"
    told = line.tell(*[GOOD] * 5)
    for whole in (told[:3], []):
        file.write_bytes(b"".join(each.header + b"\n" for each in whole) + torn)
        shown = run(line, "--jsonl", file, "--timeout", "0.5")
        assert (shown.exit_code, "which was cut off" in shown.stderr) == (0, True)
        if whole:
            assert file.read_bytes().splitlines() == headers(told)
        else:
            assert file.read_bytes() == b"", "all were acknowledged before"


@pytest.mark.parametrize("other", [b"my only copy of something", b"a list\nof things", b'{"type":"verdict"}\n{"ty'])
def test_of_a_file_of_somebody_else_nothing_is_cut_off(line: FollowedLine, tmp_path: Path, other: bytes) -> None:
    file = tmp_path / "events.jsonl"
    line.tell(GOOD)
    file.write_bytes(other)
    assert isinstance(run(line, "--jsonl", file, "--timeout", "0.5").exception, InputError)
    assert file.read_bytes() == other


def test_of_another_journal_everything_is_added(line: FollowedLine, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    told = line.tell(*[GOOD] * 3)
    assert run(line, "--jsonl", file, "--count", "3").exit_code == 0
    line.begin_another_journal()
    told += line.tell(DEFECT)
    shown = run(line, "--jsonl", file, "--count", "1")
    assert (shown.exit_code, shown.stderr.count("began another journal")) == (0, 1)
    assert file.read_bytes().splitlines() == headers(told)


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n", b"\xff\n", b'{"seq":1}\n', b"[" * 10_000 + b"\n"])
def test_a_file_of_something_else_is_left_as_it_is(line: FollowedLine, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(content)
    line.tell(GOOD)
    error = run(line, "--jsonl", file, "--count", "1").exception
    assert isinstance(error, InputError)
    assert "ends in a line that is no event" in str(error)
    assert file.read_bytes() == content


def test_a_file_that_cannot_be_written_is_an_input_error(line: FollowedLine, tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "not" / "there"):
        error = run(line, "--jsonl", file, "--count", "1").exception
        assert isinstance(error, InputError)
        assert "cannot be written" in str(error)
    assert line.consumers.positions() == {}, "nobody followed for it"


def test_two_followers_do_not_write_in_one_file(line: FollowedLine, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    line.tell(GOOD)
    with following(line, "--jsonl", file):
        wait_until(lambda: acked(line) == 1, "it is there")
        second = heatline("follow", line.address, "--name", "mes2", "--jsonl", file)
        assert (second.returncode, "is being written by another follower" in complaint(second)) == (9, True)


def test_on_a_full_disk_it_ends_and_what_is_not_on_the_disk_comes_again(line: FollowedLine, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        file = disk / "events.jsonl"
        told = line.tell(*[GOOD] * 20)
        assert run(line, "--jsonl", file, "--count", "20").exit_code == 0
        filler = fill(disk)
        told += line.tell(*[DEFECT] * 100, detail="x" * 100)
        full = heatline("follow", line.address, "--name", "mes1", "--jsonl", file)
        assert (full.returncode, "No space left" in complaint(full)) == (9, True)
        kept = file.read_bytes()
        assert kept.endswith(b"\n"), "nothing half done"
        assert kept.splitlines() == headers(told)[: kept.count(b"\n")]
        assert acked(line) <= kept.count(b"\n")
        filler.unlink()
        assert run(line, "--jsonl", file, "--timeout", "0.5").exit_code == 0
        assert file.read_bytes().splitlines() == headers(told)


def test_heatmaps_are_kept_by_key_and_whole(line: FollowedLine, tmp_path: Path) -> None:
    pictures = tmp_path / "a" / "pictures"
    line.tell(DEFECT, DEFECT, png=b"a picture")
    line.tell(GOOD)
    assert run(line, "--heatmaps", pictures, "--count", "3").exit_code == 0
    journal_id = line.journal.journal_id
    assert {file.name: file.read_bytes() for file in pictures.iterdir()} == {
        f"{journal_id}-1.png": b"a picture",
        f"{journal_id}-2.png": b"a picture",
    }
    (tmp_path / "file").write_text("")
    error = run(line, "--heatmaps", tmp_path / "file").exception
    assert isinstance(error, InputError)


# A command.


def test_a_command_is_run_for_each_event_in_order_with_what_it_needs(line: FollowedLine, tmp_path: Path) -> None:
    told = line.tell(DEFECT, png=b"a picture") + line.tell(ALARM)
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    command = f'cat >> {out}; echo "$HEATLINE_KEY $HEATLINE_TOPIC [$HEATLINE_HEATMAP]" >> {out}'
    assert run(line, "--exec", command, "--heatmaps", pictures, "--count", "2").exit_code == 0
    key = told[0].key
    assert out.read_bytes().splitlines() == [
        told[0].header,
        f"{key} {DEFECT} [{pictures / key}.png]".encode(),
        told[1].header,
        f"{told[1].key} alarm []".encode(),
    ]
    assert (pictures / f"{key}.png").read_bytes() == b"a picture"


def test_a_command_need_not_read_the_event(line: FollowedLine) -> None:
    line.tell(GOOD, detail="x" * 100_000)
    assert run(line, "--exec", "true", "--count", "1").exit_code == 0


def test_a_command_that_fails_is_run_again_until_it_succeeds_and_nothing_is_left_out(
    line: FollowedLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_sinks, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(follow_sinks, "LONGEST_PAUSE_SECONDS", 0.03)
    told = line.tell(*[GOOD] * 3)
    log, seen = tmp_path / "log", tmp_path / "seen"
    command = (
        f'echo "$HEATLINE_KEY" >> {log}; test "$HEATLINE_KEY" = {told[1].key} || exit 0; '
        f"echo >> {seen}; case $(wc -l < {seen}) in 1) exit 3;; 2) kill -9 $$;; 3) exit 1;; esac"
    )
    shown = run(line, "--exec", command, "--count", "3")
    assert shown.exit_code == 0
    keys = [each.key for each in told]
    assert log.read_text().split() == [keys[0], *[keys[1]] * 4, keys[2]]
    assert shown.stderr.splitlines() == [
        f"heatline: the command ended with exit code 3 at event {keys[1]}; trying again in 0.01 s",
        f"heatline: the command was killed by signal 9 at event {keys[1]}; trying again in 0.02 s",
        f"heatline: the command ended with exit code 1 at event {keys[1]}; trying again in 0.03 s",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_lets_the_command_finish_and_acknowledges_what_it_did(
    line: FollowedLine, tmp_path: Path, number: signal.Signals
) -> None:
    line.tell(GOOD, GOOD)
    begun, go_on, done = tmp_path / "begun", tmp_path / "go_on", tmp_path / "done"
    os.mkfifo(begun)
    os.mkfifo(go_on)
    with following(line, "--exec", f"echo > {begun}; read x < {go_on}; echo $HEATLINE_KEY >> {done}") as process:
        begun.read_bytes()
        process.send_signal(number)
        assert process.stderr is not None
        assert b"waiting for the command to end" in process.stderr.readline()
        go_on.write_bytes(b"now\n")
        assert process.wait(WITHIN_SECONDS) == 130
    assert done.read_text() == f"{line.journal.journal_id}-1\n"
    wait_until(lambda: acked(line) == 1, "it is not done again")


def test_a_second_interruption_kills_the_command_and_its_event_comes_again(line: FollowedLine, tmp_path: Path) -> None:
    line.tell(GOOD)
    begun, never = tmp_path / "begun", tmp_path / "never"
    os.mkfifo(begun)
    os.mkfifo(never)
    with following(line, "--exec", f"echo $$ > {begun}; read x < {never}") as process:
        command = int(begun.read_bytes())
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_SECONDS) == 130
    wait_until(lambda: not Path(f"/proc/{command}/cwd").exists(), "it was killed, too")
    assert acked(line) == 0


def test_an_interruption_between_two_tries_leaves_the_event(line: FollowedLine) -> None:
    line.tell(GOOD)
    with following(line, "--exec", "exit 1") as process:
        assert process.stderr is not None
        assert b"trying again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_SECONDS) == 130
    assert acked(line) == 0


def test_an_interruption_while_it_waits_ends_it(line: FollowedLine, tmp_path: Path) -> None:
    line.tell(GOOD)
    with following(line, "--jsonl", tmp_path / "events.jsonl") as process:
        wait_until(lambda: acked(line) == 1, "it is there")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.wait(WITHIN_SECONDS) == 130
        assert process.stderr.read().strip() == b"heatline: interrupted"


# What else may come.


def test_events_that_are_gone_are_said_and_it_goes_on(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 5)
    assert run(line, "--count", "1").exit_code == 0
    line.journal.discard(3)
    shown = run(line, "--count", "2")
    assert (shown.exit_code, shown.stdout_bytes.splitlines()) == (0, headers(told[3:]))
    assert shown.stderr.startswith("heatline: events after 1 up to 3 of journal ")
    assert run(line, "--timeout", "0.2").stderr == ""


def test_a_newer_follower_of_the_name_ends_the_older(line: FollowedLine) -> None:
    line.tell(GOOD)
    with following(line) as older:
        wait_until(lambda: acked(line) == 1, "it is there")
        assert run(line, "--timeout", "0.2").exit_code == 0
        assert older.stderr is not None
        assert older.wait(WITHIN_SECONDS) == DeliveryError.exit_code
        assert b"a newer client follows as mes1" in older.stderr.read()


def test_a_consumer_can_be_forgotten(line: FollowedLine) -> None:
    line.tell(GOOD)
    run(line, "--count", "1")
    wait_until(lambda: not line.server.states()["mes1"].connected, "it is noticed")
    shown = run(line, "--forget")
    assert (shown.exit_code, shown.output) == (0, "mes1 is forgotten\n")
    assert line.consumers.positions() == {}
    error = run(line, "--forget").exception
    assert isinstance(error, DeliveryError)
    assert "there is no consumer mes1" in str(error)


def test_two_places_at_once_and_names_that_are_none_are_wrong_command_lines(line: FollowedLine, tmp_path: Path) -> None:
    both = run(line, "--exec", "true", "--jsonl", tmp_path / "x")
    assert (both.exit_code, "follow under two names" in both.stderr) == (2, True)
    for name in ("mes 1", "", "x" * 65, "a/b", "a\n"):
        shown = CliRunner().invoke(follow, [line.address, "--name", name])
        assert (shown.exit_code, "expected 1 to 64 letters" in shown.stderr) == (2, True)


def test_a_line_is_named_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "line1.toml"
    text = 'bundle = "b"\n[[cameras]]\nkind = "folder"\nname = "top"\npath = "."\n'
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"line line1 serves its journal to nobody; set journal\.bind in"):
        journal_address(str(file))
    file.write_text(f'{text}[journal]\nbind = "tcp://127.0.0.1:5558"\n')
    assert journal_address(str(file)) == "tcp://127.0.0.1:5558"
    assert journal_address("ipc:///x") == "ipc:///x"


def test_a_line_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    address, told = f"ipc://{tmp_path}/follow", threading.Event()
    with subprocess.Popen(
        [HEATLINE, "follow", address, "--name", "mes1", "--count", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            assert b"is silent; following again until it answers" in process.stderr.readline()
            with FollowedLine(tmp_path / "journal", address) as line:
                (event,) = line.tell(GOOD)
                told.set()
                output, _ = process.communicate(timeout=WITHIN_SECONDS)
            assert output == event.header + b"\n"
        finally:
            process.kill()
    assert sys.executable
