"""The report's page, whose numbers are recounted from raw scores at every position of the slider."""

import re
from pathlib import Path

import msgspec
import pytest

from heatline.edge.errors import InputError, TrainingError
from heatline.train.evaluation.line_view import NAMES
from heatline.train.evaluation.report import write_report
from heatline.train.evaluation.result import DefectKind, Evaluation, FrameAnswer
from tests.train.evaluations import (
    answers,
    evaluation,
    pictured,
    subject,
    write,
)
from tests.train.report_page import Page

MISSING = "picture missing"


def report(tmp_path: Path, *evaluations: Evaluation, study: bool = False) -> tuple[str, str]:
    """Write a report, and return its page and its tables."""
    folders = [write(made, tmp_path / f"in {at}") for at, made in enumerate(evaluations)]
    page, text = write_report(folders, tmp_path / "out", study=study)
    return page.read_text(), text.read_text()


def several_evaluations() -> list[Evaluation]:
    """Return evaluations of both families, a full and a cut model, and two data sets."""
    subjects = [
        subject("v2", "efficientnetv2_s"),
        subject("v2_d", "efficientnetv2_s_d"),
        subject("vit", "vit_tiny_patch16_224"),
        subject("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
    ]
    return [evaluation(about, frames=[*pictured(), *answers(at)], seed=at) for at, about in enumerate(subjects)]


def test_the_page_loads_nothing_and_shows_the_figures_of_the_tables(tmp_path: Path) -> None:
    page, text = report(tmp_path, *several_evaluations(), study=True)
    shown = Page(page)
    assert shown.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in shown.loads)
    assert not re.search(r"http|url\([^#]|@import", page)
    assert MISSING not in page
    assert '<meta name="viewport"' in page
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.strip("|-: ")]
    several = [row for row in rows if len(row) > 2]
    cells = {re.sub(r"[\s*\\]", "", cell) for row in several for cell in row}
    assert len(cells) > 150
    on_page = {re.sub(r"[\s*\\]", "", cell) for cell in shown.cells}
    facts = {
        re.sub(r"\s", "", "".join(re.sub("<.*?>", "", fact))) for fact in re.findall(r"<d[dt]>(.*?)</d[dt]>", page)
    }
    assert cells <= on_page | facts
    assert re.search(r"\| vit \| .*\| \**0\.9500\** \|", text)


def test_the_study_has_an_optional_chapter_at_the_end(tmp_path: Path) -> None:
    with_study, text = report(tmp_path / "with", *several_evaluations(), study=True)
    without, plain = report(tmp_path / "without", *several_evaluations())
    for text_part in ("Comparison with the study", "Zabulis", "ViT_tiny fmin"):
        assert text_part in with_study
        assert text_part not in without
    assert "Tables 3.2 and 3.3" in text
    assert text.startswith(plain[: plain.index("## Notes")])
    assert with_study.index("Comparison with the study") > max(
        with_study.rindex("<details"), with_study.index('id="figures"')
    )
    assert with_study.index("data-positions") < with_study.index("Comparison with the study")


def test_the_parts_of_the_page_stand_in_order(
    tmp_path: Path,
) -> None:
    warnings = ["The folds disagree: 2 to 30 % of the defective parts are missed.", "Too few groups: 4."]
    made = evaluation(subject("lite"), warnings=warnings, rests_on="5-fold cross-validation over 38 groups")
    page, _ = report(tmp_path, made)
    in_order = [*warnings, "At a threshold of", "<input", 'class="confusion"', "5-fold cross-validation over 38 groups",
                "Defective frames missed", "Good frames rejected", 'id="figures"',
                "How the figures are measured"]  # fmt: skip
    places = [page.index(part, page.index("<body")) for part in in_order]
    assert places == sorted(places)
    several, _ = report(tmp_path / "several", made, evaluation(subject("other")))
    assert f"lite: {warnings[0]}" in several
    assert several.index('id="figures"') < several.index("data-positions"), (
        "the table that compares the models comes first"
    )


def counted(frames: list[FrameAnswer], threshold: float) -> tuple[list[str], list[str]]:
    """Return the names of the missed and of the rejected frames by the verdict rule, the worst first."""
    missed = sorted((frame.score, frame.image) for frame in frames if frame.defective and frame.score < threshold)
    rejected = sorted(
        (-frame.score, frame.image) for frame in frames if not frame.defective and frame.score >= threshold
    )
    return [name for _, name in missed], [name for _, name in rejected]


@pytest.mark.parametrize("threshold", [0.7, -3.0, 20.0])
def test_numbers_and_lists_follow_the_scores_at_every_position(tmp_path: Path, threshold: float) -> None:
    frames = answers(5, 60, 90)
    made = evaluation(subject("lite"), frames=frames)
    made = msgspec.structs.replace(
        made, calibration=msgspec.structs.replace(made.calibration, score_threshold=threshold)
    )
    page = Page(report(tmp_path, made)[0])
    (positions,) = page.positions
    assert positions["threshold"][positions["start"]] == f"{threshold:.2f}"
    assert (positions["defective"], positions["good"]) == (60, 90)
    step = float(positions["threshold"][1]) - float(positions["threshold"][0])
    for at in range(len(positions["threshold"])):
        missed, rejected = counted(frames, threshold + step * (at - positions["start"]))
        assert (positions["missed"][at], positions["rejected"][at]) == (len(missed), len(rejected))
        assert positions["missedShare"][at] == f"{100 * len(missed) / 60:.1f} %"
        of_missed = [item.text.split()[0] for item in page.items if item.tag == "li" and item.side == "missed"]
        shown = [item.at <= at for item in page.items if item.tag == "li" and item.side == "missed"]
        assert [name for name, is_shown in zip(of_missed, shown, strict=True) if is_shown] == missed[:NAMES]
        of_rejected = [item for item in page.items if item.tag == "li" and item.side == "rejected"]
        assert [item.text.split()[0] for item in of_rejected if at < item.at] == rejected[:NAMES]
    missed, rejected = counted(frames, threshold)
    expected = {
        "missed": len(missed),
        "rejected": len(rejected),
        "caught": 60 - len(missed),
        "passed": 90 - len(rejected),
    }
    for name, count in expected.items():
        assert set(page.now[name]) == {str(count)}, "before the script runs"
    for item in page.items:
        assert item.is_hidden == ((item.at > positions["start"]) == (item.side == "missed"))


def test_a_long_list_ends_with_the_number_of_the_others(tmp_path: Path) -> None:
    frames = [FrameAnswer(f"{at:04}.png", None, True, -5.0 - at) for at in range(1000)]
    frames.append(FrameAnswer("good.png", None, False, -9.0))
    page, _ = report(tmp_path, evaluation(subject("lite"), frames=frames))
    assert f'<p class="more quiet">and {1000 - NAMES} more</p>' in page
    names = [item.text.split()[0] for item in Page(page).items if item.tag == "li" and item.side == "missed"]
    assert names == [f"{at:04}.png" for at in range(999, 999 - NAMES, -1)]
    assert len(page) < 100_000


def test_folds_with_different_thresholds_share_a_slider(tmp_path: Path) -> None:
    folds = []
    for group, threshold, seed in (("a", 1.0, 1), ("b", -2.5, 2)):
        made = evaluation(subject("v2", groups=[group]), frames=answers(seed, groups=[group]))
        calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
        folds.append(msgspec.structs.replace(made, calibration=calibration))
    page = Page(report(tmp_path, *folds)[0])
    each = [counted(fold.frames, fold.calibration.score_threshold) for fold in folds]
    assert page.now["threshold"] == ["0.00"]
    assert set(page.now["missed"]) == {str(sum(len(missed) for missed, _ in each))}
    assert set(page.now["rejected"]) == {str(sum(len(rejected) for _, rejected in each))}


def test_frames_that_set_the_threshold_are_counted_by_that_of_the_others(tmp_path: Path) -> None:
    """As the numbers of the confusion matrix do at the slider's start, which is at the calibrated threshold."""
    made = evaluation(subject("v2"))
    held_out = [msgspec.structs.replace(frame, threshold=0.7 + at % 3 - 1) for at, frame in enumerate(made.frames)]
    missed = [frame for frame in held_out if frame.defective and frame.score < (frame.threshold or 0)]
    rejected = [frame for frame in held_out if not frame.defective and frame.score >= (frame.threshold or 0)]
    page = Page(report(tmp_path, msgspec.structs.replace(made, frames=held_out))[0])
    assert page.now["threshold"] == ["0.70"]
    assert set(page.now["missed"]) == {str(len(missed))}
    assert set(page.now["rejected"]) == {str(len(rejected))}
    shown = {item.text.split()[0] for item in page.items if item.tag == "li" and not item.is_hidden}
    assert shown == {frame.image for frame in (*missed, *rejected)}


def test_a_long_name_breaks_only_after_a_separator(tmp_path: Path) -> None:
    page, _ = report(tmp_path, evaluation(subject("v2"), frames=[FrameAnswer("a/1<_crop-1.jpg", None, True, -9.0)]))
    assert "a/<wbr>1&lt;_<wbr>crop-<wbr>1.jpg <span>" in page


def test_what_is_missed_by_class_and_by_size_stands_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    made = evaluation(subject("v2"), frames=answers(1))
    kinds = [[DefectKind("class", name, -9.0, area)] for name, area in (("pit", 9), ("dent", 400))]
    frames = [
        msgspec.structs.replace(frame, kinds=kinds[at % 2] if frame.defective else [])
        for at, frame in enumerate(made.frames)
    ]
    page, text = report(tmp_path, msgspec.structs.replace(made, frames=frames))
    assert "<h3>Missed by class and by size</h3>" in page
    assert text.index("| pit | 10 | 10 | 100.0 % |") < text.index("| dent | 10 | 10 | 100.0 % |")
    assert "Missed by class" not in report(tmp_path / "none", made)[0]


def test_without_good_frames_no_rate_of_false_rejects_is_known(tmp_path: Path) -> None:
    page, _ = report(tmp_path, evaluation(subject("lite"), frames=[FrameAnswer("a.png", None, True, 5.0)]))
    assert Page(page).now["rejectedShare"] == ["not known"]


def test_only_the_calibrated_threshold_has_intervals(tmp_path: Path) -> None:
    ends = {"frame.escape_rate": (0.021, 0.25), "frame.false_reject_rate": (0.01, 0.1)}
    (positions,) = Page(report(tmp_path, evaluation(subject("lite"), intervals=ends))[0]).positions
    for name, interval in (("missedShare", "[2.1, 25.0]"), ("rejectedShare", "[1.0, 10.0]")):
        assert [at for at, text in enumerate(positions[name]) if text.endswith(interval)] == [positions["start"]]


@pytest.mark.parametrize(
    ("thresholds", "missed", "false"),
    [
        ([1.5], ["-0.50"], ["3.50", "1.50"]),
        ([1.5, 2.0], ["-0.50", "-0.50", "1.50"], ["3.50", "3.50", "1.50"]),
        ([-0.5], [], ["3.50", "1.50", "-0.50"]),
        ([4.0], ["-0.50", "1.50", "3.50"], []),
    ],
)
def test_frames_on_the_wrong_side_of_their_threshold_are_shown(
    tmp_path: Path, thresholds: list[float], missed: list[str], false: list[str]
) -> None:
    """Each kind has the logits 3.5, 1.5 and -0.5; a logit that reaches the threshold is judged defective."""
    folds = []
    for group, threshold in zip("ab", thresholds, strict=False):
        about = subject("v2", groups=[group])
        made = evaluation(about, frames=pictured())
        calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
        folds.append(msgspec.structs.replace(made, calibration=calibration))
    page = report(tmp_path, *folds)[0]
    if len(folds) == 1:
        assert f"frame DEFECT from {thresholds[0]:.2f} logits</span>" in page, "on the colour scale"
    else:
        assert "from the evidence threshold of its fold</span>" in page
    pictures = [item for item in Page(page).items if item.tag == "figure" and not item.is_hidden]
    assert sorted(item.text.split()[-1] for item in pictures if item.side == "missed") == sorted(missed)
    assert sorted(item.text.split()[-1] for item in pictures if item.side == "rejected") == sorted(false)


def test_names_from_users_files_are_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|x\"' onload=alert(1)"
    about = subject(nasty, data=nasty, part=nasty, groups=[nasty], recipe=nasty, path=nasty, engine=nasty)
    frames = [FrameAnswer(nasty, nasty, is_bad, 1.0, 2, 1, 0, picture=f"{is_bad}.png") for is_bad in (True, False)]
    made = evaluation(about, truth=nasty, frames=frames, warnings=[nasty], rests_on=nasty)
    folder = write(made, tmp_path / "in")
    page, text = write_report([folder], tmp_path / "out", nasty, study=True)
    assert Page(page.read_text()).tags.count("script") == 2  # those of the page itself
    assert page.read_text().count("&lt;script&gt;alert(1)") > 10
    table = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert all("<script" not in line.replace("\\<script", "") for line in table)
    assert all("|x" not in line.replace("\\|x", "") for line in table)


def test_files_that_are_not_pictures_of_the_evaluation_are_not_shown(tmp_path: Path) -> None:
    """One is text, one is empty, one is missing, and one is a folder."""
    about = subject("v2")
    frames = pictured(2)
    folder = write(evaluation(about, frames=frames), tmp_path / "in")
    text, empty, missing, folder_instead = (folder / str(frame.picture) for frame in frames)
    text.write_text("no picture")
    empty.write_text("")
    missing.unlink()
    folder_instead.unlink()
    folder_instead.mkdir()
    page = write_report([folder], tmp_path / "out")[0].read_text()
    pictures = [attributes for tag, attributes in Page(page).elements if tag == "img" and "src" in attributes]
    assert [str(attributes["alt"]).partition(" of ")[0] for attributes in pictures] == ["Colour scale"], "of the legend"
    assert MISSING in page


def test_a_report_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluation was named"):
        write_report([], tmp_path / "out")
    with pytest.raises(InputError, match="evaluate again"):
        write_report([tmp_path], tmp_path / "out")
    (tmp_path / "file").touch()
    folder = write(evaluation(subject()), tmp_path / "in")
    with pytest.raises(TrainingError, match="choose another place with --out"):
        write_report([folder], tmp_path / "file" / "out")
