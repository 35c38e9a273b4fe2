"""How an engine may be used, and what is tried to find its best. Imports no engine: whoever does maps its libraries."""

import msgspec

BATCHES = (1, 2, 4, 8, 16, 32)


class Settings(msgspec.Struct, frozen=True):
    """How an engine is used."""

    streams: int
    batch: int
    """Tiles per request."""

    def __str__(self) -> str:
        return f"{self.streams} streams of {self.batch} tiles"


def all_settings(cores: int) -> list[Settings]:
    """Those that are tried: a stream per core, one for two, or one; tiles one by one, or up to 32 at once.

    >>> [(each.streams, each.batch) for each in all_settings(2)][:7]
    [(2, 1), (2, 2), (2, 4), (2, 8), (2, 16), (2, 32), (1, 1)]
    """
    streams = dict.fromkeys((cores, max(1, cores // 2), 1))
    return [Settings(each, batch) for each in streams for batch in BATCHES]
