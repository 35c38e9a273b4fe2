"""Writes people's marks beside the pictures that they are about."""

import logging
from collections.abc import Iterable
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.monitor.entry import day_of
from heatline.edge.monitor.files import HALF_WRITTEN, write_whole
from heatline.edge.monitor.retention import Retention
from heatline.edge.monitor.review import combine
from heatline.edge.monitor.review_file import LARGEST_BYTES, decode_reviews, encode_reviews, merge_reviews
from heatline.edge.monitor.store import ENTRY, REVIEW
from heatline.edge.util.files import read_plain
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import ReviewEvent
from heatline.edge.wire.marks import Mark

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Marks of pictures that are not in the store: not yet, no more, or never. Beyond it, the oldest are forgotten; the
journal still has them at the next start."""
Key = tuple[str, str]
"""Day and picture."""


class StoredMarks:
    """The marks of a store's pictures. A mark waits until its picture is stored.

    Args:
        folder: of the store.
        retention: counts the files.
    """

    def __init__(self, folder: Path, retention: Retention) -> None:
        self._folder, self._retention = folder, retention
        self._waiting: dict[Key, list[ReviewEvent]] = {}
        self._count = 0
        self._failed: set[Key] = set()
        """Pictures whose marks could not be written, which is tried again."""
        self.found_damaged = False
        """Whether a file of marks was damaged and written again, so that the journal must be read again: its former
        marks are there. The reader of the journal resets it.
        """
        self._log = RateLimitedLog(logger)

    def add(self, events: Iterable[ReviewEvent]) -> None:
        """Write the marks of pictures that are stored, also those that could not be written before.

        Raises:
            InputError: the folder cannot be read.
        """
        keys = set(self._failed)
        for event in events:
            key = _key(event.mark)
            self._waiting.setdefault(key, []).append(event)
            keys.add(key)
            self._count += 1
        self.write(keys)
        while self._count > MOST_WAITING:
            self._forget(next(iter(self._waiting)))

    def write(self, keys: Iterable[Key]) -> None:
        """Write the marks that wait for these pictures, if the pictures are stored.

        Raises:
            InputError: the folder cannot be read.
        """
        changed: set[str] = set()
        for key in keys:
            try:
                if key not in self._waiting or not (self._folder / key[0] / f"{key[1]}{ENTRY}").exists():
                    self._failed.discard(key)
                    continue
                if self._write(*key, self._waiting[key]):
                    changed.add(key[0])
                self._forget(key)
            except OSError as error:
                self._failed.add(key)
                self._log.error("the marks of picture %s were not stored (%s)", key[1], error.strerror)
        for day in changed:
            self._retention.recount(day)

    def _write(self, day: str, picture: str, events: list[ReviewEvent]) -> bool:
        """Add events to the file of a picture's marks, which exists only if one of them counts. Return whether the
        file has changed.

        Raises:
            OSError: the file cannot be read or written.
        """
        path = self._folder / day / f"{picture}{REVIEW}"
        before = None
        try:
            before = decode_reviews(read_plain(path, LARGEST_BYTES))
        except FileNotFoundError:
            pass
        except InputError as error:
            logger.warning("%s is written again from the journal: %s", path, error)
            self.found_damaged = True
        after = merge_reviews(before or [], events)
        if after == before:
            return False
        if picture not in combine(after):
            path.unlink(missing_ok=True)
            return before is not None
        write_whole(path, encode_reviews(after), path.with_name(f"{path.name}{HALF_WRITTEN}"))
        return True

    def _forget(self, key: Key) -> None:
        self._count -= len(self._waiting.pop(key))
        self._failed.discard(key)


def _key(mark: Mark) -> Key:
    return day_of(mark.captured_at_ns), mark.picture
