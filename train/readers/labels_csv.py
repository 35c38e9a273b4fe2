"""Reads `labels.csv`, and finds the pictures that a row or an annotation means."""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import DEFECTIVE, GOOD, Place
from heatline.train.readers.annotation import OnUnusable


class Places:
    """Pictures by their places.

    A shorter place is that of a picture if it is the end of the picture's, and a longer one if the picture's is its
    end: tools name a picture by its file name, by a path in the folder, or by one on another machine.

    Args:
        places: of the pictures.
        rather: pictures that are meant where several could be.
    """

    def __init__(self, places: Mapping[Path, Place], rather: Collection[Path] = ()) -> None:
        self._places, self._rather = places, rather
        self._of_name: dict[str, list[Path]] = {}
        for path, place in places.items():
            self._of_name.setdefault(place[-1], []).append(path)

    def find(self, place: Place) -> Path | None:
        """Return the picture with this place; None: there is none.

        Raises:
            InputError: it could be that of several pictures.
        """
        could_be = [path for path in self._of_name.get(place[-1], ()) if _end_alike(self._places[path], place)]
        could_be = [path for path in could_be if path in self._rather] or could_be
        could_be = [path for path in could_be if self._places[path] == place] or could_be
        if len(could_be) > 1:
            raise InputError(
                f"{'/'.join(place)} could be {could_be[0]} or {could_be[1]}; name its folders too, or rename a picture"
            )
        return could_be[0] if could_be else None


def _end_alike(one: Place, other: Place) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


MOST_SHOWN = 60
"""How many characters of a header are shown."""


def read_labels(
    file: Path, pictures: Mapping[Path, Place], on_unusable: OnUnusable
) -> dict[Path, dict[str, str]] | None:
    """Read the rows by picture; return None if there is no such file.

    The column `image` has the file name, with the folders that it needs to be unique.

    Args:
        pictures: their places.
        on_unusable: called for each row that cannot be used, and for each picture without a row.
    Raises:
        InputError: the file is damaged, or lacks the columns `image` and `label`.
    """
    if not file.exists():
        return None
    try:
        table = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines(), restkey="", restval="")
        rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); expected CSV in UTF-8") from error
    if not rows or not {"image", "label"} <= set(table.fieldnames or ()):
        header = ",".join(table.fieldnames or ())
        came = "has no rows" if not rows else f"begins with {header[:MOST_SHOWN]!r}"
        raise InputError(
            f"{file} {came}, expected rows with the columns image and label, separated by commas, e.g. "
            "image,label,group"
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
