"""Finds the pictures of a folder that people sorted or annotated, in the layouts that are in common use.

A picture is identified by its *place*: the names of its folders and its stem, without the folders whose name only says
what they hold. `train/images/day1/7.jpg`, `images/train/day1/7.jpg` and the labels `labels/train/day1/7.txt` have one
place, train/day1/7.
"""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn

from heatline.edge.errors import InputError
from heatline.edge.images import SUFFIXES
from heatline.edge.util.text import format_count, list_some, on_one_line, utf8_safe

Place = tuple[str, ...]

PARTS = frozenset({"train", "val", "valid", "validation", "test", "train2017", "val2017", "test2017"})
"""Folders for the parts of a split. The names of these and of all other folders are compared without case."""
IMAGES = frozenset({"images", "image", "imgs", "jpegimages", "obj_train_data"})
GOOD = frozenset({"good", "ok", "normal", "pass", "gut", "io", "i.o.", "良品", "合格"})
DEFECTIVE = frozenset({"defective", "defect", "defects", "bad", "ng", "nok", "ko", "anomaly", "abnormal", "fail"})
DEFECTIVE |= {"schlecht", "ausschuss", "nio", "n.i.o.", "不良品", "不合格"}
TEMPLATES = "templates"
"""Folder with a picture of a good part for each picture, of the same name: see `heatline.train.references`."""
ANNOTATIONS = frozenset({"masks", "mask", "ground_truth", "derived_masks", "labelme", "annotations", "boxes", "labels"})

EXPECTED = (
    "expected good/ and defective/; or images/ with labels.csv, masks/, labels/ (YOLO), annotations/ (COCO, VOC), "
    "labelme/ or boxes/ beside it; or train/good/ with test/good/ and test/DEFECT/ (MVTec): docs/training.md shows each"
)


@dataclass(frozen=True)
class Root:
    """A folder of files of one kind."""

    folder: Path
    at: Place = ()
    """Beginning of its files' places."""
    label: Literal["good", "defective"] | None = None
    """None: annotations or `labels.csv` say it."""
    defect: str | None = None
    """Class of all its defects; None: the name of the first subfolder."""
    deep: bool = True
    """Whether its subfolders belong to it."""

    def children(self, names: Collection[str]) -> list["Root"]:
        """Return the subfolders with one of these names, compared without case."""
        return [Root(child, self.at) for child in _folders(self.folder) if child.name.casefold() in names]

    @cached_property
    def files(self) -> dict[Path, Place]:
        """The places of its files, sorted by path; hidden ones, and links to a folder above, are left out."""
        found: dict[Path, Place] = {}
        for parent, folders, names in os.walk(self.folder, onerror=_refuse, followlinks=True):
            folders[:] = [
                name for name in folders if self.deep and name[0] != "." and not leads_back(Path(parent, name))
            ]
            below = Path(parent).relative_to(self.folder).parts
            for path in (Path(parent, name) for name in names if name[0] != "."):
                found[path] = (*self.at, *below, path.stem)
        return dict(sorted(found.items()))

    def pictures(self) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() in SUFFIXES]


@dataclass(frozen=True)
class Layout:
    """Where a folder has its pictures."""

    folder: Path
    levels: tuple[Root, ...]
    """Folders beside whose pictures annotations are looked for."""
    roots: tuple[Root, ...]
    """Folders of pictures: of sorted ones, the good come first."""
    unread: tuple[Root, ...] = ()
    """Other folders with pictures beside sorted ones: these pictures are not read."""

    @cached_property
    def places(self) -> dict[Path, Place]:
        """The places of all pictures; those of two labels that have one name are told apart by all their folders."""
        found = {path: root.files[path] for root in self.roots for path in root.pictures()}
        often = Counter(found.values())
        return {
            path: place if often[place] == 1 else (*path.parent.relative_to(self.folder).parts, path.stem)
            for path, place in found.items()
        }

    def defect_of(self, root: Root, path: Path) -> str | None:
        """Return the class of a defective picture's defects, by its folder; None: its folder names none.

        A subfolder that the good pictures have too, as a day or a camera, is no class.
        """
        below = path.relative_to(root.folder).parts[:-1]
        name = root.defect or (below[0] if root.label == "defective" and below else None)
        return None if name is not None and name.casefold() in self._of_good else name

    @cached_property
    def _of_good(self) -> set[str]:
        """Names of the subfolders of the good pictures."""
        return {
            path.relative_to(root.folder).parts[0].casefold()
            for root in self.roots
            if root.label == "good"
            for path in root.pictures()
            if path.parent != root.folder
        }

    @property
    def is_sorted(self) -> bool:
        """Whether the folders are the labels."""
        return self.roots[0].label is not None

    def describe_labels(self) -> str:
        """Name the folders that are the labels, as "the folders good/ and defective/", and those that are not read."""
        names = list_some([self._name(root.folder) for root in self.roots], 8)
        return f"the folders {names}" + (f" (not read: {self.describe_unread()})" if self.unread else "")

    def describe_unread(self) -> str:
        """Name the folders that are not read, each with its number of pictures."""
        counts = [(self._name(root.folder), format_count(len(root.pictures()), "picture")) for root in self.unread]
        return list_some([f"{name} with {count}" for name, count in counts], 8)

    def _name(self, path: Path) -> str:
        return f"{path.relative_to(self.folder).as_posix()}/"


def find_layout(folder: Path) -> Layout:
    """Find where a folder has its pictures; raise an InputError if it has none of the layouts."""
    if not folder.is_dir():
        raise InputError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; {EXPECTED}")
    layout = layout_of(folder)
    if layout is not None:
        return layout
    names = [child.name for child in _folders(folder)]
    came = f"holds the folders {list_some([f'{name}/' for name in names], 5)}" if names else "holds no folder"
    inner = [folder / name for name in names if (found := layout_of(folder / name)) and found.roots[0].deep]
    advice = f"; {inner[0]} is one of these: name it instead" if inner else ""
    if len(inner) > 1:
        advice = (
            f"; {list_some([f'{each.name}/' for each in inner], 5)} are each one of these: name one, or train each "
            f"with --products; if they show one product, swap the order of the folders, as good/{inner[0].name}/"
        )
    raise InputError(on_one_line(utf8_safe(f"{folder} {came}; {EXPECTED}{advice}")))


def good_pictures(folder: Path) -> list[Path]:
    """Return the good pictures of a sorted folder; of one without labels, all its pictures, also in subfolders.
    InputError: it has none, or only annotations say which pictures are good.
    """
    layout = layout_of(folder)
    if layout is None:
        pictures = Root(folder).pictures()
    elif layout.is_sorted:
        pictures = [path for root in layout.roots if root.label == "good" for path in root.pictures()]
    elif layout.roots[0].folder == folder:
        pictures = layout.roots[0].pictures()
    else:
        raise InputError(
            f"{folder} holds {layout.roots[0].folder.name}/, and only annotations say which pictures of it are good; "
            "name a folder with nothing but good ones"
        )
    if not pictures:
        raise InputError(
            f"{folder} holds no picture of a good part; expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return pictures


def layout_of(folder: Path) -> Layout | None:
    """Return where a folder has its pictures; None: it has none of the layouts."""
    top = Root(folder, deep=False)
    parts = [Root(child.folder, (child.folder.name,), deep=False) for child in top.children(PARTS)]
    levels = (top, *parts)
    images = [child for level in levels for child in level.children(IMAGES)]
    sorted_in: Sequence[Root] = levels
    if any(child.children(GOOD | DEFECTIVE) for child in images):
        sorted_in = images
    elif images and ((folder / "labels.csv").exists() or any(level.children(ANNOTATIONS) for level in levels)):
        sorted_in = ()
    good = [replace(child, label="good") for level in sorted_in for child in level.children(GOOD)]
    defective: list[Root] = []
    unread = [level for level in levels if level.pictures()]
    for level in sorted_in:
        named = [replace(child, label="defective") for child in level.children(DEFECTIVE)]
        others = [
            Root(child, (*level.at, child.name), "defective", child.name)
            for child in _folders(level.folder)
            if child.name.casefold() not in GOOD | DEFECTIVE | PARTS | IMAGES | ANNOTATIONS | {TEMPLATES}
            and Root(child, deep=False).pictures()
        ]
        unread += [child for child in level.children(IMAGES) if child.pictures()]
        if named and not level.at:
            unread += others
        elif good:  # what lies beside good/, or in a part of a split, is a class of defects
            if others:
                named = [replace(each, at=(*each.at, each.folder.name), defect=each.folder.name) for each in named]
            named += others
        defective += named
    if good or defective:
        return Layout(folder, levels, (*good, *defective), tuple(unread))
    roots = images or [level for level in levels if level.pictures()]
    return Layout(folder, levels, tuple(roots)) if roots else None


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, on whichever path it was reached."""
    if not folder.is_symlink():
        return False
    target = os.path.realpath(folder)
    return any(Path(os.path.realpath(above)).is_relative_to(target) for above in folder.parents)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); give the user who runs heatline the right to"
    ) from error
