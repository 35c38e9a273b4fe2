"""Embed the gallery of an evaluation in the page."""

from pathlib import Path

import cv2
import numpy as np

from heatline.edge.util.page import Picture, jpeg_uri
from heatline.train.evaluation.result import GalleryItem


def embed_item(folder: Path, item: GalleryItem, at: int | None = None, digits: int = 2) -> Picture:
    """Embed an item of a gallery.

    Args:
        folder: of the evaluation; no file outside it is read.
        at: first position of the slider that judges it GOOD.
        digits: decimals of its score.
    """
    kind = "score" if item.tile_yx is None else "logit"
    caption = f"{kind} {item.logit:.{digits}f}"
    return Picture(_embed(folder, item.file), item_name(item), caption, item.caption, at)


def item_name(item: GalleryItem) -> str:
    if item.tile_yx is None:
        return item.image
    return f"{item.image}, tile at y {item.tile_yx[0]}, x {item.tile_yx[1]}"


def _embed(folder: Path, name: str) -> str | None:
    """Return the picture as a data URI; None if it is missing, is not a picture, or lies outside the folder."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return None
    read = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
    return None if read is None else jpeg_uri(np.asarray(read, np.uint8))
