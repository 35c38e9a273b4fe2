"""A folder of pictures that people label. A picture's label is the subfolder that it lies in, as `heatline train` reads
it: `good/`, `defective/`, or `unlabelled/`, which a training leaves out."""

from pathlib import Path
from typing import Literal

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import DEFECTIVE, GOOD
from heatline.edge.util.files import make_folder, replacing, sync_folder, writing

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
        if any((of / name).exists() for of in self._of.values()):
            raise InputError(f"{self.folder} holds a picture {name} already; give this one another name")
        with writing(path):
            with replacing(path) as new:
                new.write_bytes(picture)
            sync_folder(path.parent)
        return path
