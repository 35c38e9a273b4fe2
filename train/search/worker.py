"""The processes that work in one search's folder, each with a lock of its own.

Optuna's heartbeat is for other folders: it takes minutes to give up a trial, and a journal has none.
"""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from train.locks import lock_file


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
        self._life = ExitStack()

    def __enter__(self) -> Self:
        for self.number in itertools.count():
            if self._life.enter_context(lock_file(self._lock(self.number))):
                return self
            self._life.close()
        raise AssertionError("there is always another number")

    def __exit__(self, *exception: object) -> None:
        self._life.close()

    @property
    def cache(self) -> Path:
        """Decoded frames: a worker's own, as two must not write one; the next of its number finds them."""
        return self._cache_of(self.number)

    def claim(self, trial: int) -> None:
        """Note, where others look once this process has died, which trial it is about to train."""
        self.claimed = trial
        self._lock(self.number).write_text(str(trial))

    def abandoned(self) -> set[int]:
        """The trials that dead workers of this folder were training, and this one's last: ask between trials."""
        return {int(claimed) for _, claimed in self._idle() if claimed}

    def is_alone(self) -> bool:
        """Whether no other worker of this folder is alive."""
        return len(list(self._idle())) == len(self._numbers())

    def clear_caches(self) -> None:
        """Delete the decoded frames of this worker and of dead ones."""
        for number, _ in self._idle():
            shutil.rmtree(self._cache_of(number), ignore_errors=True)
        with suppress(OSError):  # a living worker has its own in there
            (self.folder / "cache").rmdir()

    def writing(self) -> AbstractContextManager[bool]:
        """Only one worker of the folder at a time is in here."""
        return lock_file(self._locks / "writing", wait=True)

    def _cache_of(self, number: int) -> Path:
        return self.folder / "cache" / str(number)

    def _lock(self, number: int) -> Path:
        return self._locks / f"{number}.lock"

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._locks.glob("*.lock"))

    def _idle(self) -> Iterator[tuple[int, str]]:
        """This worker's number and those of dead ones, each with its last claim; nobody takes a yielded one."""
        for number in self._numbers():
            with lock_file(self._lock(number)) as is_dead:
                if is_dead or number == self.number:
                    yield number, self._lock(number).read_text()
