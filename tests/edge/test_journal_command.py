"""`heatline journal` shows and exports a line's events, also while it runs and on a full disk."""

import csv
import io
import json
import os
import subprocess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from heatline.edge.delivery.journal import FILE_NAME, Journal
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.describe import COLUMNS, utc
from heatline.edge.errors import InputError
from heatline.edge.wire.events import Message
from tests.command import HEATLINE, complaint, heatline, process_env
from tests.edge.fault_disks import fill, small_disk
from tests.edge.journals import (
    LINE,
    Clocks,
    change,
    good,
    make_version_1,
    make_writer,
    mixed_messages,
    stored_rows,
)

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return heatline("journal", *arguments)


def facts(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def exported(folder: Path, *options: str | Path) -> str:
    result = run("export", folder, *options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def filled(folder: Path, *messages: Message, count: int = 20) -> Path:
    """A journal with messages, or so many, after its first event."""
    journal = make_writer(folder)
    journal.commit(messages or mixed_messages(count, png_bytes=100))
    journal.close()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "state")


def discard(folder: Path, through_seq: int) -> None:
    journal = Journal.open(folder, LINE)
    journal.discard(through_seq)
    journal.close()


def headers(folder: Path, *, after: int = 0, topic: str = "") -> list[bytes]:
    return [header for seq, found, header, _ in stored_rows(folder) if after < seq and found.startswith(topic)]


def lines(of: list[bytes]) -> bytes:
    return b"".join(header + b"\n" for header in of)


def test_a_journal_is_named_by_line_folder_or_file(tmp_path: Path, folder: Path) -> None:
    line = tmp_path / "line1.toml"
    line.write_text(
        'bundle = "boards.bundle"\n[[cameras]]\nkind = "pattern"\nname = "top"\n[journal]\nfolder = "state"\n'
    )
    (folder / FILE_NAME).rename(folder / f"{FILE_NAME}.damaged")
    filled(folder, count=3)
    for named, events in (line, 4), (folder, 4), (folder / FILE_NAME, 4), (folder / f"{FILE_NAME}.damaged", 21):
        shown = facts("show", named)
        assert (shown["last_seq"], shown["line"]) == (events, LINE)


def test_a_file_that_is_no_readable_journal_is_refused_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "letter").write_text("Dear Sir or Madam, " * 100)
    change(folder, "UPDATE journal SET schema_version = 3")
    named = [
        (tmp_path / "nothing" / "here", 19, "there is no journal"),
        ("line-that-never-was", 19, "/var/lib/heatline/line-that-never-was/journal.db"),
        (tmp_path / "letter", 19, "is damaged"),
        ("tcp://127.0.0.1:5556", 3, "is an address"),
        (tmp_path / "line.toml", 3, "line.toml"),
        (folder, 19, "this heatline knows version 2"),
    ]
    for command in ("show", "export"):
        for name, code, words in named:
            result = run(command, name)
            assert result.returncode == code
            assert words in complaint(result)
    assert not (tmp_path / "nothing").exists(), "reading makes no journal"


def test_show_prints_the_journals_contents(folder: Path) -> None:
    discard(folder, 3)
    shown = facts("show", folder)
    with JournalReader.open(folder) as reader:
        assert (shown["journal_id"], shown["size_bytes"]) == (reader.journal_id, reader.size_bytes())
    assert (shown["first_seq"], shown["last_seq"], shown["line"]) == (4, 21, LINE)
    assert shown["topics"] == {
        "alarm": 20,
        "change": 21,
        "journal": 1,
        "verdict.side.GOOD": 19,
        "verdict.top.DEFECT": 18,
        "verdict.top.GOOD": 17,
    }
    assert shown["events"] == [json.loads(header) for header in headers(folder)[-10:]]
    words = run("show", folder).stdout
    for said in (
        shown["journal_id"],
        "4 to 21",
        "the last was 20",
        "open active",
        "it is not there",
        "part 12",
    ):
        assert said in words


def test_show_prints_the_requested_events_and_skips_unreadable_ones(folder: Path) -> None:
    def shown(*options: str) -> list[int]:
        return [event["seq"] for event in facts("show", folder, *options)["events"]]

    assert shown("-n", "3") == [19, 20, 21]
    assert shown("-n", "2", "--topic", "verdict.top.") == [17, 18]
    assert shown("-n", "3", "--topic", "verdict.top.", "--topic", "verdict.side.") == [17, 18, 19]
    assert shown("-n", "0") == []
    change(folder, "UPDATE events SET header = ? WHERE seq = 20", b'{"type": "\xff')
    result = run("show", folder)
    assert result.returncode == 0
    assert "header is not an event" in result.stdout


def test_json_lines_are_the_headers_as_they_were_journalled(tmp_path: Path, folder: Path) -> None:
    assert exported(folder).encode() == lines(headers(folder))
    some = exported(folder, "--after", "5", "--topic", "verdict.").encode()
    assert some == lines(headers(folder, after=5, topic="verdict."))
    out = tmp_path / "events.jsonl"
    out.write_text("of yesterday")
    assert exported(folder, "--out", out) == ""
    assert out.read_bytes() == lines(headers(folder))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_full_standard_output_of_an_export_is_one_sentence(folder: Path, form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [HEATLINE, "journal", "export", str(folder), "--format", form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=process_env({}),
        )
    assert ended.returncode == InputError.exit_code
    assert ended.stderr.startswith("heatline: standard output cannot be written (No space left on device)")
    assert ended.stderr.count("\n") == 1


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(folder, "--format", "csv"), newline="")))


def test_csv_has_the_documented_columns_in_order(folder: Path) -> None:
    documented = (ROOT / "docs" / "journal.md").read_text().partition("## CSV")[2].partition("\n## ")[0]
    by_seq = {int(row["seq"]): row for row in rows(folder)}
    assert [*by_seq[1]] == [line.split("`")[1] for line in documented.splitlines() if line.startswith("| `")]
    assert len(by_seq) == 21
    defect = json.loads(headers(folder)[2])
    assert by_seq[3] == dict.fromkeys(COLUMNS, "") | {
        "seq": "3",
        "journal_id": defect["journal_id"],
        "boot_id": defect["boot_id"],
        "source": defect["source"],
        "journalled_at": utc(Clocks().wall_ns()),
        "happened_at": "2026-09-21T14:13:20.123456Z",
        "type": "verdict",
        "topic": "verdict.top.DEFECT",
        "camera": "top",
        "verdict": "DEFECT",
        "acting": "true",
        "frame_id": "9",
        "frame_number": "1",
        "frames": "1",
        "part_id": "part 12",
        "product": "4711",
        "frame_score": "3.25",
        "score_threshold": "1.5",
        "regions": "1",
        "peak_x": "14",
        "peak_y": "30",
        "bundle": "boards",
        "bundle_version": "2026.11",
        "precision": "f32",
        "latency_ms": "12.5",
    }
    assert {seq: [by_seq[seq][name] for name in ("type", "camera", "what", "detail")] for seq in (1, 5, 6)} == {
        1: ["journal", "", "begun", "there was no journal"],
        5: ["alarm", "side", "open active", "it is not there"],
        6: ["change", "", "select applied", ""],
    }
    nasty = {'a "part", with\nevery; thing, é': 'a "part", with\\nevery; thing, é', "=HYPERLINK(1)": "'=HYPERLINK(1)"}
    filled(folder, *(Message(msgspec.structs.replace(good().event, part_id=part)) for part in nasty))
    assert [row["part_id"] for row in rows(folder)[-2:]] == list(nasty.values())


def test_events_of_schema_version_1_are_shown_and_exported_as_they_are(folder: Path) -> None:
    make_version_1(folder)
    filled(folder, count=3)
    shown = run("show", folder, "-n", "24")
    assert (shown.returncode, shown.stderr) == (0, "")
    sentence = "an event of schema version 1 came, this reader knows version 2; update the line that sent it"
    assert shown.stdout.count(sentence) == 21
    assert exported(folder).encode() == lines(headers(folder))
    result = run("export", folder, "--format", "csv")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [f"heatline: event {seq} is left out: {sentence}" for seq in range(1, 22)]
    assert [row.split(",")[0] for row in result.stdout.splitlines()[1:]] == ["22", "23", "24"]


def test_an_export_to_a_full_disk_leaves_no_partial_file(tmp_path: Path, folder: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        out = disk / "events.jsonl"
        out.write_text("of yesterday")
        filler = fill(disk)
        os.truncate(filler, filler.stat().st_size - 4096)
        result = run("export", folder, "--out", out)
        assert result.returncode == 9
        assert "cannot be written (No space left on device)" in complaint(result)
        assert sorted(disk.iterdir()) == [out, filler]
        assert out.read_text() == "of yesterday"
