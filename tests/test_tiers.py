"""Every long test has a short sibling in the first tier: tests/README.md lists the pairs, and is held to the tests."""

import re
from pathlib import Path

import pytest

from tests.conftest import COLLECTED

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| [^|]+ \| `(?P<short>[\w/.]+::\w+)`[^|]* \| `(?P<long>[\w/.]+::\w+)`[^|]* \|$", re.MULTILINE)
PAIRS = [(row["short"], row["long"]) for row in ROW.finditer((TESTS / "README.md").read_text())]


def names_of(items: list[pytest.Item]) -> set[str]:
    """As the table writes them: file in tests/, and function."""
    return {f"{item.path.relative_to(TESTS)}::{getattr(item, 'originalname', item.name)}" for item in items}


def test_each_long_test_is_listed_with_a_sibling_that_runs_in_the_first_tier(request: pytest.FixtureRequest) -> None:
    collected = request.config.stash[COLLECTED]
    long = names_of([item for item in collected if item.get_closest_marker("long")])
    short = names_of([item for item in collected if not item.get_closest_marker("long")])
    listed = {name for _, name in PAIRS}
    assert long <= listed, "not listed in tests/README.md"
    files = {name.partition("::")[0] for name in long | short}  # of a part of the tests, only that can be said
    assert {name for name in listed if name.partition("::")[0] in files} <= long, "listed, and no long test"
    assert {name for name, _ in PAIRS if name.partition("::")[0] in files} <= short, "listed, and not in the first tier"
