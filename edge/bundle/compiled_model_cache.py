"""A cache of compiled graphs on disk, so that the next start need not compile them.

A graph is renamed while it is tried, and gets its name back once its golden tiles passed: a graph that crashes the
process is not used at the next start. Each file holds a digest over the graph, the bundle and the compiler's settings,
so a damaged or foreign file is rejected. A file that others can write is not read: its writer would decide what is
inspected.
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
STORED, TRIED, UNFINISHED = ".graph", ".tried", ".new"
MOST_STORED = 8
"""When there are more, the least recently used graphs are deleted."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CompiledModelCache:
    """The compiled graphs of one bundle, in a folder that several bundles may share. Use it from one thread at a time.

    Args:
        folder: used by this process only.
        bundle_digest: the bundle's digest.
    """

    def __init__(self, folder: Path, bundle_digest: str) -> None:
        self._folder, self._bundle_digest = folder, bundle_digest
        self._on_trial: set[str] = set()

    @property
    def has_unverified(self) -> bool:
        """Whether a graph was loaded that is not verified yet."""
        return bool(self._on_trial)

    def load(self, variant: str) -> bytes | None:
        """Return the compiled graph of a variant; None if there is none that can be used."""
        key = self._key(variant)
        stored, tried = self._folder / f"{key}{STORED}", self._folder / f"{key}{TRIED}"
        try:
            if tried.exists():
                logger.warning("%s failed when it was tried before, so it is compiled again", stored)
                tried.unlink()
                return None
            stored.rename(tried)
            graph = _read(tried, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the compiled graph %s is not used (%s), it is compiled again", stored, error)
            with contextlib.suppress(OSError):
                tried.unlink()
            return None
        self._on_trial.add(key)
        return graph

    def store(self, variant: str, graph: Callable[[], bytes]) -> None:
        """Store a verified graph. A graph that was loaded from here keeps its file.

        Args:
            graph: returns the bytes; called only if the graph was not loaded from here.
        """
        key = self._key(variant)
        stored, tried, unfinished = (self._folder / f"{key}{suffix}" for suffix in (STORED, TRIED, UNFINISHED))
        try:
            if key in self._on_trial:
                self._on_trial.remove(key)
                os.utime(tried)
                tried.rename(stored)
                return
            data = graph()
            # No sync: a file that a power cut leaves half written fails its digest.
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(MARK + _digest(key, data))
                file.write(data)
            unfinished.rename(stored)
            self._delete_oldest()
        except (OSError, RuntimeError) as error:  # RuntimeError: not every device can export its graph
            logger.warning("the compiled graph cannot be stored in %s (%s); the next start compiles it", stored, error)
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _key(self, variant: str) -> str:
        return hashlib.sha256(f"{self._bundle_digest}\n{variant}".encode()).hexdigest()

    def _delete_oldest(self) -> None:
        stored = sorted(self._folder.glob(f"*{STORED}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in [*stored[MOST_STORED:], *self._folder.glob(f"*{UNFINISHED}")]:
            path.unlink(missing_ok=True)


def _read(path: Path, key: str) -> bytes:
    """Return the graph in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, belongs to another key, or others can write it.
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
