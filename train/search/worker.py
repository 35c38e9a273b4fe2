"""The worker processes of a search's folder, each with a file lock.

Optuna's heartbeat serves only for other folders: it needs minutes to fail a trial, and a journal has none.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from heatline.train.frames import delete_frames
from heatline.train.locks import lock_file


class Worker:
    """This process, as a context. Its number is the lowest that no living worker of the folder has.

    Args:
        folder: of the search.
    Raises:
        TrainingError: the folder cannot be written (on entering).
    """

    number: int
    claimed: int | None = None
    """The trial that it trains, or trained last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / "workers"
        self._locked = ExitStack()

    def __enter__(self) -> Self:
        for self.number in itertools.count():
            if self._locked.enter_context(lock_file(self._lock(self.number))):
                return self
            self._locked.close()
        raise AssertionError("there is always another number")

    def __exit__(self, *exception: object) -> None:
        self._locked.close()

    @property
    def cache(self) -> Path:
        """Folder of decoded frames. Two workers must not share one; the next worker of this number uses it again."""
        return self._cache_of(self.number)

    def claim(self, trial: int) -> None:
        """Record which trial this process trains, for other workers in case it dies."""
        self.claimed = trial
        self._lock(self.number).write_text(str(trial))

    def abandoned_trials(self) -> set[int]:
        """Return the last trials of dead workers and of this one; call it between trials."""
        return {int(claimed) for _, claimed in self._claims() if claimed}

    def is_alone(self) -> bool:
        """Whether no other worker of this folder is alive."""
        return len(list(self._claims())) == len(self._numbers())

    def clear_caches(self) -> None:
        """Delete the decoded frames of this worker and of dead ones."""
        for number, _ in self._claims():
            delete_frames(self._cache_of(number))
        with suppress(OSError):  # it holds the cache of a living worker
            (self.folder / "cache").rmdir()

    def write_lock(self) -> AbstractContextManager[bool]:
        """Return a lock that one worker of the folder holds at a time."""
        return lock_file(self._locks / "writing", wait=True)

    def _cache_of(self, number: int) -> Path:
        return self.folder / "cache" / str(number)

    def _lock(self, number: int) -> Path:
        return self._locks / f"{number}.lock"

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._locks.glob("*.lock"))

    def _claims(self) -> Iterator[tuple[int, str]]:
        """Yield the numbers of this worker and of dead ones, locked meanwhile, each with its last claim."""
        for number in self._numbers():
            with lock_file(self._lock(number)) as is_dead:
                if is_dead or number == self.number:
                    yield number, self._lock(number).read_text()
