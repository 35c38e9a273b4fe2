"""The pictures of a labelled folder, and those that people reviewed on a line."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import digest_picture, read_rgb
from heatline.edge.monitor.marks import Missed
from heatline.edge.picture_folders import DEFECTIVE, GOOD
from heatline.edge.util.text import encode_json, format_count, utf8_safe
from heatline.train.readers.annotation import Annotation

SEPARATORS = r"_\-. +()"
FEWEST_GROUPS = 3
"""Fewer groups cannot be split into train, val and test."""

_FOLDER_PATTERN, _ALONE_PATTERNS = r"([^/]+)/[^/]+$", (r"^(.+)\.", r"^(.+/.+)\.")

_CONDITION = re.compile(
    r"(exp|exposure|cam|camera|view|light|led|channel|ch|gain|focus|angle|rot|zoom|crop)(\d*)", re.IGNORECASE
)


def find_scheme(paths: Sequence[PurePath]) -> tuple[list[str], str] | None:
    """Find the part of file names that names a thing; return each name's thing, and a phrase for the part.

    In names such as `board07_cam2_0013`, the thing comes first and a counter last. So the leftmost part that differs,
    but not in every name, is the thing, unless it is a condition of the photograph. This prefers few, large groups: a
    group that is too large costs data, but a divided one makes the figures too good. None: there is no such part, or it
    gives fewer than `FEWEST_GROUPS` groups.

    Args:
        paths: below the folder. Parts that repeat a folder or the label are no scheme: `good/good_001.png` and
            `defective/defective_001.png` show two things.
    """
    tokens = [_tokens(path) for path in paths]
    for place in range(min(map(len, tokens), default=0)):
        things = [token[place] for token in tokens]
        if len(set(things)) == 1 or not all(re.search(r"\d", thing) for thing in things):
            continue
        if any(_is_condition(token, place) for token in tokens):
            continue
        if (groups := len(set(things))) < len(set(map(tuple, tokens))):  # where each folder counts from 1, names repeat
            return (things, f"part {place + 1} of the file name") if groups >= FEWEST_GROUPS else None
    return None


def find_patterns(paths: Sequence[PurePath], known: Sequence[str | None]) -> Iterator[tuple[str, list[str]]]:
    """Yield regular expressions that take a part of each path, with the parts that they take, the likeliest first.

    None of them divides the pictures as `known`, their groups now, or only joins the equal numbers of folders that each
    count from 1.
    """
    numbers = [" ".join(_tokens(path)) for path in paths]
    used = "".join(each for each in "_. +()-" if each == "." or any(each in path.stem for path in paths))
    most = max((len(re.split(f"[{SEPARATORS}]+", path.stem)) for path in paths), default=0)
    by_place = [f"^{f'[^{used}]+[{used}]+' * place}([^{used}]+)" for place in range(most)]
    for pattern in [*by_place, _FOLDER_PATTERN, *_ALONE_PATTERNS]:
        parts = [re.search(pattern, path.as_posix() if "/" in pattern else path.name) for path in paths]
        groups = [part[1] for part in parts if part]
        if len(groups) < len(paths) or len(set(groups)) == 1 or _divide_alike(groups, known):
            continue
        if pattern in _ALONE_PATTERNS:
            if len(set(groups)) == len(paths):
                yield pattern, groups
        elif not _divide_alike(groups, numbers) and not any(map(_CONDITION.fullmatch, groups)):
            yield pattern, groups


def _divide_alike(groups: Sequence[str], others: Sequence[str | None]) -> bool:
    return len(set(groups)) == len(set(others)) == len(set(zip(groups, others, strict=True)))


def _tokens(path: PurePath) -> list[str]:
    """Return the parts of the file name; one that repeats a folder or the label is empty."""
    said = GOOD | DEFECTIVE | {folder.casefold() for folder in path.parts[:-1]}
    return ["" if word.casefold() in said else word for word in re.split(f"[{SEPARATORS}]+", path.stem)]


def _is_condition(token: Sequence[str], place: int) -> bool:
    """Whether a part is a condition (cam2), or the number of one (2 in cam_2)."""
    if _CONDITION.fullmatch(token[place]):
        return True
    before = _CONDITION.fullmatch(token[place - 1]) if place else None
    return before is not None and not before[2]


FOLDS = 5
"""Of a default training."""


class ReviewedFrame(Missed, frozen=True, kw_only=True):
    """A row of `frames.jsonl`: a picture, with the label that people gave it, and where the line missed defects."""

    file: str
    """Path of the picture in the folder: `good/` or `defective/`, and its name."""
    digest: str
    """sha256 of the decoded pixels, which identifies the frame whatever its file."""
    truth: Literal["good", "defective"]
    group: str


@dataclass(frozen=True)
class LabelledImage:
    path: Path
    group: str | None
    """Pictures of one group stay together in a split; None: the group is unknown."""
    defective: bool
    annotation: Annotation | None
    """Marks of its defects; None for a good picture without annotation, and if only the label is known."""
    labels_only: bool = False
    """Whether only the label is known, not the place of the defects."""
    reviewed: ReviewedFrame | None = None
    """Of a frame of a line: the label that people gave by their marks, and where defects lie; there may be others."""
    folder: Path | None = None
    """The folder that was read; None: the one above its own."""
    place: str = ""
    """See `heatline.edge.picture_folders`; names of folders and the stem, joined by `/`."""
    class_name: str | None = None
    """Class of its defects by its folder, or by the column `cls` or `class` of `labels.csv`; None: unknown, or good."""

    @property
    def name(self) -> str:
        """File name for display, with its subfolders, and `?` for bytes that are no UTF-8; not for opening it."""
        return utf8_safe("/".join([*self.place.split("/")[:-1], self.path.name]))

    @property
    def name_in_folder(self) -> str:
        """Path below the folder that was read, unique there."""
        below = self.path.relative_to(self.path.parent.parent if self.folder is None else self.folder)
        return utf8_safe(below.as_posix())

    def objects(self) -> Counter[str]:
        """Count its marked objects by class, or else the picture by its `class_name`."""
        marked = Counter[str]() if self.annotation is None else self.annotation.objects()
        return marked or Counter(() if self.class_name is None else (utf8_safe(self.class_name),))

    @property
    def truth_files(self) -> tuple[Path, ...]:
        """Annotation files that its labels depend on."""
        return () if self.annotation is None else (self.annotation.file,)

    def pixels(self) -> NDArray[np.uint8]:
        """Decode the picture to RGB uint8 [H, W, 3], by the line's own colour function."""
        return read_rgb(self.path)

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return the defective pixels, bool [H, W]; None if only the label is known.

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
                "correct the label or the annotation"
            )
        return mask

    def masks_by_class(self, mask: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """Return the defective pixels of each class, by its objects or else by `class_name`; empty if none is known.

        Args:
            mask: of all classes, from `mask`.
        """
        height, width = mask.shape
        known = {} if self.annotation is None else self.annotation.masks_by_class((height, width))
        return known or ({} if self.class_name is None else {self.class_name: mask})

    def has_exact_mask(self) -> bool:
        """Whether `mask` is exact to the pixel: of masks or polygons, or of a good picture; boxes overstate defects."""
        return not self.labels_only if self.annotation is None else self.annotation.is_exact()


def lone_label(images: Sequence[LabelledImage], groups: Sequence[str]) -> str | None:
    """Return "good" or "defective" if several pictures have this label, and all of them one group; None: neither."""
    for label in ("good", "defective"):
        of = [group for image, group in zip(images, groups, strict=True) if image.defective == (label == "defective")]
        if len(of) > 1 and len(set(of)) == 1:
            return label
    return None


def why_not_validated(images: Sequence[LabelledImage], groups: Sequence[str]) -> str | None:
    """Explain why a cross-validation needs other groups; None: it can use these, or single pictures are no better."""
    if lone := lone_label(images, groups):
        return f"all {lone} pictures would be in one, and nothing could be validated"
    lacking = _lacking_label(images, groups) if images else None
    if lacking is None or _lacking_label(images, range(len(images))):
        return None
    return f"a fold of the cross-validation would have no {lacking} picture"


def _lacking_label(images: Sequence[LabelledImage], groups: Sequence[object]) -> str | None:
    """Return the label that a fold of a default training would lack; None: no fold lacks any that the folder has."""
    names, group = np.unique([str(name) for name in groups], return_inverse=True)
    weight = np.array([(not image.defective, image.defective) for image in images], np.float64)
    fold = assign_folds(group, weight[:, weight.any(axis=0)], min(FOLDS, len(names)), seed=0)[group]
    for label, of_label in zip(("good", "defective"), weight.T > 0, strict=True):
        if of_label.any() and len(set(fold[of_label])) <= fold.max():
            return label
    return None


@dataclass(frozen=True)
class LabelledFolder:
    """A folder's labelled pictures, in the order of their file names."""

    folder: Path
    truth: str
    """A key of `folder.TRUTHS`, or `folder.LABELS_ONLY`; applies to the pictures that are not `labels_only`."""
    images: tuple[LabelledImage, ...]
    groups_are: str
    """Phrase for messages: where the groups come from, or were looked for."""
    unmatched: Mapping[str, Annotation]
    """Annotations without a picture, by the place of the missing picture."""
    rows: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)
    """Rows of `labels.csv` by picture."""

    @property
    def name(self) -> str:
        return self.folder.name

    def groups(self) -> list[str]:
        """Return all groups, sorted; an unknown one is an `InputError`."""
        if unknown := [image.name for image in self.images if image.group is None]:
            raise InputError(
                f"{self.folder} cannot be split, as {unknown[0]} has no group by {self.groups_are}; name the column "
                f"with split.group=..., or the part of the file name: {self.suggest_pattern()}"
            )
        return sorted({str(image.group) for image in self.images})

    def suggest_pattern(self, known: Sequence[str] | None = None) -> str:
        """Return an example of `split.pattern` that gives other groups and can be validated, or only the option's name.

        Args:
            known: each picture's group; default those that the pictures have.
        """
        paths = [PurePosixPath(image.name_in_folder) for image in self.images]
        for pattern, groups in find_patterns(paths, known or [image.group for image in self.images]):
            if why_not_validated(self.images, groups) is None:
                return f"split.pattern='{pattern}' ({groups[0]} of {paths[0].name})"
        return "split.pattern"

    def with_groups(self, groups: Mapping[Path, str], groups_are: str) -> "LabelledFolder":
        """Return the same pictures with the groups of their paths, and a phrase where these come from."""
        images = tuple(replace(image, group=groups.get(image.path)) for image in self.images)
        return replace(self, images=images, groups_are=groups_are)

    def describe_mixture(self) -> str | None:
        """Describe how many defective pictures have no marked defect; None if all have one, or if none has."""
        defective = [image for image in self.images if image.defective]
        unmarked = [image for image in defective if image.labels_only]
        if not unmarked or all(image.labels_only for image in self.images):
            return None
        return (
            f"{len(unmarked)} of {format_count(len(defective), 'defective picture')} "
            f"{'has' if len(unmarked) == 1 else 'have'} no defect marked ({self.truth}), first "
            f"{unmarked[0].name}: only the label is used"
        )


INDEX = "frames.jsonl"
"""Of a folder of reviewed frames, which `heatline retrain` writes, and which are trained on besides the data."""


def read_index(folder: Path) -> list[ReviewedFrame]:
    """Read the rows of a folder of reviewed frames."""
    try:
        return msgspec.json.Decoder(ReviewedFrame).decode_lines((folder / INDEX).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder} is not a folder of reviewed frames ({error}); name the one that heatline retrain wrote"
        ) from error


def write_index(folder: Path, frames: list[ReviewedFrame]) -> None:
    (folder / INDEX).write_bytes(b"".join(encode_json(frame) + b"\n" for frame in frames))


def read_reviewed(folder: Path) -> list[LabelledImage]:
    """Return reviewed frames as labelled pictures; of a defective one, the label and people's marks are known."""
    frames = [(frame, frame.truth == "defective") for frame in read_index(folder)]
    return [
        LabelledImage(folder / frame.file, frame.group, defective, None, labels_only=defective, reviewed=frame)
        for frame, defective in frames
    ]


def assign_folds(group: NDArray[np.int64], weight: NDArray[np.float64], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each group a fold, so that all folds have about the same weight of every kind.

    Groups come in descending order of their rarest kind's weight, the rarest kind first, and each goes to the fold with
    the least weight of that kind so far. `seed` orders equal groups.

    Args:
        group: [N], group of each sample, from 0.
        weight: [N, kinds], weight of each sample by kind: for example a column of defective and one of good samples.
    Returns:
        [groups], from 0 to at most `folds` - 1.
    """
    groups = int(group.max()) + 1
    share = np.zeros((groups, weight.shape[1]))
    np.add.at(share, group, weight)
    share /= np.maximum(share.sum(axis=0), 1e-12)
    rarest_first = np.argsort((share > 0).sum(axis=0), kind="stable")
    has = share[:, rarest_first] > 0
    kind = rarest_first[np.where(has.any(axis=1), has.argmax(axis=1), -1)]  # each group's rarest kind
    drawn = np.random.default_rng(seed).permutation(groups)
    order = sorted(drawn, key=lambda each: (has[each].argmax(), -share[each, kind[each]]))
    fold_of, load, count = np.zeros(groups, np.int64), np.zeros((folds, weight.shape[1])), np.zeros(folds)
    for each in order:
        fold = min(range(folds), key=lambda fold: (load[fold, kind[each]], load[fold].sum(), count[fold]))
        fold_of[each] = fold
        load[fold] += share[each]
        count[fold] += 1
    return fold_of


def digest_groups(images: Iterable[LabelledImage]) -> list[str]:
    """Return the digest of one picture of each group, so that the pictures are recognised wherever they lie."""
    first: dict[str | None, Path] = {}
    for image in images:
        first.setdefault(image.group, image.path)
    return [digest_picture(path) for path in first.values()]
