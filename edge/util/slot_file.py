"""A file of small records that are overwritten in place, so that it needs no more room on a full disk.

Each record has room for two versions, which are written in turn: a kill or a power cut in the middle of one leaves the
other. The file is written by system calls and not mapped into memory: a failing disk must cause an error, not a SIGBUS.
"""

import os
import struct
import zlib
from pathlib import Path

_HEAD = struct.Struct("<IIQ")
"""Checksum of what follows, length of the data, number of the version."""


class SlotFile:
    """The file, for writing. One thread at a time.

    Args:
        path: created if it does not exist. Other records beyond `records` are deleted.
        slot_bytes: room of one version of a record.
    Raises:
        OSError: it cannot be written, or there is no room. A file that was there is unchanged.
    """

    def __init__(self, path: Path, slot_bytes: int, records: int = 1) -> None:
        size, self._slot_bytes = 2 * slot_bytes * records, slot_bytes
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A full disk must cause the error now; a disk that fills later does no harm.
            os.posix_fallocate(self._fd, 0, size)
            os.ftruncate(self._fd, size)
            self._versions = [version for version, _ in _newest(os.pread(self._fd, size, 0), slot_bytes)]
        except OSError:
            os.close(self._fd)
            raise

    def write(self, record: int, data: bytes, *, sync: bool = False) -> None:
        """Replace a record.

        Args:
            sync: whether it is on the disk when this returns.
        Raises:
            OSError: it cannot be written; the version before is still there.
        """
        version = self._versions[record] + 1
        rest = _HEAD.pack(0, len(data), version)[4:] + data
        if len(rest) + 4 > self._slot_bytes:
            raise ValueError(f"a record of {len(data)} bytes does not fit into {self._slot_bytes} bytes")
        at, left = (2 * record + version % 2) * self._slot_bytes, zlib.crc32(rest).to_bytes(4, "little") + rest
        while left:
            written = os.pwrite(self._fd, left, at)
            at, left = at + written, left[written:]
        if sync:
            os.fsync(self._fd)
        self._versions[record] = version

    def close(self) -> None:
        os.close(self._fd)


def read_slots(path: Path, slot_bytes: int) -> list[bytes | None]:
    """Return the newest whole version of each record; None: there is none.

    Raises:
        OSError: the file cannot be read.
    """
    return [data for _, data in _newest(path.read_bytes(), slot_bytes)]


def _newest(content: bytes, slot_bytes: int) -> list[tuple[int, bytes | None]]:
    """Return number and data of the newest whole version of each record; 0, None: there is none."""
    newest: list[tuple[int, bytes | None]] = []
    for record in range(0, len(content), 2 * slot_bytes):
        newest.append((0, None))
        for at in (record, record + slot_bytes):
            head = content[at : at + _HEAD.size].ljust(_HEAD.size, b"\0")
            checksum, length, version = _HEAD.unpack(head)
            whole = content[at + 4 : at + _HEAD.size + length]
            if version > newest[-1][0] and zlib.crc32(whole) == checksum:
                newest[-1] = version, whole[_HEAD.size - 4 :]
    return newest
