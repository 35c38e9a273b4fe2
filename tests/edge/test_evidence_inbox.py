"""The recorder adopts whole pictures from the inbox, and nobody can fill the disk through it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor import inbox as module
from heatline.edge.monitor.files import HALF_WRITTEN
from heatline.edge.monitor.inbox import INBOX, PUT, Inbox, put
from heatline.edge.monitor.store import ENTRY, FRAME, EvidenceStore
from heatline.edge.monitor.writer import EvidenceWriter
from tests.command import WITHIN_SECONDS
from tests.edge.evidences import ALL, LINE, NOON_NS, frame, mark, names, picture, room, writer
from tests.edge.fault_disks import fill, small_disk
from tests.needs import need_root

ROOT = Path(__file__).parents[2]
ID = "b007b007-top-{}"
KILLED_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from heatline.edge.monitor.inbox import Inbox, put
from tests.edge.evidences import LINE, picture, writer
folder, what, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def count(event, arguments):
    global steps
    if event in ("open", "os.mkdir", "os.chmod", "os.utime", "os.rename", "os.remove"):
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if what == "put":
    sys.addaudithook(count)
    put(folder, picture(1), LINE)
else:
    with writer(folder) as into:
        sys.addaudithook(count)
        Inbox(folder).adopt(into)
        steps = -1
"""


@dataclass
class Adopting:
    """A store with its inbox."""

    folder: Path
    writer: EvidenceWriter

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.folder)

    def adopt_all(self) -> list[str]:
        outcomes: list[str] = []
        while (outcome := self.inbox.adopt(self.writer)) is not None:
            outcomes.append(outcome)
            assert len(outcomes) < 999
        return outcomes


@pytest.fixture
def adopting(tmp_path: Path) -> object:
    with writer(tmp_path / "evidence") as into:
        yield Adopting(tmp_path / "evidence", into)


def waiting(folder: Path) -> list[str]:
    inbox = folder / INBOX
    return sorted(path.name for path in inbox.iterdir()) if inbox.exists() else []


def stored(folder: Path) -> list[str]:
    return [entry.picture for entry in EvidenceStore(folder).entries(newest_first=False)]


def test_a_picture_in_the_inbox_becomes_an_entry_like_others(adopting: Adopting, tmp_path: Path) -> None:
    one = picture(1, "GOOD")
    put(adopting.folder, one, LINE)
    assert waiting(adopting.folder) == [ID.format(1) + PUT]
    assert adopting.adopt_all() == ["adopted"]
    assert waiting(adopting.folder) == []
    found = EvidenceStore(adopting.folder).get(ID.format(1))
    with writer(tmp_path / "other") as into:
        into.write(one)
    expected = EvidenceStore(tmp_path / "other").get(ID.format(1))
    assert found is not None
    assert expected is not None
    assert msgspec.structs.replace(found, stored_at_ns=0) == msgspec.structs.replace(
        expected, stored_at_ns=0, is_chosen=True
    )
    for path in (EvidenceStore(adopting.folder).frame_path, EvidenceStore(adopting.folder).heatmap_path):
        here = path(ID.format(1))
        assert here is not None
        assert here.read_bytes() == (tmp_path / "other" / here.relative_to(adopting.folder)).read_bytes()
    assert adopting.writer.retention.size_bytes == room(adopting.folder)
    assert (adopting.folder / "2026-11-28" / f"{ID.format(1)}.json").stat().st_mtime_ns == NOON_NS


def test_what_root_puts_belongs_to_the_user_of_the_store(adopting: Adopting) -> None:
    need_root()
    os.chown(adopting.folder, 12345, 12346)
    put(adopting.folder, picture(1), LINE)
    inbox = adopting.folder / INBOX
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in (inbox, *inbox.iterdir())}
    assert owners == {(12345, 12346)}
    assert len(waiting(adopting.folder)) == 1


def test_a_mark_and_its_picture_may_come_in_either_order(adopting: Adopting) -> None:
    first, second = picture(1, "GOOD"), picture(2, "GOOD")
    adopting.writer.marks.add([mark(first, "missed", seq=1)])
    for one in (first, second):
        put(adopting.folder, one, LINE)
    adopting.adopt_all()
    adopting.writer.marks.add([mark(second, "missed", seq=2)])
    assert EvidenceStore(adopting.folder).unreviewed(9) == []
    assert adopting.writer.retention.size_bytes == room(adopting.folder)


def test_a_picture_that_is_stored_already_is_dropped(adopting: Adopting) -> None:
    put(adopting.folder, picture(1, image=frame(2)), LINE)
    adopting.writer.write(picture(1, image=frame(1)))
    assert adopting.adopt_all() == ["held"]
    assert waiting(adopting.folder) == []
    put(adopting.folder, picture(1, image=frame(2)), LINE)
    assert waiting(adopting.folder) == [], "it is not even put there"
    path = EvidenceStore(adopting.folder).frame_path(ID.format(1))
    assert path is not None
    np.testing.assert_array_equal(read_rgb(path), frame(1))


def test_a_picture_that_was_marked_before_the_line_stored_it_counts_as_chosen_by_the_line(adopting: Adopting) -> None:
    one = picture(1, "GOOD")
    put(adopting.folder, one, LINE)
    adopting.adopt_all()
    assert adopting.writer.write(one) is False
    entry = EvidenceStore(adopting.folder).get(ID.format(1))
    assert entry is not None
    assert not entry.is_chosen, "else the report leaves a GOOD of the sample out because it was marked soon"
    assert (adopting.folder / "2026-11-28" / f"{ID.format(1)}.json").stat().st_mtime_ns == NOON_NS
    assert adopting.writer.retention.size_bytes == room(adopting.folder)
    assert adopting.writer.retention.entries == 1
    with pytest.raises(InputError, match="already holds a picture"):
        adopting.writer.write(one)


@pytest.mark.parametrize("what", ["put", "adopt"])
@pytest.mark.parametrize("steps", [(5,), pytest.param(range(1, 18), marks=pytest.mark.long)])
def test_kills_at_any_step_lose_no_whole_picture_and_leave_no_half_one(
    tmp_path: Path, what: str, steps: list[int]
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        writer(folder).close()
        if what == "adopt":
            put(folder, picture(1), LINE)
        command = [sys.executable, "-c", KILLED_AT_A_STEP, str(folder), what, str(step)]
        ended = subprocess.run(command, cwd=ROOT, timeout=WITHIN_SECONDS, check=False)
        assert ended.returncode in (-signal.SIGKILL, 0)
        was_whole = what == "adopt" or f"{ID.format(1)}{PUT}" in waiting(folder)
        for half in (folder / INBOX).glob(f"*{HALF_WRITTEN}"):
            os.utime(half, (0, 0))  # a minute later
        with writer(folder) as into:  # the recorder starts again
            again = Adopting(folder, into)
            again.adopt_all()
            assert into.retention.size_bytes == room(folder)
        assert stored(folder) == [ID.format(1)] * was_whole
        assert len(names(folder)) == 3 * was_whole
        assert waiting(folder) == []


def test_a_damaged_picture_is_logged_and_deleted_and_the_next_is_adopted(
    adopting: Adopting, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 6):
        put(adopting.folder, picture(number), LINE)
    empty, cut, other, link, _ = sorted((adopting.folder / INBOX).iterdir())
    link.unlink()
    link.symlink_to(other)
    empty.write_bytes(b"")
    os.truncate(cut, 100)
    other.write_bytes((adopting.folder / INBOX / f"{ID.format(5)}{PUT}").read_bytes())
    assert sorted(adopting.adopt_all()) == ["adopted"] + ["refused"] * 4
    assert caplog.text.count("a picture in the inbox is deleted") >= 1
    assert (stored(adopting.folder), waiting(adopting.folder)) == ([ID.format(5)], [])


@pytest.mark.parametrize(
    "endings", [(ENTRY,), (FRAME,), (ENTRY, FRAME, ".txt"), (ENTRY, FRAME, "/nowhere/it.png")], ids=" ".join
)
def test_only_the_files_of_a_picture_are_adopted(adopting: Adopting, endings: tuple[str, ...]) -> None:
    put(adopting.folder, picture(1), LINE)
    first = adopting.folder / INBOX / f"{ID.format(1)}{PUT}"
    files = msgspec.msgpack.decode(first.read_bytes(), type=dict[str, bytes])
    first.write_bytes(msgspec.msgpack.encode({ending: files.get(ending, b"") for ending in endings}))
    os.utime(first, (0, 0))
    put(adopting.folder, picture(2), LINE)
    assert adopting.adopt_all() == ["refused", "adopted"]
    assert stored(adopting.folder) == [ID.format(2)]
    assert len(names(adopting.folder)) == 3


def test_what_a_killed_program_left_is_deleted_and_what_is_being_written_is_not(adopting: Adopting) -> None:
    put(adopting.folder, picture(1), LINE)
    left, written = (adopting.folder / INBOX / f"{name}{HALF_WRITTEN}" for name in ("left", "written"))
    for half in (left, written):
        half.write_bytes(b"half of it")
    os.utime(left, (0, 0))
    assert Adopting(adopting.folder, adopting.writer).adopt_all() == ["adopted"]
    assert waiting(adopting.folder) == [written.name]


def test_a_flood_is_refused(adopting: Adopting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PICTURES", 2)
    for number in (1, 2):
        put(adopting.folder, picture(number), LINE)
    with pytest.raises(InputError, match=r"inbox is full \(2 files\); check that the line runs and stores pictures"):
        put(adopting.folder, picture(3), LINE)
    assert adopting.adopt_all() == ["adopted"] * 2
    monkeypatch.setattr(module, "MOST_BYTES", 20_000)
    put(adopting.folder, picture(4, image=frame(4, (8, 8))), LINE)
    with pytest.raises(InputError, match="inbox is full"):
        put(adopting.folder, picture(5, image=frame(5, (96, 96))), LINE)


def test_adopted_pictures_keep_to_the_limits_of_the_store(tmp_path: Path) -> None:
    with writer(tmp_path, replace(ALL, keep_bytes=32 << 10)) as into:
        adopting = Adopting(tmp_path, into)
        for number in range(1, 6):
            put(tmp_path, picture(number, at_ns=NOON_NS + number), LINE)
        put(tmp_path, picture(9, image=frame(9, (200, 200))), LINE)
        assert adopting.adopt_all() == ["adopted"] * 5 + ["refused"], "the last is larger than the store"
        assert 0 < room(tmp_path) == into.retention.size_bytes <= 32 << 10
        assert into.retention.deleted > 0
        assert stored(tmp_path)[-1] == ID.format(5)


def test_a_disk_without_room_takes_nothing_more(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:  # less than the space that is kept free
        writer(disk / "evidence").close()
        with pytest.raises(InputError, match="MiB of the free space that it must keep; make room on it"):
            put(disk / "evidence", picture(1), LINE)
        fill(disk)
        with pytest.raises(InputError, match=r"must keep; make room on it|cannot be written \(No space left"):
            put(disk / "evidence", picture(1), LINE)
        assert waiting(disk / "evidence") == []


def test_what_cannot_be_put_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"inbox cannot be written \(No such file or directory\)"):
        put(tmp_path / "nowhere", picture(1), LINE)
    with pytest.raises(InputError, match="is not a picture id"):
        put(tmp_path, picture(name="../../etc/passwd"), LINE)
    assert list(tmp_path.iterdir()) == []
