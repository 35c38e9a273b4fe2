"""The provenance of pretrained weights. Needs no torch, so that a run can be read without it."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from heatline.edge.images import digest_picture
from heatline.train.readers.labelled import LabelledImage


class Provenance(msgspec.Struct, frozen=True):
    """The source of a training's initial weights."""

    source: str
    """A package and its version, a hub and its model, a file, or "random"."""
    sha256: str | None = None
    licence: str | None = None


def digest_groups(images: Iterable[LabelledImage]) -> list[str]:
    """Return the digest of one picture of each group, so that the pictures are recognised wherever they lie.

    Raises:
        InputError: a picture cannot be read.
    """
    first: dict[str | None, Path] = {}
    for image in images:
        first.setdefault(image.group, image.path)
    return [digest_picture(path) for path in first.values()]
