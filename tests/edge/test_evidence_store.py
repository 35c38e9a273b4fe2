"""The evidence store holds whole entries only, within its limits, and deletes the oldest first."""

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor.store import INDEX, EvidenceStore, day_of
from heatline.edge.wire.events import EvidenceState
from tests.command import WITHIN_SECONDS
from tests.edge.evidences import (
    ALL,
    DAY_NS,
    HOUR_NS,
    LINE,
    NOON_NS,
    Clock,
    frame,
    names,
    picture,
    room,
    store,
    writer,
)
from tests.edge.fault_disks import failing_disk, fill, make_read_only, make_writable, power_cut, small_disk

ROOT = Path(__file__).parents[2]
KILLED_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from tests.edge.evidences import frame, picture, writer
folder, number, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def count(event, arguments):
    global steps
    if event in ("open", "os.mkdir", "os.chmod", "os.rename", "os.remove", "os.rmdir"):
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)

with writer(folder) as into:
    into.write(picture(number, image=frame(number, (230, 300))))
    one = picture(number + 1, image=frame(number + 1, (230, 300)))
    sys.addaudithook(count)
    into.write(one)
    steps = -1
"""


def stored(folder: Path) -> list[str]:
    return [entry.picture for entry in EvidenceStore(folder).entries(newest_first=False)]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = picture(7, at_ns=NOON_NS + 5)
    found = store(tmp_path, written)
    entry = found.find("b007b007-top-7")
    assert entry is not None
    assert (entry.line, entry.picture, entry.stored_at_ns, entry.day) == (LINE, "b007b007-top-7", NOON_NS, "2026-11-28")
    assert entry.event == written.event
    assert entry.tiles is not None
    assert (entry.tiles.origins_yx, entry.tiles.logits, entry.tiles.tile_px) == ([(0, 0), (0, 16)], [-3.5, 4.25], 48)
    assert names(tmp_path) == [f"2026-11-28/b007b007-top-7{end}" for end in (".heatmap.png", ".png")]
    path, heatmap_path = found.frame_path(entry.picture, entry.day), found.heatmap_path(entry.picture, entry.day)
    assert path is not None
    assert heatmap_path is not None
    np.testing.assert_array_equal(read_rgb(path), written.image)
    assert entry.heatmap is not None
    assert written.evidence is not None
    grey = cv2.imread(str(heatmap_path), cv2.IMREAD_UNCHANGED)
    assert grey.shape == entry.heatmap.hw
    low, high = entry.heatmap.logit_at_0, entry.heatmap.logit_at_255
    logits = np.clip(np.nan_to_num(written.evidence.heatmap, nan=low), low, high)
    np.testing.assert_allclose(low + grey / 255 * (high - low), logits, atol=(high - low) / 255)


def test_a_frame_without_a_verdict_is_stored_without_heatmap_and_a_grey_one_stays_grey(tmp_path: Path) -> None:
    image = frame(3, grey=True)
    found = store(tmp_path, picture(3, "NO_VERDICT", image=image))
    (entry,) = found.entries()
    assert (entry.heatmap, entry.tiles) == (None, None)
    assert found.heatmap_path(entry.picture, entry.day) is None
    path = found.frame_path(entry.picture, entry.day)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), image)


def test_the_group_may_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store(tmp_path / "evidence", picture())
        (tmp_path / "evidence").chmod(0o700)  # as one that an older heatline made
        writer(tmp_path / "evidence").close()
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "evidence.lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o750}


def test_entries_are_filtered_and_in_the_order_of_capture(tmp_path: Path) -> None:
    midnight_ns = NOON_NS + 12 * HOUR_NS
    found = store(
        tmp_path,
        picture(1, "DEFECT", at_ns=midnight_ns - 1),
        picture(2, "GOOD", at_ns=midnight_ns),  # of the next day
        picture(3, "NO_VERDICT", camera="side", at_ns=midnight_ns + 1),
        picture(4, "DEFECT", at_ns=midnight_ns - 2),  # stored later, captured earlier
    )

    def numbers(**filters: object) -> list[int]:
        return [entry.event.frame_number for entry in found.entries(**filters)]  # type: ignore[arg-type]

    assert numbers() == [3, 2, 1, 4]
    assert numbers(newest_first=False) == [4, 1, 2, 3]
    assert numbers(limit=2) == [3, 2]
    assert numbers(limit=0) == []
    assert numbers(since="2026-11-29") == [3, 2]
    assert numbers(verdicts=["DEFECT"], limit=1) == [1]
    assert numbers(camera="side") == [3]
    assert sorted(day.name for day in tmp_path.iterdir() if day.is_dir()) == ["2026-11-28", "2026-11-29"]


def test_of_two_entries_with_one_id_on_two_days_the_newer_is_found_and_both_are_listed(tmp_path: Path) -> None:
    old, new = picture(1, "GOOD", image=frame(1)), picture(1, "DEFECT", image=frame(2), at_ns=NOON_NS + DAY_NS)
    found = store(tmp_path, old, new)
    entry = found.find("b007b007-top-1")
    assert entry is not None
    assert entry.event.verdict == "DEFECT"
    path = found.frame_path(entry.picture, entry.day)
    assert path is not None
    np.testing.assert_array_equal(read_rgb(path), new.image)
    older = found.frame_path(entry.picture, "2026-11-28")
    assert older is not None
    np.testing.assert_array_equal(read_rgb(older), old.image)
    assert [each.event.verdict for each in found.entries()] == ["DEFECT", "GOOD"]


def test_a_second_entry_of_one_id_on_one_day_changes_nothing(tmp_path: Path) -> None:
    with writer(tmp_path) as into:
        assert into.write(picture(1, image=frame(1)))
        assert not into.write(picture(1, image=frame(2)))
        assert into.write(picture(1, boot="0ther0ne"))  # the line restarted
    path = EvidenceStore(tmp_path).frame_path("b007b007-top-1", "2026-11-28")
    assert path is not None
    np.testing.assert_array_equal(read_rgb(path), frame(1))
    assert sorted(stored(tmp_path)) == ["0ther0ne-top-1", "b007b007-top-1"]


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "/etc/passwd", "a.json", "", ".", "..", "a\0b", "x" * 129]
)
def test_an_id_that_could_lead_elsewhere_is_never_a_path(tmp_path: Path, name: str) -> None:
    found = store(tmp_path / "evidence", picture())
    (tmp_path / "secret.png").write_text("secret")
    assert found.find(name) is None
    with pytest.raises(InputError, match="is not a picture id"):
        found.require(name)
    with writer(tmp_path / "evidence") as into, pytest.raises(InputError, match="is not a picture id"):
        into.write(picture(name=name or "/"))


def test_only_one_program_writes_at_a_time(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(DeliveryError, match="is in use by another running line; give each line its"):
        writer(tmp_path)
    writer(tmp_path).close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"no index", "file is not a database"),
        (b"", r"holds pictures and no index\.sqlite"),
        (None, "has schema version 9, this heatline knows version 2"),
    ],
)
def test_an_index_that_cannot_be_read_is_refused_and_its_pictures_stay(
    tmp_path: Path, damage: bytes | None, reason: str
) -> None:
    found = store(tmp_path, picture(1))
    if damage is None:
        with contextlib.closing(sqlite3.connect(tmp_path / INDEX)) as index:
            index.execute("PRAGMA user_version = 9")
    else:
        (tmp_path / INDEX).write_bytes(damage)
    if damage == b"":
        assert list(found.entries()) == [], "to a reader, it is being made"
    else:
        with pytest.raises(InputError, match=reason):
            list(found.entries())
    with pytest.raises(InputError, match=reason):
        writer(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(InputError, match=r"holds pictures and no index\.sqlite .*; move the folders of days away"):
        writer(tmp_path)
    assert len(names(tmp_path)) == 2


def test_a_store_that_does_not_exist_is_empty_and_one_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert list(EvidenceStore(tmp_path / "nowhere").entries()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"index\.sqlite cannot be read"):
        list(EvidenceStore(tmp_path / "file").entries())


# Limits.


@given(
    steps=st.lists(st.tuples(st.integers(0, 3 * 86400), st.sampled_from([8, 48, 96])), max_size=20),
    keep_kib=st.integers(20, 200),
    keep_days=st.integers(1, 5),
)
def test_it_never_exceeds_its_budget_and_deletes_the_oldest_first(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[int, int]], keep_kib: int, keep_days: int
) -> None:
    folder = tmp_path_factory.mktemp("evidence")
    clock = Clock()
    limits = replace(ALL, keep_bytes=keep_kib << 10, keep_s=keep_days * 86400.0)
    offered: list[str] = []
    with writer(folder, limits, clock) as into:
        for number, (seconds, side) in enumerate(steps):
            clock.pass_(seconds)
            into.tidy()
            one = picture(number, at_ns=clock.wall_ns, image=frame(number, (side, side)))
            try:
                into.write(one)
                offered.append(str(one.event.picture))
            except InputError:
                assert side == 96
            into.tidy()
            left = stored(folder)
            assert left == offered[len(offered) - len(left) :], "the oldest go first"
            state = into.state()
            assert room(folder) == state.size_bytes <= limits.keep_bytes
            assert state.stored == len(left)
            oldest = EvidenceStore(folder).find(left[0]) if left else None
            assert state.oldest_at_ns == (None if oldest is None else oldest.event.times.captured_at_ns)
            assert state.oldest_at_ns is None or state.oldest_at_ns >= clock.wall_ns - keep_days * DAY_NS
    with writer(folder, limits, clock) as again:  # it counts the same after a restart
        assert (again.state().stored, again.state().size_bytes) == (len(left) if steps else 0, room(folder))


@given(order=st.permutations(range(6)))
def test_the_oldest_by_capture_goes_first_in_whatever_order_they_were_stored(
    tmp_path_factory: pytest.TempPathFactory, order: Sequence[int]
) -> None:
    folder = tmp_path_factory.mktemp("evidence")
    with writer(folder) as into:
        for number in order:
            into.write(picture(number, at_ns=NOON_NS + number))
            assert into.state().oldest_at_ns == NOON_NS + min(order[: order.index(number) + 1])
    for left in range(5, 0, -1):
        with writer(folder, replace(ALL, keep_bytes=room(folder) - 1)) as into:
            into.tidy()
        assert stored(folder) == [f"b007b007-top-{number}" for number in range(6 - left, 6)]


def test_what_is_deleted_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, replace(ALL, keep_s=86400.0), clock) as into:
        into.write(picture(1))
        clock.wall_ns += 2 * DAY_NS
        into.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence.lock", INDEX, f"{INDEX}-journal"]


def test_a_clock_that_was_set_back_deletes_nothing_and_its_later_entries_are_found(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, replace(ALL, keep_s=86400.0), clock) as into:
        into.write(picture(1, at_ns=clock.wall_ns))
        clock.wall_ns -= 400 * DAY_NS
        into.write(picture(2, at_ns=clock.wall_ns))
        into.tidy()
        assert stored(tmp_path) == ["b007b007-top-2", "b007b007-top-1"]
        clock.wall_ns += 400 * DAY_NS
        into.tidy()
    assert stored(tmp_path) == ["b007b007-top-1"], "by the right clock, the other is more than a year old"


def test_only_entries_are_deleted(tmp_path: Path) -> None:
    store(tmp_path, *(picture(number, at_ns=NOON_NS + number * DAY_NS) for number in range(4)))
    other = tmp_path / "2026-11-28" / "readme.txt"
    other.write_text("ours")
    (tmp_path / "2026-11-29" / "b007b007-top-1.png").unlink()
    with writer(tmp_path, replace(ALL, keep_bytes=0)) as into:
        into.tidy()
        assert into.state() == EvidenceState()
    assert (other.read_text(), names(tmp_path)) == ("ours", ["2026-11-28/readme.txt"])


def test_a_picture_larger_than_the_budget_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    store(tmp_path, picture(1))
    refused = pytest.raises(InputError, match=r"a picture takes 1\.\d MiB, and evidence.retain_mib is 1; set more")
    with writer(tmp_path, replace(ALL, keep_bytes=1 << 20)) as into, refused:
        into.write(picture(2, image=frame(2, (700, 700))))
    assert stored(tmp_path) == ["b007b007-top-1"]


# Disks.


def test_free_space_of_the_disk_is_kept_also_if_another_program_fills_it(tmp_path: Path) -> None:
    limits = replace(ALL, spare_bytes=2 << 20)
    with small_disk(tmp_path / "disk", 4) as disk, writer(disk / "evidence", limits) as into:
        number = 0
        while into.state().stored == number:
            number += 1
            into.write(picture(number, image=frame(number, (230, 300)), at_ns=NOON_NS + number))
            free = os.statvfs(disk).f_bavail * 4096
            assert free >= limits.spare_bytes - 4096 * 24, "folders and the index take room too"
        held = into.state().stored
        (disk / "other").write_bytes(bytes(1 << 20))
        into.tidy()
        assert 0 < into.state().stored < held, "the oldest make room for the other program"
        left = stored(disk / "evidence")
        assert left == [f"b007b007-top-{each}" for each in range(number - len(left) + 1, number + 1)]
        fill(disk)
        with pytest.raises(InputError, match="all stored pictures take less"):
            into.write(picture(9999))
        assert stored(disk / "evidence") == left, "to delete them would not help"


def test_pictures_make_room_on_a_disk_that_another_program_has_filled_to_the_last_byte(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk, writer(disk / "evidence") as into:
        for number in range(20):
            into.write(picture(number, image=frame(number, (230, 300)), at_ns=NOON_NS + number))
        into.close()
        with writer(disk / "evidence", replace(ALL, spare_bytes=1 << 20)) as again:
            again.write(picture(20, at_ns=NOON_NS + 20))
            fill(disk)
            again.tidy()
            left = stored(disk / "evidence")
            assert os.statvfs(disk).f_bavail * 4096 >= 1 << 20
    assert 0 < len(left) < 20
    assert left == [f"b007b007-top-{number}" for number in range(21 - len(left), 21)]


def test_on_a_full_disk_nothing_is_left_of_an_entry_and_later_ones_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is room by the figures, and another program takes it.
    monkeypatch.setattr("heatline.edge.monitor.recorder.EvidenceWriter._lacking", lambda *_: 0)
    with small_disk(tmp_path / "disk", 2) as disk, writer(disk / "evidence") as into:
        into.write(picture(1))
        filler = fill(disk)
        os.truncate(filler, filler.stat().st_size - 30 * 4096)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
            into.write(picture(2, image=frame(2, (400, 400))))
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        assert len(names(disk / "evidence")) == 2
        filler.unlink()
        into.write(picture(2))
        assert into.state().stored == 2


def test_a_read_only_disk_is_named_and_stored_on_again_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        store(disk / "evidence", picture(1))
        make_read_only(disk)
        with pytest.raises(InputError, match=r"evidence cannot be written \(Read-only file system\)"):
            writer(disk / "evidence")
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        make_writable(disk)
        store(disk / "evidence", picture(2))
        assert len(stored(disk / "evidence")) == 2


def test_an_entry_that_was_written_survives_a_power_cut(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        with writer(disk / "evidence") as into:
            into.write(picture(1))
            into.close = lambda: None  # type: ignore[method-assign]
            with power_cut(disk):
                into._at_end.close()
        found = EvidenceStore(disk / "evidence")
        assert stored(disk / "evidence") == ["b007b007-top-1"]
        path = found.frame_path("b007b007-top-1", "2026-11-28")
        assert path is not None
        np.testing.assert_array_equal(read_rgb(path), frame(1))


def test_leftovers_of_a_killed_writer_are_deleted_at_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    store(tmp_path, picture(1))
    day = tmp_path / "2026-11-28"
    for name in ("b007b007-top-2.png", "b007b007-top-2.heatmap.png"):
        (day / name).write_bytes(b"half")
    (day / ".b007b007-top-2.png.new").write_bytes(b"half")
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX)) as index, index:
        index.execute("INSERT INTO leftovers VALUES ('b007b007-top-2', '2026-11-28')")
    mine = ["notes.txt", "b.o.png", "copy_of_b007b007-top-1.png", "b007b007-top-1.png.bak", ".b007b007-top-2.png"]
    others = [*(day / name for name in mine), tmp_path / "b007b007-top-2.png", tmp_path / "2026" / "x.png"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    writer(tmp_path).close()
    assert sorted(path.name for path in day.iterdir()) == sorted(
        ["b007b007-top-1.heatmap.png", "b007b007-top-1.png", *mine]
    )
    assert all(path.exists() for path in others)


def test_a_day_that_cannot_be_read_keeps_its_entries(tmp_path: Path) -> None:
    store(tmp_path, picture(1))
    day = tmp_path / "2026-11-28"
    day.rename(tmp_path / "away")
    day.symlink_to(day)  # root may read any folder, and nobody a link to itself
    writer(tmp_path).close()
    assert stored(tmp_path) == ["b007b007-top-1"]
    with writer(tmp_path, replace(ALL, keep_bytes=0)) as into, pytest.raises(InputError, match="Too many levels of"):
        into.tidy()
    day.unlink()
    (tmp_path / "away").rename(day)
    writer(tmp_path).close()
    assert names(tmp_path) == [], "its files are deleted later"


@pytest.mark.parametrize("steps", [(1, 2, 3), pytest.param(range(1, 22), marks=pytest.mark.long)])
def test_a_writer_that_is_killed_at_any_step_leaves_whole_entries_only(tmp_path: Path, steps: Sequence[int]) -> None:
    whole: list[int] = []
    ends = []
    for number, step in enumerate(steps):
        command = [sys.executable, "-c", KILLED_AT_A_STEP, tmp_path, str(2 * number), str(step)]
        ends.append(subprocess.run(command, cwd=ROOT, timeout=WITHIN_SECONDS, check=False).returncode)
        before, found = whole, EvidenceStore(tmp_path)
        whole = sorted(entry.event.frame_number for entry in found.entries())
        assert whole[: len(before) + 1] == [*before, 2 * number], "what was written is there"
        for entry in found.entries():
            path, heatmap = found.frame_path(entry.picture, entry.day), found.heatmap_path(entry.picture, entry.day)
            assert path is not None
            assert heatmap is not None
            np.testing.assert_array_equal(read_rgb(path), frame(entry.event.frame_number, (230, 300)))
            assert read_rgb(heatmap).shape == (29, 38, 3)
    assert ends[:3] == [-signal.SIGKILL] * 3
    assert len(ends) == 3 or ends[-1] == 0, "each step was one of them"
    writer(tmp_path).close()
    assert len(names(tmp_path)) == 2 * len(whole), "the next start deletes what the killed one left"


def test_the_day_of_any_time_is_a_day() -> None:
    assert day_of(NOON_NS + 12 * HOUR_NS - 1) == "2026-11-28"
    assert day_of(NOON_NS + 12 * HOUR_NS) == "2026-11-29"
    assert day_of(-5) == "1970-01-01"
    assert day_of(1 << 70) == "9999-12-31"
