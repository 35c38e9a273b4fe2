"""Pictures on their way from another program, such as the page, into a line's evidence store.

A program puts a picture into the folder `inbox` of the store, as one file. The recorder, the only writer of the store,
adopts it.
"""

import contextlib
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Literal

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.monitor.encoding import EncodedEntry, encode_picture
from heatline.edge.monitor.entry import day_of, decode_entry, require_picture
from heatline.edge.monitor.files import HALF_WRITTEN, write_whole
from heatline.edge.monitor.picture import Picture
from heatline.edge.monitor.retention import MIB, Limits, NoRoomError, lacking_bytes
from heatline.edge.monitor.store import ENTRY, FRAME, HEATMAP
from heatline.edge.monitor.writer import EvidenceWriter
from heatline.edge.util.files import make_folder, read_plain, writing
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

INBOX = "inbox"
PUT = ".picture"
MOST_PICTURES = 64
MOST_BYTES = 512 << 20
LEFT_AFTER_SECONDS = 60.0
"""A file that is half written for so long was left by a program that was killed."""
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
        status = folder.stat()  # the recorder cannot read what is root's
        owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
        make_folder(inbox)
        if owner is not None:
            os.chown(inbox, *owner, follow_symlinks=False)
        _require_room(inbox, encoded.size_bytes)
        half = inbox / f"{uuid.uuid4().hex}{HALF_WRITTEN}"
        write_whole(inbox / f"{name}{PUT}", msgspec.msgpack.encode(encoded.files), half, owner)


def _require_room(inbox: Path, size_bytes: int) -> None:
    """Require that the inbox may hold another entry.

    Raises:
        InputError: it may not.
        OSError: it cannot be read.
    """
    sizes = [entry.stat(follow_symlinks=False).st_size for entry in os.scandir(inbox)]
    if len(sizes) >= MOST_PICTURES or sum(sizes) + size_bytes > MOST_BYTES:
        raise InputError(f"{inbox} is full ({len(sizes)} files); check that the line runs and stores pictures")
    if lacking := lacking_bytes(inbox, _SPARE, size_bytes):
        raise InputError(
            f"the disk of {inbox} lacks {lacking / MIB:.0f} MiB of the free space that it must keep; make room on it"
        )


Outcome = Literal["adopted", "held", "refused"]
"""What became of a picture in the inbox. `held`: the store holds it already."""


class Inbox:
    """The recorder's end of the inbox.

    Args:
        folder: of the evidence store.
    """

    def __init__(self, folder: Path) -> None:
        self._inbox = folder / INBOX
        self._log = RateLimitedLog(logger)

    def adopt(self, writer: EvidenceWriter) -> Outcome | None:
        """Store the picture that came first, if there is one. Delete what programs that were killed left half written.

        Raises:
            InputError: it cannot be stored now, and stays in the inbox.
        """
        with writing(self._inbox):
            if not self._inbox.exists():
                return None
            there = list(self._inbox.iterdir())
            for half in (path for path in there if path.suffix == HALF_WRITTEN):
                with contextlib.suppress(FileNotFoundError):  # it was completed, and has its name
                    if time.time() - half.lstat().st_mtime > LEFT_AFTER_SECONDS:
                        half.unlink()
            waiting = [(path.lstat().st_mtime_ns, path) for path in there if path.suffix == PUT]
            if not waiting:
                return None
            _, first = min(waiting)
            try:
                encoded = _read(first)
                outcome: Outcome = "held" if writer.holds(encoded.entry.day, encoded.entry.picture) else "adopted"
                if outcome == "adopted":
                    writer.store(encoded)
            except (NoRoomError, _DamagedError) as error:
                self._log.error("a picture in the inbox is deleted: %s", error)
                outcome = "refused"
            first.unlink()
            return outcome


class _DamagedError(InputError):
    """What is not a picture that was put."""


def _read(path: Path) -> EncodedEntry:
    """Return the entry of a file.

    Raises:
        _DamagedError: it holds none.
    """
    try:
        files = msgspec.msgpack.decode(read_plain(path, MOST_BYTES), type=dict[str, bytes])
        if not {ENTRY, FRAME} <= files.keys() <= {ENTRY, FRAME, HEATMAP}:
            raise InputError(f"it must hold {ENTRY}, {FRAME} and at most {HEATMAP}")
        entry = decode_entry(files[ENTRY])
        if f"{require_picture(entry.picture)}{PUT}" != path.name:
            raise InputError("it is the entry of another picture")
    except (OSError, msgspec.MsgspecError, InputError) as error:
        raise _DamagedError(f"{path.name}: {error}") from error
    return EncodedEntry(entry, files)
