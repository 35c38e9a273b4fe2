"""The page of the demo's line, in a process of its own: `heatline view`."""

import contextlib
import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from heatline.bench.watched_line import free_address
from heatline.bench.watched_process import HEATLINE, WatchedProcess

WITHIN_SECONDS = 30
POLL_SECONDS = 0.05


class Answer(NamedTuple):
    """An answer of the page; status 0: it does not answer."""

    status: int
    body: bytes


class LinePage:
    """Serves the page inside the `with` block, from before the line starts until after its end.

    Raises:
        BenchError: the page does not answer in time, or has ended.
    """

    def __init__(self, line: Path) -> None:
        self._host = free_address().removeprefix("tcp://")
        self.url = f"http://{self._host}/"
        command = [*HEATLINE, "view", line, "--listen", self._host]
        self._process = WatchedProcess("the page of the line", command, line.with_name("page.log"))

    def __enter__(self) -> Self:
        self._process.start()
        try:
            self.until(lambda: self.get("healthz").status == 200)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the page for the duration of the `with` block, so that it subscribes to no events meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def get(self, path: str) -> Answer:
        """Return the answer to a request."""
        with contextlib.closing(http.client.HTTPConnection(self._host, timeout=WITHIN_SECONDS)) as connection:
            try:
                connection.request("GET", f"/{path}")
                answer = connection.getresponse()
                return Answer(answer.status, answer.read())
            except OSError:
                return Answer(0, b"")

    def verdicts(self, count: int) -> list[dict[str, Any]]:
        """Return the verdicts that the page shows, once they are as many, or no more have come in time."""
        rows: list[dict[str, Any]] = []

        def are_all() -> bool:
            answer = self.get("api/verdicts?limit=2000")
            rows[:] = json.loads(answer.body)["rows"] if answer.status == 200 else []
            return len(rows) >= count

        self.until(are_all)
        return rows

    def until(self, fact: Callable[[], bool]) -> None:
        """Wait until a fact is true, or the time is over."""
        give_up = time.monotonic() + WITHIN_SECONDS
        while not fact() and time.monotonic() < give_up:
            self._process.require_running()
            time.sleep(POLL_SECONDS)

    def serve(self) -> NoReturn:
        """Serve the page until Ctrl-C, which raises KeyboardInterrupt."""
        while True:
            self._process.require_running()
            time.sleep(POLL_SECONDS)
