"""`heatline journal` shows and exports a line's events, also on a full disk; and events in words and as rows."""

import json
import os
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from heatline.edge import describe
from heatline.edge.delivery.journal import FILE_NAME, Journal, JournalReader
from heatline.edge.describe import columns_of, describe_consumer, describe_event, describe_journal, local_time, utc
from heatline.edge.wire.events import Message, ReviewEvent, StatusEvent, VerdictEvent
from tests.command import ROOT, heatline, refused, successful
from tests.edge.fault_disks import fill, small_disk
from tests.edge.journals import LINE, change, good, make_writer, mixed_messages, stored_rows
from tests.edge.wire_examples import GOLDEN, GOOD, JOURNAL_STATUS
from tests.golden import assert_golden


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
    journal = Journal(folder, LINE)
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
            assert words in refused(code, "journal", command, name)
    assert not (tmp_path / "nothing").exists(), "reading makes no journal"


def test_show_is_as_committed_and_chooses_events(folder: Path) -> None:
    discard(folder, 3)
    shown = facts("show", folder)
    with JournalReader.open(folder) as reader:
        assert (shown["journal_id"], shown["size_bytes"]) == (reader.journal_id, reader.contents().size_bytes)
    assert shown["events"] == [json.loads(header) for header in headers(folder)[-10:]]
    for expected, options in (
        ([17, 18, 19], ["-n", "3", "--topic", "verdict.top.", "--topic", "verdict.side."]),
        ([], ["-n", "0"]),
    ):
        assert [event["seq"] for event in facts("show", folder, *options)["events"]] == expected
    change(folder, "UPDATE events SET header = ? WHERE seq = 20", b'{"type": "\xff')
    assert_golden("journal_show", run("show", folder).stdout, folder=folder, reason="Input data was truncated")


def test_json_lines_are_the_headers_as_they_were_journalled(tmp_path: Path, folder: Path) -> None:
    assert exported(folder).encode() == lines(headers(folder))
    some = exported(folder, "--after", "5", "--topic", "verdict.").encode()
    assert some == lines(headers(folder, after=5, topic="verdict."))
    out = tmp_path / "events.jsonl"
    out.write_text("of yesterday")
    assert (exported(folder, "--out", out), out.read_bytes()) == ("", lines(headers(folder)))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_csv_is_as_committed_and_documented(tmp_path: Path) -> None:
    nasty = ('a "part", with\nevery; thing, é', "=HYPERLINK(1)")
    parts = (Message(msgspec.structs.replace(good().event, part_id=part)) for part in nasty)
    csv = exported(filled(tmp_path / "state", *mixed_messages(5), *parts), "--format", "csv")
    assert_golden("journal_csv", csv.replace("\r", ""))
    assert ",2026-09-21T14:13:20.123456Z,verdict," in csv
    documented = (ROOT / "docs" / "journal.md").read_text().partition("## CSV")[2].partition("\n## ")[0]
    assert csv.splitlines()[0].split(",") == re.findall(r"^\| `(\w+)`", documented, re.MULTILINE)


VERSIONS = '"schema_version":2', '"schema_version":1'


def test_events_of_schema_version_1_are_shown_and_exported_as_they_are(folder: Path) -> None:
    change(folder, "UPDATE events SET header = CAST(replace(header, ?, ?) AS BLOB)", *VERSIONS)
    filled(folder, count=3)
    shown = run("show", folder, "-n", "24")
    assert (shown.returncode, shown.stderr) == (0, "")
    sentence = "an event of schema version 1 came, this reader knows version 2; update the line that sent it"
    assert shown.stdout.count(sentence) == 21
    assert exported(folder).encode() == lines(headers(folder))
    result = successful(run("export", folder, "--format", "csv"))
    assert result.stderr.splitlines() == [f"heatline: event {seq} is left out: {sentence}" for seq in range(1, 22)]
    assert [row.split(",")[0] for row in result.stdout.splitlines()[1:]] == ["22", "23", "24"]


def test_an_export_to_a_full_disk_leaves_no_partial_file(tmp_path: Path, folder: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        out = disk / "events.jsonl"
        out.write_text("of yesterday")
        filler = fill(disk)
        os.truncate(filler, filler.stat().st_size - 4096)
        assert "cannot be written (No space left on device)" in refused(9, "journal", "export", folder, "--out", out)
        assert (sorted(disk.iterdir()), out.read_text()) == ([out, filler], "of yesterday")


@pytest.mark.parametrize("name", GOLDEN)
def test_every_event_has_words_and_a_row(name: str) -> None:
    event = GOLDEN[name].event
    told, row = describe_event(event), dict(zip(describe.COLUMNS, columns_of(event, 7, "a.b", 10**18), strict=True))
    assert (row["seq"], row["type"], row["journalled_at"]) == (7, "a", "2001-09-09T01:46:40.000000Z")
    assert told.what
    assert told.colour in ("green", "yellow", "red", "default")
    if isinstance(event, ReviewEvent):
        assert (told.what, row["verdict"], row["detail"]) == (event.mark.kind, event.mark.verdict, told.detail)
        place = (645, 470) if name == "review-areas" else (*event.mark.at_xy, (None, None))[0]
        assert (row["peak_x"], row["peak_y"]) == place
    if isinstance(event, StatusEvent):
        assert (told.subject, told.what) == ("status", event.state)
    if isinstance(event, VerdictEvent):
        assert (told.what, row["regions"]) == (event.verdict, len(event.regions))


def test_a_run_of_frames_and_its_part_are_named() -> None:
    run = replace(GOOD.event, source=None, frame_id=5, last_frame_id=7, frames=3, part_id="p1")
    assert describe_event(run).subject == "5 to 7 (3) [p1]"
    assert describe_event(replace(run, frame_id=None, frames=1, part_id=None)).subject == "none"


def test_a_time_that_no_calendar_has_is_no_error() -> None:
    assert (local_time(2**70, "%H"), utc(2**70)) == ("?", "")


def test_a_journal_tells_what_it_holds_and_who_lost_events() -> None:
    journal = JOURNAL_STATUS.event.journal
    assert "it cannot be read" in describe_journal(replace(journal, journal_id=None))
    assert "no event, up to 9" in describe_journal(replace(journal, first_seq=0, last_seq=9))
    held = replace(journal, first_seq=5, last_seq=9)
    consumer = replace(journal.consumers["mes1"], acked_seq=2, connected=True)
    assert describe_consumer(consumer, held).startswith("connected; 5 events behind, and 2 are lost: start it")
    away = replace(consumer, connected=False, seen_at_ns=None, acked_seq=9)
    assert describe_consumer(away, held) == "away; 0 events behind"
