"""What was in flight when the service died: kept in a small file, so that what was written is there after kill -9. A
power cut may lose the last seconds of it.

It is written call by call and not mapped into memory: a disk that fails must show as an error, and not by SIGBUS.

As a camera's events leave in the order of its frames, those in flight are those after the last one told.
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
"""Camera, number of the last frame announced, number of the last frame told, boot id."""
_ANNOUNCED_AT, _TOLD_AT = 64, 72
_NUMBER = struct.Struct("<Q")
_SLOT = struct.Struct("<QQqQ256s")
"""Number, frames, frame id (-1: none), captured at (UTC, ns), part id."""
_SLOTS = 256
"""More than can be in flight; of older ones only the number is known."""
_CAMERA_BYTES = _HEAD.size + _SLOTS * _SLOT.size


class InFlightLog:
    """Notes each frame's announcement and the end of its way, from `begin` on. Of one camera, one thread announces and
    one tells.

    A disk that cannot be written keeps no frame from being inspected: that is logged, and tried again with every frame,
    or by `begin_again` where it could not even begin.

    Args:
        path: the file; None: nothing is noted.
        ledger: whose frames these are: what it has booked is told.
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
        """Why nobody would know after a crash what was in flight, in words; None while it is noted."""
        return self._fault

    def begin(self) -> None:
        """Note what is in flight from now on; what was in the file is written over."""
        if self.path is None:
            return
        told = {name: account.captured - account.in_flight for name, account in self._ledger.accounts().items()}
        self._blocks = {name: len(_MAGIC) + index * _CAMERA_BYTES for index, name in enumerate(told)}
        self._slots = dict.fromkeys(told, 0)
        heads = [_HEAD.pack(name.encode(), last, last, self._boot_id.encode()) for name, last in told.items()]
        try:
            self._fd = _written_over(self.path, b"".join(head.ljust(_CAMERA_BYTES, b"\0") for head in heads))
        except OSError as error:
            if self._fault is None:
                nobody_knows = "after a crash nobody will know what was in flight"
                logger.warning("%s cannot be written (%s): %s", self.path, error, nobody_knows)
            self._fault = f"{self.path.parent} cannot be written: after a crash nobody knows what was in flight"
            return
        if self._fault is not None:
            self._fault = None
            logger.info("%s can be written: what is in flight is noted from now on", self.path.parent)

    def begin_again(self) -> None:
        """Begin, where that failed: there may be room by now."""
        if self._fault is not None and self._fd < 0:
            self.begin()

    def announced(self, stamp: Stamp) -> None:
        """A frame, or a run of them, was announced; it has its number."""
        if self._fd < 0:
            return
        block, slot = self._blocks[stamp.camera], self._slots[stamp.camera]
        self._slots[stamp.camera] = (slot + 1) % _SLOTS
        noted = _SLOT.pack(
            stamp.number,
            stamp.frames,
            -1 if stamp.frame_id is None else stamp.frame_id,
            stamp.captured_at_ns,
            (stamp.part_id or "").encode(),
        )
        last = _NUMBER.pack(stamp.number + stamp.frames - 1)
        # Its number last, so that a frame that is counted has been noted.
        self._note((block + _HEAD.size + slot * _SLOT.size, noted), (block + _ANNOUNCED_AT, last))

    def told(self, stamp: Stamp) -> None:
        """The event of a frame, or of a run of them, is out."""
        if self._fd >= 0:
            last = _NUMBER.pack(stamp.number + stamp.frames - 1)
            self._note((self._blocks[stamp.camera] + _TOLD_AT, last))

    def _note(self, *writes: tuple[int, bytes]) -> None:
        try:
            for at, data in writes:
                _write(self._fd, at, data)
        except OSError as error:
            if self._fault is None:
                self._fault = f"{self.path} cannot be written ({error.strerror})"
                logger.error("%s: after a crash nobody will know what was in flight", self._fault)
            return
        if self._fault is not None:
            self._fault = None
            logger.info("%s is written again", self.path)


def _written_over(path: Path, blocks: bytes) -> int:
    """A file with one block per camera, open; what was in it is gone.

    Raises:
        OSError: it cannot be written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # A full disk must show now; one that fills later does no harm. The room that the last run's record takes is not
        # given back meanwhile.
        os.posix_fallocate(fd, 0, len(_MAGIC) + len(blocks))
        # From its begin to its end, so that a death meanwhile leaves each camera's record as it was, or empty.
        _write(fd, 0, _MAGIC + blocks)
        os.ftruncate(fd, len(_MAGIC) + len(blocks))
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # it has been told of, and says nothing of this run
        os.close(fd)
        raise
    return fd


def _write(fd: int, at: int, data: bytes) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        at, data = at + written, data[written:]


@dataclass(frozen=True)
class _Noted:
    number: int
    frames: int
    frame_id: int | None
    captured_at_ns: int
    part_id: str | None


@dataclass(frozen=True)
class PreviousRun:
    """What a record says of the run that wrote it."""

    in_flight: list[Stamp]
    """The frames that were announced and never told of, as few stamps as can say it; each part has its own. Their
    numbers are those of that run."""
    told: dict[str, Watermark]
    """Per camera, what was told of."""
    noted_at_ns: int = 0
    """When it was written last: UTC, ns since 1970; 0: there is none."""


def previous_run(path: Path | None, journalled: Mapping[str, Watermark] | None = None) -> PreviousRun:
    """What is known of an earlier run; a file that is not there, or is none of ours, tells of nothing.

    Args:
        journalled: per camera, how far its events are in the journal: an event may have been kept and the death have
            come before it was noted here.
    """
    run = PreviousRun([], {})
    if path is None:
        return run
    try:
        data, noted_at_ns = path.read_bytes(), path.stat().st_mtime_ns
    except OSError:
        return run
    if not data.startswith(_MAGIC):
        logger.warning("%s is no record of what was in flight; what was is not known", path)
        return run
    run = replace(run, noted_at_ns=noted_at_ns)
    for block in range(len(_MAGIC), len(data) - _CAMERA_BYTES + 1, _CAMERA_BYTES):
        name, announced, told, boot = _HEAD.unpack_from(data, block)
        camera, boot_id = (text.rstrip(b"\0").decode(errors="replace") for text in (name, boot))
        run.told[camera] = Watermark(boot_id, told)
        kept = (journalled or {}).get(camera)
        if kept is not None and kept.boot_id == boot_id:
            told = max(told, kept.frame_number)
        run.in_flight.extend(_stamps(camera, announced, told, _noted(data, block + _HEAD.size, told, announced)))
    return run


def _noted(data: bytes, begin: int, told: int, announced: int) -> list[_Noted]:
    """What was noted of the frames after `told` up to `announced`, in their order."""
    noted = []
    for slot in range(_SLOTS):
        number, frames, frame_id, at_ns, part = _SLOT.unpack_from(data, begin + slot * _SLOT.size)
        if told < number + frames - 1 and 0 < number <= announced:
            part_id = part.rstrip(b"\0").decode(errors="replace") or None
            noted.append(_Noted(number, frames, None if frame_id < 0 else frame_id, at_ns, part_id))
    return sorted(noted, key=lambda each: each.number)


def _stamps(camera: str, announced: int, told: int, noted: list[_Noted]) -> list[Stamp]:
    stamps: list[Stamp] = []
    reached = told
    for each in noted:
        if each.number > reached + 1:  # noted so long ago that it was written over
            missing = each.number - reached - 1
            stamps.append(_stamp(camera, _Noted(reached + 1, missing, None, each.captured_at_ns, None)))
        stamp = _stamp(camera, each)
        last = stamps[-1] if stamps else None
        if last is not None and last.part_id is stamp.part_id is None and last.is_followed_by(stamp):
            stamps[-1] = last.extended_to(stamp)
        else:
            stamps.append(stamp)
        reached = max(reached, each.number + each.frames - 1)
    if reached < announced:
        stamps.append(_stamp(camera, _Noted(reached + 1, announced - reached, None, 0, None)))
    return stamps


def _stamp(camera: str, noted: _Noted) -> Stamp:
    return Stamp(
        camera, noted.frame_id, captured_at_ns=noted.captured_at_ns, frames=noted.frames, number=noted.number,
        part_id=noted.part_id, last_frame_id=_last_id(noted),
    )  # fmt: skip


def _last_id(noted: _Noted) -> int | None:
    """Of a run; 16-bit ids begin again at 1."""
    if noted.frame_id is None or noted.frames == 1:
        return None
    last = noted.frame_id + noted.frames - 1
    return last - 65535 if noted.frame_id <= 65535 < last else last
