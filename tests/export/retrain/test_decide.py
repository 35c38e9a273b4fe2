"""The decision between two bundles by their verdicts on reviewed frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.monitor.marks import Truth
from heatline.edge.wire.events import Verdict
from heatline.export.retrain.judge import Answer, compare

VERDICTS = st.sampled_from(["GOOD", "DEFECT", "NO_VERDICT"])
ANSWERS = st.lists(
    st.builds(
        Answer,
        frame=st.text("abc", min_size=1, max_size=3),
        truth=st.sampled_from(["good", "defective"]),
        held_out=st.booleans(),
        old=VERDICTS,
        new=VERDICTS,
    ),
    max_size=30,
)


def errors(answers: list[Answer], name: str) -> int:
    right = {"good": "GOOD", "defective": "DEFECT"}
    return sum(each.held_out and getattr(each, name) != right[each.truth] for each in answers)


@given(ANSWERS)
def test_a_better_bundle_errs_less_has_no_more_of_each_error_and_loses_no_find(answers: list[Answer]) -> None:
    comparison = compare(answers)

    def count(name: str, truth: str, verdict: str, only_held_out: bool) -> int:
        of = [each for each in answers if each.held_out] if only_held_out else answers
        return [(each.truth, getattr(each, name)) for each in of].count((truth, verdict))

    no_more = all(
        count("new", *error, only_held_out) <= count("old", *error, only_held_out)
        for error in (("good", "DEFECT"), ("defective", "GOOD"))
        for only_held_out in (True, False)
    )
    lost = [
        each.frame for each in answers if each.truth == "defective" and each.old == "DEFECT" and each.new != "DEFECT"
    ]
    assert (not comparison.reasons) == (errors(answers, "new") < errors(answers, "old") and no_more and not lost)
    assert comparison.lost == lost


def answer(truth: Truth, held_out: bool, old: Verdict, new: Verdict) -> Answer:
    return Answer(frame="1.png", truth=truth, held_out=held_out, old=old, new=new)


def test_a_defect_without_a_verdict_must_not_become_good() -> None:
    alarms = [answer("good", True, "DEFECT", "GOOD")] * 2
    assert not compare([*alarms, answer("defective", True, "NO_VERDICT", "DEFECT")]).reasons
    assert compare([*alarms, answer("defective", True, "NO_VERDICT", "GOOD")]).reasons == [
        "it has 1 missed defect on the held-out frames, the old one 0"
    ]


def test_new_false_alarms_on_frames_that_were_trained_on_count() -> None:
    fixed = answer("good", True, "DEFECT", "GOOD")
    assert compare([fixed, *[answer("good", False, "GOOD", "DEFECT")] * 3]).reasons == [
        "it has 3 false alarms on all reviewed frames, the old one 1"
    ]


@given(ANSWERS)
def test_a_bundle_is_never_better_than_itself(answers: list[Answer]) -> None:
    same = [Answer(frame=a.frame, truth=a.truth, held_out=a.held_out, old=a.old, new=a.old) for a in answers]
    assert compare(same).reasons


def test_figures_have_their_frames_and_intervals() -> None:
    answers = [
        Answer(frame="1", truth="good", held_out=True, old="DEFECT", new="GOOD"),
        Answer(frame="2", truth="good", held_out=True, old="NO_VERDICT", new="NO_VERDICT"),
        Answer(frame="3", truth="good", held_out=False, old="DEFECT", new="DEFECT"),
        Answer(frame="4", truth="defective", held_out=False, old="DEFECT", new="DEFECT"),
    ]
    comparison = compare(answers)
    old, new = comparison.old, comparison.new
    assert (old.false_alarms.count, old.false_alarms.of, new.false_alarms.count) == (1, 2, 0)
    assert (old.no_verdict.count, new.no_verdict.of, new.finds.count, new.finds.of) == (1, 2, 1, 1)
    assert new.missed.interval is None
    # Clopper and Pearson's interval of 1 of 2, from tables.
    assert old.false_alarms.interval == pytest.approx((0.0126, 0.9874), abs=1e-4)
    assert not comparison.reasons
    assert str(new.missed) == "no such frame"
