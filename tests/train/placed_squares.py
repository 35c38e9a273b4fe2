"""Folders of white frames with black squares, which the small bundle finds, and `heatline evaluate` on them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from edge.bundle import Bundle, write_bundle
from tests.command import heatline
from tests.small_bundle import dark_square, white_frame
from tests.train.blobs import write_labels

PLACES = {"a1": (80, 80), "b1": (100, 300), "b2": (20, 20)}
"""Of the black squares in the defective ones of `grouped`'s pictures."""


def folder(path: Path, defects: dict[str, tuple[int, int] | None], marked: dict[str, tuple[int, int]]) -> Path:
    """White frames of 224x446 px (two tiles) with a black square each where `defects` says, and masks as `marked`
    says.
    """
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for stem, place in defects.items():
        frame = white_frame((224, 446))
        if place is not None:
            frame = dark_square(frame, *place)
        cv2.imwrite(str(path / "images" / f"{stem}.png"), frame)
        mask = np.zeros((224, 446), np.uint8)
        if stem in marked:
            y, x = marked[stem]
            mask[y : y + 48, x : x + 48] = 255
        cv2.imwrite(str(path / "masks" / f"{stem}.png"), mask)
    return path


def grouped(path: Path) -> Path:
    """Six pictures of three groups, named in labels.csv and by the first letter of the file."""
    folder(path, {**PLACES, "a2": None, "c1": None, "c2": None}, PLACES)
    stems = sorted(file.stem for file in (path / "images").iterdir())
    write_labels(path, [(f"{stem}.png", "defective" if stem in PLACES else "good", stem[0]) for stem in stems])
    return path


def boxes(path: Path, marked: dict[str, tuple[int, int] | None]) -> None:
    """A second truth for a folder: boxes of 48 px, whatever the masks say."""
    (path / "boxes").mkdir()
    for stem, place in marked.items():
        y, x = place or (0, 0)
        row = f"{x} {y} {x + 48} {y + 48} 1\n" if place else ""
        (path / "boxes" / f"{stem}.txt").write_text(row)


def taught(path: Path, bundle: Bundle, data: str, **groups: list[str]) -> Bundle:
    """The bundle, as if it had been taught on some data."""
    told = msgspec.structs.replace(bundle.manifest, provenance={"data": {"data": data, "groups": groups}})
    return write_bundle(path, told, {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files})


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return heatline("evaluate", *arguments)


def reported(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    (evaluation,) = json.loads(done.stdout)["evaluations"]
    found: dict[str, Any] = evaluation
    return found


def many_groups(path: Path) -> Path:
    """Twelve pictures, each a group, in two of which a defect does not show."""
    squares = {f"d{n}": (80, 80) for n in range(8)}
    shown = {**squares, "d0": None, "d1": None, **{f"g{n}": None for n in range(4)}}
    folder(path, shown, squares)
    write_labels(path, [(f"{stem}.png", "defective" if stem in squares else "good", stem) for stem in shown])
    return path
