"""Finds the picture that an annotation or a row of a table means."""

from collections.abc import Collection, Mapping
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import Place


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
