"""Discovery of a folder's truth and groups, without settings; docs/training.md (Split) has the order of the guesses.

Pictures of one thing must stay in one group; otherwise a model is tested on what it was trained on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.near_duplicates import compare_blocks, near_duplicate_chains, thumbnail
from heatline.edge.picture_folders import PARTS, find_layout
from heatline.edge.util.text import format_count, on_one_line, utf8_safe
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.readers.folder import LABELS_ONLY, list_folder, truths_in
from heatline.train.readers.labelled import find_scheme, lone_label, why_not_validated

# Near-duplicate pictures make a model's figures too good if they are in different parts of a split.


def near_duplicates_across(
    thumbnails: NDArray[np.uint8], parts: Sequence[str] | NDArray[np.str_]
) -> list[tuple[int, int, float]]:
    """Find each picture's most similar near-duplicate in an earlier part.

    Args:
        thumbnails: uint8 [n, 32, 32], made by `thumbnail`.
        parts: part of each picture (train, val and test, for example); the first to occur is the earliest.
    Returns:
        Index of the picture, index of the other, and the correlation of their filtered thumbnails, the most similar
        first.
    """
    numbers = {name: at for at, name in enumerate(dict.fromkeys(parts))}
    part = np.array([numbers[name] for name in parts], np.int64)
    pairs = []
    for rows, likeness, same in compare_blocks(thumbnails) if len(part) else ():
        same &= part[None, :] < part[rows, None]
        likeness[~same] = -1
        best = likeness.argmax(axis=1)
        pairs += [
            (rows.start + int(row), int(best[row]), float(likeness[row, best[row]]))
            for row in np.flatnonzero(same.any(axis=1))
        ]
    return sorted(pairs, key=lambda pair: -pair[2])


_THING = re.compile(
    "(board|pcb|panel|item|block|place|part|piece|workpiece|unit|component|lot|batch|serial|specimen|sample|wafer|coil"
    "|roll|sheet|plate)(id|no|nr|number|num)?"
)
"""Letters of columns that name a physical thing; no conditions, as exposure or camera."""

ENOUGH_GROUPS = 10
"""Of several columns, discovery takes the one with the fewest groups that has at least this many."""

ALIKE_BY_PLACE = 0.5
"""If near-duplicates chain together more than this share of the pictures, only the camera's fixed view is alike."""


GROUP_COLUMN = "column 'group' of labels.csv"
ALONE = "file names, each a group"


@dataclass(frozen=True)
class Discovery:
    folder: Path
    truth: str
    """A key of `readers.folder.TRUTHS`, or `LABELS_ONLY`."""
    groups: Mapping[Path, str]
    """Each picture's group by its path; missing where the column `group` is empty."""
    groups_are: str
    """Phrase for messages: where the groups come from."""
    assumptions: tuple[str, ...]
    """Sentences for people: what was assumed, and on what evidence."""

    def read(
        self, classes: Sequence[str] | None = None, truth: str | None = None, *, mixed: bool = True
    ) -> LabelledFolder:
        """Read the folder's pictures as `read_folder` does, with these groups."""
        data = read_folder(self.folder, truth or self.truth, classes=classes, mixed=mixed)
        return data.with_groups(self.groups, self.groups_are)


class _Guess(NamedTuple):
    names: Sequence[str]
    """Each picture's group."""
    are: str
    """Phrase for messages: where they come from."""
    assumptions: Sequence[str]


def discover(folder: Path, truth: str | None = None) -> Discovery:
    """Find a folder's truth and groups; the same folder always gives the same result.

    Unusable files are ignored here; reading the folder reports them.

    Args:
        truth: replaces the discovered truth.
    Raises:
        InputError: it is not a folder of labelled pictures, or has no such truth.
    """
    data = list_folder(folder, truth, on_unusable=lambda file, error: None, mixed=True)
    assumptions = [_describe_truth(data)]
    if not any(image.defective for image in data.images):
        assumptions.append("No picture is defective: a training can only use synthetic defects on good pictures.")
    for guess in _guess_groups(data):
        why_not = why_not_validated(data.images, guess.names)
        if why_not is None or guess.are == ALONE or guess.are == GROUP_COLUMN:  # the user's own
            break
        assumptions.append(f"The groups cannot be {guess.are}: {why_not}.")
    groups = {image.path: utf8_safe(name) for image, name in zip(data.images, guess.names, strict=True) if name}
    sentences = tuple(on_one_line(utf8_safe(each)) for each in (*assumptions, *guess.assumptions))
    return Discovery(folder, data.truth, groups, guess.are, sentences)


def describe_unvalidated(data: LabelledFolder, images: Sequence[LabelledImage]) -> str:
    """Explain in a sentence why there is no cross-validation over these pictures of a folder, and what to type."""
    for label in ("good", "defective"):
        of_label = [image for image in images if image.defective == (label == "defective")]
        groups = {str(image.group) for image in of_label}
        if len(of_label) == 1:
            return utf8_safe(
                f"there is only 1 {label} picture; add {label} pictures, at least one, to {of_label[0].path.parent}, "
                f"and type: heatline train {data.folder}"
            )
        if len(groups) == 1:
            return (
                f"all {label} pictures are in one group, {utf8_safe(min(groups))!r}, by {data.groups_are}; add {label} "
                f"pictures of other groups, or name other groups: {data.suggest_pattern()}"
            )
    return (
        f"all good or all defective tiles are in one group, by {data.groups_are}; name other groups: "
        f"{data.suggest_pattern()}"
    )


def _describe_truth(data: LabelledFolder) -> str:
    layout, truth = find_layout(data.folder), data.truth
    source = (
        layout.describe_labels()
        if layout.is_sorted
        else "labels.csv"
        if data.rows
        else "whether an annotation marks a defect"
    )
    label = f"Pictures are good or defective by {source}"
    if any(place[0].casefold() in PARTS for place in layout.places.values() if place[1:]):
        label += ", and all are trained on and cross-validated, whether in train/, val/ or test/"
    others = [other for other in truths_in(layout) if other not in (truth, LABELS_ONLY)]
    if truth == LABELS_ONLY:
        unmarked = f"{', '.join(others)} are not used" if others else "no annotation marks the defects"
        return f"{label}; {unmarked}." if any(image.defective for image in data.images) else f"{label}."
    also = f" ({', '.join(others)} exist too and are not used)" if others else ""
    mixture = data.describe_mixture()
    unlabelled = sum(image.annotation is None for image in data.images)
    if unlabelled and not layout.is_sorted and not data.rows:
        also += (
            f"; {unlabelled} of {format_count(len(data.images), 'picture')} "
            f"{'has no annotation and counts' if unlabelled == 1 else 'have no annotation and count'} as good"
        )
    return f"{label}; where the defects are, by {truth}{also}." + (
        f" {mixture[0].upper()}{mixture[1:]}." if mixture else ""
    )


def _guess_groups(data: LabelledFolder) -> Iterator[_Guess]:
    """Yield the groups that the pictures might have, the best first; the last guess is always possible."""
    yield from _find_columns([data.rows[image.path] for image in data.images if image.path in data.rows])
    images, thumbnails = data.images, thumbnails_of(data.images)
    scheme = find_scheme([PurePath(image.name_in_folder) for image in images])
    if scheme is not None:
        things, part = scheme
        kinds = sorted(set(things))
        assumption = (
            f"Groups are {part} ({', '.join(kinds[:3])}, ...): {format_count(len(kinds), 'group')}. This is a guess: "
            "that pictures of one thing have it in common. If not, use split.group or "
            f"{data.suggest_pattern(things)}."
        )
        yield from _merged(
            images, thumbnails, _Guess(things, part, [assumption]), f"{part}, near-duplicate pictures in one"
        )
    names = [image.place for image in images]
    assumption = (
        "Each picture is a group of its own, as neither a column of labels.csv nor the file names say which pictures "
        "show one thing. If several do, the figures are too good: name the column with split.group, or the part of the "
        f"file name with {data.suggest_pattern(names)}."
    )
    yield from _merged(images, thumbnails, _Guess(names, ALONE, [assumption]), "near-duplicate pictures")


def _merged(
    images: Sequence[LabelledImage], thumbnails: Sequence[NDArray[np.uint8] | None], guess: _Guess, merged_are: str
) -> Iterator[_Guess]:
    """Yield a guess with near-duplicate pictures in one group, and then without."""
    if lone_label(images, guess.names) is None:
        merged, note = merge_near_duplicates(thumbnails, guess.names)
        noted = guess._replace(assumptions=[*guess.assumptions, note]) if note else guess
        if merged == guess.names:
            guess = noted
        else:
            yield noted._replace(names=merged, are=merged_are)
    yield guess


def _find_columns(rows: Sequence[Mapping[str, str]]) -> Iterator[_Guess]:
    """Yield the columns of the rows of `labels.csv` that may hold the groups, the best first."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if name}
    counts = {name: len(set(column)) for name, column in columns.items()}
    things = [
        name
        for name, column in columns.items()
        if _THING.fullmatch(re.sub("[^a-z]", "", name.lower())) and all(column) and 1 < counts[name] < len(column)
    ]
    things.sort(key=lambda name: (counts[name] < ENOUGH_GROUPS, abs(counts[name] - ENOUGH_GROUPS)))
    for name in ["group", *things] if "group" in columns else things:
        why = "" if name == "group" else ", as it has the name of a thing"
        count = format_count(counts[name], "group")
        column = f"column {name!r} of labels.csv"
        yield _Guess(columns[name], column, [f"Groups are the {column}{why}: {count}."])


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
    usable = np.array([number for number, small in enumerate(thumbnails) if small is not None], np.int64)
    chains = near_duplicate_chains(np.array([small for small in thumbnails if small is not None]))
    lengths = np.bincount(chains, minlength=1)
    if (longest := lengths.max()) > max(2, ALIKE_BY_PLACE * len(usable)):
        return list(names), (
            f"{longest} of {len(usable)} pictures look nearly identical, so similarity does not show which of them "
            "show one thing, and is not used."
        )
    order = sorted(set(names))
    number = {name: at for at, name in enumerate(order)}
    group = np.array([number[name] for name in names], np.int64)
    for chain in np.flatnonzero(lengths > 1):
        joined = np.isin(group, group[usable[chains == chain]])
        group[joined] = group[joined].min()
    groups = [order[at] for at in group]
    count = len(set(groups))
    if count == len(order):
        return groups, None
    return groups, f"Near-duplicate pictures are put into one group: {len(order)} groups become {count}."


def _thumbnail(image: LabelledImage) -> NDArray[np.uint8] | None:
    try:
        return thumbnail(image.pixels())
    except InputError:
        return None
