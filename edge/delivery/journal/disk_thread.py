"""A thread that makes calls to the disk, so that its caller waits for a limited time only."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from edge.delivery.journal.errors import JournalHungError
from edge.util.threads import NamedThread

T = TypeVar("T")


class _Call(Generic[T]):
    """A call and its result."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: T
        self._error: BaseException | None = None
        self.returned = threading.Event()

    def make(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # it is raised again in the caller's thread
            self._error = error
        finally:
            self.returned.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


class DiskThread:
    """Makes calls one after the other, for one caller thread.

    Args:
        folder: a folder on the disk, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls: queue.SimpleQueue[_Call[object] | None] = queue.SimpleQueue()
        self._last: _Call[object] | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is still running."""
        return self._last is not None and not self._last.returned.is_set()

    def run(self, call: Callable[[], T], within_s: float) -> T:
        """Make a call, and return its result or raise its error.

        Raises:
            JournalHungError: the call has not returned in time and continues; or an earlier call still runs, and this
                one is not made.
        """
        if self.busy:
            raise self._hung()
        made = self._begin(call)
        if not made.returned.wait(within_s):
            raise self._hung()
        return made.result()

    def close(self, last: Callable[[], None], within_s: float) -> bool:
        """Make a last call after those before have returned; return whether it returned in time."""
        made = self._begin(last)
        self._calls.put(None)
        return made.returned.wait(within_s)

    def _begin(self, call: Callable[[], T]) -> _Call[T]:
        if self._thread is None:
            # Not joined at the end: a call that the disk does not answer cannot be ended.
            self._thread = NamedThread("journal", self._make_calls)
            self._thread.start()
        made = _Call(call)
        self._last = made  # type: ignore[assignment]
        self._calls.put(made)  # type: ignore[arg-type]
        return made

    def _make_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
            del call  # so that the objects it refers to can be closed

    def _hung(self) -> JournalHungError:
        return JournalHungError(f"the disk of {self._folder} does not answer; check the disk")
