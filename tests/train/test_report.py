"""The report: its tables as golden text, its page, and its slider, which follows the verdict rule frame by frame."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError, TrainingError
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.edge.util.page import Table
from heatline.train.evaluation import study_chapter
from heatline.train.evaluation.gallery import FRAMES, GAP_PX, TRUTH_RGB, FrameGallery, draw_frame
from heatline.train.evaluation.line_view import NAMES, POSITIONS, line_view, slider_places
from heatline.train.evaluation.observe import relative_name
from heatline.train.evaluation.report import write_report
from heatline.train.evaluation.result import DefectKind, Evaluation, FrameAnswer
from heatline.train.evaluation.rows import PictureSet, Row, StoredEvaluation, figure_tables, make_rows
from tests.golden import assert_golden
from tests.train.evaluations import answers, evaluation, made_figures, pictured, rule_figures, subject, write
from tests.train.report_page import Page

pytestmark = pytest.mark.usefixtures("one_thread")


def report(tmp_path: Path, *evaluations: Evaluation, study: bool = False) -> tuple[str, str]:
    """Write a report, and return its page and its tables."""
    folders = [write(made, tmp_path / f"in {at}") for at, made in enumerate(evaluations)]
    page, text = write_report(folders, tmp_path / "out", study=study)
    return page.read_text(), text.read_text()


def judged_by(threshold: float, made: Evaluation) -> Evaluation:
    calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
    return msgspec.structs.replace(made, calibration=calibration)


def test_the_page_loads_nothing_and_shows_the_figures_of_the_tables_with_the_study_at_the_end(tmp_path: Path) -> None:
    """Of both families, a full and a cut model, two data sets, intervals, classes and sizes."""
    ends = {"study.f1": (0.4, 0.6), "max.f1": (0.2, 0.8), "tile.accuracy": (0.9, 0.97), "frame.escape_rate": (0.02, 1)}
    made = [
        evaluation(about, frames=[*pictured(), *answers(at)], seed=at, intervals=ends if at == 2 else {})
        for at, about in enumerate((
            subject("v2", "efficientnetv2_s"), subject("v2_d", "efficientnetv2_s_d"),
            subject("vit", "vit_tiny_patch16_224"), subject("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
        ))
    ]  # fmt: skip
    kinds = [[DefectKind("class", name, -9.0, area)] for name, area in (("pit", 9), ("dent", 400))]
    frames = [msgspec.structs.replace(frame, kinds=kinds[at % 2] if frame.defective else [])
              for at, frame in enumerate(made[3].frames)]  # fmt: skip
    page, text = report(tmp_path, *made[:3], msgspec.structs.replace(made[3], frames=frames), study=True)
    assert_golden("train_report", text)
    shown = Page(page)
    assert {load[:23] for load in shown.loads} == {"data:image/jpeg;base64,"}
    assert not re.search(r"http|url\([^#]|@import|picture missing", page)
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.strip("|-: ")]
    cells = {re.sub(r"[\s*\\]", "", cell) for row in rows if len(row) > 2 for cell in row}
    assert cells <= {re.sub(r"[\s*\\]", "", part.text) for part in shown.parts if part.tag in ("td", "th", "dd", "dt")}
    in_order = ['id="figures"', "data-positions", "Missed by class and by size", "Comparison with the study", "ViT_tin"]
    assert sorted(in_order, key=page.index) == in_order
    plain, _ = report(tmp_path / "plain", made[0])
    assert "Comparison with the study" not in plain
    assert "Missed by class" not in plain


def counted(frames: list[FrameAnswer], threshold: float) -> tuple[list[str], list[str]]:
    """Return the names of the missed and of the rejected frames by the verdict rule, the worst first."""
    ordered = sorted(frames, key=lambda frame: (frame.score, frame.image))
    missed = [frame.image for frame in ordered if frame.defective and frame.score < threshold]
    return missed, [frame.image for frame in reversed(ordered) if not frame.defective and frame.score >= threshold]


SIDES = "missed", "rejected"


@pytest.mark.parametrize("threshold", [0.7, 20.0])
def test_numbers_and_lists_follow_the_scores_at_every_position(tmp_path: Path, threshold: float) -> None:
    frames = answers(5, 60, 90)
    page = Page(report(tmp_path, judged_by(threshold, evaluation(subject("lite"), frames=frames)))[0])
    (element,) = page.having("data-positions")
    positions = json.loads(element.known["data-positions"] or "")
    start, thresholds = positions["start"], [float(each) for each in positions["threshold"]]
    assert (thresholds[start], positions["defective"], positions["good"]) == (threshold, 60, 90)
    listed = {side: [item for item in page.having("data-side", side) if item.tag == "li"] for side in SIDES}
    for at, place in enumerate(threshold + (thresholds[1] - thresholds[0]) * (np.arange(len(thresholds)) - start)):
        for side, names in zip(SIDES, counted(frames, place), strict=True):
            assert positions[side][at] == len(names)
            shown = [item for item in listed[side] if (item.at <= at) == (side == "missed")]
            assert [item.text.split()[0] for item in shown] == names[:NAMES]
    missed, rejected = (len(names) for names in counted(frames, threshold))
    expected = {"missed": missed, "rejected": rejected, "caught": 60 - missed, "passed": 90 - rejected}
    assert {name: page.now(name) for name in expected} == {name: {str(count)} for name, count in expected.items()}
    for item in page.having("data-at"):
        assert ("hidden" in item.known) == ((item.at > start) == (item.known["data-side"] == "missed"))


def test_folds_with_different_thresholds_share_a_slider(tmp_path: Path) -> None:
    folds = [
        judged_by(threshold, evaluation(subject("v2", groups=[group]), frames=answers(seed, groups=[group])))
        for group, threshold, seed in (("a", 1.0, 1), ("b", -2.5, 2))
    ]
    page = Page(report(tmp_path, *folds)[0])
    each = [counted(fold.frames, fold.calibration.score_threshold) for fold in folds]
    assert page.now("threshold") == {"0.00"}
    for side, names in zip(SIDES, zip(*each, strict=True), strict=True):
        assert page.now(side) == {str(sum(map(len, names)))}


def test_frames_that_set_the_threshold_are_counted_by_that_of_the_others(tmp_path: Path) -> None:
    """As the numbers of the confusion matrix do at the slider's start, which is at the calibrated threshold."""
    made = evaluation(subject("v2"))
    held_out = [msgspec.structs.replace(frame, threshold=0.7 + at % 3 - 1) for at, frame in enumerate(made.frames)]
    wrong = [frame for frame in held_out if frame.defective == (frame.score < (frame.threshold or 0))]
    page = Page(report(tmp_path, msgspec.structs.replace(made, frames=held_out))[0])
    assert page.now("threshold") == {"0.70"}
    assert page.now("missed") == {str(sum(frame.defective for frame in wrong))}
    shown = {item.text.split()[0] for item in page.having("data-at") if item.tag == "li" and "hidden" not in item.known}
    assert shown == {frame.image for frame in wrong}


def test_names_from_users_files_are_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|x\"' onload=alert(1)"
    about = subject(nasty, data=nasty, part=nasty, groups=[nasty], recipe=nasty, path=nasty, engine=nasty)
    frames = [FrameAnswer(nasty, nasty, is_bad, 1.0, 2, 1, 0, picture=f"{is_bad}.png") for is_bad in (True, False)]
    made = evaluation(about, truth=nasty, frames=frames, warnings=[nasty], rests_on=nasty)
    page, text = report(tmp_path, made, study=True)
    assert [tag for tag, _ in Page(page).elements].count("script") == 2  # those of the page itself
    assert page.count("&lt;script&gt;alert(1)") > 10
    table = " ".join(line for line in text.splitlines() if line.startswith("|"))
    assert not re.search(r"(?<!\\)(<script|\|x)", table)


def test_files_that_are_not_pictures_of_the_evaluation_are_not_shown(tmp_path: Path) -> None:
    """One is text, one is missing, and one is a folder."""
    frames = pictured(2)
    folder = write(evaluation(subject("v2"), frames=frames), tmp_path / "in")
    text, *others = (folder / str(frame.picture) for frame in frames)
    text.write_text("no picture")
    for file in others:
        file.unlink()
    others[0].mkdir()
    page = write_report([folder], tmp_path / "out")[0].read_text()
    pictures = [str(part.known["alt"]).partition(" of ")[0] for part in Page(page).having("src") if part.tag == "img"]
    assert (pictures, "picture missing" in page) == (["Colour scale"], True), "only that of the legend"


@pytest.mark.parametrize(
    ("given", "out", "kind", "told"),
    [
        ([], "out", InputError, "no evaluation was named"),
        (["."], "out", InputError, "evaluate again"),
        (["in"], "file/out", TrainingError, "choose another place with --out"),
    ],
)
def test_a_report_without_an_evaluation_or_a_place_is_refused(
    tmp_path: Path, given: list[str], out: str, kind: type[Exception], told: str
) -> None:
    (tmp_path / "file").touch()
    write(evaluation(subject()), tmp_path / "in")
    with pytest.raises(kind, match=told):
        write_report([tmp_path / name for name in given], tmp_path / out)


# Rows and folds.


def only_set(*evaluations: Evaluation) -> PictureSet:
    (only,) = make_rows(StoredEvaluation(made, Path("none")) for made in evaluations)
    return only


def tables_of(pictures: PictureSet) -> dict[str, Table]:
    """Return the tables of the line's figures by their titles."""
    return {table.title: table for table in figure_tables(pictures)}


def line_of(table: Table, name: str) -> dict[str, str]:
    """Return the texts of a line, by column."""
    line = next(line for line in table.lines if line.cells[0].text == name)
    return {column.name: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


def fold(group: str, model: str = "lite", **known: float | None) -> Evaluation:
    return evaluation(subject(model, groups=[group], path=f"runs/{group}/{model}"), made_figures(**known))


def test_folds_make_one_row_of_means_and_sums_unless_one_does_not_know_a_figure() -> None:
    two = [fold("a", tile__auroc=0.9, tile__tiles=10), fold("b", tile__auroc=0.7, tile__tiles=30)]
    pictures = only_set(*two, fold("c", tile__auroc=0.2, frame__auroc=None, frame__defects=None))
    (row,), tables = pictures.rows, tables_of(pictures)
    assert row.figure("tile.auroc") == pytest.approx((0.9 + 0.7 + 0.2) / 3)
    assert (row.count("tile.tiles"), row.figure("frame.auroc")) == (10 + 30 + 1200, None)
    at = [column.name for column in tables["Folds"].columns].index("groups left out")
    assert [line.cells[at].text for line in tables["Folds"].lines] == ["a", "b", "c"]
    assert line_of(tables["Tiles and pixels"], "lite")["tile AUROC"] == "0.6000"
    line = line_of(tables["Frames and defects"], "lite")
    assert line["defective frames missed"] == "6 of 60"
    assert not {"defects hit by a peak", "picture AUROC"} & line.keys(), "no column of dashes"

    apart = only_set(*(evaluation(subject("lite", path=path)) for path in ["first/lite", "second/lite"]))
    assert ({row.label for row in apart.rows}, "Folds" in tables_of(apart)) == ({"first/lite", "second/lite"}, False)
    made = evaluation(subject()), evaluation(subject(data="tiles")), evaluation(subject(), truth="boxes")
    titles = [each.title for each in make_rows(StoredEvaluation(one, Path("none")) for one in made)]
    assert titles == ["hripcb, by boxes", "hripcb, by masks", "tiles, by masks"]


def folds_of(name: str, **values: float) -> list[Evaluation]:
    """Return a row with a fold per group, whose figures of maps and tiles all are its value."""
    return [
        fold(group, name, tile__average_precision=value, study__pointing=value, **{
            key.replace(".", "__"): each for key, each in rule_figures("study", value, value).items()
        })
        for group, value in values.items()
    ]  # fmt: skip


def test_rows_are_ranked_and_the_best_marked_if_they_rest_on_the_same_folds() -> None:
    table = study_chapter.study_ranks(only_set(*folds_of("low", a=0.1, b=0.5), *folds_of("high", a=0.9, b=0.7)))
    low, high = line_of(table, "low"), line_of(table, "high")
    assert (table.warning, high["F1"], low["F1"]) == ("", "1", "2")
    assert float(high["mean across"]) < float(low["mean across"])
    same = only_set(*folds_of("x", a=0.1, b=0.9), *folds_of("y", a=0.3, b=0.4))
    other = only_set(*folds_of("x", a=0.1, b=0.9), *folds_of("y", a=0.3))
    ranks = study_chapter.study_ranks(other)
    assert set(list(line_of(ranks, "x").values())[2:]) == {"-"}
    assert f"**{ranks.warning}**" in ranks.markdown(2)
    for make in (study_chapter.maps, lambda pictures: tables_of(pictures)["Tiles and pixels"]):
        assert (make(same).warning, "**0.5000**" in make(same).markdown(0)) == ("", True)
        (bold,) = [line for line in make(other).markdown(0).splitlines() if "**" in line]
        assert "Rows rest on different pictures and do not compare" in bold


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"groups": ["a", "b"], "part": "test"}, {"groups": ["b", "a"], "part": "groups a and b"}, True),
        ({"groups": ["a", "b"]}, {"groups": ["a", "b"], "pictures": 29}, False),
        ({"groups": ["a"], "part": "test"}, {"groups": ["a", "b"], "part": "all"}, False),
        ({"groups": [], "part": "test"}, {"groups": [], "part": "test"}, True),
        ({"groups": [], "part": "test"}, {"groups": [], "part": "all"}, False),
        ({"groups": [], "part": "test"}, {"groups": ["a"], "part": "test"}, False),
    ],
)
def test_pictures_are_the_same_by_their_groups_or_without_groups_by_their_part(
    first: dict[str, Any], second: dict[str, Any], is_same: bool
) -> None:
    pictures = only_set(evaluation(subject("a", **first)), evaluation(subject("b", **second)))
    assert (pictures.mismatch == "") == is_same


@pytest.mark.parametrize(
    ("ends", "shown"),
    [
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ],
)
def test_a_figure_with_a_wide_interval_has_few_digits(ends: tuple[float, float], shown: str) -> None:
    made = evaluation(subject("lite"), made_figures(tile__auroc=0.6123), intervals={"tile.auroc": ends})
    assert f"| {shown} |" in tables_of(only_set(made))["Tiles and pixels"].markdown(0)


# The slider.


LOGITS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-20, 20, width=32), st.floats(-1e6, 1e6))
"""Scores, some of them equal."""
SCORED = st.lists(st.tuples(LOGITS, st.booleans()), max_size=12)
"""Score of a frame, and whether the frame is defective."""


@given(SCORED, st.floats(-25, 25))
def test_every_position_counts_frames_by_the_verdict_rule(frames: list[tuple[float, bool]], calibrated: float) -> None:
    answered = [FrameAnswer(f"{at}.png", None, is_bad, score) for at, (score, is_bad) in enumerate(frames)]
    made = judged_by(calibrated, evaluation(subject(), frames=answered))
    view = line_view(Row("lite", (StoredEvaluation(made, Path("none")),)))
    above = sorted((score - calibrated, is_bad) for score, is_bad in frames)
    places, start, _ = slider_places([each for each, _ in above])
    positions, bad = view["positions"], sum(is_bad for _, is_bad in frames)
    assert (positions["start"], places[start]) == (start, 0)
    assert (np.diff(places) > 0).all()
    assert len(set(positions["threshold"])) == len(places) <= POSITIONS + 5
    for at, place in enumerate(places.tolist()):
        assert positions["missed"][at] == sum(each < place for each, is_bad in above if is_bad)
        assert positions["rejected"][at] == sum(each >= place for each, is_bad in above if not is_bad)
    assert [positions[side][at] for side in SIDES for at in (0, -1)] == [0, bad, len(frames) - bad, 0]
    listed = sorted(each.at for side in SIDES for each in view[side])
    for (score, _), position in zip(above, listed, strict=True):
        judged = [at < position for at in range(len(places))]
        assert judged == [score >= place for place in places], "a frame is judged DEFECT before its own position"


# The gallery.


def drawn_frame(hw: tuple[int, int], *, defective: bool, reference: bool = False) -> NDArray[np.uint8]:
    """Draw a grey frame with a hot cell of 10 px at y 20, x 30; a defective frame has a true square."""
    truth, heatmap = np.zeros(hw, np.bool_), np.full((hw[0] // 10, hw[1] // 10), -1, np.float32)
    truth[20:60, 30:70] = defective
    heatmap[2, 3] = 4.0
    tiles = TileScores(np.zeros((1, 2), np.int32), np.array([4.0], np.float32), 100)
    rgb, judgement = np.full((*hw, 3), 90, np.uint8), Judgement("GOOD", hw, 4.0, heatmap, [], tiles)
    return draw_frame(rgb, truth, rgb // 2 if reference else None, judgement, 10, ColourScale.around(2.0, -1.0))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=20))
def test_frames_of_the_lowest_and_highest_scores_are_shown(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bool]]
) -> None:
    gallery, folder = FrameGallery(), tmp_path_factory.mktemp("frames")
    for number, (score, defective) in enumerate(seen):
        gallery.add(number, float(score), defective, lambda: np.zeros((2, 2, 3), np.uint8))
    written = gallery.write(folder)
    assert all((folder / file).is_file() for file in written.values())
    for sign, is_bad in ((1, True), (-1, False)):
        worst = sorted(sign * score for score, defective in seen if defective is is_bad)[:FRAMES]
        assert sorted(sign * seen[number][0] for number in written if seen[number][1] is is_bad) == worst


def test_a_frame_is_shown_with_its_truth_its_reference_and_under_its_heatmap() -> None:
    tall, wide = drawn_frame((150, 100), defective=True), drawn_frame((100, 150), defective=False)
    compared = drawn_frame((150, 100), defective=True, reference=True)
    outline, heat = (tall[:, :100] == TRUTH_RGB).all(axis=2), tall[:, -100:]
    assert (outline[20:60, [30, 69]].all(), outline[30:50, 40:60].any()) == (True, False)
    assert heat[25, 35, 0] > 150
    assert (heat[100:, 60:] == 90).all(), "as cold as a good frame"
    assert tall.shape == (150, 2 * 100 + GAP_PX, 3)
    assert wide.shape == (2 * 100 + GAP_PX, 150, 3), "wide frames lie one below the other"
    assert not (wide == TRUTH_RGB).all(axis=2).any()
    assert (compared[:, 100 + GAP_PX : 200 + GAP_PX] == 90 // 2).all()
    names = [relative_name(Path("/a"), Path(file)) for file in ("/a/good/a.png", "elsewhere/a.png", "/a/l\udcefne.png")]
    assert names == ["good/a.png", "a.png", "l?ne.png"], "also if it is not UTF-8"
