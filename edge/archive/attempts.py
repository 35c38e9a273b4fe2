"""Finds the picture that ends its worker, as a decoder's fault or too little memory does, so that it ends no more.

Every attempt at a part is noted in DEST. From the third on, each picture is noted before it is read. A picture at which
two attempts in succession ended gets no verdict. One end does not suffice: a node may lose its power at any picture.
"""

from collections.abc import Sequence

import msgspec

from edge.archive.storage import Storage

FOLDER = "_attempts"
CAREFUL_FROM = 3


class _Note(msgspec.Struct):
    attempts: int = 0
    at: int | None = None
    """The picture that is being inspected."""
    suspect: int | None = None
    """The picture at which the attempt before ended."""
    crashed: list[int] = []


class Attempt:
    """An attempt at a part, which begins now.

    Args:
        digests: the bundles that inspect it.
    Raises:
        StorageError: DEST does not answer.
    """

    def __init__(self, dest: Storage, part: int, digests: Sequence[str]) -> None:
        self._dest = dest
        self._name = f"{FOLDER}/{'+'.join(digest[:16] for digest in digests)}/part-{part:06d}.json"
        try:
            note = msgspec.json.decode(dest.read(self._name), type=_Note)
        except FileNotFoundError:
            note = _Note()
        note.attempts += 1
        if note.at is not None and note.at == note.suspect:
            note.crashed.append(note.at)
            note.suspect = None
        elif note.at is not None:
            note.suspect = note.at
        note.at = None
        self._note = note
        self._write()

    @property
    def is_careful(self) -> bool:
        """Whether `begin` must be called before each picture."""
        return self._note.attempts >= CAREFUL_FROM

    def has_crashed(self, number: int) -> bool:
        """Return whether a picture ended its workers, and must not be read again."""
        return number in self._note.crashed

    def begin(self, number: int) -> None:
        """Note that a picture is inspected now."""
        self._note.at = number
        self._write()

    def end(self) -> None:
        """Forget the part, which is finished."""
        self._dest.delete(self._name)

    def _write(self) -> None:
        self._dest.write(self._name, msgspec.json.encode(self._note))
