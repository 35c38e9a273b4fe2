"""Tells which kinds of known defects a threshold misses."""

from collections.abc import Sequence

from heatline.edge.bundle.manifest import Missed

NEARLY_ALL = 0.8
"""If at least this share of the frames of a kind is missed, the kind passes."""


def passes(missed: int, frames: int) -> bool:
    """Whether a kind of defects passes, of whose frames so many are missed."""
    return missed >= NEARLY_ALL * frames


def describe_missed(kinds: Sequence[Missed]) -> str:
    """Describe the kinds, classes before sizes; empty if there are none.

    >>> describe_missed([Missed("crack", 2, 9, "class"), Missed("below 16x16 px", 3, 4, "size")])
    'by class: crack 2 of 9; by size: below 16x16 px 3 of 4'
    """
    of = {by: [kind for kind in kinds if kind.by == by] for by in (None, "class", "size")}
    return "; ".join((f"by {by}: " if by else "") + _list(found) for by, found in of.items() if found)


def describe_passing(kinds: Sequence[Missed]) -> str:
    """Describe the kinds that pass; empty if none does."""
    return _list([kind for kind in kinds if passes(kind.missed, kind.frames)])


def _list(kinds: Sequence[Missed]) -> str:
    return ", ".join(f"{kind.kind} {kind.missed} of {kind.frames}" for kind in kinds)
