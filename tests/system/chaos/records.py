"""Records of a client, line by line in a file that outlives it, written before it acknowledges an event."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from heatline.edge.wire.events import Counts

TAIL_BYTES = 1 << 20
"""Longer than any line."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The checked fields of an event's header, read as docs/protocol.md describes, without heatline's own code."""

    type: str
    boot_id: str
    seq: int = 0
    journal_id: str | None = None
    previous_seq: int | None = None
    camera: str | None = None
    verdict: str | None = None
    reason: str | None = None
    frame_id: int | None = None
    last_frame_id: int | None = None
    frame_number: int = 0
    frames: int = 1
    times: dict[str, int | None] = {}
    kind: str | None = None
    of_boot: str | None = None
    events: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def topic(self) -> str:
        return f"verdict.{self.camera}.{self.verdict}" if self.type == "verdict" else self.type

    @property
    def count(self) -> str:
        """Count that `seq` belongs to: of the journal, or of the boot's events that no journal holds."""
        return self.journal_id or f"boot {self.boot_id}"

    @property
    def key(self) -> str:
        return f"{self.count}-{self.seq}"


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """The client was started, and knows no earlier event."""

    at_ns: int
    """UTC, ns since 1970, as in all records."""


class Got(msgspec.Struct, frozen=True, kw_only=True, tag="got"):
    """A received event."""

    at_ns: int
    header: msgspec.Raw


class StatusReceived(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """A received status, with the line's counts."""

    at_ns: int
    boot_id: str
    counts: Counts


class Missed(msgspec.Struct, frozen=True, kw_only=True, tag="missed"):
    """A gap: the client missed at least one of the events after `after_seq` up to `through_seq`."""

    at_ns: int
    journal_id: str | None
    boot_id: str | None
    topic: str | None
    """None: the topic is unknown."""
    after_seq: int
    through_seq: int

    @property
    def count(self) -> str:
        return self.journal_id or f"boot {self.boot_id}"


Item = Began | Got | StatusReceived | Missed

_encoder = msgspec.json.Encoder()
_items: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
_heads = msgspec.json.Decoder(Head)


def item_of(line: bytes) -> Item:
    """Decode a line of a record."""
    return _items.decode(line)


def head_of(header: bytes | msgspec.Raw) -> Head:
    """Decode the checked fields of a header.

    Raises:
        MsgspecError: it is not a header.
    """
    return _heads.decode(header)


class Record:
    """The record file of a client. On creation it removes the unfinished line of a killed client.

    Args:
        path: appended to.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        whole = path.read_bytes().rpartition(b"\n")
        os.ftruncate(self._fd, len(whole[0]) + len(whole[1]))

    def add(self, item: Item) -> None:
        """Write an item, which then outlives the client."""
        line = memoryview(_encoder.encode(item) + b"\n")
        while line:
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        os.close(self._fd)


def read_record(path: Path) -> Iterator[Item]:
    """Read a record, without an unfinished last line."""
    return map(_items.decode, whole_lines(path))


def last_line(path: Path) -> bytes | None:
    """Return the last finished line of a file; None: there is none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(-min(file.seek(0, os.SEEK_END), TAIL_BYTES), os.SEEK_END)
        *lines, _ = file.read().split(b"\n")
        return lines[-1] if lines else None
    return None


def whole_lines(path: Path) -> list[bytes]:
    """Return the finished lines of a file; none if it does not exist."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
