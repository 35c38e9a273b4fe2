"""Which part of a file name names the thing that the picture shows, where nothing else says so.

Names follow a scheme where pictures of one thing are written in turn: `board07_cam2_0013`, `kos01_Part4`, `00041000`.
The thing comes first and the counter last, so the leftmost part that differs, and not in every name, is taken for the
thing. A part that is a condition of the photograph (`exp3`, `cam2`) is passed over: one thing is seen under several.

The guess may be wrong. It leans to few, large groups: too large a group costs data, one that is cut in two flatters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

SEPARATORS = r"_\-. +()"
FEWEST_GROUPS = 3
"""Fewer cannot be divided into train, val and test."""

_CONDITION = re.compile(
    r"(exp|exposure|cam|camera|view|light|led|channel|ch|gain|focus|angle|rot|zoom|crop)(\d*)", re.IGNORECASE
)
_SHORTEST_NUMBER = 4
"""Digits: a shorter number is not made of a thing's number and a counter."""


@dataclass(frozen=True)
class NameScheme:
    """Where file names name a thing."""

    things: list[str]
    """What each of them names."""
    part: str
    """Which part of them it is, in words."""


def find_scheme(names: Sequence[str]) -> NameScheme | None:
    """The scheme of file names; None if they follow none, or if it makes fewer groups than `FEWEST_GROUPS`."""
    tokens = [re.split(f"[{SEPARATORS}]+", PurePath(name).stem) for name in names]
    for place in range(min(map(len, tokens), default=0)):
        words = [token[place] for token in tokens]
        if len(set(words)) == 1 or not all(map(_has_digit, words)):
            continue
        if any(_is_condition(token, place) for token in tokens):
            continue
        length = _thing_digits(words)
        things = [word[:length] for word in words]
        if (groups := len(set(things))) < len(names):
            part = f"part {place + 1} of the file name"
            part = f"the first {length} characters of {part}" if length else part
            return NameScheme(things, part) if groups >= FEWEST_GROUPS else None
    return None


def _thing_digits(words: Sequence[str]) -> int | None:
    """How many leading digits are the thing's number where a counter follows without a separator, as in 00041000.

    A thing's number has more digits than it needs to be different, so the number of different beginnings stays the same
    from one length to the next, until the counter begins. None: there is no place of that kind.
    """
    sizes = set(map(len, words))
    if len(sizes) > 1 or min(sizes) < _SHORTEST_NUMBER or not all(word.isascii() and word.isdigit() for word in words):
        return None
    counts = [len({word[:length] for word in words}) for length in range(1, min(sizes) + 1)]
    steady = [count for count, following in pairwise(counts) if count == following]
    likely = [count for count in steady if FEWEST_GROUPS <= count <= len(set(words)) / 2]
    if not likely:
        return None
    longest = max(likely, key=likely.count)
    return len(counts) - counts[::-1].index(longest)


def _is_condition(token: Sequence[str], place: int) -> bool:
    """Whether a part is a condition, as cam2, or the number of one, as 2 in cam_2."""
    if _CONDITION.fullmatch(token[place]):
        return True
    before = _CONDITION.fullmatch(token[place - 1]) if place else None
    return before is not None and not before[2]


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)
