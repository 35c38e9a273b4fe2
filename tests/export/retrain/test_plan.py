"""Which marked frames a retraining uses, trains on and holds out, and when the new bundle is better."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import cv2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import Missed, Truth
from heatline.edge.wire.events import BundleName, Stroke, Verdict
from heatline.export.retrain.frames import (
    Selection,
    UsableFrame,
    digest_pixels,
    frames_of_folder,
    group_name,
    select_frames,
)
from heatline.export.retrain.judge import Answer, Judged, compare
from heatline.export.retrain.plan import (
    ORDER,
    Candidate,
    DataRecord,
    Origin,
    Plan,
    Provenance,
    Retraining,
    TrainingRecord,
    choose_held_out,
    plan_retraining,
)
from heatline.train.config import TrainConfig
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.labelled import ReviewedFrame
from tests.export.retrain.conftest import good_frame, row_of, write_rows

NO_FORMER: list[tuple[Path, ReviewedFrame]] = []


@pytest.fixture
def data(tmp_path: Path) -> LabelledFolder:
    images = []
    for number, group in enumerate(("a", "b", "t"), start=100):
        path = tmp_path / "data" / f"{group}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), good_frame(number)[..., ::-1])
        images.append(LabelledImage(path, group, False, None))
    return LabelledFolder(tmp_path / "data", "masks", tuple(images), "labels.csv", {})


def frame(folder: Path, seed: int, part: str, truth: Truth = "good") -> UsableFrame:
    path, pixels = folder / f"{seed}.png", good_frame(seed)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return UsableFrame(path, digest_pixels(pixels), truth, "top", group_name(f"part {part}"))


def plan(
    frames: list[UsableFrame],
    data: LabelledFolder,
    verdicts: list[Verdict] | None = None,
    former: list[tuple[Path, ReviewedFrame]] = NO_FORMER,
    retraining: Retraining = Retraining(),  # noqa: B008 it is frozen
    contradictory: frozenset[str] = frozenset(),
    hint: str | None = None,
) -> Plan:
    """Plan by an old bundle that calls every frame DEFECT, unless `verdicts` says otherwise."""
    trained_on = DataRecord("masks", {"train": ["a", "b"], "val": [], "test": ["t"]})
    was = Origin(cast(TrainConfig, None), Provenance(trained_on, TrainingRecord({}), retraining))
    judged = [Judged(each, hint) for each in verdicts or ["DEFECT"] * len(frames)]
    return plan_retraining(Selection(frames, contradictory), lambda _: judged, data, former, was, 1 / 3)


def row(of: UsableFrame) -> ReviewedFrame:
    return ReviewedFrame(file=of.path.name, digest=of.digest, truth="good", group="a")


def test_parts_of_earlier_retrainings_are_never_held_out(tmp_path: Path, data: LabelledFolder) -> None:
    """The earlier frames may be gone, or may have the group of a picture that they resemble."""
    frames = [frame(tmp_path, number, f"P{number}") for number in range(4)]
    was_held_out = plan(frames, data).held_out
    before = Retraining(groups=[each.group for each in frames if each.digest in was_held_out])
    planned = plan(frames, data, retraining=before)
    assert planned.held_out
    assert not planned.held_out & was_held_out
    assert planned.groups == {each.group for each in frames if each.digest not in planned.held_out}


def test_marks_that_are_too_few_or_cannot_be_divided_are_refused(tmp_path: Path, data: LabelledFolder) -> None:
    marks: list[tuple[str, Truth]] = [("P1", "good"), ("P1", "defective"), ("P2", "good"), ("P2", "good")]
    frames = [frame(tmp_path, number, part, truth) for number, (part, truth) in enumerate(marks, 1)]
    with pytest.raises(InputError, match="cannot be divided into some to train on and some to compare with"):
        plan(frames, data, ["DEFECT", "DEFECT", "DEFECT", "GOOD"])  # each part has a false alarm and an only other
    frames = [frame(tmp_path, number, part) for number, part in ((1, "P1"), (2, "P2"), (3, "P2"), (100, "P3"))]
    former = [(frames[1].path, msgspec.structs.replace(row(frames[1]), group=frames[1].group))]
    words = (
        r"4 usable frames, 3 of them on parts that count as trained on .*, with 1 "
        "false alarm and 0 missed defects of this bundle on new parts; expected at least 2"
    )
    with pytest.raises(InputError, match=words):  # of the part that one was trained on, both frames count
        plan(frames, data, former=former)


def test_missed_defects_that_a_training_may_not_help_are_counted(tmp_path: Path, data: LabelledFolder) -> None:
    truths: list[Truth] = ["defective", "defective", "good"]
    frames = [frame(tmp_path, number, f"P{number}", truth) for number, truth in enumerate(truths)]
    verdicts: list[Verdict] = ["GOOD", "NO_VERDICT", "DEFECT"]
    assert plan(frames, data, verdicts, hint="it is hidden").hints == ["2 of 2 missed defects: it is hidden"]
    with pytest.raises(InputError, match=r"new parts \(1 of 1 missed defect: it is hidden\); expected at least 2"):
        plan(frames[1:], data, verdicts[1:], hint="it is hidden")


def test_former_frames_that_are_contradictory_now_and_frames_like_those_of_a_test_group_are_not_trained_on(
    tmp_path: Path, data: LabelledFolder
) -> None:
    frames = [frame(tmp_path, number, f"P{number}") for number in range(3)]
    first, second = (frame(tmp_path, number, f"P{number}") for number in (8, 9))
    former = [(each.path, row(each)) for each in (first, second)]
    noisy = good_frame(102)
    noisy[:40, :40] += 1
    cv2.imwrite(str(tmp_path / "like.png"), noisy[..., ::-1])
    like = UsableFrame(tmp_path / "like.png", digest_pixels(noisy), "good", "top", group_name("part P7"))
    planned = plan([*frames, like], data, former=former, contradictory=frozenset({first.digest}))
    trained = {each.digest for _, each in planned.trained}
    assert trained == {each.digest for each in (*frames, second)} - planned.held_out
    assert like.digest not in planned.held_out


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        group=st.integers(0, 5).map(lambda number: f"reviewed:{number}"),
        kind=st.sampled_from(ORDER),
        pinned=st.integers(0, 9).map(lambda number: number == 0),
    ),
    max_size=12,
)


@given(st.dictionaries(st.sampled_from(ORDER), st.integers(0, 30)), st.floats(0.1, 0.6))
def test_about_the_share_of_each_kind_is_held_out_and_one_of_two(counts: dict[str, int], share: float) -> None:
    """Where each group has one kind."""
    groups = [(f"{kind} {number}", kind) for kind, count in counts.items() for number in range(count)]
    held_out = choose_held_out([Candidate(group, kind, False) for group, kind in groups], share)  # type: ignore[arg-type]
    for kind, count in counts.items():
        found = sum(group.startswith(kind) for group in held_out)
        assert found == (min(max(1, round(share * count)), count - 1) if count > 1 else 0)


@given(CANDIDATES, st.floats(0, 0.9), st.randoms(use_true_random=False))
def test_what_was_trained_on_is_never_held_out_and_each_kind_stays_in_the_training(
    candidates: list[Candidate], share: float, random: Random
) -> None:
    """In any order of the marks."""
    held_out = choose_held_out(candidates, share)
    pinned = {each.group for each in candidates if each.pinned}
    assert not held_out & pinned
    for kind in ORDER:
        groups = {each.group for each in candidates if each.kind == kind} - pinned
        assert not groups or groups - held_out, f"all groups of {kind} are held out"
    random.shuffle(candidates)
    assert choose_held_out(candidates, share) == held_out


OWN = BundleName(name="boards", version="1", digest="1" * 64)
OTHER = BundleName(name="lids", version="1", digest="2" * 64)


def test_frames_that_cannot_be_used_are_counted_and_those_of_one_part_are_one_group(tmp_path: Path) -> None:
    """Frames 1 and 2 can be used; 3 shows the same pixels as 2, 7 and 8 have two truths; the others cannot."""
    stroke = Stroke(((9, 9), (30, 20)), 6)
    rows = [
        row_of(1, "DEFECT", OWN, "false_alarm"),
        row_of(2, "GOOD", OWN, "missed", Missed(missed_xy=[(40, 30)], boxes_xywh=[(1, 2, 3, 4)])),
        row_of(3, "GOOD", OWN, "missed", Missed(missed_xy=[(40, 30), (90, 90)], strokes=[stroke])),
        row_of(4, "DEFECT", OTHER, "false_alarm"),
        row_of(5, "DEFECT", OWN, None),
        row_of(6, "DEFECT", OWN, "false_alarm"),
        row_of(7, "DEFECT", OWN, "false_alarm"),
        row_of(8, "DEFECT", OWN, "right"),
        msgspec.structs.replace(row_of(9, "GOOD", OWN, "right"), review=None),
    ]
    write_rows(tmp_path, rows, [good_frame({3: 2, 8: 7}.get(number, number)) for number in range(1, 10)])
    gone = tmp_path / rows[5].file
    for damage in (lambda: gone.write_bytes(gone.read_bytes()[:500]), gone.unlink):
        damage()
        selection = select_frames(frames_of_folder(tmp_path), "boards")
        both = Missed(missed_xy=[(40, 30), (90, 90)], boxes_xywh=[(1, 2, 3, 4)], strokes=[stroke])
        assert [(one.truth, one.missed) for one in selection.frames] == [("good", Missed()), ("defective", both)]
        assert len({one.group for one in selection.frames}) == 2
        assert str(selection.left_out).startswith("5 marked frames are left out: marks that contradict each other")
        # A former retraining may have trained on one of these.
        assert selection.contradictory == {digest_pixels(good_frame(number)) for number in (5, 7)}
    marked = frames_of_folder(tmp_path)[:2]
    of_part = [replace(one, event=msgspec.structs.replace(one.event, part_id="P7")) for one in marked]
    assert {one.group for one in select_frames(of_part, "boards").frames} == {"reviewed:part P7"}


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a folder that heatline evidence export --reviewed wrote"):
        frames_of_folder(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="has no readable list of exported frames"):
        frames_of_folder(tmp_path)


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


@given(ANSWERS)
def test_a_better_bundle_errs_less_has_no_more_of_each_error_and_loses_no_find(answers: list[Answer]) -> None:
    comparison, held_out = compare(answers), [each for each in answers if each.held_out]
    right = {"good": "GOOD", "defective": "DEFECT"}

    def count(of: list[Answer], name: str, truth: str, verdict: str) -> int:
        return sum((each.truth, getattr(each, name)) == (truth, verdict) for each in of)

    old, new = (sum(getattr(each, name) != right[each.truth] for each in held_out) for name in ("old", "new"))
    no_more = all(
        count(of, "new", *error) <= count(of, "old", *error)
        for error in (("good", "DEFECT"), ("defective", "GOOD"))
        for of in (held_out, answers)
    )
    finds = [each for each in answers if (each.truth, each.old) == ("defective", "DEFECT")]
    lost = [each.frame for each in finds if each.new != "DEFECT"]
    assert (not comparison.reasons) == (new < old and no_more and not lost)
    assert comparison.lost == lost
    assert compare([msgspec.structs.replace(each, new=each.old) for each in answers]).reasons, "never than itself"


def test_figures_have_their_frames_and_intervals() -> None:
    answers = [
        Answer(frame="1", truth="good", held_out=True, old="DEFECT", new="GOOD"),
        Answer(frame="2", truth="good", held_out=True, old="NO_VERDICT", new="NO_VERDICT"),
        Answer(frame="3", truth="good", held_out=False, old="DEFECT", new="DEFECT"),
        Answer(frame="4", truth="defective", held_out=False, old="DEFECT", new="DEFECT"),
    ]
    old, new = compare(answers).old, compare(answers).new
    assert (old.false_alarms.count, old.false_alarms.of, new.false_alarms.count) == (1, 2, 0)
    assert (old.no_verdict.count, new.no_verdict.of, new.finds.count, new.finds.of) == (1, 2, 1, 1)
    # Clopper and Pearson's interval of 1 of 2, from tables.
    assert old.false_alarms.interval == pytest.approx((0.0126, 0.9874), abs=1e-4)
    assert (new.missed.interval, str(new.missed)) == (None, "no such frame")
