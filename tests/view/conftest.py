"""The browser of the tests of pages: one for all of them, as starting one takes seconds."""

from collections.abc import Iterator

import pytest

from tests.edge.conftest import tmp_path  # noqa: F401  (its pages have lines, too)
from tests.view.browser import WIDE, Browser, started_browser


@pytest.fixture(scope="session")
def started() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture
def expected() -> list[str]:
    """Parts of messages that a test causes on purpose; it appends them."""
    return []


@pytest.fixture
def browser(started: Browser, expected: list[str]) -> Iterator[Browser]:
    started.resize(WIDE)
    started.prefer("light")
    yield started
    problems = started.problems(expected)
    started.leave()
    assert not problems
