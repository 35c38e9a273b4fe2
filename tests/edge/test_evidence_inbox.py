"""The recorder adopts whole pictures from the inbox, trusts nothing in it, and nobody can fill the disk through it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.errors import InputError
from edge.evidence import inbox as module
from edge.evidence.entry import encode_entry
from edge.evidence.inbox import COMPLETE_WITHIN_SECONDS, INBOX, Inbox, put
from edge.evidence.store import EvidenceStore
from edge.evidence.writer import EvidenceWriter
from edge.images import read_rgb
from edge.wire.events import VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.evidences import ALL, LINE, NOON_NS, Clock, frame, mark, names, picture, room, writer
from tests.edge.fault_disks import fill, small_disk

ROOT = Path(__file__).parents[2]
ID = "b007b007-top-{}"
KILLED_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from edge.evidence.inbox import Inbox, put
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
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.folder, self.clock.read_seconds)

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
    assert waiting(adopting.folder) == [ID.format(1) + end for end in (".heatmap.png", ".json", ".png")]
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_root_puts_belongs_to_the_user_of_the_store(adopting: Adopting) -> None:
    os.chown(adopting.folder, 12345, 12346)
    put(adopting.folder, picture(1), LINE)
    inbox = adopting.folder / INBOX
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in (inbox, *inbox.iterdir())}
    assert owners == {(12345, 12346)}
    assert len(waiting(adopting.folder)) == 3


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
@pytest.mark.parametrize("steps", [(6,), pytest.param(range(1, 18), marks=pytest.mark.long)])
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
        was_whole = what == "adopt" or f"{ID.format(1)}.json" in waiting(folder)
        with writer(folder) as into:  # the recorder starts again
            again = Adopting(folder, into)
            again.adopt_all()
            again.clock.pass_(COMPLETE_WITHIN_SECONDS)
            again.adopt_all()
            assert into.retention.size_bytes == room(folder)
        assert stored(folder) == [ID.format(1)] * was_whole
        assert len(names(folder)) == 3 * was_whole
        assert waiting(folder) == []


def rewrite(folder: Path, change: Callable[[VerdictEvent], VerdictEvent], **fields: object) -> None:
    """Rewrite the waiting entry of picture 1."""
    path = folder / INBOX / f"{ID.format(1)}.json"
    entry = module.decode_entry(path.read_bytes())
    path.write_bytes(encode_entry(msgspec.structs.replace(entry, event=change(entry.event), **fields)))


def at(ns: int) -> Callable[[VerdictEvent], VerdictEvent]:
    return lambda event: msgspec.structs.replace(event, times=msgspec.structs.replace(event.times, captured_at_ns=ns))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "entry empty": lambda inbox: (inbox / f"{ID.format(1)}.json").write_bytes(b""),
    "entry cut off": lambda inbox: os.truncate(inbox / f"{ID.format(1)}.json", 100),
    "entry huge": lambda inbox: os.truncate(inbox / f"{ID.format(1)}.json", 17 << 20),
    "frame missing": lambda inbox: (inbox / f"{ID.format(1)}.png").unlink(),
    "frame cut off": lambda inbox: os.truncate(inbox / f"{ID.format(1)}.png", 100),
    "heatmap missing": lambda inbox: (inbox / f"{ID.format(1)}.heatmap.png").unlink(),
    "frame of another size": lambda inbox: (inbox / f"{ID.format(1)}.heatmap.png").replace(
        inbox / f"{ID.format(1)}.png"
    ),
    "other id": lambda inbox: rewrite(inbox.parent, lambda event: event, picture=ID.format(2)),
    "other event": lambda inbox: rewrite(
        inbox.parent, lambda event: msgspec.structs.replace(event, picture=ID.format(2))
    ),
    "time before 1970": lambda inbox: rewrite(inbox.parent, at(-1)),
    "time beyond all clocks": lambda inbox: rewrite(inbox.parent, at(10**30)),
    "frame of negative size": lambda inbox: rewrite(
        inbox.parent, lambda event: msgspec.structs.replace(event, frame_hw=(-1, 10**12))
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_picture_is_logged_and_deleted_and_the_next_is_adopted(
    adopting: Adopting, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    put(adopting.folder, picture(1), LINE)
    damage(adopting.folder / INBOX)
    put(adopting.folder, picture(3), LINE)
    assert sorted(adopting.adopt_all()) == ["adopted", "refused"]
    assert "a picture in the inbox is deleted" in caplog.text
    assert stored(adopting.folder) == [ID.format(3)]
    assert waiting(adopting.folder) == []


@pytest.mark.parametrize("ending", [".json", ".png", ".heatmap.png"])
def test_a_link_is_never_followed(adopting: Adopting, tmp_path: Path, ending: str) -> None:
    put(adopting.folder, picture(1), LINE)
    secret, link = tmp_path / "secret", adopting.folder / INBOX / f"{ID.format(1)}{ending}"
    link.rename(secret)
    before = secret.read_bytes()
    link.symlink_to(secret)
    assert adopting.adopt_all() == ["refused"]
    assert (stored(adopting.folder), waiting(adopting.folder)) == ([], [])
    assert secret.read_bytes() == before


def test_an_inbox_that_is_a_link_is_not_used(adopting: Adopting, tmp_path: Path) -> None:
    other = tmp_path / "other"
    writer(other).close()
    put(other, picture(1), LINE)
    (adopting.folder / INBOX).symlink_to(other / INBOX)
    assert adopting.adopt_all() == []
    with pytest.raises(InputError, match="is a symbolic link, expected a folder; delete it"):
        put(adopting.folder, picture(2), LINE)
    assert len(waiting(other)) == 3


def test_files_that_are_no_entry_are_deleted_after_a_while_and_folders_stay(adopting: Adopting) -> None:
    put(adopting.folder, picture(1), LINE)
    inbox = adopting.folder / INBOX
    (inbox / "folder").mkdir()
    for name in ("b.png", "0123.new", "notes.txt", "x.review.json", "a b.json"):
        (inbox / name).write_bytes(b"x")
    os.mkfifo(inbox / "pipe.json")
    assert adopting.adopt_all().count("adopted") == 1
    adopting.clock.pass_(COMPLETE_WITHIN_SECONDS - 1)
    adopting.adopt_all()
    assert "0123.new" in waiting(adopting.folder), "it may still be written"
    adopting.clock.pass_(1)
    adopting.adopt_all()
    assert waiting(adopting.folder) == ["folder"]


def test_a_flood_is_refused_and_what_is_beyond_is_deleted(adopting: Adopting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 6)
    for number in (1, 2):
        put(adopting.folder, picture(number), LINE)
    with pytest.raises(InputError, match=r"inbox is full \(6 files\); check that the line runs and stores pictures"):
        put(adopting.folder, picture(3), LINE)
    for number in range(100):  # by another way
        (adopting.folder / INBOX / f"flood-{number}.png").write_bytes(b"x")
    assert adopting.inbox.adopt(adopting.writer) == "adopted"
    assert len(waiting(adopting.folder)) <= module.SLACK * 6
    assert adopting.adopt_all() == ["adopted"]
    adopting.clock.pass_(COMPLETE_WITHIN_SECONDS)
    assert adopting.adopt_all() == []
    monkeypatch.setattr(module, "MOST_BYTES", 20_000)
    put(adopting.folder, picture(4, image=frame(4, (8, 8))), LINE)
    with pytest.raises(InputError, match="inbox is full"):
        put(adopting.folder, picture(5, image=frame(5, (96, 96))), LINE)


def test_adopted_pictures_obey_the_limits_of_the_store(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match="is no id of a picture"):
        put(tmp_path, picture(name="../../etc/passwd"), LINE)
    assert list(tmp_path.iterdir()) == []
