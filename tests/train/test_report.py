"""The report's page: its numbers are recounted from raw scores, at every position of the slider."""

import re
from pathlib import Path

import msgspec
import pytest

from edge.errors import InputError
from tests.train.evaluations import (
    answers,
    evaluation,
    exhibits_of,
    told,
    write,
)
from tests.train.report_page import Page
from train.evaluation.report.line import NAMES
from train.evaluation.report.write import write_report
from train.evaluation.result import Evaluation, FrameAnswer

NOT_KEPT = "picture not kept"


def report(tmp_path: Path, *what: Evaluation, study: bool = False) -> tuple[str, str]:
    """The page and the tables of some evaluations."""
    folders = [write(one, tmp_path / f"in {at}") for at, one in enumerate(what)]
    page, text = write_report(folders, tmp_path / "out", study=study)
    return page.read_text(), text.read_text()


def whole() -> list[Evaluation]:
    """A report's worth of evaluations: both families, a pair, two data sets."""
    tolds = [
        told("v2", "efficientnetv2_s"),
        told("v2_d", "efficientnetv2_s_d"),
        told("vit", "vit_tiny_patch16_224"),
        told("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
    ]
    return [evaluation(one, gallery=exhibits_of(one), seed=at) for at, one in enumerate(tolds)]


def test_the_page_loads_nothing_and_shows_the_figures_of_the_tables(tmp_path: Path) -> None:
    page, text = report(tmp_path, *whole(), study=True)
    shown = Page(page)
    assert shown.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in shown.loads)
    assert not re.search(r"http|url\([^#]|@import", page)
    assert NOT_KEPT not in page
    assert '<meta name="viewport"' in page
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.strip("|-: ")]
    several = [row for row in rows if len(row) > 2]
    cells = {re.sub(r"[\s*\\]", "", cell) for row in several for cell in row}
    assert len(cells) > 150
    on_page = {re.sub(r"[\s*\\]", "", cell) for cell in shown.cells}
    facts = {re.sub(r"\s", "", "".join(re.sub("<.*?>", "", one))) for one in re.findall(r"<d[dt]>(.*?)</d[dt]>", page)}
    assert cells <= on_page | facts
    figures = whole()[2].truths[0].figures
    assert figures.tile is not None
    assert re.search(rf"\| vit \| .*\| \**{figures.tile.auroc:.4f}\** \|", text)


def test_the_study_stands_in_a_chapter_at_the_end_only_where_asked_for(tmp_path: Path) -> None:
    with_it, text = report(tmp_path / "with", *whole(), study=True)
    without, plain = report(tmp_path / "without", *whole())
    for words in ("Beside the study", "Zabulis", "ViT_tiny fmin", "discard ratio"):
        assert words in with_it
        assert words not in without
    assert "Tables 3.2 and 3.3" in text
    assert text.startswith(plain[: plain.index("## Notes")])
    assert with_it.index("Beside the study") > max(with_it.rindex("<details"), with_it.index('id="figures"'))
    assert with_it.index("data-positions") < with_it.index("Beside the study")


def test_one_model_opens_with_its_warnings_the_question_and_the_slider_and_ends_with_its_figures(
    tmp_path: Path,
) -> None:
    warnings = ["The folds disagree: 2 to 30 % of the defective parts are missed.", "Too few groups: 4."]
    what = evaluation(told("lite"), warnings=warnings, rests_on="5-fold cross-validation over 38 groups")
    page, _ = report(tmp_path, what)
    in_order = [*warnings, "At a threshold of", "<input", 'class="matrix"', "5-fold cross-validation over 38 groups",
                "Defective frames missed", "Good frames rejected", 'id="figures"', "Misses against false rejects",
                "How the figures are measured"]  # fmt: skip
    places = [page.index(words, page.index("<body")) for words in in_order]
    assert places == sorted(places)
    several, _ = report(tmp_path / "several", what, evaluation(told("other")))
    assert f"lite: {warnings[0]}" in several
    assert several.index('id="figures"') < several.index("data-positions"), "a table to compare them comes first"


def counted(frames: list[FrameAnswer], threshold: float) -> tuple[list[str], list[str]]:
    """Names of the missed and of the rejected frames, the worst first, by the verdict rule."""
    missed = sorted((one.score, one.image) for one in frames if one.defective and one.score < threshold)
    rejected = sorted((-one.score, one.image) for one in frames if not one.defective and one.score >= threshold)
    return [name for _, name in missed], [name for _, name in rejected]


@pytest.mark.parametrize("chosen", [0.7, -3.0, 20.0])
def test_numbers_matrix_and_lists_are_recounts_from_the_scores_at_every_position(tmp_path: Path, chosen: float) -> None:
    frames = answers(5, 60, 90)
    made = evaluation(told("lite"), frames=frames)
    made = msgspec.structs.replace(made, calibration=msgspec.structs.replace(made.calibration, score_threshold=chosen))
    page = Page(report(tmp_path, made)[0])
    (positions,) = page.positions
    assert positions["threshold"][positions["start"]] == f"{chosen:.2f}"
    assert (positions["defective"], positions["good"]) == (60, 90)
    step = float(positions["threshold"][1]) - float(positions["threshold"][0])
    for at in range(len(positions["threshold"])):
        missed, rejected = counted(frames, chosen + step * (at - positions["start"]))
        assert (positions["missed"][at], positions["rejected"][at]) == (len(missed), len(rejected))
        assert positions["missedShare"][at] == f"{100 * len(missed) / 60:.1f} %"
        of_missed = [item.text.split()[0] for item in page.items if item.tag == "li" and item.side == "missed"]
        shown = [item.at <= at for item in page.items if item.tag == "li" and item.side == "missed"]
        assert [name for name, is_shown in zip(of_missed, shown, strict=True) if is_shown] == missed[:NAMES]
        of_rejected = [item for item in page.items if item.tag == "li" and item.side == "rejected"]
        assert [item.text.split()[0] for item in of_rejected if at < item.at] == rejected[:NAMES]
    missed, rejected = counted(frames, chosen)
    expected = {
        "missed": len(missed),
        "rejected": len(rejected),
        "caught": 60 - len(missed),
        "passed": 90 - len(rejected),
    }
    for name, count in expected.items():
        assert set(page.now[name]) == {str(count)}, "as it is before a script has run"
    for item in page.items:
        assert item.is_hidden == ((item.at > positions["start"]) == (item.side == "missed"))


def test_a_long_list_ends_with_how_many_more_there_are(tmp_path: Path) -> None:
    frames = [FrameAnswer(f"{at:04}.png", None, True, -5.0 - at) for at in range(1000)]
    frames.append(FrameAnswer("good.png", None, False, -9.0))
    page, _ = report(tmp_path, evaluation(told("lite"), frames=frames))
    assert f'<p class="more quiet">and {1000 - NAMES} more</p>' in page
    names = [item.text.split()[0] for item in Page(page).items if item.tag == "li" and item.side == "missed"]
    assert names == [f"{at:04}.png" for at in range(999, 999 - NAMES, -1)]
    assert len(page) < 100_000


def test_folds_with_thresholds_of_their_own_share_a_slider_above_them(tmp_path: Path) -> None:
    folds = []
    for group, threshold, seed in (("a", 1.0, 1), ("b", -2.5, 2)):
        made = evaluation(told("v2", groups=[group]), frames=answers(seed, groups=[group]))
        calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
        folds.append(msgspec.structs.replace(made, calibration=calibration))
    page = Page(report(tmp_path, *folds)[0])
    each = [counted(fold.frames, fold.calibration.score_threshold) for fold in folds]
    assert page.now["threshold"] == ["0.00"]
    assert set(page.now["missed"]) == {str(sum(len(missed) for missed, _ in each))}
    assert set(page.now["rejected"]) == {str(sum(len(rejected) for _, rejected in each))}


def test_defects_missed_in_rejected_frames_are_named_the_most_first(tmp_path: Path) -> None:
    frames = [
        FrameAnswer("all.png", None, True, 5.0, 3, 3, 0),
        FrameAnswer("one.png", None, True, 5.0, 3, 2, 0),
        FrameAnswer("two.png", None, True, 5.0, 3, 1, 0),
        FrameAnswer("escaped.png", None, True, -5.0, 3, 0, 0),
        FrameAnswer("unplaced.png", None, True, 5.0),
    ]
    page, _ = report(tmp_path, evaluation(told("lite"), frames=frames))
    part = page[page.index("Defects missed in frames") :]
    names = re.findall(r"<li>(.*?) <span>(.*?)</span></li>", part[: part.index("</ol>")])
    assert names == [("two.png", "2 of 3 defects missed"), ("one.png", "1 of 3 defects missed")]


def test_where_no_frame_is_good_what_stands_in_is_counted_and_not_named(tmp_path: Path) -> None:
    frames = [FrameAnswer("a.png", None, True, 5.0)]
    page, _ = report(tmp_path, evaluation(told("lite"), frames=frames, good_stand_ins=[-1.0, 2.0]))
    assert set(Page(page).now["rejected"]) == {"1"}
    assert "defective frames stand in" in page
    none, _ = report(tmp_path / "none", evaluation(told("lite"), frames=frames))
    assert Page(none).now["rejectedShare"] == ["not known"]
    assert "Misses against false rejects" not in none


@pytest.mark.parametrize(
    ("thresholds", "missed", "false"),
    [
        ([1.5], ["-0.50"], ["3.50", "1.50"]),
        ([1.5, 2.0], ["-0.50", "-0.50", "1.50"], ["3.50", "3.50", "1.50"]),
        ([-0.5], [], ["3.50", "1.50", "-0.50"]),
        ([4.0], ["-0.50", "1.50", "3.50"], []),
    ],
)
def test_frames_and_tiles_on_the_wrong_side_of_the_threshold_of_their_fold_are_shown(
    tmp_path: Path, thresholds: list[float], missed: list[str], false: list[str]
) -> None:
    """Logits are 3.5, 1.5 and -0.5 of each kind; one that reaches the threshold is called defective."""
    folds = []
    for group, threshold in zip("ab", thresholds, strict=False):
        of = told("v2", groups=[group])
        made = evaluation(of, gallery=exhibits_of(of))
        calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
        folds.append(msgspec.structs.replace(made, calibration=calibration))
    page = report(tmp_path, *folds)[0]
    if len(folds) == 1:
        assert f"frame DEFECT from {thresholds[0]:.2f} logits</span>" in page, "on the colour scale"
    else:
        assert "from the evidence threshold of its fold</span>" in page
    pictures = [item for item in Page(page).items if item.tag == "figure" and not item.is_hidden]
    for is_tile in (False, True):
        of_kind = [item for item in pictures if ("tile at" in item.text) == is_tile]
        assert sorted(item.text.split()[-1] for item in of_kind if item.side == "missed") == sorted(missed)
        assert sorted(item.text.split()[-1] for item in of_kind if item.side == "rejected") == sorted(false)


def test_names_from_users_files_are_shown_and_not_run(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|x\"' onload=alert(1)"
    one = told(nasty, data=nasty, part=nasty, groups=[nasty], recipe=nasty, path=nasty, engine=nasty)
    gallery = [msgspec.structs.replace(item, image=nasty, caption=nasty) for item in exhibits_of(one, 1)]
    frames = [FrameAnswer(nasty, nasty, is_bad, 1.0, 2, 1, 0) for is_bad in (True, False)]
    made = evaluation(one, gallery=gallery, truths=(nasty,), frames=frames, warnings=[nasty], rests_on=nasty)
    folder = write(made, tmp_path / "in")
    page, text = write_report([folder], tmp_path / "out", nasty, study=True)
    assert Page(page.read_text()).tags.count("script") == 2  # the page's own
    assert page.read_text().count("&lt;script&gt;alert(1)") > 10
    table = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert all("<script" not in line.replace("\\<script", "") for line in table)
    assert all("|x" not in line.replace("\\|x", "") for line in table)


def test_what_is_no_picture_in_the_evaluations_folder_is_not_shown(tmp_path: Path) -> None:
    """One lies elsewhere, one is text, one is empty, and one is not there."""
    one = told("v2")
    kinds = exhibits_of(one, 2)[:4]
    folder = write(evaluation(one, gallery=kinds), tmp_path / "in")
    (folder / kinds[0].file).rename(tmp_path / "elsewhere.png")
    (folder / kinds[0].file).symlink_to(tmp_path / "elsewhere.png")
    (folder / kinds[1].file).write_text("no picture")
    (folder / kinds[2].file).write_text("")
    (folder / kinds[3].file).unlink()
    text = write_report([folder], tmp_path / "out")[0].read_text()
    pictures = [attributes for tag, attributes in Page(text).elements if tag == "img" and "src" in attributes]
    assert [str(one["alt"]).partition(" of ")[0] for one in pictures] == ["Colour scale"], "that of the legend"
    assert NOT_KEPT in text


def test_no_folder_and_a_folder_without_an_evaluation_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluation was named"):
        write_report([], tmp_path / "out")
    with pytest.raises(InputError, match="evaluate again"):
        write_report([tmp_path], tmp_path / "out")
    (tmp_path / "file").touch()
    folder = write(evaluation(told()), tmp_path / "in")
    with pytest.raises(InputError, match="name another folder"):
        write_report([folder], tmp_path / "file" / "out")
