"""Folders of white frames with black squares, which the small bundle finds, and runs of `heatline evaluate` on them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.images import digest_picture
from tests.command import heatline
from tests.small_bundle import dark_square, white_frame
from tests.train.blobs import write_labels

PLACES = {"a1": (80, 80), "b1": (100, 300), "b2": (20, 20)}
"""Place (y, x) of the black square in each defective picture of `grouped`, px."""


def folder(path: Path, defects: dict[str, tuple[int, int] | None], marked: dict[str, tuple[int, int]]) -> Path:
    """Write white frames of 224x446 px (two tiles) and their masks.

    Args:
        defects: place of a black square in each frame; None: no square.
        marked: place of the square in the mask of a frame.
    """
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    white = white_frame((224, 446))
    for stem, place in defects.items():
        cv2.imwrite(str(path / "images" / f"{stem}.png"), dark_square(white, *place) if place else white)
        mask = np.zeros((224, 446), np.uint8)
        if stem in marked:
            y, x = marked[stem]
            mask[y : y + 48, x : x + 48] = 255
        cv2.imwrite(str(path / "masks" / f"{stem}.png"), mask)
    return path


def grouped(path: Path) -> Path:
    """Write six pictures of three groups, which labels.csv and the first letter of the file name."""
    folder(path, {**PLACES, "a2": None, "c1": None, "c2": None}, PLACES)
    stems = sorted(file.stem for file in (path / "images").iterdir())
    write_labels(path, [(f"{stem}.png", "defective" if stem in PLACES else "good", stem[0]) for stem in stems])
    return path


def boxes(path: Path, marked: dict[str, tuple[int, int] | None]) -> None:
    """Write boxes of 48 px as a second truth, independent of the masks."""
    (path / "boxes").mkdir()
    for stem, place in marked.items():
        y, x = place or (0, 0)
        row = f"{x} {y} {x + 48} {y + 48} 1\n" if place else ""
        (path / "boxes" / f"{stem}.txt").write_text(row)


def with_training_groups(path: Path, bundle: Bundle, data: Path | None, **groups: list[str]) -> Bundle:
    """Copy the bundle with a record of its training groups.

    Args:
        data: folder of `grouped` that it was trained on; None: pictures that are not there any more.
    """
    stems = [] if data is None else [stem for stem in PLACES if stem[0] in groups["train"]]
    pictures = [(data or path) / "images" / f"{stem}.png" for stem in stems]
    known = {"groups": groups, "digests": [digest_picture(file) for file in pictures] or ["of other pictures"]}
    manifest = msgspec.structs.replace(bundle.manifest, provenance={"data": known})
    return write_bundle(path, manifest, {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files})


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return heatline("evaluate", *arguments)


def reported(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    (evaluation,) = json.loads(done.stdout)["evaluations"]
    found: dict[str, Any] = evaluation
    return found


def many_groups(path: Path) -> Path:
    """Write twelve pictures, each a group; in two of them, the defect is not visible."""
    squares = {f"d{n}": (80, 80) for n in range(8)}
    shown = {**squares, "d0": None, "d1": None, **{f"g{n}": None for n in range(4)}}
    folder(path, shown, squares)
    write_labels(path, [(f"{stem}.png", "defective" if stem in squares else "good", stem) for stem in shown])
    return path
