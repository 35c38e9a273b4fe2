"""A small file that shows, after a crash, which frames were in flight. It survives kill -9; a power cut may lose the
last seconds.

A camera's events leave in the order of its frames, so the frames in flight are those after the last reported one.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.frames import Stamp, Watermark
from heatline.edge.inspection.ledger import Ledger
from heatline.edge.util.slot_file import SlotFile, read_slots

logger = logging.getLogger(__name__)

FILE_NAME = "in-flight"
MOST_NAMED = 128
"""More than can be in flight; for older frames only the number is known."""
_SLOT_BYTES = 64 << 10
_CONSEQUENCE = "after a crash nobody will know which frames were in flight"


class _Named(msgspec.Struct, array_like=True):
    """A frame, or a run of frames, as in its stamp."""

    number: int
    frames: int
    frame_id: int | None
    last_frame_id: int | None
    captured_at_ns: int
    part_id: str | None


class _Record(msgspec.Struct, array_like=True):
    """The frames of a camera that were in flight at an instant."""

    camera: str
    boot_id: str
    announced: int
    """Number of the last announced frame."""
    reported: int
    """Number of the last reported frame."""
    named: list[_Named] = []
    """The newest of the frames after that."""


class InFlightLog:
    """Writes down, from `begin` on, when a frame is announced and when its event is out. Any thread.

    If the disk cannot be written, the fault is logged and frames are still inspected. Each frame tries again; after a
    failed `begin`, `begin_again` does.

    Args:
        path: the file; None: nothing is written.
        ledger: the ledger of the frames: those that it has booked count as reported.
        boot_id: of this run.
    """

    def __init__(self, path: Path | None, ledger: Ledger, boot_id: str) -> None:
        self.path = path
        self._ledger, self._boot_id = ledger, boot_id
        self._lock = threading.Lock()
        self._records: dict[str, tuple[int, _Record]] = {}
        """By camera, its place in the file and its record."""
        self._file: SlotFile | None = None
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why the frames in flight would be unknown after a crash; None while they are written down."""
        return self._fault

    def begin(self) -> None:
        """Overwrite the file, and write down from now on which frames are in flight."""
        if self.path is None:
            return
        accounts = self._ledger.accounts()
        reported = {name: account.captured - account.in_flight for name, account in accounts.items()}
        self._records = {
            name: (place, _Record(name, self._boot_id, last, last))
            for place, (name, last) in enumerate(reported.items())
        }
        try:
            file = SlotFile(self.path, _SLOT_BYTES, len(accounts))
            for place, record in self._records.values():
                file.write(place, msgspec.json.encode(record))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, 0)  # the previous run's frames are reported, and this run's cannot be written
            if self._fault is None:
                logger.warning("%s cannot be written (%s): %s", self.path, error, _CONSEQUENCE)
            self._fault = f"{self.path.parent} cannot be written: {_CONSEQUENCE}"
            return
        self._file = file
        if self._fault is not None:
            self._fault = None
            logger.info("%s can be written: frames in flight are logged from now on", self.path.parent)

    def begin_again(self) -> None:
        """Call `begin` again if it failed: the disk may have room by now."""
        if self._fault is not None and self._file is None:
            self.begin()

    def announced(self, stamp: Stamp) -> None:
        """Note that a numbered frame, or a run of frames, was announced."""
        if self._file is not None:
            with self._lock:
                _, record = self._records[stamp.camera]
                record.named.append(msgspec.convert(stamp, _Named, from_attributes=True))
                del record.named[:-MOST_NAMED]
                record.announced = stamp.number + stamp.frames - 1
                self._write(self._file, stamp.camera)

    def reported(self, stamp: Stamp) -> None:
        """Note that the event of a frame, or of a run of frames, is out."""
        if self._file is not None:
            with self._lock:
                _, record = self._records[stamp.camera]
                record.reported = last = stamp.number + stamp.frames - 1
                record.named = [each for each in record.named if each.number + each.frames - 1 > last]
                self._write(self._file, stamp.camera)

    def _write(self, file: SlotFile, camera: str) -> None:
        place, record = self._records[camera]
        try:
            file.write(place, msgspec.json.encode(record))
        except OSError as error:
            if self._fault is None:
                self._fault = f"{self.path} cannot be written ({error.strerror})"
                logger.error("%s: %s", self._fault, _CONSEQUENCE)
            return
        if self._fault is not None:
            self._fault = None
            logger.info("%s is written again", self.path)


@dataclass(frozen=True)
class PreviousRun:
    """What the in-flight log holds about the run that wrote it."""

    in_flight: list[Stamp]
    """The frames that were announced and not reported, in as few stamps as possible; each part has its own. Their
    numbers are those of that run."""
    reported: dict[str, Watermark]
    """Per camera, how far its frames are reported."""
    written_at_ns: int = 0
    """When the log was last written: UTC, ns since 1970; 0: there is no log."""


def read_previous_run(path: Path | None, journalled: Mapping[str, Watermark] | None = None) -> PreviousRun:
    """Read the in-flight log of the previous run. A missing file, or one of another kind, gives an empty result.

    Args:
        journalled: per camera, how far its events are in the journal. The run may have crashed between the journal's
            commit and the write to this log.
    """
    try:
        if path is None:
            return PreviousRun([], {})
        run = PreviousRun([], {}, path.stat().st_mtime_ns)
        records = [msgspec.json.decode(data, type=_Record) for data in read_slots(path, _SLOT_BYTES) if data]
    except (OSError, msgspec.MsgspecError):
        return PreviousRun([], {})
    for record in records:
        run.reported[record.camera] = Watermark(record.boot_id, record.reported)
        in_journal = (journalled or {}).get(record.camera)
        if in_journal is not None and in_journal.boot_id == record.boot_id:
            record.reported = max(record.reported, in_journal.frame_number)
        run.in_flight.extend(_stamps(record))
    return run


def _stamps(record: _Record) -> list[Stamp]:
    stamps: list[Stamp] = []
    reached = record.reported
    for each in record.named:
        if each.number > reached + 1:  # so many frames that these are not named any more
            missing = each.number - reached - 1
            at_ns = each.captured_at_ns
            stamps.append(Stamp(record.camera, None, captured_at_ns=at_ns, frames=missing, number=reached + 1))
        if (last := each.number + each.frames - 1) <= reached:
            continue
        reached = last
        stamp = Stamp(record.camera, **msgspec.structs.asdict(each))
        before = stamps[-1] if stamps else None
        if before is not None and before.part_id is stamp.part_id is None and before.is_followed_by(stamp):
            stamps[-1] = before.extended_to(stamp)
        else:
            stamps.append(stamp)
    return stamps
