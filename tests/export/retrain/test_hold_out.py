"""The choice of held-out frames: groups stay together, nothing that was trained on, some of each kind on both sides."""

from hypothesis import given
from hypothesis import strategies as st

from heatline.export.retrain.plan import ORDER, Candidate, choose_held_out, groups_by_kind

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        group=st.integers(0, 5).map(lambda number: f"reviewed:{number}"),
        kind=st.sampled_from(ORDER),
        pinned=st.integers(0, 9).map(lambda number: number == 0),
    ),
    max_size=12,
)


def groups_of(candidates: list[Candidate], kind: str) -> set[str]:
    """The groups of a kind in which nothing was trained on, the obvious way."""
    return {
        each.group
        for each in candidates
        if each.kind == kind and not any(other.pinned for other in candidates if other.group == each.group)
    }


@given(CANDIDATES, st.floats(0, 0.9))
def test_what_was_trained_on_is_never_held_out_and_each_kind_stays_in_the_training(
    candidates: list[Candidate], share: float
) -> None:
    held_out = choose_held_out(candidates, share)
    assert not any(each.pinned for each in candidates if each.group in held_out)
    for kind in ORDER:
        groups = groups_of(candidates, kind)
        assert not groups or groups - held_out, f"all groups of {kind} are held out"


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_same_marks_give_the_same_choice_in_any_order(candidates: list[Candidate], random: object) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose_held_out(shuffled) == choose_held_out(candidates)


@given(st.dictionaries(st.sampled_from(ORDER), st.integers(0, 30)), st.floats(0.1, 0.6))
def test_about_the_share_of_each_kind_is_held_out_and_one_of_two(counts: dict[str, int], share: float) -> None:
    """Where each group has one kind."""
    candidates = [
        Candidate(f"{kind} {number}", kind, False)  # type: ignore[arg-type]
        for kind, count in counts.items()
        for number in range(count)
    ]
    held_out = choose_held_out(candidates, share)
    for kind, count in counts.items():
        found = len(groups_of(candidates, kind) & held_out)
        assert found == (min(max(1, round(share * count)), count - 1) if count > 1 else 0)


def test_only_groups_that_the_old_bundle_was_not_trained_on_count_as_corrections() -> None:
    candidates = [
        Candidate("a", "missed", False),
        Candidate("a", "missed", False),
        Candidate("b", "missed", True),
        Candidate("c", "false alarm", False),
        Candidate("d", "right GOOD", False),
    ]
    assert groups_by_kind(candidates) == {
        "missed": {"a"},
        "false alarm": {"c"},
        "right DEFECT": set(),
        "right GOOD": {"d"},
    }
