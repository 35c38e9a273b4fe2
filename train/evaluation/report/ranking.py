"""Ranks as in the study's tables: per metric, and their mean. 1 is best, and for every metric more is better.

Equal values share the mean of their places. A value that is missing has no rank: nothing is known of it, so it is not
called the worst. A mean rank must rest on the same metrics for everyone, so it leaves out a metric that any peer lacks.
"""

from collections.abc import Sequence

Values = Sequence[float | None]


def ranks(values: Values) -> list[float | None]:
    """The place of each value among its peers, from 1; ties shared, None where the value is missing.

    Args:
        values: unrounded, of one metric, one per peer; higher is better.
    """
    known = [value for value in values if value is not None]
    return [None if value is None else _place(value, known) for value in values]


def mean_ranks(table: Sequence[Values]) -> list[float | None]:
    """The mean over metrics of each peer's rank; None for all where no metric is known of all.

    Args:
        table: [metrics][peers], unrounded; higher is better.
    """
    complete = [ranks(values) for values in table if None not in values]
    peers = len(table[0]) if table else 0
    return [_mean([column[peer] for column in complete]) for peer in range(peers)]


def mean_ranks_within(table: Sequence[Values], families: Sequence[str]) -> list[float | None]:
    """The same, where only peers of one family are ranked against each other.

    Args:
        families: [peers], the name of each one's family.
    """
    means: list[float | None] = [None] * len(families)
    for family in set(families):
        members = [peer for peer, its in enumerate(families) if its == family]
        for peer, mean in zip(members, mean_ranks([[values[m] for m in members] for values in table]), strict=True):
            means[peer] = mean
    return means


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho: the correlation of the ranks, ties shared; None where either side is one single tie.

    Args:
        first, second: [peers], two values of each.
    """
    xs, ys = _centred(first), _centred(second)
    spread = (sum(x * x for x in xs) * sum(y * y for y in ys)) ** 0.5
    return sum(x * y for x, y in zip(xs, ys, strict=True)) / spread if spread else None


def _place(value: float, known: Sequence[float]) -> float:
    above, equal = sum(other > value for other in known), known.count(value)
    return above + (equal + 1) / 2


def _mean(places: Sequence[float | None]) -> float | None:
    known = [place for place in places if place is not None]
    return sum(known) / len(known) if known else None


def _centred(values: Sequence[float]) -> list[float]:
    places = [_place(value, values) for value in values]
    middle = (len(values) + 1) / 2
    return [place - middle for place in places]
