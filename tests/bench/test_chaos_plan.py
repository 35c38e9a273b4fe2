"""The faults of a run: drawn from a seed, as many and as various as was promised."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.chaos.cast import CAST
from bench.chaos.lag import BEHIND_S, longest_catch_up_s, longest_lag_s
from bench.chaos.plan import DISK, LINE, LINK_FAULTS, Fault, kills_in, make_plan

KILLABLE = [part.name for part in CAST if part.killed]
STOPPABLE = [part.name for part in CAST if part.stopped]
LINKS = [name for part in CAST for name in part.link_names]
seeds = st.integers(0, 2**32)


def plan_of(seed: int, seconds: float = 60.0, has_disk: bool = True) -> list[Fault]:
    return make_plan(seed, seconds, killable=KILLABLE, stoppable=STOPPABLE, links=LINKS, has_disk=has_disk)


@settings(max_examples=50, deadline=None)
@given(seeds, st.sampled_from([10.0, 60.0, 300.0]), st.booleans())
def test_a_plan_is_that_of_its_seed_and_all_of_it_lies_within_its_time(
    seed: int, seconds: float, has_disk: bool
) -> None:
    plan = plan_of(seed, seconds, has_disk)
    assert plan == plan_of(seed, seconds, has_disk)
    assert plan != plan_of(seed + 1, seconds, has_disk)
    times = [fault.at_s for fault in plan]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= seconds
    assert {fault.target for fault in plan} <= {LINE, DISK, *KILLABLE, *STOPPABLE, *LINKS}
    assert sum(fault.kind == "full" for fault in plan) == has_disk


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_in_a_minute_20_processes_or_more_are_killed_and_links_fail_in_every_way(seed: int) -> None:
    plan = plan_of(seed)
    assert kills_in(plan) >= 20
    killed = [fault.target for fault in plan if fault.kind.startswith("killed")]
    assert killed.count(LINE) >= 5
    assert set(killed) == {LINE, *KILLABLE}
    assert {fault.target for fault in plan if fault.kind == "stopped"} == set(STOPPABLE)
    assert {fault.kind for fault in plan} >= set(LINK_FAULTS)
    hit = {fault.target for fault in plan if fault.kind in LINK_FAULTS}
    assert len(hit) >= len(LINKS) - 2


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_no_fault_of_a_link_begins_before_the_one_before_is_over(seed: int) -> None:
    by_link: dict[str, list[Fault]] = defaultdict(list)
    for fault in plan_of(seed):
        if fault.kind in LINK_FAULTS:
            by_link[fault.target].append(fault)
    for faults in by_link.values():
        assert all(before.at_s + before.for_s < after.at_s for before, after in pairwise(faults))


def test_a_short_plan_kills_four_times_and_the_line_more_than_once() -> None:
    plan = plan_of(7, 5.0)
    assert kills_in(plan) >= 4
    assert sum(fault.target == LINE for fault in plan) >= 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(1.5, "killed", LINE, 0.25), "  1.50 s  line killed for 0.2 s"),
        (Fault(1.5, "killed as it starts", LINE, 0.25), "  1.50 s  line killed as it starts, 0.25 s old"),
        (Fault(12.25, "reset", "mes journal", 2), " 12.25 s  mes journal reset"),
        (Fault(12.25, "delayed", "mes journal", 2, 0.125), " 12.25 s  mes journal delayed by 0.125 s for 2.0 s"),
        (Fault(2, "throttled", "mes journal", 2, 20e3), "  2.00 s  mes journal throttled to 20 kB/s for 2.0 s"),
        (Fault(2, "full", DISK, 2), "  2.00 s  disk full for 2.0 s"),
    ],
)
def test_a_fault_is_told_in_words(fault: Fault, words: str) -> None:
    assert str(fault) == words


def test_a_catch_up_begins_with_the_first_old_event_and_ends_with_the_first_new_one() -> None:
    s = 10**9
    aged = [(10, 0.1), (11, 0.2), (20, 8.0), (21, 4.0), (22.5, 0.5), (30, 2.0), (30.5, 0.1)]
    received = [(round(at * s), round((at - age) * s)) for at, age in aged]
    assert longest_catch_up_s(received) == pytest.approx(2.5)
    assert longest_lag_s(received) == pytest.approx(8.0)
    assert longest_catch_up_s(received[:4]) == pytest.approx(1.0), "not yet caught up"
    assert longest_catch_up_s(received[:2]) == longest_catch_up_s([]) == longest_lag_s([]) == 0
    edge = [(5 * s, 5 * s - round(BEHIND_S * s)), (6 * s, 6 * s)]
    assert longest_catch_up_s(edge) == 0
