"""Reads the evidence store: one folder per UTC day, in which an entry exists if and only if its JSON file does."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from heatline.edge.errors import InputError
from heatline.edge.monitor import review_file
from heatline.edge.monitor.entry import LARGEST_BYTES, EvidenceEntry, decode_entry, is_day, is_picture, require_picture
from heatline.edge.monitor.review import Review, combine
from heatline.edge.monitor.review_file import decode_reviews
from heatline.edge.util.files import read_plain
from heatline.edge.wire.events import ReviewEvent, Verdict

logger = logging.getLogger(__name__)
T = TypeVar("T")

ENTRY, FRAME, HEATMAP, REVIEW = ".json", ".png", ".heatmap.png", ".review.json"
"""Endings of an entry's files, after the id of its picture."""
ENDINGS = ENTRY, FRAME, HEATMAP, REVIEW


class StoredEntry(NamedTuple):
    """An entry on the disk, in the order of capture."""

    captured_at_ns: int
    picture: str
    size_bytes: int
    """Room of its files on the disk."""
    is_reviewed: bool = False
    """Whether a mark of a person counts for it."""


class EvidenceStore:
    """The evidence that a line stores. Any number of programs may read it, also while the line runs.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(
        self,
        *,
        newest_first: bool = True,
        limit: int | None = None,
        day: str | None = None,
        since: str | None = None,
        verdict: Verdict | None = None,
        camera: str | None = None,
        is_reviewed: bool | None = None,
    ) -> Iterator[EvidenceEntry]:
        """Return entries in the order of capture, read as they are asked for. One that cannot be read is logged.

        Args:
            limit: number of entries; None: all.
            day: only of this UTC day, `YYYY-MM-DD`.
            since: only of this UTC day and later ones.
            verdict: only with this verdict.
            camera: only of this camera.
            is_reviewed: only with a mark of a person, or only without; the others are not read.
        Raises:
            InputError: the folder cannot be read.
        """
        left = limit
        for name in sorted(self.days(), reverse=newest_first):
            if day not in (None, name) or name < (since or ""):
                continue
            for stored in sorted(scan_day(self.folder / name), reverse=newest_first):
                if left == 0:
                    return
                if is_reviewed not in (None, stored.is_reviewed):
                    continue
                entry = self.read(name, stored.picture)
                if entry is None or verdict not in (None, entry.event.verdict):
                    continue
                if camera in (None, entry.event.camera):
                    left = None if left is None else left - 1
                    yield entry

    def unreviewed(
        self,
        limit: int,
        *,
        verdicts: Collection[Verdict] = ("DEFECT", "GOOD"),
        camera: str | None = None,
        day: str | None = None,
    ) -> list[EvidenceEntry]:
        """Return entries with a verdict that nobody has reviewed, the newest first.

        Args:
            limit: number of entries.
            verdicts: only with these verdicts. A frame without a verdict cannot be reviewed.
            camera: only of this camera.
            day: only of this UTC day, `YYYY-MM-DD`.
        Raises:
            InputError: the folder cannot be read.
        """
        wanted = {*verdicts} - {"NO_VERDICT"}
        found = self.entries(camera=camera, day=day, is_reviewed=False)
        return list(islice((entry for entry in found if entry.event.verdict in wanted), limit))

    def review(self, picture: str, day: str | None = None) -> Review | None:
        """Return what reviewers say of a picture; None: nothing, or the file of the marks cannot be read, which is
        logged.

        Args:
            day: UTC day of its capture; None: the newest.
        """
        return combine(self.review_events(picture, day)).get(picture)

    def review_events(self, picture: str, day: str | None = None) -> list[ReviewEvent]:
        """Return the stored review events of a picture in the order of their journal; as `review`."""
        path = self._path(picture, day, REVIEW)
        return [] if path is None else _read(path, review_file.LARGEST_BYTES, decode_reviews) or []

    def get(self, picture: str) -> EvidenceEntry | None:
        """Return the entry of a picture, the newest one if several have its id; None: there is none."""
        day = self._day_of(picture)
        return None if day is None else self.read(day, picture)

    def require(self, picture: str) -> EvidenceEntry:
        """Return the entry of a picture, as `get`.

        Raises:
            InputError: there is none, or it cannot be one.
        """
        entry = self.get(require_picture(picture))
        if entry is None:
            raise InputError(
                f"{self.folder} holds no picture {picture}; it was not stored or is deleted, heatline evidence list "
                "shows what there is"
            )
        return entry

    def read(self, day: str, picture: str) -> EvidenceEntry | None:
        """Return the entry of a picture that was captured on a UTC day; None: there is none, or it cannot be read."""
        if not (is_day(day) and is_picture(picture)):
            return None
        return _read(self.folder / day / f"{picture}{ENTRY}", LARGEST_BYTES, decode_entry)

    def frame_path(self, picture: str, day: str | None = None) -> Path | None:
        """Return the lossless PNG of a frame; None: there is none.

        Args:
            day: UTC day of its capture; None: the newest.
        """
        return self._path(picture, day, FRAME)

    def heatmap_path(self, picture: str, day: str | None = None) -> Path | None:
        """Return the heatmap of a frame, a grey PNG on the scale of its entry; None: there is none. As `frame_path`."""
        return self._path(picture, day, HEATMAP)

    def days(self) -> list[str]:
        """Return the UTC days that have a folder.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            return [each.name for each in self.folder.iterdir() if is_day(each.name) and each.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be read ({error.strerror}); check the folder and its permissions"
            ) from error

    def _path(self, picture: str, day: str | None, ending: str) -> Path | None:
        found = self._day_of(picture) if day is None else day
        if found is None or not (is_day(found) and is_picture(picture)):
            return None
        path = self.folder / found / f"{picture}{ending}"
        return path if path.is_file() else None

    def _day_of(self, picture: str) -> str | None:
        if not is_picture(picture):
            return None
        days = sorted(self.days(), reverse=True)
        return next((day for day in days if (self.folder / day / f"{picture}{ENTRY}").is_file()), None)


def _read(path: Path, at_most: int, decode: Callable[[bytes], T]) -> T | None:
    """Return what a file of an entry holds; None: it is gone, or cannot be read, which is logged."""
    try:
        return decode(read_plain(path, at_most))
    except FileNotFoundError:  # it was deleted a moment ago
        return None
    except OSError as error:
        logger.warning("%s is left out: it cannot be read (%s)", path, error.strerror)
    except InputError as error:
        logger.warning("%s is left out: %s", path, error)
    return None


def scan_day(folder: Path) -> list[StoredEntry]:
    """Return the entries of a day's folder in any order. A JSON file has the time of capture as its own time.

    Raises:
        InputError: the folder cannot be read.
    """
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    reviewed: set[str] = set()
    try:
        for file in folder.iterdir():
            picture, _, ending = file.name.partition(".")
            if f".{ending}" not in ENDINGS or not is_picture(picture):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                sizes[picture] = sizes.get(picture, 0) + room_of(status.st_size)
                if f".{ending}" == ENTRY:
                    times[picture] = status.st_mtime_ns
                elif f".{ending}" == REVIEW:
                    reviewed.add(picture)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check the folder and its permissions") from error
    return [StoredEntry(at_ns, picture, sizes[picture], picture in reviewed) for picture, at_ns in times.items()]


def room_of(size_bytes: int) -> int:
    """Return the room of a file on the disk, which is in blocks of 4 KiB on most file systems."""
    return -(-size_bytes // 4096) * 4096
