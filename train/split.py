"""Splits groups into train, val (which chooses the best checkpoint) and test (for the final evaluation).

Pictures of one group (a board, an item) show the same thing. A split by picture or by tile would put nearly the same
tile into two parts and make the figures too good, so each group is in one part only.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from heatline.edge.errors import ConfigError
from heatline.edge.util.text import list_some
from heatline.train.readers import LabelledFolder, LabelledImage


@dataclass(frozen=True)
class Split:
    """The groups of each part, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def images(self, data: LabelledFolder, part: str) -> list[LabelledImage]:
        """Return the pictures of part "train", "val" or "test"."""
        groups = set(getattr(self, part))
        return [image for image in data.images if image.group in groups]


def split_by_name(
    groups: Sequence[str], val: Sequence[object], test: Sequence[object], *, needs_val: bool = True
) -> Split:
    """Split by the names of the val and test groups; all other groups train.

    A name matches the group of the same spelling; otherwise a number matches the only group with that number.

    Args:
        needs_val: whether at least one val group must be named.
    Raises:
        ConfigError: a name matches no group or several, is in both lists, or no group is left to train or validate.
    """
    val_groups, test_groups = ({_find(groups, name) for name in names} for names in (val, test))
    if both := val_groups & test_groups:
        raise ConfigError(f"group {min(both)!r} is in split.val and in split.test; leave it in one")
    if not val_groups and needs_val:
        raise ConfigError("split.test is given and split.val is not; name a group that chooses the best checkpoint")
    rest = set(groups) - val_groups - test_groups
    if not rest:
        raise ConfigError(f"split.val and split.test take all groups ({len(groups)}); leave at least one to train on")
    return Split(*(tuple(sorted(part)) for part in (rest, val_groups, test_groups)))


def split_by_fractions(
    groups: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    defective: Collection[str] = (),
    *,
    needs_val: bool = True,
) -> Split:
    """Split by shares; a hash of seed and name draws the groups, independently of their order and the machine.

    Groups with defects and groups without are split separately (stratified) if there are enough of both: drawn
    together, a part could get few of the rarer kind, and its figures would depend on these few.

    Args:
        fractions: shares of train, val and test; each share above 0 gets at least one group of each kind.
        defective: the groups with defects.
        needs_val: whether the share of val must be above 0.
    Raises:
        ConfigError: the fractions are not shares, or there are too few groups.
    """
    check_fractions(fractions, needs_val=needs_val)
    wanted = sum(share > 0 for share in fractions)
    if len(groups) < wanted:
        raise ConfigError(
            f"there are too few groups, {len(groups)} ({', '.join(sorted(groups))}) for {wanted} parts, and a group is "
            "never divided; give more groups, or name them in split.val and split.test"
        )
    kinds = [[group for group in groups if (group in defective) == kind] for kind in (True, False)]
    if min(map(len, kinds)) < wanted:
        kinds = [list(groups)]
    drawn = [_draw(kind, fractions, seed) for kind in kinds]
    return Split(*(tuple(sorted(group for parts in drawn for group in parts[part])) for part in range(3)))


def check_fractions(fractions: Sequence[float], *, needs_val: bool) -> None:
    """Refuse fractions that are not shares of train, val and test; arguments and errors as `split_by_fractions`."""
    needed = 2 if needs_val else 1
    are_shares = len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6  # false of nan
    if not are_shares or min(fractions[:needed]) == 0:
        expected = "the first two above 0, e.g. [0.7,0.1,0.2]" if needs_val else "the first above 0, e.g. [0.8,0,0.2]"
        raise ConfigError(
            f"split.fractions is {list(fractions)}; expected three shares (train, val, test) that sum to 1, {expected}"
        )


def _draw(groups: Sequence[str], fractions: Sequence[float], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Draw the groups of train, val and test, from at least as many groups as there are shares above 0."""
    drawn = sorted(groups, key=lambda group: sha256(f"{seed}:{group}".encode()).digest())
    val, test = (0 if share == 0 else max(1, round(share * len(drawn))) for share in fractions[1:])
    while val + test >= len(drawn):  # rounding up small shares may leave nothing to train on
        val, test = (val, test - 1) if test >= val else (val - 1, test)
    return drawn[val + test :], drawn[:val], drawn[val : val + test]


def _find(groups: Sequence[str], name: object) -> str:
    text = str(name)
    if text in groups:
        return text
    if text.isdecimal():
        same = sorted(group for group in groups if group.isdecimal() and int(group) == int(text))
        if len(same) == 1:
            return same[0]
        if same:
            raise ConfigError(f"group {text} could be any of {', '.join(same)}; write it in full, as {same[0]}")
    raise ConfigError(f"there is no group {text!r} to split off; the groups are {list_some(sorted(groups), 20)}")
