"""Evidence for tests: pictures of made-up frames, stores that hold some, what a store's folder holds, and lines that
store evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.images import read_rgb
from heatline.edge.monitor.marks import mark_of
from heatline.edge.monitor.pictures import Evidence, Picture, TileScores
from heatline.edge.monitor.recorder import EvidenceWriter, Limits, room_of
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import (
    EvidenceState,
    HeatmapPng,
    MarkKind,
    ReviewEvent,
    StatusEvent,
    Stroke,
    Verdict,
    VerdictEvent,
)
from tests.edge.lines import RunningLine, small_frames, write_line, write_pictures
from tests.edge.wire_examples import DEFECT, GOOD, NO_VERDICT

LINE = "line1"
NOON_NS = int(datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()) * 10**9
DAY_NS = 86_400 * 10**9
ALL = Limits(keep_s=30 * 86400.0, keep_bytes=1 << 30, spare_bytes=0)
"""Deletes nothing of a test."""
EXAMPLES: dict[Verdict, VerdictEvent] = {
    verdict: msgspec.convert(msgspec.to_builtins(message.event), VerdictEvent)
    for verdict, message in (("GOOD", GOOD), ("DEFECT", DEFECT), ("NO_VERDICT", NO_VERDICT))
}


@dataclass
class Clock:
    """The clock of a store; it stands still until a test moves it."""

    wall_ns: int = NOON_NS


def frame(number: int, hw: tuple[int, int] = (48, 64), *, grey: bool = False) -> NDArray[np.uint8]:
    """A frame that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (hw if grey else (*hw, 3)), np.uint8)


def picture(
    number: int = 1,
    verdict: Verdict = "DEFECT",
    *,
    camera: str = "top",
    at_ns: int = NOON_NS,
    image: NDArray[np.uint8] | None = None,
    name: str | None = None,
) -> Picture:
    """The picture of a frame as a line offers it. A frame with NO_VERDICT has no heatmap."""
    example = EXAMPLES[verdict]
    image = frame(number) if image is None else image
    event = msgspec.structs.replace(
        example,
        camera=camera,
        boot_id="b007b007",
        frame_number=number,
        times=msgspec.structs.replace(example.times, captured_at_ns=at_ns),
        picture=name or f"b007b007-{camera}-{number}",
        heatmap=None,
        regions=[] if verdict == "NO_VERDICT" else example.regions,
        seq=0,
        previous_seq=0,
        journal_id=None,
        frame_hw=None if verdict == "NO_VERDICT" else (image.shape[0], image.shape[1]),
    )
    cells = -(-image.shape[0] // 8), -(-image.shape[1] // 8)
    heatmap = np.linspace(-9, 9, cells[0] * cells[1], dtype=np.float32).reshape(cells)
    heatmap[0, 0] = np.nan
    tiles = TileScores(np.array([[0, 0], [0, 16]], np.int32), np.array([-3.5, 4.25], np.float32), 48)
    evidence = (
        None
        if verdict == "NO_VERDICT"
        else Evidence(heatmap, HeatmapPng(hw=cells, cell_px=8, logit_at_0=-4.0, logit_at_255=6.0), tiles)
    )
    return Picture(event, image, evidence)


def writer(folder: Path, limits: Limits = ALL, clock: Clock | None = None) -> EvidenceWriter:
    clock = clock or Clock()
    return EvidenceWriter(folder, LINE, limits, lambda: clock.wall_ns)


def store(folder: Path, *pictures: Picture) -> EvidenceStore:
    """A store that holds these."""
    with writer(folder) as into:
        for each in pictures:
            into.write(each)
    return EvidenceStore(folder)


def names(folder: Path) -> list[str]:
    """All files of a store, but its lock."""
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.parent != folder
    )


def room(folder: Path) -> int:
    """The room of all entries on the disk, counted without the store."""
    return sum(room_of((folder / name).stat().st_size) for name in names(folder))


MISSED = [(3, 4)], [(1, 2, 30, 16)], [Stroke(((5, 6), (20, 9)), 4)]
"""Where a missed defect is: points, boxes and strokes."""


def mark(of: Picture, kind: MarkKind = "right", by: str = "Ada", seq: int = 1, journal: str = "j1") -> ReviewEvent:
    """The review event of a picture's mark, as a journal holds it."""
    return ReviewEvent(
        boot_id="b007b007",
        seq=seq,
        at_ns=of.event.times.captured_at_ns + seq,
        line=LINE,
        mark=mark_of(of.event, kind, by, *(MISSED if kind == "missed" else ())),
        journal_id=journal,
        previous_seq=0,
    )


def line_with_evidence(tmp_path: Path, bundle: Bundle, address: str, tables: str = "", rate_fps: float = 10.0) -> Path:
    """Write a line that stores evidence in the folder `evidence`, unless `tables` name another one."""
    write_pictures(tmp_path / "pictures", small_frames(6))
    # On a busy machine, frames wait.
    camera = f'path = "{tmp_path / "pictures"}"\nloop = true\nrate_fps = {rate_fps}\nwaiting_frames = 64'
    evidence = "" if "[evidence]" in tables else f'[evidence]\nfolder = "{tmp_path / "evidence"}"\n'
    return write_line(tmp_path, bundle.path, address, {"top": camera}, evidence + tables)


def until_evidence(line: RunningLine, wanted: Callable[[EvidenceState], bool]) -> StatusEvent:
    return line.next_of(StatusEvent, lambda status: status.evidence is not None and wanted(status.evidence))


def kept_by(line: RunningLine, count: int) -> int:
    """Wait until more pictures than that are stored, and nothing is wrong; return how many."""
    return until_evidence(line, lambda state: state.kept > count and state.fault is None).evidence.kept


def assert_stored_as_heard(folder: Path, events: list[VerdictEvent]) -> list[VerdictEvent]:
    """Every entry is whole, and is that of an event; return the events, oldest first."""
    by_id = {event.picture: event for event in events}
    held, shown, found = EvidenceStore(folder), small_frames(6), []
    for entry in held.entries(newest_first=False):
        heard, path = by_id[entry.picture], held.frame_path(entry.picture, entry.day)
        of_entry, of_line = ((event.verdict, event.frame_score, event.regions) for event in (entry.event, heard))
        assert of_entry == of_line
        np.testing.assert_array_equal(read_rgb(path), shown[str(heard.source)])
        assert entry.heatmap is not None
        found.append(heard)
    return found
