"""Compiled graphs kept on disk, so that the next start need not compile them.

One is taken out of its folder while it is tried, and goes back once its golden tiles came out right: one that brings
the process down is not there at the next start. Each bears a digest over all of it and over what it was made of, so one
that is damaged, or another's, is none. What others can write is not read: who writes it decides what is inspected.
"""

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from edge.util.plain_file import open_plain

logger = logging.getLogger(__name__)

MARK = b"heatline compiled graph 1\n"
DIGEST_BYTES = 32
KEPT, TRIED, UNFINISHED = ".graph", ".tried", ".new"
MOST_KEPT = 8
"""Beyond that those go that were not used for longest."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CompiledModelCache:
    """Those that were made of one bundle, in a folder that they may share with those of others. One thread at a time.

    Args:
        folder: of this process alone.
        made_of: the bundle's digest.
    """

    def __init__(self, folder: Path, made_of: str) -> None:
        self._folder, self._made_of = folder, made_of
        self._taken: set[str] = set()

    @property
    def gave(self) -> bool:
        """Whether one was taken that is not verified yet."""
        return bool(self._taken)

    def take(self, how: str) -> bytes | None:
        """The graph that was compiled in this way; None where there is none that can be used."""
        key = self._key(how)
        kept, tried = self._folder / f"{key}{KEPT}", self._folder / f"{key}{TRIED}"
        try:
            if tried.exists():
                logger.warning("%s was tried before and did not come through, so it is compiled again", kept)
                tried.unlink()
                return None
            kept.rename(tried)
            graph = _read(tried, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the compiled graph %s is not used (%s), it is compiled again", kept, error)
            with contextlib.suppress(OSError):
                tried.unlink()
            return None
        self._taken.add(key)
        return graph

    def keep(self, how: str, graph: Callable[[], bytes]) -> None:
        """Have a graph for the next time, now that it is verified. One that was taken goes back as the very file.

        Args:
            graph: makes the bytes of one that was not taken from here.
        """
        key = self._key(how)
        kept, tried, unfinished = (self._folder / f"{key}{suffix}" for suffix in (KEPT, TRIED, UNFINISHED))
        try:
            if key in self._taken:
                self._taken.remove(key)
                os.utime(tried)
                tried.rename(kept)
                return
            data = graph()
            # Not synced: what a power cut leaves half written fails its digest.
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(MARK + _digest(key, data))
                file.write(data)
            unfinished.rename(kept)
            self._forget_old()
        except (OSError, RuntimeError) as error:  # not every device can give its graph away
            logger.warning("the compiled graph cannot be kept in %s (%s); the next start compiles it", kept, error)
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _key(self, how: str) -> str:
        return hashlib.sha256(f"{self._made_of}\n{how}".encode()).hexdigest()

    def _forget_old(self) -> None:
        kept = sorted(self._folder.glob(f"*{KEPT}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in [*kept[MOST_KEPT:], *self._folder.glob(f"*{UNFINISHED}")]:
            path.unlink(missing_ok=True)


def _read(path: Path, key: str) -> bytes:
    """The graph in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of ours, or not what was kept.
    """
    with open_plain(path) as file:
        for status in (os.fstat(file.fileno()), path.parent.stat()):
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & WRITABLE_BY_OTHERS:
                raise ValueError("others can write it")
        mark, digest, graph = file.read(len(MARK)), file.read(DIGEST_BYTES), file.read()
    if mark != MARK or digest != _digest(key, graph):
        raise ValueError("it is damaged")
    return graph


def _digest(key: str, graph: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(graph)
    return digest.digest()
