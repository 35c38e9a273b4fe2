"""Guesses which part of a file name names the thing that the picture shows, if nothing else does.

Names such as `board07_cam2_0013`, `kos01_Part4` or `00041000` follow a scheme: the thing comes first and a counter
last. So the leftmost part that differs between names, but is not different in every name, is taken as the thing. Parts
that are a condition of the photograph (`exp3`, `cam2`) are skipped: one thing is photographed under several conditions.

The guess may be wrong. It prefers few, large groups: a group that is too large costs data, but a divided one makes the
figures too good.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

SEPARATORS = r"_\-. +()"
FEWEST_GROUPS = 3
"""Fewer groups cannot be split into train, val and test."""

_FOLDER_PATTERN, _STEM_PATTERN = r"([^/]+)/[^/]+$", r"^(.+)\."

_CONDITION = re.compile(
    r"(exp|exposure|cam|camera|view|light|led|channel|ch|gain|focus|angle|rot|zoom|crop)(\d*)", re.IGNORECASE
)
_SHORTEST_NUMBER = 4
"""Digits: a shorter number does not consist of a thing's number and a counter."""


@dataclass(frozen=True)
class NameScheme:
    """The part of file names that names a thing."""

    things: list[str]
    """The thing in each file name."""
    part: str
    """Phrase for messages: which part of the name this is."""


def find_scheme(names: Sequence[str]) -> NameScheme | None:
    """Find the scheme of file names; return None if there is none, or if it gives fewer than `FEWEST_GROUPS` groups."""
    tokens = [re.split(f"[{SEPARATORS}]+", PurePath(name).stem) for name in names]
    for place in range(min(map(len, tokens), default=0)):
        words = [token[place] for token in tokens]
        if len(set(words)) == 1 or not all(map(_has_digit, words)):
            continue
        if any(_is_condition(token, place) for token in tokens):
            continue
        length = _thing_digits(words)
        things = [word[:length] for word in words]
        if (groups := len(set(things))) < len(set(map(tuple, tokens))):  # where each folder counts from 1, names repeat
            part = f"part {place + 1} of the file name"
            part = f"the first {length} characters of {part}" if length else part
            return NameScheme(things, part) if groups >= FEWEST_GROUPS else None
    return None


def find_patterns(paths: Sequence[PurePath]) -> Iterator[tuple[str, list[str]]]:
    """Yield regular expressions that take a part of each path, with the parts that they take, the likeliest first.

    An expression is of the file name, or, if it has a `/`, of the path; its first parenthesis is the part.
    """
    used = "".join(each for each in "_. +()-" if each == "." or any(each in path.stem for path in paths))
    most = max((len(re.split(f"[{SEPARATORS}]+", path.stem)) for path in paths), default=0)
    by_place = [f"^{f'[^{used}]+[{used}]+' * place}([^{used}]+)" for place in range(most)]
    found = []
    for pattern in [*by_place, _FOLDER_PATTERN]:
        parts = [re.search(pattern, path.as_posix() if "/" in pattern else path.name) for path in paths]
        groups = [part[1] for part in parts if part]
        if len(groups) == len(paths) and len(set(groups)) > 1:
            found.append((pattern, groups))
    yield from sorted(found, key=lambda each: len(set(each[1])) == len({path.name for path in paths}))
    yield _STEM_PATTERN, [path.stem for path in paths]


def _thing_digits(words: Sequence[str]) -> int | None:
    """Return how many leading digits are the thing's number if a counter follows without separator, as in 00041000.

    A thing's number has more digits than it needs to be unique, so the number of distinct prefixes stays the same from
    one length to the next until the counter begins. None: there is no length for which this holds.
    """
    sizes = set(map(len, words))
    if len(sizes) > 1 or min(sizes) < _SHORTEST_NUMBER or not all(word.isascii() and word.isdigit() for word in words):
        return None
    counts = [len({word[:length] for word in words}) for length in range(1, min(sizes) + 1)]
    stable = [count for count, following in pairwise(counts) if count == following]
    likely = [count for count in stable if FEWEST_GROUPS <= count <= len(set(words)) / 2]
    if not likely:
        return None
    longest = max(likely, key=likely.count)
    return len(counts) - counts[::-1].index(longest)


def _is_condition(token: Sequence[str], place: int) -> bool:
    """Whether a part is a condition (cam2), or the number of one (2 in cam_2)."""
    if _CONDITION.fullmatch(token[place]):
        return True
    before = _CONDITION.fullmatch(token[place - 1]) if place else None
    return before is not None and not before[2]


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)
