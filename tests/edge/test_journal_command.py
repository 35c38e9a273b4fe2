"""`heatline journal` shows, verifies and exports what a line told, also while it runs and on a full disk."""

import contextlib
import csv
import io
import json
import random
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from edge.cli.event_columns import COLUMNS, utc
from edge.cli.main import heatline as heatline_group
from edge.delivery.journal.check import EVENTS_AT_ONCE, faults
from edge.delivery.journal.file import FILE_NAME
from edge.delivery.journal.journal import Journal
from edge.delivery.journal.reader import JournalReader, Page
from edge.delivery.journal.rows import header_crc
from edge.delivery.messages import Message
from edge.errors import HeatlineError
from tests.command import heatline
from tests.edge.fault_disks import fill, make_read_only, small_disk
from tests.edge.journals import LINE, Clocks, all_records, counted, events_in, good, held, journalling, several

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    said: str
    """The sentence with which it gave up."""


def run(*arguments: str | Path) -> Ended:
    """`heatline journal ...`, in this process."""
    result = CliRunner().invoke(heatline_group, ["journal", *map(str, arguments)])
    if isinstance(result.exception, HeatlineError):
        return Ended(result.exception.exit_code, result.stdout, result.stderr, str(result.exception))
    assert result.exception is None, result.exc_info
    return Ended(0, result.stdout, result.stderr, "")


def filled(folder: Path, count: int = 20) -> Path:
    """A journal with so many events and its first one."""
    journal = journalling(folder)
    journal.commit(several(count, png_bytes=100))
    journal.close()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "state")


def change(folder: Path, statement: str, *values: Any) -> None:
    """Change a journal behind its back."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
        connection.execute(statement, values)


def headers(folder: Path, *, after: int = 0, through: int = 1 << 40, topic: str = "") -> list[bytes]:
    return [header for seq, found, header, _ in held(folder) if after < seq <= through and found.startswith(topic)]


# Naming.


def test_a_journal_is_named_by_its_line_its_folder_or_itself(tmp_path: Path, folder: Path) -> None:
    line = tmp_path / "line1.toml"
    line.write_text(
        'bundle = "boards.bundle"\n[[cameras]]\nkind = "pattern"\nname = "top"\n[journal]\nfolder = "state"\n'
    )
    (folder / FILE_NAME).rename(folder / f"{FILE_NAME}.damaged-1")
    filled(folder, 3)
    for named, events in (line, 4), (folder, 4), (folder / FILE_NAME, 4), (folder / f"{FILE_NAME}.damaged-1", 21):
        shown = json.loads(run("show", named, "--json").stdout)
        assert (shown["last_seq"], shown["line"]) == (events, LINE)


def test_a_line_that_keeps_its_journal_in_its_state_folder_is_found_there() -> None:
    result = run("show", "line-that-never-was")
    assert result.code == 19
    assert "/var/lib/heatline/line-that-never-was/journal.db" in result.said


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_what_is_no_journal_is_said_in_a_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "letter").write_text("Dear Sir or Madam, " * 100)
    for named, code, words in (
        (tmp_path / "nothing" / "here", 19, "there is no journal"),
        (tmp_path, 19, "there is no journal"),
        (tmp_path / "letter", 19, "is damaged"),
        ("tcp://127.0.0.1:5556", 3, "is an address"),
        (tmp_path / "line.toml", 3, "line.toml"),
    ):
        result = run(command, named)
        assert result.code == code
        assert words in result.said


def test_a_journal_of_a_newer_heatline_is_not_guessed_at(folder: Path) -> None:
    change(folder, "UPDATE journal SET schema_version = 2")
    for command in ("show", "verify", "export"):
        result = run(command, folder)
        assert result.code == 19
        assert "update heatline" in result.said


# Showing.


def test_show_says_what_the_journal_holds(folder: Path) -> None:
    journal = Journal.open(folder, LINE)
    journal.discard(3)
    journal.close()
    shown = json.loads(run("show", folder, "--json").stdout)
    with JournalReader.open(folder) as reader:
        assert shown["journal_id"] == reader.journal_id
        assert shown["size_bytes"] == reader.size_bytes()
    assert (shown["first_seq"], shown["last_seq"], shown["line"]) == (4, 21, LINE)
    assert shown["topics"] == {
        "alarm": {"events": 4, "last_seq": 20},
        "change": {"events": 4, "last_seq": 21},
        "journal": {"events": 0, "last_seq": 1},
        "verdict.side.GOOD": {"events": 4, "last_seq": 19},
        "verdict.top.DEFECT": {"events": 3, "last_seq": 18},
        "verdict.top.GOOD": {"events": 3, "last_seq": 17},
    }
    assert shown["events"] == [json.loads(header) for header in headers(folder)[-10:]]
    words = run("show", folder).stdout
    for said in (
        shown["journal_id"],
        "4 to 21",
        "4 events, the last was 20",
        "open active: it is not there",
        "part 12",
    ):
        assert said in words


def test_show_shows_the_events_that_are_asked_for(folder: Path) -> None:
    def shown(*options: str) -> list[int]:
        return [event["seq"] for event in json.loads(run("show", folder, "--json", *options).stdout)["events"]]

    assert shown("-n", "3") == [19, 20, 21]
    assert shown("-n", "3", "--after", "5") == [6, 7, 8]
    assert shown("-n", "2", "--topic", "verdict.top.") == [17, 18]
    assert shown("-n", "3", "--topic", "alarm", "--topic", "change", "--after", "5") == [5 + 1, 10, 11]
    assert shown("-n", "0") == []
    assert shown("--after", "21") == []


def test_show_goes_on_past_what_cannot_be_read(folder: Path) -> None:
    change(folder, "UPDATE events SET header = ? WHERE seq = 20", b'{"type": "\xff')
    result = run("show", folder)
    assert result.code == 0
    assert "header is no event" in result.stdout


def test_it_is_read_while_it_is_written_and_on_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        journal = journalling(disk)
        journal.commit(several(5))

        def check() -> None:
            assert json.loads(heatline("journal", "show", disk, "--json").stdout)["last_seq"] == 6
            assert run("verify", disk).code == 0
            assert exported(disk).encode() == b"".join(one + b"\n" for one in headers(disk))

        check()
        fill(disk)
        check()
        journal.close()
        check()
        make_read_only(disk)
        check()


# Verifying.


def test_verify_finds_a_journal_whole(folder: Path) -> None:
    result = run("verify", folder)
    assert (result.code, result.stderr) == (0, "")
    assert "is whole: 21 events" in result.stdout
    found = json.loads(run("verify", folder, "--json").stdout)
    assert (found["first_seq"], found["last_seq"], found["faults"]) == (1, 21, [])


def test_verify_finds_a_journal_whole_that_holds_nothing_any_more(folder: Path) -> None:
    journal = Journal.open(folder, LINE)
    journal.discard(21)
    journal.close()
    assert "no event" in run("verify", folder).stdout


def header(folder: Path, seq: int) -> bytes:
    return headers(folder)[seq - 1]


def rewrite(folder: Path, seq: int, old: bytes, new: bytes) -> None:
    """Change a header, and its checksum with it: as if it had been written so."""
    with JournalReader.open(folder) as reader:
        record = all_records(reader)[seq - 1]
    assert old in record.header
    changed = record._replace(header=record.header.replace(old, new))
    crc = header_crc(changed)
    change(folder, "UPDATE events SET header = ?, header_crc = ? WHERE seq = ?", changed.header, crc, seq)


DAMAGES = {
    "rot in a header": (
        lambda folder: change(
            folder, "UPDATE events SET header = ? WHERE seq = 9", header(folder, 9).replace(b"boards", b"boarts")
        ),
        ["event 9: its header, its topic or its time is not what was written (its checksum differs)"],
    ),
    "rot in a heatmap": (
        lambda folder: change(folder, "UPDATE events SET heatmap = ? WHERE seq = 8", b"x" * 100),
        ["event 8: its heatmap is not what was written (its checksum differs)"],
    ),
    "no JSON": (
        lambda folder: rewrite(folder, 9, b'{"type"', b'"type"'),
        ["event 9: a message came whose header is no event: "],
    ),
    "no heatmap": (
        lambda folder: change(folder, "UPDATE events SET heatmap = NULL, heatmap_crc = NULL WHERE seq = 8"),
        ["event 8: its heatmap is missing, and its header says otherwise"],
    ),
    "another number": (
        lambda folder: rewrite(folder, 9, b'"seq":9', b'"seq":8'),
        ["event 9: its header says that it is event 8 of journal"],
    ),
    "another journal": (
        lambda folder: change(folder, "UPDATE journal SET journal_id = ?", "ab" * 16),
        [f"event {seq}: its header says that it is event {seq} of journal" for seq in range(1, 22)],
    ),
    "another topic": (
        lambda folder: change(folder, "UPDATE events SET topic = 'change' WHERE seq = 15"),
        [
            "event 15: its header, its topic or its time is not what was written (its checksum differs)",
            "event 15: it is kept under topic change, and belongs under alarm",
            "event 15: its header names event 10 as the one before it under its topic, and that is event 11",
            "event 16: its header names event 11 as the one before it under its topic, and that is event 15",
            "event 20: its header names event 15 as the one before it under its topic, and that is event 10",
        ],
    ),
    "another predecessor": (
        lambda folder: rewrite(folder, 15, b'"previous_seq":10', b'"previous_seq":9'),
        ["event 15: its header names event 9 as the one before it under its topic, and that is event 10"],
    ),
    "no predecessor": (
        lambda folder: rewrite(folder, 15, b'"previous_seq":10', b'"previous_seq":null'),
        ["event 15: its header names event None as the one before it under its topic, and that is event 10"],
    ),
    "a gap": (
        lambda folder: change(folder, "DELETE FROM events WHERE seq IN (7, 8, 9, 12)"),
        ["events 7 to 9 are missing", "events 12 to 12 are missing"],
    ),
    "no end": (
        lambda folder: change(folder, "DELETE FROM events WHERE seq > 18"),
        [
            "events 19 to 21 are missing",
            "topic alarm is said to end with event 20, and the last one found is event 15",
            "topic change is said to end with event 21, and the last one found is event 16",
            "topic verdict.side.GOOD is said to end with event 19, and the last one found is event 14",
        ],
    ),
    "a topic that ends too early": (
        lambda folder: change(folder, "UPDATE topics SET last_seq = 15 WHERE topic = 'alarm'"),
        ["topic alarm is said to end with event 15, and event 20 is of it"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_verify_says_what_is_wrong(folder: Path, kind: str) -> None:
    damage, expected = DAMAGES[kind]
    damage(folder)
    result = run("verify", folder, "--json")
    assert result.code == 19
    found = json.loads(result.stdout)["faults"]
    assert [fault[: len(words)] for fault, words in zip(found, expected, strict=True)] == expected
    assert f"{len(found)} faults, the first is: {expected[0]}" in result.said
    spoken = run("verify", folder)
    assert spoken.code == 19
    assert expected[0] in spoken.stdout


def test_verify_finds_garbage_in_the_middle(tmp_path: Path) -> None:
    folder = filled(tmp_path / "state", 500)
    path = folder / FILE_NAME
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(random.Random(1).randbytes(20_000))
    result = run("verify", folder, "--json")
    assert result.code == 19
    assert "is damaged" in result.said
    assert json.loads(result.stdout)["faults"]


def test_verify_takes_nothing_for_missing_that_is_deleted_or_written_meanwhile(tmp_path: Path) -> None:
    clocks = Clocks()
    journal = journalling(tmp_path, clocks, keep_s=100)
    journal.commit(several(4 * EVENTS_AT_ONCE))
    looked_at = []

    def went_on(done: int, of: int) -> None:
        looked_at.append((done, of))
        assert journal._journal is not None
        journal._journal.discard(done + EVENTS_AT_ONCE // 2)
        journal.commit(several(10))

    with JournalReader.open(tmp_path) as reader:
        assert list(faults(reader, went_on)) == []
    assert len(looked_at) > 2
    assert looked_at[-1][0] == looked_at[-1][1]
    journal._journal.discard(10_000)  # type: ignore[union-attr]
    with JournalReader.open(tmp_path) as reader:
        assert list(faults(reader, lambda _done, _of: None)) == []
    journal.close()


# Exporting.


def exported(folder: Path, *options: str | Path) -> str:
    result = run("export", folder, *options)
    assert (result.code, result.stderr) == (0, "")
    return result.stdout


def test_json_lines_are_the_headers_as_they_were_journalled(tmp_path: Path, folder: Path) -> None:
    assert exported(folder).encode() == b"".join(one + b"\n" for one in headers(folder))
    some = exported(folder, "--after", "5", "--through", "15", "--topic", "verdict.").encode()
    assert some == b"".join(one + b"\n" for one in headers(folder, after=5, through=15, topic="verdict."))
    out = tmp_path / "events.jsonl"
    out.write_text("of yesterday")
    assert exported(folder, "--out", out) == ""
    assert out.read_bytes() == b"".join(one + b"\n" for one in headers(folder))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_csv_has_the_columns_that_are_documented_in_that_order(folder: Path) -> None:
    (first, *rows) = csv.reader(io.StringIO(exported(folder, "--format", "csv"), newline=""))
    documented = (ROOT / "docs" / "journal.md").read_text().partition("## CSV")[2].partition("\n## ")[0]
    assert first == list(COLUMNS) == [line.split("`")[1] for line in documented.splitlines() if line.startswith("| `")]
    assert len(rows) == 21
    by_seq = {int(row[0]): dict(zip(first, row, strict=True)) for row in rows}
    defect = json.loads(header(folder, 3))
    assert by_seq[3] == dict.fromkeys(COLUMNS, "") | {
        "seq": "3",
        "journal_id": defect["journal_id"],
        "journalled_at": utc(Clocks().wall_ns()),
        "happened_at": "2026-09-21T14:13:20.123456Z",
        "type": "verdict",
        "topic": "verdict.top.DEFECT",
        "camera": "top",
        "frame_id": "9",
        "frame_number": "1",
        "frames": "1",
        "part_id": "part 12",
        "verdict": "DEFECT",
        "frame_score": "3.25",
        "score_threshold": "1.5",
        "regions": "1",
        "peak_x": "14",
        "peak_y": "30",
        "product": "4711",
        "bundle": "boards",
        "bundle_version": "2026.11",
        "precision": "f32",
        "latency_ms": "12.5",
        "acting": "true",
        "boot_id": defect["boot_id"],
    }
    said = {
        seq: (by_seq[seq]["type"], by_seq[seq]["camera"], by_seq[seq]["what"], by_seq[seq]["detail"])
        for seq in (1, 5, 6)
    }
    assert said == {
        1: ("journal", "", "begun", "there was no journal"),
        5: ("alarm", "side", "open active", "it is not there"),
        6: ("change", "", "select in force", ""),
    }


def test_text_that_csv_could_trip_over_comes_back(tmp_path: Path) -> None:
    nasty = 'a "part", with\nevery; thing, é'
    journal = journalling(tmp_path)
    journal.commit([Message(msgspec.structs.replace(good().event, part_id=nasty))])
    journal.close()
    rows = list(csv.DictReader(io.StringIO(exported(tmp_path, "--format", "csv"), newline="")))
    assert rows[-1]["part_id"] == nasty


def test_events_that_are_gone_are_said_and_the_others_written(tmp_path: Path, folder: Path) -> None:
    journal = Journal.open(folder, LINE)
    journal.discard(9)
    journal.close()
    exported(folder)  # from the oldest that is there: nothing was asked for that is gone
    out = tmp_path / "events.jsonl"
    result = run("export", folder, "--after", "4", "--out", out)
    assert result.code == 20
    assert "events 5 to 9 are gone" in result.said
    assert out.read_bytes() == b"".join(one + b"\n" for one in headers(folder, after=9))


def test_a_header_that_cannot_be_read_is_left_out_of_csv_and_said(folder: Path) -> None:
    rewrite(folder, 9, b'{"type"', b'"type"')
    result = run("export", folder, "--format", "csv")
    assert result.code == 0
    assert "event 9 is left out" in result.stderr
    assert [row.split(",")[0] for row in result.stdout.splitlines()[1:]] == [str(s) for s in range(1, 22) if s != 9]
    assert exported(folder).encode().splitlines() == headers(folder)


def test_ctrl_c_leaves_no_half_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "events.jsonl"
    read = JournalReader.read

    def interrupted(reader: JournalReader, after_seq: int, **what: Any) -> Page:
        if after_seq > 10:
            assert [path.name for path in tmp_path.iterdir() if path.is_file()], "it is half written"
            raise KeyboardInterrupt
        return read(reader, after_seq, **what | {"at_most": 5})

    monkeypatch.setattr(JournalReader, "read", interrupted)
    result = CliRunner().invoke(heatline_group, ["journal", "export", str(folder), "--out", str(out)])
    assert isinstance(result.exception, SystemExit)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    folder = filled(tmp_path / "state", 3000)
    with small_disk(tmp_path / "disk") as disk:
        out = disk / "events.jsonl"
        out.write_text("of yesterday")
        result = run("export", folder, "--out", out)
        assert result.code == 9
        assert "cannot be written (No space left on device)" in result.said
        assert [path.name for path in disk.iterdir()] == [out.name]
        assert out.read_text() == "of yesterday"


def test_what_a_running_line_tells_is_exported_up_to_where_it_was(folder: Path) -> None:
    journal = journalling(folder)
    told = counted(journal.commit(several(5)))
    lines = exported(folder).splitlines()
    assert json.loads(lines[-1])["seq"] == told[-1].seq == len(lines)
    journal.close()
    assert events_in(folder)[-1] == told[-1]
