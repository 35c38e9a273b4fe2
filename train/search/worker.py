"""The processes that work in one search's folder, told apart by file locks.

The kernel gives up the locks of a process when it dies, however it dies, so a worker is alive if its lock is held: no
process ids that come again, no waiting for a heartbeat.
"""

import fcntl
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from edge.errors import TrainingError


class Worker:
    """This process. Its number is the lowest that no living worker of the folder has; a context, entered for its life.

    Args:
        folder: the search's.
    Raises:
        TrainingError: the folder cannot be written (on entering).
    """

    number: int
    claimed: int | None = None
    """The trial it trains, or trained last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / "workers"

    def __enter__(self) -> Self:
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            for self.number in itertools.count():
                file = (self._locks / f"{self.number}.lock").open("a+")
                if _try_lock(file):
                    self._file = file
                    break
                file.close()
        except OSError as error:
            raise TrainingError(
                f"{self.folder} cannot be written ({error.strerror}); make room, or choose another place with out="
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def cache(self) -> Path:
        """Decoded frames: a worker's own, as two must not write one; the next of its number finds them."""
        return self._cache_of(self.number)

    def claim(self, trial: int) -> None:
        """Note, where others look once this process has died, which trial it is about to train."""
        self.claimed = trial
        self._file.truncate(0)
        self._file.write(str(trial))
        self._file.flush()

    def abandoned(self) -> set[int]:
        """The trials that dead workers of this folder were training, and this one's last: ask between trials."""
        return {int(claimed) for _, claimed in self._idle() if claimed}

    def is_alone(self) -> bool:
        """Whether no other worker of this folder is alive."""
        return len(list(self._idle())) == len(self._lock_files())

    def clear_caches(self) -> None:
        """Delete the decoded frames of this worker and of dead ones."""
        for number, _ in self._idle():
            shutil.rmtree(self._cache_of(number), ignore_errors=True)
        with suppress(OSError):  # a living worker has its own in there
            (self.folder / "cache").rmdir()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Only one worker of the folder at a time is in here."""
        with (self._locks / "writing").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _cache_of(self, number: int) -> Path:
        return self.folder / "cache" / str(number)

    def _lock_files(self) -> list[Path]:
        return sorted(self._locks.glob("*.lock"))

    def _idle(self) -> Iterator[tuple[int, str]]:
        """This worker's number and those of dead ones, each with its last claim; nobody takes a yielded one."""
        for path in self._lock_files():
            with path.open("r+") as file:
                if int(path.stem) == self.number or _try_lock(file):
                    yield int(path.stem), file.read()


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
