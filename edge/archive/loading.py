"""Reads and decodes pictures of an archive, some of them ahead of the engine."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import xxhash

from heatline.edge.archive.plan import Pictures
from heatline.edge.archive.storage import Storage
from heatline.edge.errors import InputError, StorageError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.images import decode_image

READ_AHEAD = 2
"""How many pictures are read and decoded while others are inspected."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Loaded(NamedTuple):
    """A picture that was read."""

    content: str | None
    """xxh3_64 of its bytes; None: they cannot be read."""
    frame: Frame | BadFrame


def load(pictures: Pictures, number: int, picture: str) -> Loaded:
    """Read and decode a picture. A file that cannot be read, or holds no picture, is a bad frame.

    Raises:
        StorageError: the storage does not answer.
    """
    content = None
    try:
        data = _read(*pictures.place(picture), picture)
        content = xxhash.xxh3_64_hexdigest(data)
        return Loaded(content, Frame(stamp(number, picture), *decode_image(picture, data)))
    except InputError as error:
        return Loaded(content, BadFrame(stamp(number, picture), "unreadable", str(error)))


def stamp(number: int, picture: str) -> Stamp:
    """Return the identity of a picture."""
    return Stamp("archive", number, picture)


def read_ahead(load: Callable[[Item], Result], items: Iterable[Item], depth: int = READ_AHEAD) -> Iterator[Result]:
    """Yield `load(item)` of each item in order; a thread loads the next ones meanwhile."""
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        ahead = deque[Any]()
        for item in items:
            ahead.append(pool.submit(load, item))
            if len(ahead) > depth:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _read(storage: Storage, name: str, picture: str) -> bytes:
    """Read a picture's file.

    Raises:
        InputError: the file cannot be read, now or later.
        StorageError: the storage does not answer.
    """
    try:
        return storage.read(name)
    except FileNotFoundError as error:
        reason = "No such file or directory"
        cause: Exception = error
    except StorageError as error:
        if not storage.is_local:  # it may answer later
            raise
        reason = getattr(error.__cause__, "strerror", None) or str(error.__cause__)
        cause = error
    raise InputError(f"{picture} cannot be read ({reason}); check the path and its permissions") from cause
