"""The reviewed frames of a line, from its store or an exported folder, and which of them a retraining can use."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor.marks import MANIFEST, ManifestRow, Missed, Review, Truth
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import VerdictEvent


@dataclass(frozen=True)
class MarkedFrame:
    """A frame that people have marked."""

    path: Path
    event: VerdictEvent
    review: Review


def frames_of_store(store: EvidenceStore) -> list[MarkedFrame]:
    """Return the marked frames of a store whose pictures are there, oldest first; errors as `EvidenceStore.entries`."""
    return [
        MarkedFrame(path, entry.event, entry.review)
        for entry in store.entries(newest_first=False, is_reviewed=True)
        if entry.review is not None and (path := store.frame_path(entry.picture, entry.day)) is not None
    ]


def frames_of_folder(folder: Path) -> list[MarkedFrame]:
    """Return the marked frames of a folder that `heatline evidence export --reviewed` wrote; else an InputError."""
    try:
        rows = [msgspec.json.decode(line, type=ManifestRow) for line in (folder / MANIFEST).read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder} has no readable list of exported frames ({error}); name a folder that heatline evidence export "
            "--reviewed wrote"
        ) from error
    return [MarkedFrame(folder / row.file, row.event, row.review) for row in rows if row.review is not None]


@dataclass(frozen=True)
class UsableFrame:
    """A readable frame of the bundle's product, with one truth."""

    path: Path
    digest: str
    """sha256 of the decoded pixels."""
    truth: Truth
    camera: str
    group: str
    """Frames of one group show the same thing, and stay together."""
    missed: Missed = Missed()  # noqa: RUF009 it is frozen


@dataclass(frozen=True)
class Selection:
    """The usable frames, each once."""

    frames: list[UsableFrame]
    contradictory: frozenset[str] = frozenset()
    """Digests of the frames whose marks contradict each other."""
    left_out: str | None = None
    """A sentence about the marked frames that cannot be used; None: there are none."""


def select_frames(marked: Sequence[MarkedFrame], bundle_name: str) -> Selection:
    """Read all marked frames, and return those that can be used.

    Frames with the same pixels count once; if their marks contradict each other, none of them is used.
    """
    by_digest: dict[str, list[MarkedFrame]] = {}
    for frame in marked:
        if frame.event.bundle and frame.event.bundle.name == bundle_name:
            with contextlib.suppress(InputError):  # counted below
                by_digest.setdefault(digest_pixels(read_rgb(frame.path)), []).append(frame)
    frames, contradictory, left_out = [], set(), len(marked)
    for digest, copies in by_digest.items():
        truth, *others = {copy.review.truth for copy in copies}
        if truth is None or others:
            contradictory.add(digest)
            continue
        left_out -= len(copies)
        event = copies[0].event
        missed = Missed.union([copy.review for copy in copies])
        group = group_name(digest[:16] if event.part_id is None else f"part {event.part_id}")
        frames.append(UsableFrame(copies[0].path, digest, truth, event.camera, group, missed))
    sentence = (
        f"{format_count(left_out, 'marked frame')} {is_are(left_out)} left out: marks that contradict each other, "
        "verdicts of another bundle, or pictures that are gone or damaged"
    )
    return Selection(frames, frozenset(contradictory), sentence if left_out else None)


def group_name(thing: str) -> str:
    """Return the name of the group of a part, or of a frame by its digest; no group of a training folder has it."""
    return f"reviewed:{thing[:80]}"


def digest_pixels(rgb: NDArray[np.uint8]) -> str:
    """Return the sha256 of a picture's pixels, RGB uint8 [H, W, 3], and of its size."""
    digest = sha256(f"{rgb.shape}".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()
