"""Folders of boards: pictures, masks and a list of labels, as the training code reads them."""

import csv
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .board import check_size, draw_board

_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_BILEVEL_PNG = (cv2.IMWRITE_PNG_BILEVEL, 1)


def write_boards(
    folder: Path,
    count: int,
    seed: int,
    *,
    size_hw: tuple[int, int] = (1250, 1600),
    defects: int | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw boards 0 to `count` - 1 of `seed` into `folder` and return the path of its labels.csv.

    Writes `images/board_00000.png` (RGB), `masks/board_00000.png` (0 and 255, one plane, same size; all zero for a
    flawless board), `defects/board_00000.txt` (the kinds of its defects) and `labels.csv` (image, label, group,
    defects). Every third board is flawless; the others have 1 to 5 defects each, or `defects` where that is given and
    there is room. With `defects` of 0 all are flawless. Board i depends on `seed`, `size_hw`, `defects` and i alone.

    Boards that are there already are kept, so a run that was interrupted, by Ctrl-C for one, can be started again.
    `on_progress` is called with the number of finished boards and `count`: at the start and after every board.

    Raises ValueError for a negative `count` or `seed`, fewer than 1 worker, a picture side below 448 px, a negative
    `defects`, or a folder that holds boards of another seed, size or number of defects.
    """
    check_size(size_hw)
    if count < 0 or seed < 0:
        raise ValueError(f"count is {count} and seed is {seed}; expected 0 or more for both")
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    if defects is not None and defects < 0:
        raise ValueError(f"defects is {defects}; expected 0 or more")
    _check_recipe(folder, seed, size_hw, defects)
    boards = [_BoardFiles(folder, index) for index in range(count)]
    missing = [board.index for board in boards if not board.are_complete()]
    done = count - len(missing)
    report = on_progress or (lambda done, count: None)
    report(done, count)
    draw = partial(_draw_one, folder, seed=seed, size_hw=size_hw, defects=defects)
    for _ in _draw_all(draw, missing, workers):
        done += 1
        report(done, count)
    return _write_labels(folder, boards)


@dataclass(frozen=True)
class _BoardFiles:
    folder: Path
    index: int

    @property
    def name(self) -> str:
        return f"board_{self.index:05d}"

    @property
    def image(self) -> Path:
        return self.folder / "images" / f"{self.name}.png"

    @property
    def mask(self) -> Path:
        return self.folder / "masks" / f"{self.name}.png"

    @property
    def kinds(self) -> Path:
        return self.folder / "defects" / f"{self.name}.txt"

    def are_complete(self) -> bool:
        return self.image.exists() and self.mask.exists() and self.kinds.exists()


def _check_recipe(folder: Path, seed: int, size_hw: tuple[int, int], defects: int | None) -> None:
    """Note what the folder's boards are drawn from, so that two runs never mix their boards."""
    recipe = {"seed": seed, "size_hw": list(size_hw)} | ({} if defects is None else {"defects": defects})
    path = folder / "recipe.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != recipe:
            raise ValueError(f"{folder} holds boards of {found}; expected {recipe} or an empty folder")
    else:
        _write_whole(path, json.dumps(recipe).encode())


def _draw_all(draw: Callable[[int], None], indices: list[int], workers: int) -> Iterator[None]:
    """Draw boards, in this process or in a pool, yielding after each."""
    if workers == 1 or len(indices) < 2:
        for index in indices:
            draw(index)
            yield
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(indices)), mp_context=context, initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(draw, index) for index in indices]):
            future.result()
            yield
    finally:
        # After Ctrl-C this drops the boards that wait; those being drawn are finished, which takes a second.
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then shuts the pool down
    cv2.setNumThreads(1)


def _draw_one(folder: Path, index: int, *, seed: int, size_hw: tuple[int, int], defects: int | None) -> None:
    flawless = index % 3 == 0 or defects == 0
    board = draw_board((seed, index), size_hw=size_hw, flawless=flawless, defect_count=None if flawless else defects)
    files = _BoardFiles(folder, index)
    _write_whole(files.image, _png(np.ascontiguousarray(board.image[..., ::-1]), _FAST_PNG))
    _write_whole(files.mask, _png(board.mask.astype(np.uint8) * 255, _BILEVEL_PNG))
    _write_whole(files.kinds, " ".join(defect.kind for defect in board.defects).encode())


def _write_labels(folder: Path, boards: list[_BoardFiles]) -> Path:
    table = StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image", "label", "group", "defects"])
    for board in boards:
        kinds = board.kinds.read_text()
        rows.writerow([board.image.name, "defective" if kinds else "good", board.name, kinds])
    path = folder / "labels.csv"
    _write_whole(path, table.getvalue().encode())
    return path


def _png(picture: NDArray[np.uint8], settings: tuple[int, ...]) -> bytes:
    written, packed = cv2.imencode(".png", picture, settings)
    if not written:
        raise RuntimeError("OpenCV could not encode a PNG")
    return packed.tobytes()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either there in full or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
