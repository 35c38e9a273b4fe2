"""The marks of a stored picture, in a JSON file beside its entry. docs/review.md."""

from collections.abc import Iterable, Sequence

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.wire.events import ReviewEvent

SCHEMA_VERSION = 1
"""Counts up when a reader of the version before could misread the file."""
LARGEST_BYTES = 4 << 20
"""A larger file is none of a picture's marks."""
MOST_EVENTS = 1000
"""Beyond it, a picture's events that the same reviewer replaced are left out, and then the oldest."""


class ReviewFile(msgspec.Struct, frozen=True, kw_only=True):
    """The review events of one picture, in the order of their journal."""

    schema_version: int = SCHEMA_VERSION
    events: list[ReviewEvent]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ReviewFile)


def encode_reviews(events: Sequence[ReviewEvent]) -> bytes:
    return _encoder.encode(ReviewFile(events=list(events)))


def decode_reviews(data: bytes) -> list[ReviewEvent]:
    """Return the events in the bytes of a file.

    Raises:
        InputError: they are not marks of this schema version.
    """
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"it holds no marks of a picture: {error}") from error
    if found.schema_version != SCHEMA_VERSION:
        raise InputError(f"it has schema version {found.schema_version}, this heatline knows version {SCHEMA_VERSION}")
    return found.events


def merge_reviews(stored: Iterable[ReviewEvent], read: Iterable[ReviewEvent]) -> list[ReviewEvent]:
    """Return stored events with those that were read from a journal, each once.

    Events of one journal are in its order. Those of a former journal come first.
    """
    journals: dict[str | None, dict[int, ReviewEvent]] = {}
    for event in (*stored, *read):
        journals.setdefault(event.journal_id, {}).setdefault(event.seq, event)
    merged = [events[seq] for events in journals.values() for seq in sorted(events)]
    if len(merged) <= MOST_EVENTS:
        return merged
    last = {event.mark.by: event for event in merged}
    return [event for event in merged if event is last[event.mark.by]][-MOST_EVENTS:]
