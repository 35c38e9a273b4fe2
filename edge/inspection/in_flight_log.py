"""A small file that shows, after a crash, which frames were in flight. It survives kill -9.

A camera's events leave in the order of its frames, so the frames in flight are those after the last reported one. The
file has two areas, allocated at the start, so that a disk that is full later does not matter. Each line of an area is
one announcement or one report, in JSON; when an area is full, the other one begins with what is still in flight. The
area with the higher turn holds. The file is not synced: no frame waits for the disk, and a power cut may lose it.
"""

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from heatline.edge.frames import Stamp, Watermark

logger = logging.getLogger(__name__)

FILE_NAME = "in-flight"
AREA_BYTES = 1 << 19
_HEADER = "{:019d}\n"
"""First line of an area: its turn. It is written last, so an area that is not complete yet does not hold."""
_HEADER_BYTES = len(_HEADER.format(0))
_KEPT = "camera", "frame_id", "last_frame_id", "frames", "number", "part_id", "captured_at_ns"
_CONSEQUENCE = "after a crash nobody will know which frames were in flight"


class _Line(msgspec.Struct, array_like=True):
    turn: int
    """Lines of an earlier turn remain in an area until they are overwritten."""
    boot_id: str
    camera: str
    reported: int
    """Number of the camera's last reported frame."""
    announced: Stamp | None = None
    """A frame, or a run of frames."""


class InFlightLog:
    """Writes down, from `begin` on, when a frame is announced and when its event is out; without a path, nothing. Any
    thread. If the disk cannot be written, the fault is logged and frames are still inspected.
    """

    def __init__(self, path: Path | None, boot_id: str) -> None:
        self.path, self._boot_id = path, boot_id
        self.fault: str | None = None
        """Why the frames in flight would be unknown after a crash; None while they are written down."""
        self._lock = threading.Lock()
        self._reported: dict[str, int] = {}
        self._in_flight: dict[str, deque[Stamp]] = {}
        self._fd: int | None = None
        self._turn, self._at, self._end = 0, 0, 0

    def begin(self, reported: Mapping[str, int]) -> None:
        """Overwrite the file, and write down from now on which frames are in flight.

        `reported` is the number of each camera's last reported frame.
        """
        with self._lock:
            self._reported, self._in_flight = dict(reported), {camera: deque() for camera in reported}
            self._rewrite()

    def retry(self) -> None:
        """Write the file if that failed: the disk may have room by now."""
        with self._lock:
            if self.fault is not None:
                self._rewrite()

    def announced(self, stamp: Stamp) -> None:
        """Note that a numbered frame, or a run of frames, was announced."""
        with self._lock:
            if stamp.camera in self._in_flight:
                self._in_flight[stamp.camera].append(stamp)
                self._append(self._line(stamp.camera, stamp))

    def reported(self, stamp: Stamp) -> None:
        """Note that the event of a frame, or of a run of frames, is out."""
        with self._lock:
            if stamp.camera in self._in_flight:
                self._reported[stamp.camera] = last = stamp.last_number
                waiting = self._in_flight[stamp.camera]
                while waiting and waiting[0].last_number <= last:
                    waiting.popleft()
                self._append(self._line(stamp.camera))

    def _line(self, camera: str, announced: Stamp | None = None) -> bytes:
        return msgspec.json.encode(_Line(self._turn, self._boot_id, camera, self._reported[camera], announced)) + b"\n"

    def _append(self, line: bytes) -> None:
        if self._fd is None:
            return
        if self._at + len(line) > self._end:
            self._rewrite()
            return
        try:
            self._at += os.pwrite(self._fd, line, self._at)
        except OSError as error:
            self._fail(error)

    def _rewrite(self) -> None:
        """Begin the other area with what is in flight."""
        if self.path is None:
            return
        try:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                os.posix_fallocate(self._fd, 0, 2 * AREA_BYTES)
                self._turn = max(map(_turn_of, _areas(self.path)))
            self._turn += 1
            lines = [self._line(camera) for camera in self._reported]
            lines += [self._line(camera, each) for camera, waiting in self._in_flight.items() for each in waiting]
            start = self._turn % 2 * AREA_BYTES
            self._end = start + AREA_BYTES
            self._at = start + _HEADER_BYTES + os.pwrite(self._fd, b"".join(lines), start + _HEADER_BYTES)
            os.pwrite(self._fd, _HEADER.format(self._turn).encode(), start)
        except OSError as error:
            self._fail(error)
            return
        if self.fault is not None:
            self.fault = None
            logger.info("%s is written again", self.path)

    def _fail(self, error: OSError) -> None:
        assert self.path is not None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with contextlib.suppress(OSError):
            os.truncate(self.path, 0)  # it would tell of frames that are reported by then
        if self.fault is None:
            logger.error("%s cannot be written (%s): %s", self.path, error.strerror, _CONSEQUENCE)
        self.fault = f"{self.path.parent} cannot be written: {_CONSEQUENCE}"


def _areas(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    return data[:AREA_BYTES], data[AREA_BYTES:]


def _turn_of(area: bytes) -> int:
    header = area[: _HEADER_BYTES - 1]
    return int(header) if header.isdigit() else 0


@dataclass(frozen=True)
class PreviousRun:
    """What the in-flight log holds about the run that wrote it."""

    in_flight: list[Stamp] = field(default_factory=list)
    """The frames that were announced and not reported, in as few stamps as possible; each part has its own. Their
    numbers are those of that run."""
    reported: dict[str, Watermark] = field(default_factory=dict)
    """Per camera, how far its frames are reported."""
    boot_id: str = ""
    written_at_ns: int = 0
    """When the log was last written: UTC, ns since 1970; 0: there is no log."""

    def unjournalled(self, journalled: Mapping[str, Watermark], since_ns: int | None) -> dict[str, int | None]:
        """Return by camera how many of its reported frames are not in the journal, at least; None: an unknown number.

        The journal may know nothing of a camera. If the journal is new, nothing is missing. If it is older than the
        run, the service died before the first event of that camera was stored. The journal holds `journalled`; it was
        made at `since_ns`, UTC; None: there is none, or the time is unknown.
        """
        is_older = since_ns is not None and since_ns < self.written_at_ns
        missing: dict[str, int | None] = {}
        for camera, reported in self.reported.items():
            stored = journalled.get(camera, Watermark(reported.boot_id, 0 if is_older else reported.frame_number))
            if stored.boot_id != reported.boot_id and reported.frame_number:
                missing[camera] = None
            elif stored.boot_id == reported.boot_id and reported.frame_number > stored.frame_number:
                missing[camera] = reported.frame_number - stored.frame_number
        return missing


def read_previous_run(path: Path | None, journalled: Mapping[str, Watermark] = {}) -> PreviousRun:
    """Read the in-flight log of the previous run. Without a file, the result is empty; what is no line is left out.

    The run may have crashed between the journal's commit and the write to this log, so what is `journalled` counts too.
    """
    if path is None:
        return PreviousRun()
    try:
        area, written_at_ns = max(_areas(path), key=_turn_of), path.stat().st_mtime_ns
    except OSError:
        return PreviousRun()
    boot_id, reported, announced = "", dict[str, Watermark](), dict[str, list[Stamp]]()
    for line in area[_HEADER_BYTES:].split(b"\n"):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            entry = msgspec.json.decode(line, type=_Line)
            if entry.turn != _turn_of(area):
                break
            boot_id = entry.boot_id
            reported[entry.camera] = Watermark(boot_id, entry.reported)
            announced.setdefault(entry.camera, []).extend(filter(None, [entry.announced]))
    in_flight: list[Stamp] = []
    for camera, frames in announced.items():
        in_journal = journalled.get(camera, reported[camera])
        reached = reported[camera].frame_number
        if in_journal.boot_id == boot_id:
            reached = max(reached, in_journal.frame_number)
        in_flight += _runs([each for each in frames if each.last_number > reached])
    return PreviousRun(in_flight, reported, boot_id, written_at_ns)


def _runs(frames: list[Stamp]) -> list[Stamp]:
    """Join frames that follow one another, without what only their own run knew: its clock, and their files."""
    runs: list[Stamp] = []
    for each in frames:
        stamp = Stamp(**{name: getattr(each, name) for name in _KEPT})
        before = runs[-1] if runs else None
        if before is not None and before.part_id is stamp.part_id is None and before.is_followed_by(stamp):
            runs[-1] = before.extended_to(stamp)
        else:
            runs.append(stamp)
    return runs
