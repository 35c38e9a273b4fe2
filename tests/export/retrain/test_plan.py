"""The plan of a retraining: what is trained on, what is held out, and which marks cannot be divided."""

from pathlib import Path
from typing import cast

import cv2
import msgspec
import pytest

from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import Truth
from heatline.edge.wire.events import Verdict
from heatline.export.retrain.frames import Selection, UsableFrame, digest_pixels, group_name
from heatline.export.retrain.plan import Origin, Plan, Retraining, plan_retraining
from heatline.train.config import TrainConfig
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.labelled import ReviewedFrame
from tests.export.retrain.marked import good_frame

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
) -> Plan:
    """Plan by an old bundle that calls every frame DEFECT, unless `verdicts` says otherwise."""
    origin = Origin(
        cast(TrainConfig, None), {"train": ["a", "b"], "val": [], "test": ["t"]}, frozenset(), {}, retraining
    )
    selection = Selection(frames, contradictory)
    return plan_retraining(selection, lambda _: verdicts or ["DEFECT"] * len(frames), data, former, origin, 1 / 3)


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


def test_frames_of_a_part_are_held_out_together(tmp_path: Path, data: LabelledFolder) -> None:
    frames = [frame(tmp_path, number, f"P{number // 2}") for number in range(6)]
    held_out = plan(frames, data).held_out
    assert {each.group for each in frames if each.digest in held_out}.isdisjoint(
        each.group for each in frames if each.digest not in held_out
    )


def test_marks_that_cannot_be_divided_are_refused_before_a_training(tmp_path: Path, data: LabelledFolder) -> None:
    """Each part has one false alarm, and the only frame of another kind."""
    frames = [
        frame(tmp_path, 1, "P1"), frame(tmp_path, 2, "P1", "defective"),
        frame(tmp_path, 3, "P2"), frame(tmp_path, 4, "P2"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="cannot be divided into some to train on and some to compare with"):
        plan(frames, data, ["DEFECT", "DEFECT", "DEFECT", "GOOD"])


def test_a_refusal_says_how_many_marks_lie_on_parts_that_count_as_trained_on(
    tmp_path: Path, data: LabelledFolder
) -> None:
    """Of the four, one is of a new part; of the part that one was trained on, both frames count."""
    frames = [frame(tmp_path, number, part) for number, part in ((1, "P1"), (2, "P2"), (3, "P2"), (100, "P3"))]
    former = [(frames[1].path, msgspec.structs.replace(row(frames[1]), group=frames[1].group))]
    with pytest.raises(
        InputError,
        match=r"4 usable frames, 3 of them on parts that count as trained on .*, with 1 "
        "false alarm and 0 missed defects of this bundle on new parts; expected at least 2",
    ):
        plan(frames, data, former=former)


def test_a_former_frame_whose_marks_are_contradictory_now_is_not_trained_on(
    tmp_path: Path, data: LabelledFolder
) -> None:
    frames = [frame(tmp_path, number, f"P{number}") for number in range(3)]
    first, second = (frame(tmp_path, number, f"P{number}") for number in (8, 9))
    former = [(each.path, row(each)) for each in (first, second)]
    planned = plan(frames, data, former=former, contradictory=frozenset({first.digest}))
    trained = {each.digest for _, each in planned.trained}
    assert first.digest not in trained
    assert second.digest in trained


def test_frames_like_pictures_of_a_test_group_are_not_trained_on(tmp_path: Path, data: LabelledFolder) -> None:
    frames = [frame(tmp_path, number, f"P{number}") for number in range(3)]
    noisy = good_frame(102)
    noisy[:40, :40] += 1
    cv2.imwrite(str(tmp_path / "like.png"), noisy[..., ::-1])
    like = UsableFrame(tmp_path / "like.png", digest_pixels(noisy), "good", "top", group_name("part P7"))
    planned = plan([*frames, like], data)
    assert {each.digest for _, each in planned.trained} == {each.digest for each in frames} - planned.held_out
    assert like.digest not in planned.held_out


def test_if_all_frames_look_alike_it_is_said_that_similarity_shows_nothing(
    tmp_path: Path, data: LabelledFolder
) -> None:
    frames = [frame(tmp_path, number, f"P{number}") for number in range(3)]
    assert plan(frames, data).note is None
    alike = []
    for number in range(8):
        pixels, path = good_frame(7), tmp_path / f"alike{number}.png"
        pixels[number, :] += 1
        cv2.imwrite(str(path), pixels[..., ::-1])
        alike.append(UsableFrame(path, digest_pixels(pixels), "good", "top", group_name(f"part {number}")))
    note = plan(alike, data).note or ""
    assert "look nearly identical" in note
    assert "may then be both trained on and held out" in note


def test_a_record_of_an_older_version_has_no_groups() -> None:
    assert msgspec.convert({"trained": ["1"]}, Retraining) == Retraining(trained=["1"])
