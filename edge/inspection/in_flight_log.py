"""A small file that shows, after a crash, which frames were in flight. It survives kill -9; a power cut may lose the
last seconds.

It is written by system calls and not mapped into memory: a failing disk must cause an error, not a SIGBUS.

A camera's events leave in the order of its frames, so the frames in flight are those after the last reported one.
"""

import contextlib
import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge.frames import Stamp, Watermark
from edge.inspection.ledger import Ledger

logger = logging.getLogger(__name__)

FILE_NAME = "in-flight"
_MAGIC = b"heatline in-flight 2\n"
_HEAD = struct.Struct("<64sQQ32s")
"""Camera, number of the last announced frame, number of the last reported frame, boot id."""
_ANNOUNCED_AT, _REPORTED_AT = 64, 72
_NUMBER = struct.Struct("<Q")
_SLOT = struct.Struct("<QQqQ256s")
"""Number, frames, frame id (-1: none), captured at (UTC, ns), part id."""
_SLOTS = 256
"""More than can be in flight; for older frames only the number is known."""
_CAMERA_BYTES = _HEAD.size + _SLOTS * _SLOT.size
_CONSEQUENCE = "after a crash nobody will know which frames were in flight"


class InFlightLog:
    """Writes down, from `begin` on, when a frame is announced and when its event is out. For each camera, one thread
    calls `announced` and one calls `reported`.

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
        self._blocks: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._fd = -1
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why the frames in flight would be unknown after a crash; None while they are written down."""
        return self._fault

    def begin(self) -> None:
        """Overwrite the file, and write down from now on which frames are in flight."""
        if self.path is None:
            return
        reported = {name: account.captured - account.in_flight for name, account in self._ledger.accounts().items()}
        self._blocks = {name: len(_MAGIC) + index * _CAMERA_BYTES for index, name in enumerate(reported)}
        self._slots = dict.fromkeys(reported, 0)
        heads = [_HEAD.pack(name.encode(), last, last, self._boot_id.encode()) for name, last in reported.items()]
        try:
            self._fd = _overwrite(self.path, b"".join(head.ljust(_CAMERA_BYTES, b"\0") for head in heads))
        except OSError as error:
            if self._fault is None:
                logger.warning("%s cannot be written (%s): %s", self.path, error, _CONSEQUENCE)
            self._fault = f"{self.path.parent} cannot be written: {_CONSEQUENCE}"
            return
        if self._fault is not None:
            self._fault = None
            logger.info("%s can be written: frames in flight are logged from now on", self.path.parent)

    def begin_again(self) -> None:
        """Call `begin` again if it failed: the disk may have room by now."""
        if self._fault is not None and self._fd < 0:
            self.begin()

    def announced(self, stamp: Stamp) -> None:
        """Note that a numbered frame, or a run of frames, was announced."""
        if self._fd < 0:
            return
        block, slot = self._blocks[stamp.camera], self._slots[stamp.camera]
        self._slots[stamp.camera] = (slot + 1) % _SLOTS
        record = _SLOT.pack(
            stamp.number,
            stamp.frames,
            -1 if stamp.frame_id is None else stamp.frame_id,
            stamp.captured_at_ns,
            (stamp.part_id or "").encode(),
        )
        last = _NUMBER.pack(stamp.number + stamp.frames - 1)
        # The number comes last, so that every frame that counts as announced has its record.
        self._write_all((block + _HEAD.size + slot * _SLOT.size, record), (block + _ANNOUNCED_AT, last))

    def reported(self, stamp: Stamp) -> None:
        """Note that the event of a frame, or of a run of frames, is out."""
        if self._fd >= 0:
            last = _NUMBER.pack(stamp.number + stamp.frames - 1)
            self._write_all((self._blocks[stamp.camera] + _REPORTED_AT, last))

    def _write_all(self, *writes: tuple[int, bytes]) -> None:
        try:
            for at, data in writes:
                _write(self._fd, at, data)
        except OSError as error:
            if self._fault is None:
                self._fault = f"{self.path} cannot be written ({error.strerror})"
                logger.error("%s: %s", self._fault, _CONSEQUENCE)
            return
        if self._fault is not None:
            self._fault = None
            logger.info("%s is written again", self.path)


def _overwrite(path: Path, blocks: bytes) -> int:
    """Replace the file's content with one block per camera, and return the open file's descriptor.

    Raises:
        OSError: it cannot be written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # A full disk must cause the error now; a disk that fills later does no harm. The previous run's content keeps
        # its room until it is overwritten.
        os.posix_fallocate(fd, 0, len(_MAGIC) + len(blocks))
        # From start to end, so that a crash meanwhile leaves each camera's block unchanged or empty.
        _write(fd, 0, _MAGIC + blocks)
        os.ftruncate(fd, len(_MAGIC) + len(blocks))
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # the previous run's frames are reported, and this run's cannot be written
        os.close(fd)
        raise
    return fd


def _write(fd: int, at: int, data: bytes) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        at, data = at + written, data[written:]


@dataclass(frozen=True)
class _Record:
    number: int
    frames: int
    frame_id: int | None
    captured_at_ns: int
    part_id: str | None


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
    run = PreviousRun([], {})
    if path is None:
        return run
    try:
        data, written_at_ns = path.read_bytes(), path.stat().st_mtime_ns
    except OSError:
        return run
    if not data.startswith(_MAGIC):
        logger.warning("%s is not an in-flight log, so the frames in flight of the previous run are unknown", path)
        return run
    run = replace(run, written_at_ns=written_at_ns)
    for block in range(len(_MAGIC), len(data) - _CAMERA_BYTES + 1, _CAMERA_BYTES):
        name, announced, reported, boot = _HEAD.unpack_from(data, block)
        camera, boot_id = (text.rstrip(b"\0").decode(errors="replace") for text in (name, boot))
        run.reported[camera] = Watermark(boot_id, reported)
        in_journal = (journalled or {}).get(camera)
        if in_journal is not None and in_journal.boot_id == boot_id:
            reported = max(reported, in_journal.frame_number)
        records = _records(data, block + _HEAD.size, reported, announced)
        run.in_flight.extend(_stamps(camera, announced, reported, records))
    return run


def _records(data: bytes, begin: int, reported: int, announced: int) -> list[_Record]:
    """Return the records of the frames after `reported` up to `announced`, in order."""
    records = []
    for slot in range(_SLOTS):
        number, frames, frame_id, at_ns, part = _SLOT.unpack_from(data, begin + slot * _SLOT.size)
        if reported < number + frames - 1 and 0 < number <= announced:
            part_id = part.rstrip(b"\0").decode(errors="replace") or None
            records.append(_Record(number, frames, None if frame_id < 0 else frame_id, at_ns, part_id))
    return sorted(records, key=lambda record: record.number)


def _stamps(camera: str, announced: int, reported: int, records: list[_Record]) -> list[Stamp]:
    stamps: list[Stamp] = []
    reached = reported
    for record in records:
        if record.number > reached + 1:  # so old that its record was overwritten
            missing = record.number - reached - 1
            stamps.append(_stamp(camera, _Record(reached + 1, missing, None, record.captured_at_ns, None)))
        stamp = _stamp(camera, record)
        last = stamps[-1] if stamps else None
        if last is not None and last.part_id is stamp.part_id is None and last.is_followed_by(stamp):
            stamps[-1] = last.extended_to(stamp)
        else:
            stamps.append(stamp)
        reached = max(reached, record.number + record.frames - 1)
    if reached < announced:
        stamps.append(_stamp(camera, _Record(reached + 1, announced - reached, None, 0, None)))
    return stamps


def _stamp(camera: str, record: _Record) -> Stamp:
    return Stamp(
        camera, record.frame_id, captured_at_ns=record.captured_at_ns, frames=record.frames, number=record.number,
        part_id=record.part_id, last_frame_id=_last_id(record),
    )  # fmt: skip


def _last_id(record: _Record) -> int | None:
    """Return the frame id of a run's last frame; 16-bit ids begin again at 1."""
    if record.frame_id is None or record.frames == 1:
        return None
    last = record.frame_id + record.frames - 1
    return last - 65535 if record.frame_id <= 65535 < last else last
