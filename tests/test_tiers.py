"""Every long test has a short form in the first tier, and tests/README.md lists all pairs."""

import re
from pathlib import Path

import pytest

from tests.conftest import COLLECTED

TESTS = Path(__file__).parent
README = (TESTS / "README.md").read_text()
PAIRS = re.findall(r"^\| [^|]+ \| `([\w/.]+::\w+)`[^|]* \| `([\w/.]+::\w+)`[^|]* \|$", README, re.MULTILINE)
WITH_BOTH_FORMS = set(re.findall(r"^\| `([\w/.]+\.py)` \|", README, re.MULTILINE))


def functions(items: list[pytest.Item]) -> set[str]:
    """Return the tests as the tables write them: file in tests/, and function."""
    return {f"{item.path.relative_to(TESTS)}::{getattr(item, 'originalname', item.name)}" for item in items}


def files(functions: set[str]) -> set[str]:
    return {name.partition("::")[0] for name in functions}


def test_each_long_test_has_a_short_form_that_the_readme_names(request: pytest.FixtureRequest) -> None:
    collected = request.config.stash[COLLECTED]
    long = functions([item for item in collected if item.get_closest_marker("long")])
    short = functions([item for item in collected if not item.get_closest_marker("long")])
    seen = files(long | short)  # if only some files are collected, only their rows are checked
    listed = {name for _, name in PAIRS if name.partition("::")[0] in seen}
    assert listed == long - short, "pairs of two tests"
    assert {name for name, _ in PAIRS if name.partition("::")[0] in seen} <= short, "siblings"
    assert WITH_BOTH_FORMS & seen == files(long & short), "files with tests that have both forms"
