"""From a folder to labelled pictures.

Two layouts are understood:

- `images/`, and beside it annotations in one or more of the formats of `TRUTHS`, and perhaps `labels.csv` with the
  columns `image`, `label` (good or defective) and one that names the group. Without `labels.csv`, a picture is
  defective if its annotation marks a defect; without annotations, `labels.csv` says all there is to know.
- `good/` and `defective/`: the folder is the label.

Pictures of one group show the same thing (a board, an item, a place), so a split must keep them together.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.images import list_images, read_rgb
from train.readers import coco, deeppcb, labelme, mask_png, voc
from train.readers.annotation import Annotation
from train.readers.labels_csv import read_labels
from train.readers.unusable import OnUnusable, stop


@dataclass(frozen=True)
class Format:
    """Where annotations of one format lie beside `images/`, and how they are read."""

    subfolder: str
    suffix: str
    read: Callable[[Path, frozenset[str] | None], Mapping[str, Annotation]]
    """From the subfolder and the classes that are defects (None: all) to annotations by their picture's stem."""

    def is_in(self, folder: Path) -> bool:
        return any((folder / self.subfolder).glob(f"*{self.suffix}"))


TRUTHS: dict[str, tuple[Format, ...]] = {
    "masks": (Format("masks", ".png", mask_png.read),),
    "derived_masks": (Format("derived_masks", ".png", mask_png.read),),
    "polygons": (Format("labelme", ".json", labelme.read),),
    "coco": (Format("annotations", ".json", coco.read),),
    "boxes": (Format("annotations", ".xml", voc.read), Format("boxes", ".txt", deeppcb.read)),
}
"""Per truth, the formats it may come in. The first truth that a folder has is the default: exact ones before boxes."""

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
    """Whether it is only known to be good or defective as a whole."""

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
    strays: Mapping[str, Annotation]
    """Annotations of no picture, by the name that their picture would have, without its ending."""

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

    def groups_with_defects(self) -> set[str]:
        """The groups of which a picture is defective."""
        return {str(image.group) for image in self.images if image.defective}


def read_folder(
    folder: Path,
    truth: str | None = None,
    group_column: str = "group",
    group_pattern: str | None = None,
    classes: Sequence[str] | None = None,
) -> LabelledFolder:
    """What a folder holds; pictures are listed here and decoded when they are used.

    Args:
        truth: a key of `TRUTHS` or `LABELS_ONLY`; default the first of them that there is.
        group_column: column of `labels.csv` that names each picture's group.
        group_pattern: instead, a regular expression that is looked for in the file name; its first parenthesis is the
            group. With neither, in good / defective folders each file name (its stem) is a group of its own.
        classes: which annotated classes are defects; what others mark is good. Default all.
    Raises:
        InputError: no such folder, no pictures, another layout, labels that do not fit the pictures, no defect at all,
            an unknown class, or an annotation that is damaged, as far as it must be read to tell good from defective.
    """
    read = list_folder(folder, truth, group_column, group_pattern, classes)
    defective = sum(image.defective for image in read.images)
    if not defective:
        raise InputError(f"{folder} holds no defective picture; a classifier needs defects to learn from")
    if read.truth == LABELS_ONLY and defective == len(read.images):
        raise InputError(
            f"{folder} holds only one class: every picture is defective, and no annotation says which part of it is "
            "not; add good pictures"
        )
    return read


def list_folder(
    folder: Path,
    truth: str | None = None,
    group_column: str = "group",
    group_pattern: str | None = None,
    classes: Sequence[str] | None = None,
    on_unusable: OnUnusable = stop,
) -> LabelledFolder:
    """As `read_folder`, of one class or of two.

    Args:
        on_unusable: told of every file that cannot be used, as far as is seen without decoding pictures.
    Raises:
        InputError: as `read_folder`; where `on_unusable` returns, only that the folder or what was asked for makes no
            sense.
    """
    pattern = None if group_pattern is None else _compile(group_pattern)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder with images/, or with good/ and defective/")
    if classes is not None and not classes:
        raise InputError("no class is named that counts as a defect; name at least one, or leave classes away for all")
    if (folder / "images").is_dir():
        return _Reader(folder, group_column, pattern, on_unusable).read(truth, classes)
    if (folder / "good").is_dir() or (folder / "defective").is_dir():
        return _read_good_and_defective(folder, truth, classes, pattern, on_unusable)
    raise InputError(
        f"{folder} has neither images/ nor good/ and defective/; put the pictures into images/ with {_places()} or "
        "labels.csv beside it, or sort them into good/ and defective/"
    )


def truths_in(folder: Path) -> list[str]:
    """The truths that a folder has, the default first."""
    there = [truth for truth, formats in TRUTHS.items() if any(form.is_in(folder) for form in formats)]
    if (folder / "labels.csv").exists() or not (folder / "images").is_dir():
        there.append(LABELS_ONLY)
    return there


@dataclass(frozen=True)
class _Reader:
    """Reads a folder with `images/`."""

    folder: Path
    group_column: str
    pattern: re.Pattern[str] | None
    on_unusable: OnUnusable

    def read(self, truth: str | None, classes: Sequence[str] | None) -> LabelledFolder:
        pictures = self._of_one_stem_each(list_images(self.folder / "images"))
        truth = self._choose_truth(truth)
        annotations = self._annotations(truth, classes)
        rows = read_labels(self.folder / "labels.csv", pictures, self.on_unusable)
        images = []
        for path in pictures:
            if rows is not None and path.name not in rows:
                continue
            row = None if rows is None else rows[path.name]
            annotation = None if annotations is None else annotations.get(path.stem)
            try:
                group = _group_of(path, self.pattern) if self.pattern else row.get(self.group_column) if row else None
                if annotations is None:
                    defective = row is not None and row["label"] == "defective"
                else:
                    defective = self._is_defective(path, row, annotation, classes)
            except InputError as error:
                self.on_unusable(path, error)
            else:
                images.append(LabelledImage(path, group or None, defective, annotation, annotations is None))
        stems = {path.stem for path in pictures}
        strays = {stem: found for stem, found in (annotations or {}).items() if stem not in stems}
        return LabelledFolder(self.folder, truth, tuple(images), self._groups_are(rows), strays)

    def _of_one_stem_each(self, pictures: list[Path]) -> list[Path]:
        first: dict[str, Path] = {}
        for path in pictures:
            if first.setdefault(path.stem, path) is not path:
                self.on_unusable(
                    path,
                    InputError(
                        f"{path} and {first[path.stem].name} differ only in their ending, so an annotation could be of "
                        "either; rename one, or take it away"
                    ),
                )
        return list(first.values())

    def _choose_truth(self, truth: str | None) -> str:
        there = truths_in(self.folder)
        if truth is not None and truth not in there:
            needs = " (labels.csv is missing)" if truth == LABELS_ONLY else ""
            raise InputError(
                f"{self.folder} has no truth {truth!r}{needs}; it has {', '.join(there) or 'none'}, choose one of these"
            )
        if truth is None and (not there or there == [LABELS_ONLY]):
            # A folder for annotations that holds none is more likely a mistake than a wish to do without.
            for form in _formats():
                if (self.folder / form.subfolder).is_dir():
                    raise InputError(
                        f"{self.folder / form.subfolder} holds no *{form.suffix}; put the annotations there, or ask "
                        "for truth=labels with a labels.csv"
                    )
        if not there:
            raise InputError(
                f"{self.folder} has images/ but none of {_places()} and labels.csv; add one, or sort the pictures into "
                "good/ and defective/"
            )
        return truth or there[0]

    def _annotations(self, truth: str, classes: Sequence[str] | None) -> Mapping[str, Annotation] | None:
        """By the stem of their pictures; None where only labels are known."""
        if classes is not None and (truth == LABELS_ONLY or truth.endswith("masks")):
            raise InputError(
                f"{self.folder} was asked for the classes {', '.join(classes)}, and {truth} tell no classes; choose "
                "another truth, or leave classes away"
            )
        if truth == LABELS_ONLY:
            return None
        forms = [form for form in TRUTHS[truth] if form.is_in(self.folder)]
        if len(forms) > 1:
            raise InputError(
                f"{self.folder} has {truth} in {' and in '.join(form.subfolder + '/' for form in forms)}; leave one"
            )
        place = self.folder / forms[0].subfolder
        try:
            annotations = forms[0].read(place, None if classes is None else frozenset(classes))
        except InputError as error:
            self.on_unusable(place, error)
            return None
        if classes is not None:
            self._check_classes(classes, annotations.values())
        return annotations

    def _check_classes(self, classes: Sequence[str], annotations: Collection[Annotation]) -> None:
        known: Counter[str] = Counter()
        for annotation in annotations:
            try:
                known.update(annotation.objects())
            except InputError as error:
                self.on_unusable(annotation.file, error)
        for name in classes:
            if name not in known:
                raise InputError(
                    f"{self.folder} has no class {name!r}; its classes are {', '.join(sorted(known)) or 'none'}"
                )

    def _is_defective(
        self, path: Path, row: dict[str, str] | None, annotation: Annotation | None, classes: Sequence[str] | None
    ) -> bool:
        if row is None:
            return annotation is not None and annotation.marks_defects()
        if row["label"] == "good":
            return False
        if annotation is None:
            raise InputError(
                f"{path} is labelled defective and has no annotation of its name; add it, take the picture away, or "
                "ask for truth=labels"
            )
        # The label knows no classes: a picture with objects, and none of the classes that count, is good.
        return classes is None or annotation.marks_defects() or not annotation.objects().total()

    def _groups_are(self, rows: Mapping[str, dict[str, str]] | None) -> str:
        if self.pattern:
            return f"what {self.pattern.pattern!r} finds in the file name"
        if rows is None:
            return f"column {self.group_column!r} of labels.csv, which is not there"
        columns = [name for name in next(iter(rows.values()), {}) if name not in ("image", "label")]
        has = "" if self.group_column in columns else f" (which has {', '.join(columns) or 'no more columns'})"
        return f"column {self.group_column!r} of labels.csv{has}"


def _formats() -> list[Format]:
    return [form for formats in TRUTHS.values() for form in formats]


def _places() -> str:
    """Where annotations may lie, in words."""
    return ", ".join(dict.fromkeys(f"{form.subfolder}/" for form in _formats()))


def _read_good_and_defective(
    folder: Path,
    truth: str | None,
    classes: Sequence[str] | None,
    pattern: re.Pattern[str] | None,
    on_unusable: OnUnusable,
) -> LabelledFolder:
    if truth not in (None, LABELS_ONLY):
        raise InputError(f"{folder} has good/ and defective/ and so no {truth}; leave truth away")
    if classes is not None:
        raise InputError(f"{folder} has good/ and defective/ and so no classes; leave classes away")
    for label in ("good", "defective"):
        if not (folder / label).is_dir():
            raise InputError(f"{folder} has only one class: {label}/ is missing; both must hold pictures")
    images = []
    for label in ("good", "defective"):
        for path in list_images(folder / label):
            try:
                images.append(LabelledImage(path, _group_of(path, pattern), label == "defective", None, True))
            except InputError as error:
                on_unusable(path, error)
    groups_are = "file names, each a group" if pattern is None else f"what {pattern.pattern!r} finds in the file name"
    return LabelledFolder(folder, LABELS_ONLY, tuple(images), groups_are, {})


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
