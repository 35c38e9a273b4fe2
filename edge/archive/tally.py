"""Counts pictures by group, and gives their rates with intervals."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np

from heatline.edge.calibration.binomial import interval
from heatline.edge.calibration.group_bootstrap import ratio_interval

T = TypeVar("T")


class Rate(msgspec.Struct, frozen=True):
    """A count as a share of pictures, with its 95 % interval. A change of a count may be negative."""

    count: int
    of: int
    interval: tuple[float, float] | None = None
    """None: not known."""

    @property
    def share(self) -> float:
        return self.count / self.of


class Tally:
    """Named counts of each group. Memory grows with the number of groups, not with that of pictures."""

    def __init__(self) -> None:
        self.groups: dict[str, Counter[str]] = {}

    def add(self, group: str, counts: Mapping[str, int]) -> None:
        of_group = self.groups.setdefault(group, Counter())
        for name, count in counts.items():
            if count:
                of_group[name] += count

    def counts(self, group: str | None) -> Counter[str]:
        """Return the counts of a group; None: of all."""
        if group is not None:
            return self.groups[group]
        total: Counter[str] = Counter()
        for counts in self.groups.values():
            total.update(counts)
        return total

    def rate(self, group: str | None, name: str, of: str) -> Rate | None:
        """Return a rate of a group, or with None of all. It is None if there is nothing to count.

        The interval of one group is that of Clopper and Pearson, which takes its pictures as independent. That of all
        is by a bootstrap over the groups, as pictures of one group are not independent.
        """
        if group is not None:
            count, pictures = self.groups[group][name], self.groups[group][of]
            return Rate(count, pictures, interval(count, pictures)) if pictures else None
        pairs = np.array([[counts[name], counts[of]] for counts in self.groups.values()], np.int64).reshape(-1, 2)
        count, pictures = pairs.sum(axis=0).tolist()
        return Rate(count, pictures, ratio_interval(pairs[:, 0], pairs[:, 1])) if pictures else None

    def worst(self, name: str, shares: Sequence[tuple[str, str]], most: int) -> list[str]:
        """Return the groups with the highest counts of a name, then with the highest shares, then by the groups' names.

        Args:
            shares: pairs of names; the share is the count of the first, divided by that of the second.
            most: largest number of groups.
        """

        def order(group: str) -> tuple[object, ...]:
            counts = self.groups[group]
            return -counts[name], *(-counts[part] / (counts[of] or 1) for part, of in shares), group

        return sorted(self.groups, key=order)[:most]


class Worst(Generic[T]):
    """The first items in an order, at most `most`, of any number that are added."""

    def __init__(self, most: int, key: Callable[[T], tuple[float, ...]]) -> None:
        self._most, self._key, self._kept = most, key, list[T]()

    def add(self, item: T) -> None:
        self._kept.append(item)
        if len(self._kept) > 2 * self._most:
            self._kept = self.items()

    def items(self) -> list[T]:
        return sorted(self._kept, key=self._key)[: self._most]
