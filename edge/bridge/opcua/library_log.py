"""Passes asyncua's warnings to heatline's log at a limited rate: strangers cause many of them."""

import contextlib
import logging
from collections.abc import Iterator

from edge.util.rate_limited_log import RateLimitedLog
from edge.util.text import on_one_line

logger = logging.getLogger(__name__)
LONGEST = 300


class _Forward(logging.Handler):
    """Forwards one line for each place in asyncua that logs, at most every 10 s, without tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logs: dict[tuple[str, int], RateLimitedLog] = {}

    def emit(self, record: logging.LogRecord) -> None:
        log = self._logs.setdefault((record.pathname, record.lineno), RateLimitedLog(logger))
        try:
            text = record.getMessage()
        except Exception:  # a message that does not fit its arguments must not end what logs it
            text = str(record.msg)
        log.error("asyncua: %s", on_one_line(text)[:LONGEST])


@contextlib.contextmanager
def limited_library_log() -> Iterator[None]:
    """Limit asyncua's log in this context."""
    library, handler = logging.getLogger("asyncua"), _Forward()
    before = library.propagate, library.level
    library.propagate = False
    library.setLevel(logging.WARNING)
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.propagate, library.level = before
