"""The reviewed frames of a line, from its evidence store or from an exported folder."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import MANIFEST, ManifestRow, ReviewRow
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import VerdictEvent


@dataclass(frozen=True)
class MarkedFrame:
    """A frame that people have marked."""

    path: Path | None
    """None: its picture is gone."""
    event: VerdictEvent
    review: ReviewRow

    @property
    def part(self) -> str | None:
        """What the frame shows, by its trigger; None: not known."""
        return self.event.part_id


def frames_of_store(store: EvidenceStore) -> list[MarkedFrame]:
    """Return the marked frames of an evidence store, oldest first; errors as `EvidenceStore.entries`."""
    reviews = store.reviews()
    return [
        MarkedFrame(
            store.frame_path(entry.picture, entry.day), entry.event, ReviewRow.of(reviews[entry.picture, entry.day])
        )
        for entry in store.entries(newest_first=False, is_reviewed=True)
    ]


def frames_of_folder(folder: Path) -> list[MarkedFrame]:
    """Return the marked frames of a folder that `heatline evidence export --reviewed` wrote.

    Raises:
        InputError: it is none.
    """
    file = folder / MANIFEST
    try:
        rows = [msgspec.json.decode(line, type=ManifestRow) for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}); name a folder that heatline evidence export --reviewed wrote"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a list of exported frames ({error}); export the evidence again") from error
    inside = folder.resolve()
    found = []
    for row in rows:
        path = folder / row.file
        if not path.resolve().is_relative_to(inside):
            raise InputError(f"{file} names {row.file!r}, which is outside its folder; export the evidence again")
        if row.review is not None:
            found.append(MarkedFrame(path if path.is_file() else None, row.event, row.review))
    return found
