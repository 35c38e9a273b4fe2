"""The reviewed frames of a line, from its store or an exported folder, and which of them a retraining can use."""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor.marks import MANIFEST, ManifestRow, Review, Truth
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import VerdictEvent


@dataclass(frozen=True)
class MarkedFrame:
    """A frame that people have marked."""

    path: Path | None
    """None: its picture is gone."""
    event: VerdictEvent
    review: Review

    @property
    def part(self) -> str | None:
        """What the frame shows, by its trigger; None: not known."""
        return self.event.part_id


def frames_of_store(store: EvidenceStore) -> list[MarkedFrame]:
    """Return the marked frames of an evidence store, oldest first; errors as `EvidenceStore.entries`."""
    reviews = store.reviews()
    return [
        MarkedFrame(store.frame_path(entry.picture, entry.day), entry.event, reviews[entry.picture, entry.day])
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


CONTRADICTORY = "contradictory marks"
ANOTHER_BUNDLE = "a verdict of another bundle"
GONE = "a picture that is gone"
UNREADABLE = "a picture that cannot be read"


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
    missed_xy: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Selection:
    """The usable frames, each once, and how many others there are by their reason."""

    frames: list[UsableFrame]
    left_out: Counter[str]
    contradictory: frozenset[str] = frozenset()
    """Digests of the frames whose marks contradict each other, as far as they can be read."""

    def describe_left_out(self) -> str | None:
        """Describe the other frames in a sentence; None: there are none."""
        if not self.left_out:
            return None
        count = self.left_out.total()
        reasons = ", ".join(f"{number} with {reason}" for reason, number in sorted(self.left_out.items()))
        return f"{format_count(count, 'marked frame')} {is_are(count)} left out: {reasons}"


def select_frames(marked: Iterable[MarkedFrame], bundle_name: str) -> Selection:
    """Read all marked frames, and return those that can be used.

    Frames with the same pixels count once; if their marks contradict each other, none of them is used.
    """
    left_out: Counter[str] = Counter()
    contradictory: set[str] = set()
    by_digest: dict[str, list[UsableFrame]] = {}
    for frame in marked:
        if frame.event.bundle.name != bundle_name:
            left_out[ANOTHER_BUNDLE] += 1
        elif frame.review.truth is None:
            left_out[CONTRADICTORY] += 1
            if frame.path is not None:
                with contextlib.suppress(InputError):
                    contradictory.add(digest_pixels(read_rgb(frame.path)))
        elif frame.path is None:
            left_out[GONE] += 1
        else:
            try:
                digest = digest_pixels(read_rgb(frame.path))
            except InputError:
                left_out[UNREADABLE] += 1
                continue
            part = frame.part
            usable = UsableFrame(
                path=frame.path,
                digest=digest,
                truth=frame.review.truth,
                camera=frame.event.camera,
                group=group_name(digest[:16] if part is None else f"part {part}"),
                missed_xy=tuple(frame.review.missed_xy),
            )
            by_digest.setdefault(digest, []).append(usable)
    frames = []
    for digest, copies in by_digest.items():
        if digest in contradictory or len({copy.truth for copy in copies}) > 1:
            left_out[CONTRADICTORY] += len(copies)
            contradictory.add(digest)
            continue
        points = tuple(dict.fromkeys(point for copy in copies for point in copy.missed_xy))
        frames.append(replace(copies[0], missed_xy=points))
    return Selection(frames, left_out, frozenset(contradictory))


def group_name(thing: str) -> str:
    """Return the name of the group of a part, or of a frame by its digest; no group of a training folder has it."""
    return f"reviewed:{thing[:80]}"


def digest_pixels(rgb: NDArray[np.uint8]) -> str:
    """Return the sha256 of a picture's pixels, RGB uint8 [H, W, 3], and of its size."""
    digest = sha256(f"{rgb.shape}".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()
