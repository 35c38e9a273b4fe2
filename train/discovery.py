"""Discovery of a folder's truth and groups, without settings.

Pictures of one thing must stay in one group; otherwise a model is tested on what it was trained on. The groups come
from the first of these that the folder has:

1. the column `group` of `labels.csv`, or else a column with the name of a physical thing (`THINGS`);
2. the part of the file name that names a thing (see `file_names`);
3. each picture by itself.

Where groups are guessed (2 and 3), near-duplicate pictures are also put into one group. Every assumption is reported.
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

from heatline.edge.errors import InputError
from heatline.edge.util.text import format_count, utf8_safe
from heatline.train.file_names import find_scheme
from heatline.train.near_duplicates import near_duplicate_pairs, thumbnail
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.readers.folder import LABELS_ONLY, list_folder, truths_in
from heatline.train.readers.labels_csv import read_labels

THINGS = frozenset(
    {
        "board", "pcb", "panel", "item", "block", "place", "part", "piece", "workpiece", "unit", "component", "lot",
        "batch", "serial", "specimen", "sample", "wafer", "coil", "roll", "sheet", "plate",
    }
)  # fmt: skip
"""Names of columns that name a physical thing, without the ending id, no, nr or number. Conditions of the photograph,
such as exposure or camera, are never groups: one thing is photographed under several conditions."""

ENOUGH_GROUPS = 10
"""Of several columns, discovery takes the one with the fewest groups that has at least this many."""

ALIKE_BY_PLACE = 0.5
"""If near-duplicates chain together more than this share of the pictures, only the camera's fixed view is alike."""


@dataclass(frozen=True)
class Discovery:
    """The truth and groups of a folder, and the assumptions behind them."""

    folder: Path
    truth: str
    """A key of `readers.folder.TRUTHS`, or `LABELS_ONLY`."""
    group_column: str | None
    """Column of `labels.csv` that holds the groups; None: `groups` has them."""
    groups: Mapping[Path, str] | None
    """Each picture's group by its path; None: `group_column` has them."""
    groups_are: str
    """Phrase for messages: where the groups come from."""
    assumptions: tuple[str, ...]
    """Sentences for people: what was assumed, and on what evidence."""

    def read(
        self, classes: Sequence[str] | None = None, truth: str | None = None, *, mixed: bool = True
    ) -> LabelledFolder:
        """Read the folder's pictures, with these groups.

        Args:
            classes: annotated classes that are defects. Default all.
            truth: replaces the discovered truth.
            mixed: whether annotations and labels may be mixed.
        Raises:
            InputError: as `read_folder`.
        """
        group_column = self.group_column or "group"
        return self.regroup(read_folder(self.folder, truth or self.truth, group_column, classes=classes, mixed=mixed))

    def regroup(self, data: LabelledFolder) -> LabelledFolder:
        """Return the folder's pictures with these groups."""
        return data if self.groups is None else data.with_groups(self.groups, self.groups_are)


def discover(folder: Path, truth: str | None = None) -> Discovery:
    """Find a folder's truth and groups; the same folder always gives the same result.

    Unusable files are ignored here; reading the folder reports them.

    Args:
        truth: replaces the discovered truth.
    Raises:
        InputError: it is not a folder of labelled pictures, or has no such truth.
    """
    data = list_folder(folder, truth, on_unusable=_ignore, mixed=True)
    assumptions: tuple[str, ...] = (_describe_truth(data),)
    if not any(image.defective for image in data.images):
        assumptions += ("No picture is defective: a training can only use synthetic defects on good pictures.",)
    column, column_assumption = _find_column(folder, data.images)
    if column is not None:
        groups_are = f"column {column!r} of labels.csv"
        return Discovery(folder, data.truth, column, None, groups_are, (*assumptions, column_assumption))
    groups, groups_are, group_assumptions = _guess_groups(data.images)
    return Discovery(folder, data.truth, None, groups, groups_are, (*assumptions, *group_assumptions))


def _ignore(file: Path, error: InputError) -> None:
    pass


def _describe_truth(data: LabelledFolder) -> str:
    folder, truth = data.folder, data.truth
    is_sorted = not (folder / "images").is_dir()
    table = (folder / "labels.csv").exists()
    source = (
        "the folders good/ and defective/" if is_sorted else "labels.csv" if table else f"whether {truth} mark a defect"
    )
    label = f"Pictures are good or defective by {source}"
    others = [other for other in truths_in(folder) if other not in (truth, LABELS_ONLY)]
    if truth == LABELS_ONLY:
        unmarked = f"{', '.join(others)} are not used" if others else "no annotation marks the defects"
        return f"{label}; {unmarked}." if any(image.defective for image in data.images) else f"{label}."
    also = f" ({', '.join(others)} exist too and are not used)" if others else ""
    mixture = data.describe_mixture()
    return f"{label}; where the defects are, by {truth}{also}." + (
        f" {mixture[0].upper()}{mixture[1:]}." if mixture else ""
    )


def _find_column(folder: Path, images: Sequence[LabelledImage]) -> tuple[str | None, str]:
    """Find the column of `labels.csv` that holds the groups; return it with a sentence about the choice."""
    rows = None
    if (folder / "images").is_dir():
        rows = read_labels(folder / "labels.csv", [image.path for image in images], _ignore)
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
    """Guess groups from file names and near-duplicates; return them, their source, and the assumptions."""
    scheme = find_scheme([image.path.name for image in images])
    if scheme is None:
        names = [image.path.stem for image in images]
        groups_are = "file names, each a group"
        assumptions = [
            "Each picture is a group of its own, as neither a column of labels.csv nor the file names say which "
            "pictures show one thing. If several do, the figures are too good: name the part of the file name with "
            "split.pattern, or the column with split.group."
        ]
    else:
        names, groups_are = scheme.things, scheme.part
        kinds = sorted(set(names))
        assumptions = [
            f"Groups are {scheme.part} ({utf8_safe(', '.join(kinds[:3]))}, ...): {format_count(len(kinds), 'group')}. "
            "This is a guess: "
            "that pictures of one thing have it in common. If not, use split.pattern or split.group."
        ]
    merged, assumption = _merge_near_duplicates(images, [utf8_safe(name) for name in names])
    if assumption:
        groups_are += ", near-duplicate pictures in one"
        assumptions.append(assumption)
    groups = {image.path: group for image, group in zip(images, merged, strict=True)}
    return groups, groups_are, assumptions


def _merge_near_duplicates(images: Sequence[LabelledImage], names: Sequence[str]) -> tuple[list[str], str | None]:
    return merge_near_duplicates(thumbnails_of(images), names)


def thumbnails_of(images: Sequence[LabelledImage]) -> list[NDArray[np.uint8] | None]:
    """Return the thumbnail of each picture; None: it cannot be read."""
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as threads:  # decoding holds no lock
        return list(threads.map(_thumbnail, images))


def merge_near_duplicates(
    thumbnails: Sequence[NDArray[np.uint8] | None], names: Sequence[str]
) -> tuple[list[str], str | None]:
    """Merge the groups of near-duplicate pictures; return each picture's group, and a sentence if anything changed.

    Args:
        thumbnails: from `thumbnails_of`.
        names: each picture's group.
    """
    usable = [number for number, small in enumerate(thumbnails) if small is not None]
    pairs = near_duplicate_pairs(np.array([small for small in thumbnails if small is not None]))
    chains = _connected(range(len(usable)), pairs)
    longest = max(Counter(chains).values(), default=0)
    if longest > max(2, ALIKE_BY_PLACE * len(usable)):
        return list(names), (
            f"{longest} of {len(usable)} pictures look nearly identical, so similarity does not show which of them "
            "show one thing, and is not used."
        )
    pairs_of_names = [(names[usable[one]], names[usable[other]]) for one, other in pairs]
    order = sorted(set(names))
    index = {name: number for number, name in enumerate(order)}
    roots = _connected(range(len(order)), [(index[one], index[other]) for one, other in pairs_of_names])
    groups = [order[roots[index[name]]] for name in names]
    count = len(set(groups))
    if count == len(order):
        return groups, None
    return groups, f"Near-duplicate pictures are put into one group: {len(order)} groups become {count}."


def _thumbnail(image: LabelledImage) -> NDArray[np.uint8] | None:
    try:
        return thumbnail(image.pixels())
    except InputError:
        return None


def _connected(numbers: range, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each number, return the lowest number that a chain of pairs connects it to."""
    lowest = list(numbers)

    def find(number: int) -> int:
        while lowest[number] != number:
            lowest[number] = number = lowest[lowest[number]]
        return number

    for one, other in pairs:
        low, high = sorted((find(one), find(other)))
        lowest[high] = low
    return [find(number) for number in numbers]
