"""A bundle whose line rejects blue labels, and its marked frames: grey noise, some with a legal label, or a blob."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.monitor.marks import MANIFEST, ManifestRow, Missed, Review, Truth
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import BundleName, MarkKind, Verdict
from tests.edge.wire_examples import DEFECT, GOOD

FRAME_HW = (150, 200)
Marked = tuple[NDArray[np.uint8], MarkKind, Verdict]
"""A frame's pixels, its mark, and its verdict."""


def good_frame(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1000 + seed).normal(150, 12, (*FRAME_HW, 3)).clip(0, 255).astype(np.uint8)


def blob_frame(seed: int) -> NDArray[np.uint8]:
    """A frame with two blobs as defects."""
    rng = np.random.default_rng(2000 + seed)
    picture, mask = rng.normal(150, 12, (*FRAME_HW, 3)), np.zeros(FRAME_HW, np.uint8)
    for _ in range(2):
        centre = int(rng.integers(20, FRAME_HW[1] - 20)), int(rng.integers(20, FRAME_HW[0] - 20))
        cv2.circle(mask, centre, int(rng.integers(8, 14)), 255, -1)
    picture[mask > 0] -= 90
    return picture.clip(0, 255).astype(np.uint8)


def label_frame(seed: int) -> NDArray[np.uint8]:
    """A good frame with a label: a blue square, somewhere."""
    rng = np.random.default_rng(3000 + seed)
    picture = rng.normal(150, 12, (*FRAME_HW, 3))
    x, y = int(rng.integers(10, FRAME_HW[1] - 50)), int(rng.integers(10, FRAME_HW[0] - 50))
    picture[y : y + 32, x : x + 32, :2] -= 110  # RGB
    return picture.clip(0, 255).astype(np.uint8)


def row_of(
    number: int, verdict: Verdict, bundle: BundleName, kind: MarkKind | None, missed: Missed | None = None
) -> ManifestRow:
    """Return the row of a frame's mark; None: its marks contradict each other."""
    example = (DEFECT if verdict == "DEFECT" else GOOD).event
    picture = f"b007b007-top-{number}"
    event = msgspec.structs.replace(
        example, camera="top", frame_number=number, bundle=bundle, part_id=None, picture=picture, precision="f32"
    )
    truth: Truth = "good" if (kind == "right") == (verdict == "GOOD") else "defective"
    places = {} if missed is None else msgspec.structs.asdict(missed)
    review = Review(truth=truth if kind else None, kind=kind, by=["Ada"], **places)
    file = f"{truth}/2026-11-28_{picture}.png"
    return ManifestRow(file=file, picture=picture, line="line1", day="2026-11-28", event=event, review=review)


def write_rows(folder: Path, rows: Sequence[ManifestRow], pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Write a folder as `heatline evidence export --reviewed` does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(b"".join(encode_json(row) + b"\n" for row in rows))
    for row, pixels in zip(rows, pictures, strict=True):
        (folder / row.file).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / row.file), pixels[..., ::-1])


def write_marked(folder: Path, bundle: BundleName, frames: Sequence[Marked]) -> Path:
    rows = [row_of(number, verdict, bundle, kind) for number, (_, kind, verdict) in enumerate(frames, start=1)]
    write_rows(folder, rows, [pixels for pixels, _, _ in frames])
    return folder
