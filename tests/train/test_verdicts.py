"""What an evaluation says of the classes and sizes of defects that pass."""

from typing import Any, Literal

import msgspec
import pytest

from heatline.train.evaluation.result import (
    DefectKind,
    Evaluation,
    FrameAnswer,
    count_kinds,
    describe_escapes,
    describe_kinds,
)
from tests.train.evaluations import evaluation, subject

THRESHOLD = 1.0


def frame(score: float, kinds: list[DefectKind], loose: float | None = -1.0, **known: Any) -> FrameAnswer:
    return FrameAnswer(f"{score}.png", None, bool(kinds), score, kinds=kinds, loose_threshold=loose, **known)


def kind(name: str, score: float, area_px: int | None, by: Literal["class", "size"] = "class") -> DefectKind:
    return DefectKind(by, name, score, area_px)


def judged(*frames: FrameAnswer) -> Evaluation:
    made = evaluation(subject(), frames=list(frames))
    calibration = msgspec.structs.replace(made.calibration, score_threshold=THRESHOLD, false_reject_per_frame=0.01)
    return msgspec.structs.replace(made, calibration=calibration)


def sizes(*pairs: tuple[float, str, int]) -> list[FrameAnswer]:
    return [frame(score, [kind(name, score, area)]) for score, name, area in pairs]


def test_a_class_that_passes_is_named_first_and_the_smallest_before_the_others() -> None:
    """Of 3 pits all pass, of 2 scratches none; at 5 % one pit passes. A picture with both counts for each."""
    both = frame(5.0, [kind("scratch", 5.0, 900), kind("pit", -2.0, 9)])
    found = judged(*sizes((0.0, "pit", 9), (0.5, "pit", 12), (2.0, "scratch", 900)), both, frame(0.0, []))
    assert describe_kinds(found) == {
        "escapes": "At 1 % false rejects, 2 of 4 defective pictures pass (at 5 %, 0); whole kinds of defects pass: all "
        "pit 3 of 3 (at 5 %, 1).",
        "missed by class": "pit 3 of 3 (at 5 %, 1), scratch 0 of 2 (at 5 %, 0)",
    }
    assert [(each.name, each.missed, each.pictures) for each in count_kinds([found, found])] == [
        ("pit", 6, 6), ("scratch", 0, 4),
    ]  # fmt: skip
    hostile = judged(*sizes((0.0, "pit\x1b[2J\n", 9), (2.0, "scratch", 900)))
    assert [each.name for each in count_kinds([hostile])] == ["pit\\x1b[2J\\n", "scratch"]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([0.0] * 27 + [2.0] * 8, "At 1 % false rejects, 27 of 35 defective pictures pass."),
        ([0.0] * 3 + [2.0] * 8, None),
        ([2.0] * 3, None),
    ],
)
def test_many_pictures_that_pass_are_told_also_if_no_class_is_known(scores: list[float], sentence: str | None) -> None:
    one = [frame(score, [kind("only", score, None)], loose=None) for score in scores]
    found = judged(*one, frame(0.0, []))
    assert describe_escapes(found, count_kinds([found])) == sentence
    assert count_kinds([found]) == [], "a single class says nothing"
