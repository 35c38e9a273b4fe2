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

from heatline.edge.picture_folders import DEFECTIVE, GOOD

SEPARATORS = r"_\-. +()"
FEWEST_GROUPS = 3
"""Fewer groups cannot be split into train, val and test."""

_FOLDER_PATTERN, _ALONE_PATTERNS = r"([^/]+)/[^/]+$", (r"^(.+)\.", r"^(.+/.+)\.")

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


def find_scheme(paths: Sequence[PurePath]) -> NameScheme | None:
    """Find the scheme of file names; return None if there is none, or if it gives fewer than `FEWEST_GROUPS` groups.

    Args:
        paths: below the folder. Parts that repeat a folder or the label are no scheme: `good/good_001.png` and
            `defective/defective_001.png` show two things.
    """
    tokens = [_tokens(path) for path in paths]
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


def find_patterns(paths: Sequence[PurePath], known: Sequence[str | None]) -> Iterator[tuple[str, list[str]]]:
    """Yield regular expressions that take a part of each path, with the parts that they take, the likeliest first.

    An expression is of the file name, or, if it has a `/`, of the path; its first parenthesis is the part. None of them
    divides the pictures as `known` does, or only joins the equal numbers of folders that each count from 1.

    Args:
        known: each picture's group now.
    """
    numbers = [" ".join(_tokens(path)) for path in paths]
    used = "".join(each for each in "_. +()-" if each == "." or any(each in path.stem for path in paths))
    most = max((len(re.split(f"[{SEPARATORS}]+", path.stem)) for path in paths), default=0)
    by_place = [f"^{f'[^{used}]+[{used}]+' * place}([^{used}]+)" for place in range(most)]
    for pattern in [*by_place, _FOLDER_PATTERN, *_ALONE_PATTERNS]:
        parts = [re.search(pattern, path.as_posix() if "/" in pattern else path.name) for path in paths]
        groups = [part[1] for part in parts if part]
        if len(groups) < len(paths) or len(set(groups)) == 1 or _divide_alike(groups, known):
            continue
        if pattern in _ALONE_PATTERNS:
            if len(set(groups)) == len(paths):
                yield pattern, groups
        elif not _divide_alike(groups, numbers) and not any(map(_CONDITION.fullmatch, groups)):
            yield pattern, groups


def _divide_alike(groups: Sequence[str], others: Sequence[str | None]) -> bool:
    return len(set(groups)) == len(set(others)) == len(set(zip(groups, others, strict=True)))


def _tokens(path: PurePath) -> list[str]:
    """Return the parts of the file name; one that repeats a folder or the label is empty."""
    said = GOOD | DEFECTIVE | {folder.casefold() for folder in path.parts[:-1]}
    return ["" if word.casefold() in said else word for word in re.split(f"[{SEPARATORS}]+", path.stem)]


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
