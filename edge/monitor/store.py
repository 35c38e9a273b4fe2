"""The evidence store: frames and heatmaps as PNG in a folder per UTC day, and an index in SQLite of their events and of
people's marks. docs/evidence.md describes the folder.
"""

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import ConfigError, InputError
from heatline.edge.monitor.marks import Review
from heatline.edge.target import file_of, named_here
from heatline.edge.util.systemd import STATE_FOLDERS, state_folder_of
from heatline.edge.wire.events import HeatmapPng, Verdict, VerdictEvent

FOLDER, INDEX = "evidence", "index.sqlite"
FRAME, HEATMAP = ".png", ".heatmap.png"
"""Endings of a picture's files, after its id."""
JUDGED: tuple[Verdict, ...] = ("GOOD", "DEFECT")
"""What can be reviewed."""
READ_AT_ONCE = 500
"""Entries: a reader holds up the recorder while it reads."""
BUSY_SECONDS = 5.0
SCHEMA_VERSION = 2
SCHEMA = f"""
BEGIN;
CREATE TABLE pictures (
  number INTEGER PRIMARY KEY, picture TEXT NOT NULL, day TEXT NOT NULL, captured_at_ns INTEGER NOT NULL,
  verdict TEXT NOT NULL, camera TEXT NOT NULL, size_bytes INTEGER NOT NULL, review BLOB,
  entry BLOB NOT NULL, UNIQUE (picture, day));
CREATE INDEX by_age ON pictures (review IS NOT NULL, captured_at_ns, number, size_bytes);
CREATE INDEX by_capture ON pictures (captured_at_ns, number);
CREATE TABLE marks (
  journal_id TEXT NOT NULL, seq INTEGER NOT NULL, picture TEXT NOT NULL, day TEXT NOT NULL,
  captured_at_ns INTEGER NOT NULL, event BLOB NOT NULL, UNIQUE (journal_id, seq));
CREATE INDEX by_picture ON marks (picture, day);
CREATE TABLE journals (journal_id TEXT PRIMARY KEY, read_through INTEGER NOT NULL);
CREATE TABLE leftovers (picture TEXT NOT NULL, day TEXT NOT NULL);  -- whose files must be deleted
CREATE TRIGGER forget AFTER DELETE ON pictures BEGIN
  DELETE FROM marks WHERE picture = old.picture AND day = old.day;
  INSERT INTO leftovers VALUES (old.picture, old.day);
END;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
LARGEST_NS = 253_402_300_799 * 10**9
"""The end of the year 9999."""
PICTURE, DAY = re.compile(r"[A-Za-z0-9_-]{1,128}"), re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Key = tuple[str, str]
"""Picture and day. An id may occur again on another day."""


class Tiles(msgspec.Struct, frozen=True, kw_only=True):
    """The inspected tiles of a frame."""

    tile_px: int
    """Side of a tile, px of the frame."""
    origins_yx: list[tuple[int, int]]
    """Row and column of the top left corner of each, px of the frame."""
    logits: list[float]


class EvidenceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stored frame."""

    line: str
    picture: str
    """The picture's id, which its event names."""
    stored_at_ns: int
    """UTC, ns since 1970."""
    event: VerdictEvent
    """The event as it is published, but not numbered: `seq` and `previous_seq` are 0, `journal_id` is null."""
    heatmap: HeatmapPng | None
    """Scale of the heatmap's PNG; null: the frame was not judged."""
    tiles: Tiles | None
    """Null: the frame was not judged."""
    is_chosen: bool = False
    """Stored because a person marked it on the page; false: the line chose it, by its verdict or as each n-th GOOD."""
    review: Review | None = None
    """What reviewers say of it; null: nobody has reviewed it."""

    @property
    def day(self) -> str:
        """The UTC day on which the frame was captured, the name of its folder."""
        return day_of(self.event.times.captured_at_ns)


_decode_entry = msgspec.json.Decoder(EvidenceEntry).decode
_decode_review = msgspec.json.Decoder(Review).decode


class EvidenceStore:
    """The evidence that a line stores. Any number of programs may read it, also while the line runs.

    Every method raises `InputError` if the store cannot be read.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(
        self,
        *,
        newest_first: bool = True,
        since: str | None = None,
        verdicts: Collection[Verdict] | None = None,
        camera: str | None = None,
        is_reviewed: bool | None = None,
    ) -> Iterator[EvidenceEntry]:
        """Return the entries that match all filters, in the order of capture.

        Args:
            since: this UTC day and later ones, `YYYY-MM-DD`.
        """
        filters = {
            "day >= ?": since,
            "verdict IN (SELECT value FROM json_each(?))": None if verdicts is None else _json(verdicts),
            "camera = ?": camera,
            "(review IS NOT NULL) = ?": is_reviewed,
        }
        used = {condition: value for condition, value in filters.items() if value is not None}
        where = " AND ".join(["1", *used])
        after, order, than = ((1 << 63) - 1, "DESC", "<") if newest_first else (-1, "ASC", ">")
        at = after, after
        while rows := self._query(
            f"SELECT captured_at_ns, number, entry, review FROM pictures WHERE {where} "
            f"AND (captured_at_ns, number) {than} (?, ?) ORDER BY captured_at_ns {order}, number {order} LIMIT ?",
            *(*used.values(), *at, READ_AT_ONCE),
        ):
            at = rows[-1][:2]
            for row in rows:
                yield _entry(*row[2:])

    def unreviewed(self, limit: int, newer: Mapping[str, bool] | None = None) -> tuple[list[EvidenceEntry], int]:
        """Return the newest entries with GOOD or DEFECT that nobody has reviewed, newest first, and the number of all.

        Args:
            newer: pictures with marks that this store may not have yet: whether they are reviewed.
        """
        newer = newer or {}
        known = [_json(name for name in newer if newer[name] is wanted) for wanted in (True, False)]
        where = (
            "verdict != 'NO_VERDICT' AND picture NOT IN (SELECT value FROM json_each(?)) "
            "AND (review IS NULL OR picture IN (SELECT value FROM json_each(?)))"
        )
        newest = f"SELECT entry, NULL FROM pictures WHERE {where} ORDER BY captured_at_ns DESC, number DESC LIMIT ?"
        counted = self._query(f"SELECT count(*) FROM pictures WHERE {where}", *known)
        return [_entry(*row) for row in self._query(newest, *known, limit)], counted[0][0] if counted else 0

    def find(self, picture: str, day: str | None = None) -> EvidenceEntry | None:
        """Return the entry of a picture that was captured on a UTC day, or of the newest one; None: there is none."""
        rows = self._query(
            "SELECT entry, review FROM pictures WHERE picture = ? AND day = coalesce(?, day) ORDER BY day DESC LIMIT 1",
            *(picture, day),
        )
        return _entry(*rows[0]) if rows else None

    def require(self, picture: str) -> EvidenceEntry:
        """Return the entry of a picture that must be there."""
        require_picture(picture)
        if (entry := self.find(picture)) is None:
            raise InputError(
                f"{self.folder} holds no picture {picture}; it was not stored or is deleted, heatline evidence list "
                "shows what there is"
            )
        return entry

    def frame_path(self, picture: str, day: str, ending: str = FRAME) -> Path | None:
        """Return the lossless PNG of a stored frame; None: it is gone."""
        path = self.folder / day / f"{picture}{ending}"
        return path if path.is_file() else None

    def heatmap_path(self, picture: str, day: str) -> Path | None:
        """Return the heatmap of a stored frame, a grey PNG on the scale of its entry; None: there is none."""
        return self.frame_path(picture, day, HEATMAP)

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        path = self.folder / INDEX
        try:
            if not path.stat().st_size:  # it is being made
                return []
            uri = f"{path.absolute().as_uri()}?mode=rw"  # to roll back what a killed writer left
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as index:
                require_version(index, path)
                return index.execute(sql, values).fetchall()
        except FileNotFoundError:
            return []
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}); check the folder and its permissions") from error


def require_version(index: sqlite3.Connection, path: Path) -> None:
    """Require that this heatline knows an index."""
    (version,) = index.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version}, this heatline knows version {SCHEMA_VERSION}")


def evidence_folder(file: Path, config: LineConfig) -> Path:
    """Return the folder of a line's evidence store."""
    if config.evidence is None:
        raise ConfigError(f"{file} has no table [evidence], so this line stores no pictures; add it to store them")
    if config.evidence.folder is not None:
        return config.evidence.folder
    return folder_beside(file, config, "the pictures", "evidence.folder or journal.folder") / FOLDER


def folder_beside(file: Path, config: LineConfig, what: str, key: str) -> Path:
    """Return the folder of what else a line stores; a ConfigError, which names this and the key to set, without one."""
    if (folder := state_folder_of(file) or config.journal.folder) is None:
        raise ConfigError(
            f"{file} names no folder for {what}, and there is no state folder; set {key}, or run the line as a service"
        )
    return folder


def evidence_of(line: str) -> Path:
    """Return the folder of the pictures of a line that is named by its name, its file, or that folder."""
    named, is_configured = named_here(line)
    if is_configured:
        file = file_of(line)
        return evidence_folder(file, load_config(file))
    found = named if named.exists() or "/" in line else STATE_FOLDERS / line / FOLDER
    if not found.is_dir():
        raise ConfigError(
            f"{found} is not a folder of pictures; name a line that stores pictures, its TOML file, or the folder"
        )
    return found


def require_picture(name: str | None) -> str:
    """Return the id of a picture. Only such a text may become part of a path."""
    if name is None or not PICTURE.fullmatch(name):
        raise InputError(
            f"{name!r} is not a picture id; expected up to 128 letters, digits, hyphens and underscores, as in the "
            "field `picture` of an event"
        )
    return name


def day_of(at_ns: int) -> str:
    """Return the UTC day of a time in ns since 1970."""
    return datetime.fromtimestamp(max(0, min(at_ns, LARGEST_NS)) // 10**9, UTC).strftime("%Y-%m-%d")


def _entry(content: bytes, review: bytes | None) -> EvidenceEntry:
    entry = _decode_entry(content)
    return entry if review is None else msgspec.structs.replace(entry, review=_decode_review(review))


def _json(texts: Iterable[str]) -> str:
    return msgspec.json.encode(list(texts)).decode()
