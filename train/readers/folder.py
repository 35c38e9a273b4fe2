"""From a folder to labelled pictures.

Two layouts are understood:

- `images/` with one or more of `masks/`, `derived_masks/` (PNG) and `annotations/` (VOC XML), whose files have the
  picture's stem, and perhaps `labels.csv` with the columns `image`, `label` (good or defective) and one that names the
  group. Without `labels.csv`, a picture is defective if its annotation marks at least one pixel.
- `good/` and `defective/` with pictures no larger than a tile: the folder is the label.

Pictures of one group show the same thing (a board, an item, a place), so a split must keep them together.
"""

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.images import list_images, read_rgb
from train.readers import mask_png, voc
from train.readers.annotation import Annotation

TRUTHS: dict[str, tuple[str, Callable[[Path], Mapping[str, Annotation]]]] = {
    "masks": ("masks", mask_png.read),
    "derived_masks": ("derived_masks", mask_png.read),
    "boxes": ("annotations", voc.read),
}
"""Per truth, where it lies and how it is read. The first that a folder has is the default."""

LABELS_ONLY = "labels"
"""The truth of a folder whose pictures are good or defective as a whole."""


@dataclass(frozen=True)
class LabelledImage:
    """One picture and what is known of it."""

    path: Path
    group: str | None
    """What must stay together in a split; None if the folder was read without a way to tell."""
    defective: bool
    annotation: Annotation | None
    """Where its defects lie; None for a good picture that has no annotation, and where only labels are known."""
    labels_only: bool = False

    @property
    def truth_files(self) -> tuple[Path, ...]:
        """The files, besides the picture, that its labels rest on."""
        return () if self.annotation is None else (self.annotation.file,)

    def pixels(self) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3], by the line's own colour function.

        Raises:
            InputError: the picture cannot be decoded.
        """
        return read_rgb(self.path)

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Defective pixels, bool [H, W], of this picture of that size; None where only the label is known.

        Raises:
            InputError: the annotation cannot be used, or contradicts the label "good".
        """
        if self.labels_only:
            return None
        if self.annotation is None:
            return np.zeros(frame_hw, np.bool_)
        mask = self.annotation.mask(frame_hw)
        if mask.any() and not self.defective:
            raise InputError(
                f"{self.path} is labelled good, but {self.annotation.file} marks {int(mask.sum())} defective px; "
                "mend the label or the annotation"
            )
        return mask


@dataclass(frozen=True)
class LabelledFolder:
    """What a folder was understood to hold, in the order of its file names."""

    folder: Path
    truth: str
    """A key of `TRUTHS`, or `LABELS_ONLY`."""
    images: tuple[LabelledImage, ...]
    groups_are: str
    """In words, where the groups come from or were looked for."""

    @property
    def name(self) -> str:
        return self.folder.name

    def groups(self) -> list[str]:
        """All groups, sorted.

        Raises:
            InputError: the folder was read without a way to tell them.
        """
        if any(image.group is None for image in self.images):
            raise InputError(
                f"{self.folder} cannot be split, as groups were looked for in {self.groups_are}; name the column with "
                "split.group=..., or give split.pattern=..., a regular expression whose first parenthesis is the group"
            )
        return sorted({str(image.group) for image in self.images})


def read_folder(
    folder: Path, truth: str | None = None, group_column: str = "group", group_pattern: str | None = None
) -> LabelledFolder:
    """What a folder holds; pictures are listed here and decoded when they are used.

    Args:
        truth: "masks", "derived_masks" or "boxes"; default the first of them that there is.
        group_column: column of `labels.csv` that names each picture's group.
        group_pattern: instead, a regular expression that is looked for in the file name; its first parenthesis is the
            group. With neither, in good / defective folders each file name (its stem) is a group of its own.
    Raises:
        InputError: no such folder, no pictures, another layout, labels that do not fit the pictures, no defect at all.
    """
    pattern = None if group_pattern is None else _compile(group_pattern)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder with images/, or with good/ and defective/")
    if (folder / "images").is_dir():
        read = _read_annotated(folder, truth, group_column, pattern)
    elif (folder / "good").is_dir() or (folder / "defective").is_dir():
        read = _read_good_and_defective(folder, truth, pattern)
    else:
        raise InputError(
            f"{folder} has neither images/ nor good/ and defective/; put the pictures into images/ with "
            "masks/, derived_masks/ or annotations/ beside it, or tile-sized ones into good/ and defective/"
        )
    if not any(image.defective for image in read.images):
        raise InputError(f"{folder} holds no defective picture; a classifier needs defects to learn from")
    return read


def _read_annotated(
    folder: Path, truth: str | None, group_column: str, pattern: re.Pattern[str] | None
) -> LabelledFolder:
    pictures = list_images(folder / "images")
    truth = _choose_truth(folder, truth)
    subfolder, read_annotations = TRUTHS[truth]
    annotations = read_annotations(folder / subfolder)
    rows = _read_labels(folder / "labels.csv", pictures)
    images = []
    for path in pictures:
        annotation, row = annotations.get(path.stem), rows.get(path.name)
        if row is None:
            defective = annotation is not None and annotation.marks_defects()
        else:
            defective = row["label"] == "defective"
        if defective and annotation is None:
            raise InputError(
                f"{path} is labelled defective and has no file of its stem in {folder / subfolder}; "
                "add it, or take the picture away"
            )
        group = _group_of(path, pattern) if pattern else row.get(group_column) if row else None
        images.append(LabelledImage(path, group or None, defective, annotation))
    if pattern:
        groups_are = f"what {pattern.pattern!r} finds in the file name"
    elif rows:
        columns = [name for name in next(iter(rows.values())) if name not in ("image", "label")]
        groups_are = f"column {group_column!r} of labels.csv (which has {', '.join(columns) or 'no more columns'})"
    else:
        groups_are = f"column {group_column!r} of labels.csv, which is not there"
    return LabelledFolder(folder, truth, tuple(images), groups_are)


def _read_good_and_defective(folder: Path, truth: str | None, pattern: re.Pattern[str] | None) -> LabelledFolder:
    if truth not in (None, LABELS_ONLY):
        raise InputError(f"{folder} has good/ and defective/ and so no {truth}; leave truth away")
    for label in ("good", "defective"):
        if not (folder / label).is_dir():
            raise InputError(f"{folder} has only one class: {label}/ is missing; both must hold pictures")
    images = tuple(
        LabelledImage(path, _group_of(path, pattern), label == "defective", None, labels_only=True)
        for label in ("good", "defective")
        for path in list_images(folder / label)
    )
    groups_are = "file names, each a group" if pattern is None else f"what {pattern.pattern!r} finds in the file name"
    return LabelledFolder(folder, LABELS_ONLY, images, groups_are)


def _choose_truth(folder: Path, truth: str | None) -> str:
    there = [name for name, (subfolder, _) in TRUTHS.items() if (folder / subfolder).is_dir()]
    if not there:
        raise InputError(
            f"{folder} has images/ but none of masks/, derived_masks/ and annotations/; add one, or cut the pictures "
            "into tiles and sort them into good/ and defective/"
        )
    if truth is not None and truth not in there:
        raise InputError(f"{folder} has no truth {truth!r}; it has {', '.join(there)}")
    return truth or there[0]


def _read_labels(file: Path, pictures: list[Path]) -> dict[str, dict[str, str]]:
    """The rows of `labels.csv` by picture; none if there is no such file."""
    if not file.exists():
        return {}
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); expected CSV in UTF-8") from error
    if not rows or not {"image", "label"} <= rows[0].keys():
        raise InputError(f"{file} lacks rows with the columns image and label; expected e.g. image,label,group")
    for row in rows:
        if row["label"] not in ("good", "defective"):
            raise InputError(f"{file} labels {row['image']} as {row['label']!r}; expected good or defective")
    by_name = {row["image"]: row for row in rows}
    names = {path.name for path in pictures}
    for wrong, what in (
        (by_name.keys() - names, "has a label and no picture"),
        (names - by_name.keys(), "has no label"),
    ):
        if wrong:
            raise InputError(
                f"{min(wrong)} {what} ({len(wrong)} such in all); {file} and images/ must name the same files"
            )
    return by_name


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the group pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups < 1:
        raise InputError(f"the group pattern {pattern!r} has no parenthesis; put the part that is the group into one")
    return compiled


def _group_of(path: Path, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return path.stem
    found = pattern.search(path.name)
    if found is None or not found[1]:
        raise InputError(f"the group pattern {pattern.pattern!r} finds no group in the file name {path.name}; mend it")
    return found[1]
