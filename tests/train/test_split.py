"""Splits: each group lies in one part only."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import ConfigError
from heatline.train.run import Split, split_by_fractions, split_by_name

BOARDS = ["01", "04", "07", "08", "10", "12"]


@given(
    groups=st.lists(st.text(min_size=1), min_size=3, max_size=60, unique=True),
    shares=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50)),
    seed=st.integers(0, 2**32),
    defective=st.integers(0, 60),
)
def test_every_group_is_in_exactly_one_part_and_no_wanted_part_is_empty(
    groups: list[str], shares: tuple[int, int, int], seed: int, defective: int
) -> None:
    with_defects, fractions = set(groups[:defective]), [share / sum(shares) for share in shares]
    split = split_by_fractions(groups, fractions, seed, with_defects)
    assert sorted([*split.train, *split.val, *split.test]) == sorted(groups)
    assert split.train
    assert split.val
    assert bool(split.test) == bool(shares[2])
    if len(with_defects) >= 3 and len(groups) - len(with_defects) >= 3:
        asked = [split.train, split.val] + ([split.test] if shares[2] else [])
        assert all(with_defects & set(part) and set(part) - with_defects for part in asked)
    assert split_by_fractions(groups[::-1], fractions, seed, with_defects) == split


def test_the_draw_is_the_same_on_every_machine_and_differs_by_seed() -> None:
    assert split_by_fractions(BOARDS, [0.7, 0.1, 0.2], 0) == Split(("01", "08", "10", "12"), ("04",), ("07",))
    assert len({split_by_fractions(BOARDS, [0.7, 0.1, 0.2], seed) for seed in range(20)}) > 5


def test_rare_groups_with_defects_are_split_like_the_others() -> None:
    groups = [f"{number:03d}" for number in range(100)]
    for seed in range(20):
        split = split_by_fractions(groups, [0.7, 0.1, 0.2], seed, defective=groups[:10])
        assert [len(set(part) & set(groups[:10])) for part in (split.train, split.val, split.test)] == [7, 1, 2]
        assert [len(part) for part in (split.train, split.val, split.test)] == [70, 10, 20]


def test_named_groups_are_found_without_their_leading_zeros() -> None:
    for val, test in ((["08"], ["10", "12"]), ([8], [10, 12])):  # as a command line may read 08
        assert split_by_name(BOARDS, val, test) == Split(("01", "04", "07"), ("08",), ("10", "12"))
    assert split_by_name(BOARDS, ["8"], []) == Split(("01", "04", "07", "10", "12"), ("08",), ())
    assert split_by_name(["8", "08", "9"], ["08"], []).val == ("08",)
    assert split_by_name(["8", "08", "9"], [8], []).val == ("8",)


@pytest.mark.parametrize(
    ("groups", "val", "test", "excerpt"),
    [
        (BOARDS, ["99"], [], "there is no group '99' to split off; the groups are 01, 04, 07, 08, 10, 12"),
        (BOARDS, ["08"], [8], "group '08' is in split.val and in split.test"),
        (BOARDS, [], ["10"], "split.test is given and split.val is not"),
        (BOARDS, BOARDS, [], r"take all groups \(6\)"),
        (["08", "008", "9"], [8], [], "group 8 could be any of 008, 08; write it in full"),
    ],
)
def test_an_inconsistent_split_by_name_is_refused(
    groups: list[str], val: list[object], test: list[object], excerpt: str
) -> None:
    with pytest.raises(ConfigError, match=excerpt):
        split_by_name(groups, val, test)


def test_invalid_fractions_and_too_few_groups_are_refused() -> None:
    for fractions in (
        [0.7, 0.3],
        [0.7, 0.2, 0.2],
        [1.2, -0.1, -0.1],
        [0.8, 0.0, 0.2],
        [math.nan, 0.5, 0.5],
        [0.5, math.nan, 0.5],
        [],
    ):
        with pytest.raises(ConfigError, match="expected three shares"):
            split_by_fractions(BOARDS, fractions, 0)
    with pytest.raises(ConfigError, match="there are too few groups, 2"):
        split_by_fractions(["a", "b"], [0.7, 0.1, 0.2], 0)


def test_a_recipe_that_needs_no_validation_groups_takes_a_second_share_of_0() -> None:
    split = split_by_fractions(BOARDS, [0.8, 0, 0.2], 0, needs_val=False)
    assert (len(split.train), split.val, len(split.test)) == (5, (), 1)
    with pytest.raises(ConfigError, match="the first above 0"):
        split_by_fractions(BOARDS, [0, 0.8, 0.2], 0, needs_val=False)
