"""Pictures on their way from another program, such as the page, into a line's evidence store.

A program puts a picture into the folder `inbox` of the store. The recorder, the only writer of the store, adopts it.
"""

import contextlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec.structs import replace

from edge.errors import InputError
from edge.evidence.encoding import EncodedEntry, encode_picture
from edge.evidence.entry import (
    LARGEST_BYTES,
    LARGEST_NS,
    EvidenceEntry,
    day_of,
    decode_entry,
    encode_entry,
    files_of,
    is_picture,
    require_picture,
)
from edge.evidence.files import HALF_WRITTEN, PNG_BEGIN, PNG_END, make_folder, write_synced
from edge.evidence.retention import MIB, Limits, NoRoomError, lacking_bytes
from edge.evidence.store import ENTRY, FRAME, HEATMAP
from edge.evidence.writer import EvidenceWriter
from edge.pictures.picture import Picture
from edge.util.atomic_file import sync_folder
from edge.util.os_errors import writing
from edge.util.plain_file import read_plain
from edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

INBOX = "inbox"
MOST_FILES = 192
"""Of 64 pictures with heatmap."""
MOST_BYTES = 512 << 20
SLACK = 2
"""The recorder deletes what is beyond this multiple of both: several programs may put pictures at once."""
COMPLETE_WITHIN_SECONDS = 60.0
"""Files that are no whole entry after this time are deleted."""
SCANNED_AT_ONCE = 10_000
_SPARE = Limits(keep_s=0, keep_bytes=0)


def put(folder: Path, picture: Picture, line: str) -> None:
    """Have a line's recorder store a picture that the line did not choose, within about a second.

    Args:
        folder: of the evidence store; the line has created it.
        line: the line's name.
    Raises:
        InputError: the inbox is full or cannot be written, or the picture's id cannot be a file name.
    """
    name = require_picture(picture.event.picture)
    inbox = folder / INBOX
    with writing(inbox):
        if (folder / day_of(picture.event.times.captured_at_ns) / f"{name}{ENTRY}").exists():
            return
        encoded = encode_picture(picture, line, time.time_ns(), is_chosen=True)
        make_folder(inbox)
        owner = _other_owner(folder)
        if owner is not None:
            os.chown(inbox, *owner, follow_symlinks=False)
        _require_room(inbox, encoded.size_bytes)
        half = inbox / f"{uuid.uuid4().hex}{HALF_WRITTEN}"
        try:
            for ending, data in encoded.files.items():
                write_synced(half, data, owner)
                half.rename(inbox / f"{name}{ending}")
            sync_folder(inbox)
        except BaseException:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise


def _other_owner(folder: Path) -> tuple[int, int] | None:
    """Return user and group of the store, if root puts a picture there: its recorder cannot read what is root's.

    Raises:
        OSError: the folder cannot be read.
    """
    if os.geteuid() != 0:
        return None
    status = folder.stat()
    return status.st_uid, status.st_gid


def _require_room(inbox: Path, size_bytes: int) -> None:
    """Require that the inbox may hold another entry.

    Raises:
        InputError: it may not.
        OSError: it cannot be read.
    """
    if inbox.is_symlink():
        raise InputError(f"{inbox} is a symbolic link, expected a folder; delete it")
    files = _files_in(inbox)
    if len(files) >= MOST_FILES or sum(file.size_bytes for file in files) + size_bytes > MOST_BYTES:
        raise InputError(f"{inbox} is full ({len(files)} files); check that the line runs and stores pictures")
    if lacking := lacking_bytes(inbox, _SPARE, size_bytes):
        raise InputError(
            f"the disk of {inbox} lacks {lacking / MIB:.0f} MiB of the free space that it must keep; make room on it"
        )


Outcome = Literal["adopted", "held", "refused"]
"""What became of a picture in the inbox. `held`: the store holds it already."""


class _File(NamedTuple):
    """A file of the inbox, in the order of arrival."""

    changed_at_ns: int
    name: str
    size_bytes: int


class Inbox:
    """The recorder's end of the inbox. Nothing in it is trusted.

    Args:
        folder: of the evidence store.
        clock: monotonic clock, s.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._inbox, self._clock = folder / INBOX, clock
        self._seen: dict[str, float] = {}
        """When each file that belongs to no whole entry was first seen."""
        self._log = RateLimitedLog(logger)

    def adopt(self, writer: EvidenceWriter) -> Outcome | None:
        """Store the picture that came first, if there is one.

        Raises:
            InputError: it cannot be stored now, and stays in the inbox.
        """
        with writing(self._inbox):
            files = self._tidy()
            first = next((file.name.removesuffix(ENTRY) for file in files if _ending(file.name) == ENTRY), None)
            if first is None:
                return None
            try:
                entry = self._entry(first)
                held = writer.holds(entry.day, first)
                if not held:
                    writer.store(self._encoded(entry))
                outcome: Outcome = "held" if held else "adopted"
            except (NoRoomError, _DamagedError) as error:
                self._log.error("a picture in the inbox is deleted: %s", error)
                outcome = "refused"
            self._delete(first)
            return outcome

    def _tidy(self) -> list[_File]:
        """Return the files in the order of arrival, without those that are too many or have waited for too long."""
        if self._inbox.is_symlink():
            self._log.error("%s is a symbolic link, expected a folder; delete it", self._inbox)
            return []
        files = _files_in(self._inbox)
        whole = {file.name.removesuffix(ENTRY) for file in files if _ending(file.name) == ENTRY}
        others = [file.name for file in files if _ending(file.name) is None or file.name.partition(".")[0] not in whole]
        self._seen = {name: self._seen.get(name, self._clock()) for name in others}
        late = {name for name, since_s in self._seen.items() if self._clock() - since_s >= COMPLETE_WITHIN_SECONDS}
        kept: list[_File] = []
        size_bytes = 0
        for file in files:
            size_bytes += file.size_bytes
            if len(kept) < SLACK * MOST_FILES and size_bytes <= SLACK * MOST_BYTES and file.name not in late:
                kept.append(file)
            else:
                self._log.error("%s: %s is deleted, as it is too much or no whole entry", self._inbox, file.name)
                self._unlink(file.name)
        return kept

    def _entry(self, name: str) -> EvidenceEntry:
        try:
            entry = decode_entry(self._read(f"{name}{ENTRY}", LARGEST_BYTES))
        except InputError as error:
            raise _DamagedError(f"{name}{ENTRY}: {error}") from error
        if name not in (entry.picture, entry.event.picture) or entry.picture != entry.event.picture:
            raise _DamagedError(f"{name}{ENTRY} is the entry of another picture")
        if not 0 <= entry.event.times.captured_at_ns <= LARGEST_NS:
            raise _DamagedError(f"{name}{ENTRY} has no time of capture")
        return replace(entry, files=files_of(name, with_heatmap=entry.heatmap is not None), is_chosen=True)

    def _encoded(self, entry: EvidenceEntry) -> EncodedEntry:
        files = {FRAME: self._png(f"{entry.picture}{FRAME}", entry.event.frame_hw)}
        if entry.heatmap is not None:
            files[HEATMAP] = self._png(f"{entry.picture}{HEATMAP}", entry.heatmap.hw)
        return EncodedEntry(entry, files | {ENTRY: encode_entry(entry)})

    def _png(self, name: str, hw: tuple[int, int] | None) -> bytes:
        data = self._read(name, MOST_BYTES)
        width, height = (int.from_bytes(data[at : at + 4]) for at in (len(PNG_BEGIN), len(PNG_BEGIN) + 4))
        if not data.startswith(PNG_BEGIN) or not data.endswith(PNG_END):
            raise _DamagedError(f"{name} is no whole PNG")
        if hw not in (None, (height, width)):
            raise _DamagedError(f"{name} has another size than its entry says")
        return data

    def _read(self, name: str, at_most: int) -> bytes:
        try:
            return read_plain(self._inbox / name, at_most)
        except OSError as error:
            raise _DamagedError(f"{name} cannot be read ({error.strerror})") from error

    def _delete(self, picture: str) -> None:
        for ending in (ENTRY, HEATMAP, FRAME):  # an entry exists only with its JSON file
            self._unlink(f"{picture}{ending}")

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):  # it is gone, or a folder, or stays: the inbox is bounded
            (self._inbox / name).unlink()


class _DamagedError(InputError):
    """What is no whole entry."""


def _files_in(inbox: Path) -> list[_File]:
    """Return the files of an inbox in the order of arrival, of very many only some.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    try:
        with os.scandir(inbox) as entries:
            for entry in islice(entries, SCANNED_AT_ONCE):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        found.append(_File(status.st_mtime_ns, entry.name, status.st_size))
    except FileNotFoundError:
        return []
    return sorted(found)


def _ending(name: str) -> str | None:
    """Return the ending of a file of an entry; None: it is none."""
    picture, _, ending = name.partition(".")
    return f".{ending}" if f".{ending}" in (ENTRY, FRAME, HEATMAP) and is_picture(picture) else None
