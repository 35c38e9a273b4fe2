"""Reviewed frames of a line: a folder that `heatline retrain` writes, whose pictures are trained on besides the data.

`frames.jsonl` has a row for each picture: its label as people gave it, its group, and where defects were missed.
"""

from pathlib import Path
from typing import Literal

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.util.text import encode_json
from heatline.train.readers.labelled import LabelledImage

INDEX = "frames.jsonl"


class ReviewedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `frames.jsonl`."""

    file: str
    """Path of the picture in the folder: `good/` or `defective/`, and its name."""
    digest: str
    """sha256 of the decoded pixels, which identifies the frame whatever its file."""
    truth: Literal["good", "defective"]
    group: str
    missed_xy: list[tuple[int, int]] = []
    """Where the line missed defects, px of the frame."""


def read_index(folder: Path) -> list[ReviewedFrame]:
    """Read the rows of a folder of reviewed frames.

    Raises:
        InputError: the folder is none, or a picture is missing.
    """
    try:
        lines = (folder / INDEX).read_bytes().splitlines()
        frames = [msgspec.json.decode(line, type=ReviewedFrame) for line in lines]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder} is not a folder of reviewed frames ({error}); name the one that heatline retrain wrote"
        ) from error
    for frame in frames:
        if not (folder / frame.file).is_file():
            raise InputError(f"{folder / frame.file} is missing, and {INDEX} beside it lists it; restore it")
    return frames


def write_index(folder: Path, frames: list[ReviewedFrame]) -> None:
    """Write the rows.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / INDEX).write_bytes(b"".join(encode_json(frame) + b"\n" for frame in frames))


def read_reviewed(folder: Path) -> list[LabelledImage]:
    """Return the labelled pictures of a folder of reviewed frames; errors as `read_index`.

    Of a defective one, only the label is known, and points at which defects were missed.
    """
    return [
        LabelledImage(
            folder / frame.file,
            frame.group,
            frame.truth == "defective",
            None,
            labels_only=frame.truth == "defective",
            points_xy=tuple(frame.missed_xy) if frame.truth == "defective" else (),
            reviewed=True,
        )
        for frame in read_index(folder)
    ]
