"""Reads a folder of labelled pictures: sorted by their labels, or with `labels.csv`, annotations, or both.

Pictures of one group show the same thing (a board, an item, a place), so a split must keep them together.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import eq
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.images import SUFFIXES
from heatline.edge.picture_folders import DEFECTIVE, EXPECTED, GOOD, Layout, Place, find_layout
from heatline.edge.util.text import utf8_safe
from heatline.train.readers import coco
from heatline.train.readers.annotation import Annotation, OnUnusable, stop
from heatline.train.readers.labelled import LabelledFolder, LabelledImage
from heatline.train.readers.per_picture import DeepPcbBoxes, LabelMePolygons, MaskPng, VocBoxes, read_yolo

Read = Callable[[Mapping[Path, Place], frozenset[str] | None], Iterable[tuple[Place, Annotation]]]
"""Takes files of annotations, and the classes that are defects (None: all); returns each picture's annotation."""


def _per_picture(kind: Callable[[Path, frozenset[str] | None], Annotation]) -> Read:
    return lambda files, classes: ((place, kind(file, classes)) for file, place in files.items())


def _masks(files: Mapping[Path, Place], classes: frozenset[str] | None) -> Iterable[tuple[Place, Annotation]]:
    """List masks, which may be called as their picture with `_mask` appended."""
    return (((*place[:-1], place[-1].removesuffix("_mask")), MaskPng(file, classes)) for file, place in files.items())


@dataclass(frozen=True)
class Format:
    """An annotation format, and where its files lie."""

    subfolders: tuple[str, ...]
    """Beside the folder of the pictures; compared without case."""
    suffixes: tuple[str, ...]
    read: Read
    beside: Callable[[Path, bool], bool] = lambda file, of_picture: False
    """Whether a file among the pictures is of this format, by its path and whether a picture has its place."""

    def files(self, layout: Layout) -> dict[Path, Place]:
        """Return the files in a folder, with their places."""
        found: dict[Path, Place] = {}
        for root in (child for level in layout.levels for child in level.children(self.subfolders)):
            found |= {path: place for path, place in root.files.items() if path.suffix.lower() in self.suffixes}
        pictures = {path.with_suffix(""): place for path, place in layout.places.items()}
        for root in (*layout.roots, *layout.levels):
            found |= {
                path: pictures.get(path.with_suffix(""), place)
                for path, place in root.files.items()
                if path.suffix.lower() in self.suffixes and self.beside(path, path.with_suffix("") in pictures)
            }
        return found


_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")

TRUTHS: dict[str, tuple[Format, ...]] = {
    "masks": (Format(("masks", "mask", "ground_truth"), _LOSSLESS, _masks),),
    "derived_masks": (Format(("derived_masks",), _LOSSLESS, _masks),),
    "polygons": (Format(("labelme",), (".json",), _per_picture(LabelMePolygons), lambda file, of_picture: of_picture),),
    "coco": (
        Format(
            ("annotations",),
            (".json",),
            coco.read,
            lambda file, of_picture: not of_picture and b'"images"' in file.read_bytes(),
        ),
    ),
    "yolo": (Format(("labels",), (".txt",), read_yolo, lambda file, of_picture: of_picture),),
    "boxes": (
        Format(("annotations",), (".xml",), _per_picture(VocBoxes), lambda file, of_picture: of_picture),
        Format(("boxes",), (".txt",), _per_picture(DeepPcbBoxes)),
    ),
}
"""The formats of each truth. The first truth that a folder has is the default; exact truths come before boxes."""

LABELS_ONLY = "labels"
"""The truth of a folder that has labels and no annotations."""


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
        group_column: column of `labels.csv`; in the sorted layout, each picture is a group.
        group_pattern: replaces the column: a regular expression on file names, or with a `/` on paths below the
            folder; its first parenthesis is the group.
        classes: annotated classes that are defects; objects of other classes are good. Default all.
        mixed: whether the caller accepts defective pictures without annotation, or whose annotation marks nothing
            (they become `labels_only`), next to annotated ones, and folders without any defective picture.
    Raises:
        InputError: the folder has none of the layouts, labels that do not match its pictures, only one class, or a
            damaged annotation, as far as it is read.
    """
    data = list_folder(folder, truth, group_column, group_pattern, classes, mixed=mixed)
    if not mixed and not any(image.defective for image in data.images):
        raise InputError(
            f"{folder} holds no defective picture; a classifier needs some: add them, or train on good "
            "pictures only, with recipe=heatline"
        )
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
    layout = find_layout(folder)
    if not layout.places:
        raise InputError(
            f"{layout.roots[0].folder} holds no picture; expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    if classes is not None and not classes:
        raise InputError("classes is empty, so nothing counts as a defect; name at least one, or leave it out for all")
    return _Reader(layout, group_column, pattern, classes, mixed, on_unusable).read(truth)


def truths_in(layout: Layout) -> list[str]:
    """Return the truths that a folder has, the default first."""
    truths = [truth for truth, formats in TRUTHS.items() if any(form.files(layout) for form in formats)]
    if layout.is_sorted or (layout.folder / "labels.csv").exists():
        truths.append(LABELS_ONLY)
    return truths


class Places:
    """Pictures by their places.

    Tools name a picture by its file name, by a path in the folder, or by one on another machine: the shorter place must
    be the end of the longer one.

    Args:
        rather: pictures that are meant where several could be.
    """

    def __init__(self, places: Mapping[Path, Place], rather: Collection[Path] = ()) -> None:
        self._places, self._rather = places, rather
        self._of_name: dict[str, list[Path]] = {}
        for path, place in places.items():
            self._of_name.setdefault(place[-1], []).append(path)

    def find(self, place: Place) -> Path | None:
        """Return the picture with this place; None: there is none. If it could be several, it is an `InputError`."""
        could_be = [
            path
            for path in self._of_name.get(place[-1], ())
            if all(map(eq, reversed(self._places[path]), reversed(place)))  # as far as the shorter reaches
        ]
        could_be = [path for path in could_be if path in self._rather] or could_be
        could_be = [path for path in could_be if self._places[path] == place] or could_be
        if len(could_be) > 1:
            raise InputError(
                f"{'/'.join(place)} could be {could_be[0]} or {could_be[1]}; name its folders too, or rename a picture"
            )
        return could_be[0] if could_be else None


def read_labels(
    file: Path, pictures: Mapping[Path, Place], on_unusable: OnUnusable
) -> dict[Path, dict[str, str]] | None:
    """Read the rows by picture; return None if there is no such file.

    Args:
        pictures: their places.
        on_unusable: called for each row that cannot be used, and for each picture without a row.
    """
    if not file.exists():
        return None
    try:
        table = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines(), restkey="", restval="")
        rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); expected CSV in UTF-8") from error
    if not rows or not {"image", "label"} <= set(table.fieldnames or ()):
        raise InputError(
            f"{file} has no rows with the columns image and label, separated by commas; begin it with image,label,group"
        )
    names = Places({path: (*place[:-1], path.name) for path, place in pictures.items()})
    row_of: dict[Path, dict[str, str]] = {}
    named: set[Path] = set()
    for row in rows:
        name = row["image"]
        try:
            path = names.find(tuple(name.replace("\\", "/").split("/")))
            if path is None:
                raise InputError(f"{name} has a label and no picture; {file} and images/ must name the same files")
            named.add(path)
            label = row["label"].casefold()
            if label not in GOOD | DEFECTIVE:
                raise InputError(f"{file} labels {name} as {row['label']!r}; expected good or defective, or OK or NG")
            row["label"] = "good" if label in GOOD else "defective"
            if path in row_of:
                raise InputError(f"{file} names {name} twice; leave one row")
            row_of[path] = row
        except InputError as error:
            on_unusable(file, error)
    for path in pictures:
        if path not in named:
            on_unusable(
                path, InputError(f"{path.name} has no label; {file} and images/ must name the same files: add a row")
            )
    return row_of


@dataclass(frozen=True)
class _Reader:
    layout: Layout
    group_column: str
    pattern: re.Pattern[str] | None
    classes: Sequence[str] | None
    mixed: bool
    on_unusable: OnUnusable

    def read(self, truth: str | None) -> LabelledFolder:
        places = self.layout.places
        truth = self._choose_truth(truth)
        if self.layout.is_sorted and self.pattern is None and self.group_column != "group":
            raise InputError(
                f"{self.layout.folder} has no labels.csv, whose column {self.group_column!r} would name the groups; "
                "add one, or name the groups by split.pattern"
            )
        table = self.layout.folder / "labels.csv"
        rows = None if self.layout.is_sorted else read_labels(table, places, self.on_unusable)
        annotations, unmatched = self._annotations(truth, places)
        often = Counter(places.values())
        images = []
        for root in self.layout.roots:
            for path in root.pictures():
                if rows is not None and path not in rows:
                    continue
                row = {} if rows is None else rows[path]
                place = places[path]
                name = "/".join(place if often[place] == 1 else (*place[:-1], path.name))  # 0.png beside 0.jpg
                try:
                    image = LabelledImage(
                        path,
                        self._group_of(path, name if root.label else row.get(self.group_column)),
                        defective=False,
                        annotation=None,
                        folder=self.layout.folder,
                        place=name,
                        class_name=self.layout.defect_of(root, path) or row.get("cls") or row.get("class") or None,
                    )
                    image = self._labelled(image, root.label or row.get("label"), annotations, truth)
                    images.append(image if image.defective else replace(image, class_name=None))
                except InputError as error:
                    self.on_unusable(path, error)
        return LabelledFolder(
            self.layout.folder, truth, tuple(images), self._describe_groups(rows), unmatched, rows or {}
        )

    def _labelled(
        self, image: LabelledImage, label: str | None, annotations: Mapping[Path, Annotation], truth: str
    ) -> LabelledImage:
        if truth == LABELS_ONLY:
            return replace(image, defective=label == "defective", labels_only=True)
        annotation = annotations.get(image.path)
        if not self._is_defective(label, annotation):
            return replace(image, annotation=annotation)
        if self.mixed and label is not None and (annotation is None or not annotation.marks_defects()):
            return replace(image, defective=True, labels_only=True)
        if annotation is None:
            raise InputError(
                f"{image.path} is labelled defective and has no annotation of its name; add it, remove the picture, or "
                "choose truth=labels"
            )
        return replace(image, defective=True, annotation=annotation)

    def _choose_truth(self, truth: str | None) -> str:
        truths = truths_in(self.layout)
        if truth is not None and truth not in truths:
            needs = " (labels.csv is missing)" if truth == LABELS_ONLY else ""
            raise InputError(
                f"{self.layout.folder} has no truth {truth!r}{needs}; it has {', '.join(truths) or 'none'}: choose one"
            )
        if not truths:
            raise InputError(
                f"{self.layout.folder} holds pictures, and neither annotations nor labels.csv say which are defective; "
                f"{EXPECTED}"
            )
        return truth or truths[0]

    def _annotations(
        self, truth: str, places: Mapping[Path, Place]
    ) -> tuple[dict[Path, Annotation], dict[str, Annotation]]:
        """Return the annotations by picture, and those without a picture by its name; none for `LABELS_ONLY`."""
        classes = None if self.classes is None else frozenset(self.classes)
        found: dict[Path, Annotation] = {}
        unmatched: dict[str, Annotation] = {}
        not_good = {path for root in self.layout.roots if root.label != "good" for path in root.pictures()}
        pictures = Places(places, not_good)
        for form in TRUTHS.get(truth, ()):
            files = form.files(self.layout)
            try:
                annotations = list(form.read(files, classes))
            except InputError as error:
                self.on_unusable(next(iter(files)), error)
                continue
            for place, annotation in annotations:
                try:
                    path = pictures.find(place)
                    if path is None:
                        unmatched["/".join(place)] = annotation
                    elif path in found:
                        raise InputError(f"{found[path].file} and {annotation.file} both mark {path}; leave one")
                    else:
                        found[path] = annotation
                except InputError as error:
                    self.on_unusable(annotation.file, error)
        marked = [*found.values(), *unmatched.values()] if self.classes else []
        known = {name for annotation in marked for name in annotation.objects()}
        for name in self.classes or ():
            if name not in known:
                raise InputError(
                    f"{self.layout.folder} has no class {name!r}; its classes are {', '.join(sorted(known)) or 'none'}"
                )
        return found, unmatched

    def _is_defective(self, label: str | None, annotation: Annotation | None) -> bool:
        if label is None:
            return annotation is not None and annotation.marks_defects()
        if label == "good" or annotation is None or self.classes is None:
            return label == "defective"
        # Labels ignore classes: a picture whose objects all have classes that do not count is good.
        return annotation.marks_defects() or not annotation.objects().total()

    def _group_of(self, path: Path, default: str | None) -> str | None:
        """Return the group that the pattern finds in the file name, or with a `/` in the path; else `default`."""
        if self.pattern is None:
            return utf8_safe(default) if default else None
        name = path.relative_to(self.layout.folder).as_posix() if "/" in self.pattern.pattern else path.name
        found = self.pattern.search(name)
        if found is None or not found[1]:
            raise InputError(
                f"the group pattern {self.pattern.pattern!r} finds no group in the file name {name}; correct it"
            )
        return utf8_safe(found[1])

    def _describe_groups(self, rows: Mapping[Path, dict[str, str]] | None) -> str:
        if self.pattern:
            return f"what {self.pattern.pattern!r} finds in the file name"
        if self.layout.is_sorted:
            return "file names, each a group"
        column = f"column {self.group_column!r} of labels.csv"
        if rows is None:
            return f"{column}, a file that does not exist"
        columns = [name for name in next(iter(rows.values()), {}) if name not in ("image", "label")]
        if self.group_column not in columns:
            return f"{column} (which has {', '.join(columns) or 'no more columns'})"
        return column


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the group pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups < 1:
        raise InputError(f"the group pattern {pattern!r} has no parenthesis; put the part that is the group into one")
    return compiled
