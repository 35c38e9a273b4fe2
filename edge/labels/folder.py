"""A folder of pictures that people label. A picture's label is the subfolder that it lies in, as `heatline train` reads
it: `good/`, `defective/`, or `unlabelled/`, which a training leaves out."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from heatline.edge.errors import InputError
from heatline.edge.images import SUFFIXES
from heatline.edge.picture_folders import DEFECTIVE, GOOD
from heatline.edge.util.files import make_folder, open_locked, replacing, sync_folder, writing

Label = Literal["good", "defective", "unlabelled"]
NAMES: dict[Label, frozenset[str]] = {
    "good": GOOD,
    "defective": DEFECTIVE,
    "unlabelled": frozenset({"unlabelled", "unlabeled"}),
}
"""Names of the subfolder of a label, compared without case."""


class LabelFolder:
    """The pictures of a folder, by label. All three subfolders are made: without `defective/`, a training would take
    every folder beside `good/` for a class of defects.

    Raises:
        InputError: a subfolder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder):
            make_folder(folder)
            there = [child for child in sorted(folder.iterdir()) if child.is_dir()]
            self._of = {
                label: next((child for child in there if child.name.casefold() in names), folder / label)
                for label, names in NAMES.items()
            }
            for each in self._of.values():
                make_folder(each)

    def keep(self, name: str, picture: bytes, label: Label = "unlabelled") -> Path:
        """Write a new picture, atomically: after a crash it is there whole, or not at all.

        Raises:
            InputError: there is a picture of this name, or it cannot be written.
        """
        path = self._of[label] / name
        with self._locked():
            if self._find(name) is not None:
                raise InputError(f"{self.folder} holds a picture {name} already; give this one another name")
            with writing(path):
                with replacing(path) as new:
                    new.write_bytes(picture)
                sync_folder(path.parent)
        return path

    def put(self, name: str, picture: bytes, label: Label) -> Path:
        """Give a picture a label: move the one of this name, or else write it.

        Raises:
            InputError: it can be neither moved nor written.
        """
        path = self._of[label] / name
        with self._locked(), writing(path):
            there = self._find(name)
            if there is None:
                with replacing(path) as new:
                    new.write_bytes(picture)
            elif there != path:
                there.rename(path)
                sync_folder(there.parent)
            sync_folder(path.parent)
        return path

    def names(self) -> dict[Label, list[str]]:
        """Return the names of all pictures.

        Raises:
            InputError: a folder cannot be read.
        """
        with writing(self.folder):
            return {
                label: [path.name for path in of.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
                for label, of in self._of.items()
            }

    def _find(self, name: str) -> Path | None:
        return next((of / name for of in self._of.values() if (of / name).exists()), None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other programs and threads from giving the same picture another label meanwhile."""
        with writing(self.folder):
            lock = open_locked(self.folder, os.O_RDONLY | os.O_DIRECTORY, wait=True)
        try:
            yield
        finally:
            os.close(lock)
