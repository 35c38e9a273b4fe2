"""Chooses the reviewed frames that are not trained on, by which the old and the new bundle are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

Kind = Literal["false alarm", "missed", "right DEFECT", "right GOOD"]
"""What the old bundle makes of a frame, by the reviewers' truth."""
CORRECTIONS: tuple[Kind, ...] = ("false alarm", "missed")
ORDER: tuple[Kind, ...] = ("missed", "false alarm", "right DEFECT", "right GOOD")
"""The rarest and most important kinds choose first."""
SHARE = 1 / 3
NEEDED = 2
"""Least number of groups of one kind of correction: one to train on, one to compare with."""


@dataclass(frozen=True)
class Candidate:
    """A reviewed frame."""

    group: str
    kind: Kind
    pinned: bool
    """Whether the old bundle was trained on its group, so that nothing can be evaluated on it."""


def choose_held_out(candidates: Sequence[Candidate], share: float = SHARE) -> set[str]:
    """Return the groups that are held out: of each kind about this share of its groups, at least one of two or more.

    At least one group of each kind that has one is trained on. A hash of their names orders the groups, so the same
    marks give the same result on every machine.
    """
    pinned = pinned_groups(candidates)
    groups_of = {
        kind: {each.group for each in candidates if each.kind == kind and each.group not in pinned} for kind in ORDER
    }
    held_out: set[str] = set()
    for kind in ORDER:
        groups = groups_of[kind]
        wanted = max(1, round(share * len(groups))) if len(groups) > 1 else 0
        for group in sorted(groups - held_out, key=_hash):
            if len(groups & held_out) >= wanted:
                break
            if all(len(others - held_out - {group}) >= 1 for others in groups_of.values() if group in others):
                held_out.add(group)
    return held_out


def count_corrections(candidates: Sequence[Candidate]) -> dict[Kind, int]:
    """Count the groups of each kind of correction that the old bundle was not trained on."""
    pinned = pinned_groups(candidates)
    return {
        kind: len({each.group for each in candidates if each.kind == kind and each.group not in pinned})
        for kind in CORRECTIONS
    }


def pinned_groups(candidates: Sequence[Candidate]) -> set[str]:
    """Return the groups that the old bundle was trained on."""
    return {candidate.group for candidate in candidates if candidate.pinned}


def _hash(group: str) -> bytes:
    return sha256(group.encode()).digest()
