"""A folder of pictures that people label. A picture's label is the subfolder that it lies in, as `heatline train` reads
it: `good/`, `defective/`, or `unlabelled/`, which a training leaves out."""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from heatline.edge.errors import InputError
from heatline.edge.images import SUFFIXES
from heatline.edge.labels.places import read_places, write_places
from heatline.edge.picture_folders import (
    ANNOTATIONS,
    DEFECTIVE,
    GOOD,
    IMAGES,
    PARTS,
    TEMPLATES,
    Root,
    layout_of,
    leads_back,
)
from heatline.edge.util.files import make_folder, open_locked, replacing, sync_folder, writing
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import Areas

Label = Literal["good", "defective", "unlabelled"]
NAMES: dict[Label, frozenset[str]] = {
    "good": GOOD,
    "defective": DEFECTIVE,
    "unlabelled": frozenset({"unlabelled", "unlabeled"}),
}
"""Names of the subfolder of a label, compared without case."""
PLACES = "labelme"
"""Subfolder of the places of defects, a LabelMe file per picture. Those of a picture that is not defective are set
aside in a hidden file, which no training reads."""
BESIDE = frozenset({".json", ".txt", ".xml"})
RECENT_NS = 100_000_000
"""A folder that changed so short a time ago may change again under the same time stamp."""


class Labelled(NamedTuple):
    """A picture and its label."""

    path: Path
    label: Label
    places: int = 0
    """When the places of its defects were stored, in us since 1970; 0: it has none."""
    twin: Path | None = None
    """Another picture of the same name, or of one that differs in the suffix alone."""


class ChangedMeanwhileError(InputError):
    """Somebody else labelled the picture."""


class LabelFolder:
    """The pictures of a folder, by label. All three subfolders are made: without `defective/`, a training would take
    every folder beside `good/` for a class of defects. Pictures elsewhere in the folder are unlabelled.

    A picture's name is its path below its label's folder, so that it stays the same. Several threads and processes may
    label at once.

    Raises:
        InputError: a subfolder cannot be made, or not only folders say what the pictures are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: tuple[dict[str, int], dict[str, Labelled]] = {}, {}
        """When the folders had changed that the pictures lie in, ns; and the pictures."""
        with writing(folder):
            make_folder(folder)
            there = [child for child in sorted(folder.iterdir()) if child.is_dir()]
            _require_labels_by_folder(folder, there)
            self._of = {
                label: next((child for child in there if child.name.casefold() in names), folder / label)
                for label, names in NAMES.items()
            }
            self._places = next((child for child in there if child.name.casefold() == PLACES), folder / PLACES)
            for each in self._of.values():
                make_folder(each)
            with self._locked():  # a writer that was killed may have left places aside
                for path, label, *_ in self.pictures().values():
                    if label == "defective":
                        self._bring_back(self._below(path))

    def put(self, name: str, picture: bytes, label: Label | None = None) -> Path:
        """Give a picture a label: move the one of this name, or else write it, atomically; an InputError if neither can
        be done. Without a label, one that is there keeps its own, and a new one has none.
        """
        path = self._of[label or "unlabelled"] / name
        with self._locked(), writing(path):
            there = next((of / name for of in self._of.values() if (of / name).exists()), None)
            if there is None:
                with replacing(path) as new:
                    new.write_bytes(picture)
            elif label is None:
                return there
            elif there != path:
                there.rename(path)
                sync_folder(there.parent)
            sync_folder(path.parent)
        return path

    def pictures(self) -> dict[str, Labelled]:
        """Return all pictures by name. The folder is read again only after a change; an InputError if it cannot be
        read.
        """
        stamps, pictures = self._read
        if not stamps or any(_stamp(each) != at for each, at in stamps.items()):
            self._read = _, pictures = self._look()
        return pictures

    def relabel(self, name: str, label: Label, seen: tuple[Label, int], areas: Areas | None = None) -> Labelled:
        """Label a picture, by one atomic move; what is below the label's folder stays, as a day or a class.

        Args:
            seen: label and `places` that the change is based on.
            areas: places of a defective picture's defects, which replace those drawn here; None: as they are. A
                picture that is not defective has them set aside until it is defective again.
        Raises:
            ChangedMeanwhileError: the picture is not as seen.
            InputError: it cannot be moved, or the places do not lie in it.
        """
        with self._locked(), writing(self.folder):
            before = self.pictures().get(name)
            if before is not None and not before.path.exists():
                self._read = self._look()
                before = self.pictures().get(name)
            if before is None or (before.label, before.places) != seen:
                found = before.label if before else "gone"
                raise ChangedMeanwhileError(f"somebody else changed {name}: it is {found} now; look at it again")
            below = self._below(before.path)
            after = before.path if label == before.label else self._of[label] / below
            twin = after if after != before.path and after.exists() else before.twin
            if twin is not None:
                raise InputError(f"{before.path} and {twin} have one name, and none is replaced; rename one of them")
            file, aside = self._places_files(below)
            if areas is not None:
                to = file if before.label == "defective" or file.exists() else aside
                write_places(to, areas, before.path, after)
            elif label != "defective" and file.exists():
                file.replace(aside)
            if after != before.path:
                make_folder(after.parent)
                before.path.rename(after)
                sync_folder(after.parent)
            if label == "defective":
                self._bring_back(below)
            if file.parent.exists():
                sync_folder(file.parent)
            now = Labelled(after, label, _stamp(file) // 1000)
            stamps, pictures = self._read
            touched = {str(path.parent) for path in (before.path, after, file)}
            self._read = stamps | {each: _stamp(each) for each in touched}, pictures | {name: now}
            return now

    def places_of(self, picture: Labelled) -> tuple[object, list[dict[str, Any]]]:
        """Return the places of a picture's defects, see `read_places`."""
        return read_places(self._places_files(self._below(picture.path))[0])

    def _places_files(self, below: Path) -> tuple[Path, Path]:
        """Return the LabelMe file of a picture, and the one that is set aside; neither need exist."""
        file = self._places / below.with_suffix(".json")
        return file, file.with_name(f".{file.name}")

    def _bring_back(self, below: Path) -> None:
        file, aside = self._places_files(below)
        if aside.exists() and not file.exists():
            aside.replace(file)

    def _below(self, path: Path) -> Path:
        """Return the path of a picture below its label's folder, or below the folder."""
        relative = path.relative_to(self.folder)
        return Path(*relative.parts[1:]) if label_of(relative.parts) else relative

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads and processes that label."""
        with writing(self.folder):
            fd = open_locked(self.folder, os.O_RDONLY | os.O_DIRECTORY, wait=True)
        try:
            yield
        finally:
            os.close(fd)

    def _look(self) -> tuple[dict[str, int], dict[str, Labelled]]:
        recent = time.time_ns() - RECENT_NS
        found: defaultdict[str, list[tuple[Path, Label]]] = defaultdict(list)
        places, stamps = dict[str, int](), dict[str, int]()
        for parent, folders, names in os.walk(self.folder, followlinks=True):
            stamp = _stamp(parent)
            stamps[parent] = stamp if stamp < recent else -1
            relative = Path(parent).relative_to(self.folder)
            if relative.parts[:1] == (self._places.name,):
                files = [(Path(name).stem, f"{parent}/{name}") for name in names if name[0] != "."]
                places |= {str(relative.relative_to(self._places.name) / stem): _stamp(file) for stem, file in files}
            elif relative.parts[:1] != (TEMPLATES,):
                label = label_of((*relative.parts, "")) or "unlabelled"
                for name in names:
                    if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                        path = Path(parent, name)
                        found[str(self._below(path).with_suffix(""))].append((path, label))
            folders[:] = [name for name in folders if name[0] != "." and not leads_back(Path(parent, name))]
        pictures = dict[str, Labelled]()
        for key, paths in found.items():
            for path, label in paths:
                twin = next((other for other, _ in paths if other is not path), None)
                below = self._below(path) if twin is None else path.relative_to(self.folder)
                pictures[utf8_safe(below.as_posix())] = Labelled(path, label, places.get(key, 0) // 1000, twin)
        return stamps, pictures


def label_of(parts: tuple[str, ...]) -> Label | None:
    """Return the label that the folders of a path below the folder say; None: they say none."""
    name = parts[0].casefold() if len(parts) > 1 else ""
    return next((label for label, names in NAMES.items() if name in names), None)


def _stamp(path: str | Path) -> int:
    """Return when a file or folder changed, ns; 0: it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _require_labels_by_folder(folder: Path, there: list[Path]) -> None:
    """Refuse a folder whose pictures may not be moved without what says more of them."""
    others = PARTS | IMAGES | ANNOTATIONS - {PLACES}
    found = [f"{child.name}/" for child in there if child.name.casefold() in others]
    if found or (folder / "labels.csv").exists():
        raise InputError(
            f"{folder} holds {(*found, 'labels.csv')[0]}, so not its folders alone say which pictures are defective; "
            "name a folder of pictures, or one with good/ and defective/"
        )
    layout = layout_of(folder)
    for name in [root.defect for root in layout.roots if root.defect] if layout else []:
        raise InputError(
            f"{folder} holds a folder for each class of defects; move {name}/ into defective/, as defective/{name}/"
        )
    files = Root(folder).files
    pictures = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    for path in files:
        if path.suffix.lower() in BESIDE and path.with_suffix("") in pictures:
            raise InputError(
                f"{path} lies beside its picture, which a label moves; move LabelMe's files into {folder / PLACES}, "
                "others away"
            )
