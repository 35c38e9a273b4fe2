"""What a folder of pictures is, found without being asked: the truth, and which pictures belong together.

Pictures of one thing must stay in one group, or a model is tested on what it has seen. The groups are, in this order:

1. the column `group` of `labels.csv`, or else a column with the name of a physical thing (`THINGS`);
2. the part of the file name that names a thing (see `file_names`);
3. each picture by itself.

Where groups are guessed (2 and 3), near-duplicate pictures are put into one group besides. All that is assumed is said.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.util.text import format_count, utf8_safe
from train.file_names import find_scheme
from train.near_duplicates import near_duplicates_pairs, thumbnail
from train.readers import LabelledFolder, LabelledImage, read_folder
from train.readers.folder import LABELS_ONLY, list_folder, truths_in
from train.readers.labels_csv import read_labels

THINGS = frozenset(
    {
        "board", "pcb", "panel", "item", "block", "place", "part", "piece", "workpiece", "unit", "component", "lot",
        "batch", "serial", "specimen", "sample", "wafer", "coil", "roll", "sheet", "plate",
    }
)  # fmt: skip
"""Columns that name a physical thing, without the ending id, no, nr or number. Of conditions of the photograph, as
exposure or camera, one thing has several pictures, so they never are groups."""

ENOUGH_GROUPS = 10
"""Of several columns, the one with the fewest groups is taken, but not with fewer than these."""

ALIKE_BY_PLACE = 0.5
"""If more than this share of all pictures is near-duplicate in one chain, the camera's fixed view is what is alike."""


@dataclass(frozen=True)
class Discovery:
    """What was found, and what was assumed."""

    folder: Path
    truth: str
    """A key of `readers.folder.TRUTHS`, or `LABELS_ONLY`."""
    group_column: str | None
    """Groups are this column of `labels.csv`; None: they are `groups`."""
    groups: Mapping[Path, str] | None
    """Each picture's group by its path; None: they are `group_column`."""
    groups_are: str
    """Where groups come from, in words."""
    assumptions: tuple[str, ...]
    """Sentences for people: what was assumed, on what evidence."""

    def read(self, classes: Sequence[str] | None = None, truth: str | None = None) -> LabelledFolder:
        """The pictures in these groups, mixtures of annotations and labels included.

        Args:
            classes: which annotated classes are defects. Default all.
            truth: instead of the one that was found.
        Raises:
            InputError: as `read_folder`.
        """
        group_column = self.group_column or "group"
        return self.regroup(read_folder(self.folder, truth or self.truth, group_column, classes=classes, mixed=True))

    def regroup(self, data: LabelledFolder) -> LabelledFolder:
        """The pictures that were read of the folder in these groups."""
        return data if self.groups is None else data.with_groups(self.groups, self.groups_are)


def discover(folder: Path) -> Discovery:
    """Find out what a folder holds; the same folder always gives the same.

    Files that cannot be used are passed over: reading stops at them.

    Raises:
        InputError: it is no folder of labelled pictures.
    """
    data = list_folder(folder, on_unusable=_pass_over, mixed=True)
    said: tuple[str, ...] = (_describe_truth(data),)
    if not any(image.defective for image in data.images):
        said += ("No picture is defective: a training can only use synthetic defects on good pictures.",)
    column, column_said = _find_column(folder, data.images)
    if column is not None:
        are = f"column {column!r} of labels.csv"
        return Discovery(folder, data.truth, column, None, are, (*said, column_said))
    groups, are, groups_said = _guess_groups(data.images)
    return Discovery(folder, data.truth, None, groups, are, (*said, *groups_said))


def _pass_over(file: Path, error: InputError) -> None:
    pass


def _describe_truth(data: LabelledFolder) -> str:
    folder, truth = data.folder, data.truth
    is_sorted = not (folder / "images").is_dir()
    table = (folder / "labels.csv").exists()
    by = (
        "the folders good/ and defective/" if is_sorted else "labels.csv" if table else f"whether {truth} mark a defect"
    )
    label = f"Pictures are good or defective by {by}"
    if truth == LABELS_ONLY:
        marked = "; nothing says where the defects are" if any(image.defective for image in data.images) else ""
        return f"{label}{marked}."
    others = [other for other in truths_in(folder) if other not in (truth, LABELS_ONLY)]
    also = f" ({', '.join(others)} are there too and are not used)" if others else ""
    mixture = data.describe_mixture()
    return f"{label}; where the defects are, by {truth}{also}." + (
        f" {mixture[0].upper()}{mixture[1:]}." if mixture else ""
    )


def _find_column(folder: Path, images: Sequence[LabelledImage]) -> tuple[str | None, str]:
    """The column of `labels.csv` that names groups, and what to say of it."""
    rows = None
    if (folder / "images").is_dir():
        rows = read_labels(folder / "labels.csv", [image.path for image in images], _pass_over)
    if not rows:
        return None, ""
    values = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values())) if name}
    counts = {name: len(set(column)) for name, column in values.items()}
    if "group" in values:
        return "group", f"Groups are the column 'group' of labels.csv: {format_count(counts['group'], 'group')}."
    things = {
        name: counts[name]
        for name, column in values.items()
        if _is_thing(name) and all(column) and 1 < counts[name] < len(column)
    }
    if not things:
        return None, ""
    enough = {name: count for name, count in things.items() if count >= ENOUGH_GROUPS}
    name = min(enough, key=enough.__getitem__) if enough else max(things, key=things.__getitem__)
    others = [f"{other} ({count})" for other, count in things.items() if other != name]
    instead = f"; {', '.join(others)} would be possible too" if others else ""
    return name, (
        f"Groups are the column {name!r} of labels.csv, as it has the name of a thing: {counts[name]} groups of "
        f"{len(rows)} pictures{instead}."
    )


def _is_thing(column: str) -> bool:
    word = re.sub("[^a-z]", "", column.lower())
    return word in THINGS or re.sub("(id|no|nr|number|num)$", "", word) in THINGS


def _guess_groups(images: Sequence[LabelledImage]) -> tuple[dict[Path, str], str, list[str]]:
    """Groups, where they come from, and what to say, where no column names groups."""
    scheme = find_scheme([image.path.name for image in images])
    if scheme is None:
        names = [image.path.stem for image in images]
        are = "file names, each a group"
        said = [
            "Each picture is a group of its own, as neither a column of labels.csv nor the file names say which "
            "pictures show one thing. Where several do, the figures flatter: name their part with split.pattern or "
            "their column with split.group."
        ]
    else:
        names, are = scheme.things, scheme.part
        kinds = sorted(set(names))
        said = [
            f"Groups are {scheme.part} ({utf8_safe(', '.join(kinds[:3]))}, ...): {format_count(len(kinds), 'group')}. "
            "This is a guess: "
            "that pictures of one thing have it in common. If not, use split.pattern or split.group."
        ]
    merged, like = _with_near_duplicates(images, [utf8_safe(name) for name in names])
    if like:
        are += ", near-duplicate pictures in one"
        said.append(like)
    groups = {image.path: group for image, group in zip(images, merged, strict=True)}
    return groups, are, said


def _with_near_duplicates(images: Sequence[LabelledImage], names: Sequence[str]) -> tuple[list[str], str | None]:
    """Group names in which near-duplicate pictures share one, and what to say if that changes anything."""
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as threads:  # decoding holds no lock
        seen = list(threads.map(_thumbnail, images))
    looked = [number for number, one in enumerate(seen) if one is not None]
    pairs = near_duplicates_pairs(np.array([one for one in seen if one is not None]))
    chains = _joined(range(len(looked)), pairs)
    longest = max(Counter(chains).values(), default=0)
    if longest > max(2, ALIKE_BY_PLACE * len(looked)):
        return list(names), (
            f"{longest} of {len(looked)} pictures look nearly identical, so that likeness does not say which of them "
            "show one thing, and is not used."
        )
    pairs_of_names = [(names[looked[one]], names[looked[other]]) for one, other in pairs]
    order = sorted(set(names))
    place = {name: number for number, name in enumerate(order)}
    roots = _joined(range(len(order)), [(place[one], place[other]) for one, other in pairs_of_names])
    groups = [order[roots[place[name]]] for name in names]
    count = len(set(groups))
    if count == len(order):
        return groups, None
    return groups, f"Near-duplicate pictures are put into one group: {len(order)} groups become {count}."


def _thumbnail(image: LabelledImage) -> NDArray[np.uint8] | None:
    try:
        return thumbnail(image.pixels())
    except InputError:
        return None


def _joined(numbers: range, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each number, the lowest one that it is joined to by a chain of pairs."""
    lowest = list(numbers)

    def find(number: int) -> int:
        while lowest[number] != number:
            lowest[number] = number = lowest[lowest[number]]
        return number

    for one, other in pairs:
        low, high = sorted((find(one), find(other)))
        lowest[high] = low
    return [find(number) for number in numbers]
