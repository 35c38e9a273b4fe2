"""Folders of boards: pictures, masks and a table of labels, as training reads them."""

import csv
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from heatline.edge.errors import InputError
from heatline.edge.util.files import writing

from .board import SIZE_HW, draw_board

_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_BILEVEL_PNG = (cv2.IMWRITE_PNG_BILEVEL, 1)


def write_boards(
    folder: Path,
    count: int,
    seed: int,
    *,
    size_hw: tuple[int, int] = SIZE_HW,
    defects: int | None = None,
    workers: int = 1,
) -> Path:
    """Draw boards 0 to `count` - 1 of `seed` into a new folder and return the path of its labels.csv.

    Writes `images/board_00000.png` (RGB), `masks/board_00000.png` (0 and 255, one plane, same size; all zero for a
    flawless board) and `labels.csv` (image, label, group, defects). Every third board is flawless; the others have 1
    to 5 defects each, or `defects` if given and if there is room. With `defects` of 0, all boards are flawless. Board i
    depends only on `seed`, `size_hw`, `defects` and i. The folder appears when all boards are drawn.

    Raises:
        ValueError: `count`, `seed`, `size_hw` or `defects` is out of range.
        InputError: the folder exists, or cannot be written.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count is {count} and seed is {seed}; expected at least 1 and 0")
    if folder.exists():
        raise InputError(f"{folder} exists; name a new folder")
    with writing(folder):
        _write_atomically(folder, count, seed, size_hw, defects, workers)
    return folder / "labels.csv"


def _write_atomically(
    folder: Path, count: int, seed: int, size_hw: tuple[int, int], defects: int | None, workers: int
) -> None:
    """Draw into a temporary folder next to `folder`, and rename it when all boards are drawn."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        drawn = Path(temporary) / folder.name
        for part in ("images", "masks"):
            (drawn / part).mkdir(parents=True)
        draw = partial(_draw_one, drawn, seed=seed, size_hw=size_hw, defects=defects)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            results = (pool.map if workers > 1 else map)(draw, range(count))
            kinds = list(
                track(results, "drawing boards", count, console=Console(stderr=True), disable=not sys.stderr.isatty())
            )
        _write_labels(drawn / "labels.csv", kinds)
        drawn.rename(folder)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the parent handles Ctrl-C; it then draws no further board
    cv2.setNumThreads(1)


def _draw_one(folder: Path, index: int, *, seed: int, size_hw: tuple[int, int], defects: int | None) -> str:
    """Draw one board and return the kinds of its defects, separated by blanks."""
    board = draw_board((seed, index), size_hw=size_hw, defects=0 if index % 3 == 0 else defects)
    name = f"{_name(index)}.png"
    image, mask = cv2.cvtColor(board.image, cv2.COLOR_RGB2BGR), board.mask.astype(np.uint8) * 255
    for path, picture, settings in (
        (folder / "images" / name, image, _FAST_PNG),
        (folder / "masks" / name, mask, _BILEVEL_PNG),
    ):
        path.write_bytes(cv2.imencode(".png", picture, settings)[1].tobytes())  # `imwrite` accepts only UTF-8 names
    return " ".join(defect.kind for defect in board.defects)


def _write_labels(path: Path, kinds: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label", "group", "defects"])
        for index, defects in enumerate(kinds):
            rows.writerow([f"{_name(index)}.png", "defective" if defects else "good", _name(index), defects])


def _name(index: int) -> str:
    return f"board_{index:05d}"
