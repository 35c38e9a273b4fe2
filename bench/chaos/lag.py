"""How far behind a consumer was, by what it got and when."""

from collections.abc import Iterable

BEHIND_S = 1.0


def longest_catch_up_s(received: Iterable[tuple[int, int]]) -> float:
    """The longest time for which a consumer that got events got old ones: from the first that was more than `BEHIND_S`
    old to the first that was not.

    Args:
        received: when each event came, and when its frame was captured; UTC, ns since 1970.
    """
    longest_s, began_ns, now_ns = 0.0, None, 0
    for now_ns, captured_ns in received:
        if now_ns - captured_ns <= BEHIND_S * 1e9:
            if began_ns is not None:
                longest_s = max(longest_s, (now_ns - began_ns) / 1e9)
            began_ns = None
        elif began_ns is None:
            began_ns = now_ns
    return longest_s if began_ns is None else max(longest_s, (now_ns - began_ns) / 1e9)


def longest_lag_s(received: Iterable[tuple[int, int]]) -> float:
    """How old an event was at most when it came."""
    return max(((now_ns - captured_ns) / 1e9 for now_ns, captured_ns in received), default=0.0)
