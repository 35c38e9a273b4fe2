"""An entry of the evidence store: a JSON file that describes a frame, beside its pictures. docs/evidence.md."""

import re
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.monitor.picture import Evidence, Picture
from heatline.edge.wire.events import HeatmapPng, VerdictEvent

SCHEMA_VERSION = 1
"""Counts up when a reader of the version before could misread an entry."""
LARGEST_BYTES = 16 << 20
"""A larger file is not an entry."""
_PICTURE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
LARGEST_NS = 253_402_300_799 * 10**9
"""The end of the year 9999."""


class Tiles(msgspec.Struct, frozen=True, kw_only=True):
    """The inspected tiles of a frame."""

    tile_px: int
    """Side of a tile, px of the frame."""
    origins_yx: list[tuple[int, int]]
    """Row and column of the top left corner of each, px of the frame."""
    logits: list[float]


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Names of the pictures beside the entry."""

    frame: str
    heatmap: str | None


class EvidenceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stored frame."""

    schema_version: int = SCHEMA_VERSION
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
    files: Files
    is_chosen: bool = False
    """Stored because a person marked it on the page; false: the line chose it, by its verdict or as each n-th GOOD."""

    @property
    def day(self) -> str:
        """The UTC day on which the frame was captured, the name of the entry's folder."""
        return day_of(self.event.times.captured_at_ns)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EvidenceEntry)
_version = msgspec.json.Decoder(msgspec.defstruct("_Version", [("schema_version", int)]))


def entry_of(picture: Picture, line: str, stored_at_ns: int, *, is_chosen: bool = False) -> EvidenceEntry:
    """Return the entry of a picture.

    Args:
        line: the line's name.
        is_chosen: whether a person chose the picture.
    Raises:
        InputError: the picture's id cannot be a file name.
    """
    name = require_picture(picture.event.picture)
    evidence = picture.evidence
    return EvidenceEntry(
        line=line,
        picture=name,
        stored_at_ns=stored_at_ns,
        event=picture.event,
        heatmap=None if evidence is None else evidence.png_scale,
        tiles=None if evidence is None else _tiles_of(evidence),
        files=files_of(name, with_heatmap=evidence is not None),
        is_chosen=is_chosen,
    )


def files_of(picture: str, *, with_heatmap: bool) -> Files:
    """Return the names of the pictures of an entry."""
    return Files(frame=f"{picture}.png", heatmap=f"{picture}.heatmap.png" if with_heatmap else None)


def encode_entry(entry: EvidenceEntry) -> bytes:
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> EvidenceEntry:
    """Return the entry in the bytes of its file.

    Raises:
        InputError: they are not an entry of this schema version.
    """
    try:
        version = _version.decode(data).schema_version  # type: ignore[attr-defined]
        if version != SCHEMA_VERSION:
            raise InputError(f"it has schema version {version}, this heatline knows version {SCHEMA_VERSION}")
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"it is not an entry of the evidence store: {error}") from error


def is_picture(name: str) -> bool:
    """Return whether a text can be the id of a picture. Only such a text may become part of a path."""
    return _PICTURE.fullmatch(name) is not None


def is_day(name: str) -> bool:
    """Return whether a text is the name of a day's folder."""
    return _DAY.fullmatch(name) is not None


def require_picture(name: str | None) -> str:
    """Return the id of a picture.

    Raises:
        InputError: it cannot be one.
    """
    if name is None or not is_picture(name):
        raise InputError(
            f"{name!r} is not a picture id; expected up to 128 letters, digits, hyphens and underscores, as in the "
            "field `picture` of an event"
        )
    return name


def day_of(at_ns: int) -> str:
    """Return the UTC day of a time in ns since 1970."""
    return datetime.fromtimestamp(max(0, min(at_ns, LARGEST_NS)) // 10**9, UTC).strftime("%Y-%m-%d")


def _tiles_of(evidence: Evidence) -> Tiles:
    tiles = evidence.tiles
    return Tiles(tile_px=tiles.tile_px, origins_yx=_pairs(tiles.origins_yx), logits=tiles.logits.tolist())


def _pairs(origins: NDArray[np.int32]) -> list[tuple[int, int]]:
    return [(y, x) for y, x in origins.tolist()]
