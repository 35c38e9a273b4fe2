"""Reads a folder of labelled pictures.

There are two layouts:

- `images/` with annotations next to it, in one or more of the formats of `TRUTHS`, and optionally `labels.csv` with the
  columns `image`, `label` (good or defective) and one for the group. Without `labels.csv`, a picture is defective if
  its annotation marks a defect; without annotations, only the labels of `labels.csv` are known.
- `good/` and `defective/`: the folder is the label; annotations may lie next to them, as next to `images/`.

If the caller accepts mixtures, only the label of a defective picture without annotation is used.

Pictures of one group show the same thing (a board, an item, a place), so a split must keep them together.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.images import SUFFIXES, list_images
from heatline.edge.util.text import utf8_safe
from heatline.train.readers import coco, deeppcb, labelme, mask_png, voc
from heatline.train.readers.annotation import Annotation
from heatline.train.readers.labelled import LabelledFolder, LabelledImage
from heatline.train.readers.labels_csv import read_labels
from heatline.train.readers.unusable import OnUnusable, stop


@dataclass(frozen=True)
class Format:
    """An annotation format: its subfolder next to `images/`, and its reader."""

    subfolder: str
    suffix: str
    read: Callable[[Path, frozenset[str] | None], Mapping[str, Annotation]]
    """Takes the subfolder and the classes that are defects (None: all); returns annotations by their picture's stem."""

    def is_in(self, folder: Path) -> bool:
        return any((folder / self.subfolder).glob(f"*{self.suffix}"))


TRUTHS: dict[str, tuple[Format, ...]] = {
    "masks": (Format("masks", ".png", mask_png.read),),
    "derived_masks": (Format("derived_masks", ".png", mask_png.read),),
    "polygons": (Format("labelme", ".json", labelme.read),),
    "coco": (Format("annotations", ".json", coco.read),),
    "boxes": (Format("annotations", ".xml", voc.read), Format("boxes", ".txt", deeppcb.read)),
}
"""The formats of each truth. The first truth that a folder has is the default; exact truths come before boxes."""

LABELS_ONLY = "labels"
"""The truth of a folder that has labels and no annotations."""

LABELS = ("good", "defective")
"""The labels of pictures, and the folder names of the sorted layout."""


def read_folder(
    folder: Path,
    truth: str | None = None,
    group_column: str = "group",
    group_pattern: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    mixed: bool = False,
) -> LabelledFolder:
    """List a folder's labelled pictures; they are decoded later, when they are used.

    Args:
        truth: a key of `TRUTHS` or `LABELS_ONLY`; default the first one that the folder has.
        group_column: column of `labels.csv` that names each picture's group.
        group_pattern: replaces the column: a regular expression on file names; its first parenthesis is the group.
            In the sorted layout without a pattern, each file name (its stem) is a group of its own.
        classes: annotated classes that are defects; objects of other classes are good. Default all.
        mixed: whether the caller accepts defective pictures without annotation, or whose annotation marks nothing
            (they become `labels_only`), next to annotated ones, and folders without any defective picture.
    Raises:
        InputError: no such folder, no pictures, another layout, labels that do not match the pictures, an unknown
            class, or a damaged annotation, as far as it is read; without `mixed`, a defective picture without
            annotation, or no defective picture.
    """
    data = list_folder(folder, truth, group_column, group_pattern, classes, mixed=mixed)
    if not mixed and not any(image.defective for image in data.images):
        raise InputError(f"{folder} holds no defective picture; a classifier needs defective pictures: add some")
    if all(image.defective and image.labels_only for image in data.images):
        raise InputError(
            f"{folder} holds only one class: every picture is defective, and no annotation says which part of it is "
            "not; add good pictures"
        )
    return data


def list_folder(
    folder: Path,
    truth: str | None = None,
    group_column: str = "group",
    group_pattern: str | None = None,
    classes: Sequence[str] | None = None,
    on_unusable: OnUnusable = stop,
    *,
    mixed: bool = False,
) -> LabelledFolder:
    """List pictures as `read_folder` does, but also accept a folder with only one class.

    Args:
        on_unusable: called for each file that cannot be used, as far as that shows without decoding pictures.
    Raises:
        InputError: as `read_folder`; if `on_unusable` returns, only for a folder or arguments that make no sense.
    """
    pattern = None if group_pattern is None else _compile(group_pattern)
    require_pictures(folder)
    if classes is not None and not classes:
        raise InputError("classes is empty, so nothing counts as a defect; name at least one, or leave it out for all")
    return _Reader(folder, group_column, pattern, classes, mixed, on_unusable).read(truth)


def require_pictures(folder: Path) -> None:
    """Refuse a folder without subfolders of pictures.

    Raises:
        InputError: it is not a folder, or has neither images/ nor good/ and defective/.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder with images/, or with good/ and defective/")
    if not any((folder / name).is_dir() for name in ("images", *LABELS)):
        raise InputError(
            f"{folder} has neither images/ nor good/ and defective/; put the pictures into images/ with "
            f"{_list_subfolders()} or labels.csv next to it, or sort them into good/ and defective/"
        )


def truths_in(folder: Path) -> list[str]:
    """Return the truths that a folder has, the default first."""
    truths = [truth for truth, formats in TRUTHS.items() if any(form.is_in(folder) for form in formats)]
    if (folder / "labels.csv").exists() or not (folder / "images").is_dir():
        truths.append(LABELS_ONLY)
    return truths


@dataclass(frozen=True)
class _Reader:
    """Reads a folder of either layout."""

    folder: Path
    group_column: str
    pattern: re.Pattern[str] | None
    classes: Sequence[str] | None
    mixed: bool
    on_unusable: OnUnusable

    def read(self, truth: str | None) -> LabelledFolder:
        is_sorted = not (self.folder / "images").is_dir()
        pictures = (
            self._sorted_pictures() if is_sorted else self._with_unique_stems(list_images(self.folder / "images"))
        )
        truth = self._choose_truth(truth, is_sorted)
        annotations = self._annotations(truth)
        rows = None if is_sorted else read_labels(self.folder / "labels.csv", pictures, self.on_unusable)
        # If a good and a defective picture share a name, the annotation belongs to the defective one.
        of_stem = {path.stem: path for path in pictures}
        images = []
        for path in pictures:
            if rows is not None and path.name not in rows:
                continue
            row = {} if rows is None else rows[path.name]
            label = path.parent.name if is_sorted else row.get("label")
            annotation = (annotations or {}).get(path.stem) if of_stem[path.stem] is path else None
            try:
                group = self._group_of(path, row.get(self.group_column) if not is_sorted else path.stem)
                images.append(self._image(path, group, label, annotation, annotations is not None))
            except InputError as error:
                self.on_unusable(path, error)
        unmatched = {stem: annotation for stem, annotation in (annotations or {}).items() if stem not in of_stem}
        groups_are = self._describe_groups(is_sorted, rows)
        return LabelledFolder(self.folder, truth, tuple(images), groups_are, unmatched)

    def _image(
        self, path: Path, group: str | None, label: str | None, annotation: Annotation | None, annotated: bool
    ) -> LabelledImage:
        """Make one labelled picture.

        Args:
            annotated: whether the folder has annotations, of this picture or of others.
        """
        if not annotated:
            return LabelledImage(path, group, label == "defective", None, labels_only=True)
        if not self._is_defective(label, annotation):
            return LabelledImage(path, group, False, annotation)
        if self.mixed and label is not None and (annotation is None or not annotation.marks_defects()):
            return LabelledImage(path, group, True, None, labels_only=True)
        if annotation is None:
            raise InputError(
                f"{path} is labelled defective and has no annotation of its name; add it, remove the picture, or "
                "choose truth=labels"
            )
        return LabelledImage(path, group, True, annotation)

    def _sorted_pictures(self) -> list[Path]:
        """Return the pictures of good/, then those of defective/."""
        labels = [label for label in LABELS if label == "good" or not self.mixed or self._has_defective()]
        for label in labels:
            if not (self.folder / label).is_dir():
                alternative = (
                    "" if self.mixed or label == "good" else ", or train on good pictures only, with recipe=heatline"
                )
                raise InputError(
                    f"{self.folder} has only one class: {label}/ is missing; add it with {label} pictures{alternative}"
                )
        return [path for label in labels for path in list_images(self.folder / label)]

    def _has_defective(self) -> bool:
        defective = self.folder / "defective"
        return defective.is_dir() and any(path.suffix.lower() in SUFFIXES for path in defective.iterdir())

    def _with_unique_stems(self, pictures: list[Path]) -> list[Path]:
        first: dict[str, Path] = {}
        for path in pictures:
            if first.setdefault(path.stem, path) is not path:
                self.on_unusable(
                    path,
                    InputError(
                        f"{path} and {first[path.stem].name} differ only in their ending, so an annotation could be of "
                        "either; rename one, or remove it"
                    ),
                )
        return list(first.values())

    def _choose_truth(self, truth: str | None, is_sorted: bool) -> str:
        truths = truths_in(self.folder)
        if truth is not None and truth not in truths:
            needs = " (labels.csv is missing)" if truth == LABELS_ONLY else ""
            raise InputError(
                f"{self.folder} has no truth {truth!r}{needs}; it has {', '.join(truths) or 'none'}: choose one"
            )
        if truth is None and (not truths or (truths == [LABELS_ONLY] and not self.mixed)):
            # An empty folder for annotations is more likely a mistake than intended.
            for form in _formats():
                if (self.folder / form.subfolder).is_dir():
                    raise InputError(
                        f"{self.folder / form.subfolder} holds no *{form.suffix}; put the annotations there, or choose "
                        f"truth=labels{'' if is_sorted else ' with a labels.csv'}"
                    )
        if not truths:
            raise InputError(
                f"{self.folder} has images/ but none of {_list_subfolders()} and labels.csv; add one, or sort the "
                "pictures into good/ and defective/"
            )
        return truth or truths[0]

    def _annotations(self, truth: str) -> Mapping[str, Annotation] | None:
        """Read the annotations by their picture's stem; return None for the truth `LABELS_ONLY`."""
        classes = self.classes
        if classes is not None and (truth == LABELS_ONLY or truth.endswith("masks")):
            raise InputError(
                f"classes names {', '.join(classes)}, and the {truth} of {self.folder} have no classes; choose another "
                "truth, or leave classes out"
            )
        if truth == LABELS_ONLY:
            return None
        forms = [form for form in TRUTHS[truth] if form.is_in(self.folder)]
        if len(forms) > 1:
            raise InputError(
                f"{self.folder} has {truth} in {' and in '.join(form.subfolder + '/' for form in forms)}; leave one"
            )
        subfolder = self.folder / forms[0].subfolder
        try:
            annotations = forms[0].read(subfolder, None if classes is None else frozenset(classes))
        except InputError as error:
            self.on_unusable(subfolder, error)
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

    def _is_defective(self, label: str | None, annotation: Annotation | None) -> bool:
        if label is None:
            return annotation is not None and annotation.marks_defects()
        if label == "good" or annotation is None or self.classes is None:
            return label == "defective"
        # Labels ignore classes: a picture whose objects all have classes that do not count is good.
        return annotation.marks_defects() or not annotation.objects().total()

    def _group_of(self, path: Path, default: str | None) -> str | None:
        """Return the group that the pattern finds in the file name; without a pattern, `default`."""
        if self.pattern is None:
            return utf8_safe(default) if default else None
        found = self.pattern.search(path.name)
        if found is None or not found[1]:
            raise InputError(
                f"the group pattern {self.pattern.pattern!r} finds no group in the file name {path.name}; correct it"
            )
        return utf8_safe(found[1])

    def _describe_groups(self, is_sorted: bool, rows: Mapping[str, dict[str, str]] | None) -> str:
        if self.pattern:
            return f"what {self.pattern.pattern!r} finds in the file name"
        if is_sorted:
            return "file names, each a group"
        column = f"column {self.group_column!r} of labels.csv"
        if rows is None:
            return f"{column}, a file that does not exist"
        columns = [name for name in next(iter(rows.values()), {}) if name not in ("image", "label")]
        if self.group_column not in columns:
            return f"{column} (which has {', '.join(columns) or 'no more columns'})"
        empty = [name for name, row in rows.items() if not row[self.group_column]]
        return f"{column} (which is empty for {empty[0]})" if empty else column


def _formats() -> list[Format]:
    return [form for formats in TRUTHS.values() for form in formats]


def _list_subfolders() -> str:
    """List the subfolders for annotations."""
    return ", ".join(dict.fromkeys(f"{form.subfolder}/" for form in _formats()))


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the group pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups < 1:
        raise InputError(f"the group pattern {pattern!r} has no parenthesis; put the part that is the group into one")
    return compiled
