"""Ranks as in the study's tables: per metric, and their mean. 1 is best, and for every metric more is better.

Equal values share the mean of their ranks. A missing value has no rank; it is not ranked last, as it is not known. Mean
ranks of all peers must rest on the same metrics, so they leave out a metric that any peer lacks.
"""

from collections.abc import Sequence

Values = Sequence[float | None]


def ranks(values: Values) -> list[float | None]:
    """Return the rank of each value among its peers, from 1; ties share a rank, a missing value has None.

    Args:
        values: unrounded, of one metric, one per peer; higher is better.
    """
    known = [value for value in values if value is not None]
    return [None if value is None else _place(value, known) for value in values]


def mean_ranks(table: Sequence[Values]) -> list[float | None]:
    """Return each peer's mean rank over metrics; None for all peers if no metric is known for all.

    Args:
        table: [metrics][peers], unrounded; higher is better.
    """
    complete = [ranks(values) for values in table if None not in values]
    peers = len(table[0]) if table else 0
    return [_mean([column[peer] for column in complete]) for peer in range(peers)]


def mean_ranks_within(table: Sequence[Values], families: Sequence[str]) -> list[float | None]:
    """Return each peer's mean rank within its family.

    Args:
        table: as for `mean_ranks`.
        families: [peers], the family of each peer.
    """
    means: list[float | None] = [None] * len(families)
    for family in set(families):
        members = [peer for peer, its in enumerate(families) if its == family]
        for peer, mean in zip(members, mean_ranks([[values[m] for m in members] for values in table]), strict=True):
            means[peer] = mean
    return means


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rho, the correlation of the ranks; None if all values of a side are equal.

    Args:
        first, second: [peers], two values per peer.
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
