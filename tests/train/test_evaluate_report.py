"""Which pictures are evaluated, what is warned of, and what is left behind."""

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import pytest

from edge.bundle import Bundle, write_bundle
from edge.bundle.manifest import Plausible
from edge.bundle.plausibility import Appearance, Vitals, fit_plausibility
from edge.errors import InputError
from tests.command import complaint
from tests.small_bundle import dark_square, white_frame
from tests.train.placed_squares import PLACES, folder, grouped, many_groups, reported, run, taught
from train.evaluation.evaluate import Asked, evaluate_model, names_of
from train.evaluation.result import read_evaluation


def test_a_part_is_the_groups_that_the_bundle_names(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped(tmp_path / "data")
    told = taught(tmp_path / "told", bundle, "data", train=["a"], val=["c"], test=["b"])
    asked = (told.path, "--data", data)
    test, by_default = reported(*asked, "--part", "test"), reported(*asked)
    assert test == by_default
    assert (test["told"]["part"], test["told"]["groups"], test["told"]["pictures"]) == ("test", ["b"], 2)
    assert test["truths"] == reported(*asked, "--groups", "b")["truths"]
    assert test["truths"][0]["figures"]["frame"]["defective_frames"] == 2
    assert reported(*asked, "--part", "all")["told"]["pictures"] == 6
    assert run(*asked, "--part", "train", "--json").stderr == ""  # who asks for them knows
    said = run(*asked, "--part", "all").stderr
    assert f"2 of the 6 pictures are of groups that taught {told.path}: leave them out" in said
    assert reported(*asked, "--pattern", "^(.)", "--part", "test") == test
    monkeypatch.chdir(data)
    assert reported(told.path, "--data", ".")["told"]["part"] == "test"  # the folder one is in is known by its name
    other = taught(tmp_path / "other", bundle, "other", train=["a"], val=["c"], test=["b"])
    done = run(other.path, "--data", data, "--json")  # of another name: no test groups, and none that taught
    assert (done.stderr, json.loads(done.stdout)["evaluations"][0]["told"]["part"]) == ("", "all")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--part", "test", "--groups", "a"], "--groups and --part both say which groups"),
        (["--pattern", "(.)", "--group", "group"], "--group and --pattern both say where groups are told"),
        (["--part", "val"], "names no groups as val; name groups with --groups, or take --part all"),
        (["--part", "test", "--pattern", "(x?.)$"], "'b' is missing; groups were looked for in what '(x?.)$' finds"),
        (["--groups", "a,z"], "has no picture of the group 'z'; it has a, b, c"),
        (["--group", "board"], "column 'board' of labels.csv"),
        (["--truth", "boxes"], "has no truth 'boxes'; it has masks, labels"),
    ],
)
def test_groups_that_cannot_be_had_are_refused_in_one_sentence(
    tmp_path: Path, bundle: Bundle, options: list[str], says: str
) -> None:
    told = taught(tmp_path / "told", bundle, "other", train=["elsewhere"], val=[], test=["b", "z"])
    done = run(told.path, "--data", grouped(tmp_path / "data"), *options)
    assert done.returncode in (2, InputError.exit_code)
    assert says in (done.stderr if done.returncode == 2 else complaint(done))
    assert done.stdout == ""


def test_what_is_no_model_or_no_folder_is_refused_in_one_sentence(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is neither a run nor a bundle; name a folder that `heatline train`"):
            evaluate_model(path, Asked(tmp_path))
    with pytest.raises(InputError, match="nowhere is not a folder"):
        evaluate_model(bundle.path, Asked(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="does not tell where its pictures lie; name a folder with --data"):
        evaluate_model(bundle.path, Asked(part="all"))


def test_with_ten_groups_or_more_rates_have_intervals_beside_them(tmp_path: Path, bundle: Bundle) -> None:
    asked = (bundle.path, "--data", many_groups(tmp_path / "data"))
    evaluation = reported(*asked)
    (found,) = evaluation["truths"]
    low, high = found["intervals"]["frame.escape_rate"]
    assert 0 <= low < found["figures"]["frame"]["escape_rate"] == 2 / 8 < high <= 0.7
    assert found["intervals"].keys() >= {"tile.average_precision", "study.f1", "line.recall"}
    assert "frame.false_reject_rate" not in found["intervals"], "none of four good frames is rejected in any resample"
    assert f"0.2500  [{low:.4f}, {high:.4f}]" in run(*asked).stdout
    assert evaluation["rests_on"] == "all frames of data (12 groups, 12 frames)"
    assert evaluation["warnings"] == []


def test_every_frame_is_left_by_its_name_with_what_the_line_says_of_it(tmp_path: Path, bundle: Bundle) -> None:
    """The figures count these very frames."""
    asked = Asked(grouped(tmp_path / "data"))
    evaluation = evaluate_model(bundle.path, asked)
    frames, threshold = evaluation.frames, evaluation.calibration.score_threshold
    assert [frame.image for frame in frames] == [f"images/{stem}.png" for stem in ("a1", "a2", "b1", "b2", "c1", "c2")]
    assert [frame.group for frame in frames] == ["a", "a", "b", "b", "c", "c"]
    assert [frame.defective for frame in frames] == [True, False, True, True, False, False]
    assert [frame.defects for frame in frames] == [1, 0, 1, 1, 0, 0]
    assert [frame.score >= threshold for frame in frames] == [frame.defective for frame in frames]
    of = evaluation.truths[0].figures.frame
    assert sum(frame.hit or 0 for frame in frames) == of.defects_hit
    assert sum(frame.false_regions or 0 for frame in frames) == of.false_regions
    assert evaluation.warnings == ["Too few groups: 3. With at least 10, the report says how certain its figures are."]


def that_knows(plausible: Plausible, bundle: Bundle, path: Path) -> Bundle:
    """The bundle, with what frames of its product look like."""
    calibration = msgspec.structs.replace(bundle.manifest.calibration, plausible=plausible)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(path, msgspec.structs.replace(bundle.manifest, calibration=calibration), files)


def test_frames_that_do_not_show_the_product_are_counted_apart_and_in_no_figure(tmp_path: Path, bundle: Bundle) -> None:
    """As the line, which gives them no verdict: one that was good and black, one that was defective."""
    data = grouped(tmp_path / "data")
    white = white_frame((224, 446))
    seen = [Appearance((224, 446), Vitals.of(frame), None) for frame in (white, dark_square(white, 80, 80))]
    knowing = that_knows(fit_plausibility(seen).plausible, bundle, tmp_path / "knowing")
    for stem in ("a2", "b1"):
        cv2.imwrite(str(data / "images" / f"{stem}.png"), white // 100)
    done = run(knowing.path, "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation(tmp_path / "out" / "models" / "knowing")
    refused = [(frame.image, frame.group, frame.defective) for frame in evaluation.implausible]
    assert refused == [("images/a2.png", "a", False), ("images/b1.png", "b", True)]
    assert all("brightness 2, expected" in frame.why for frame in evaluation.implausible)
    assert [frame.image for frame in evaluation.frames] == [f"images/{stem}.png" for stem in ("a1", "b2", "c1", "c2")]
    figures = evaluation.truths[0].figures
    assert figures.tile is not None
    assert (figures.frame.frames, figures.frame.good_frames, figures.frame.defective_frames) == (4, 2, 2)
    assert (figures.frame.rejected_frames, figures.tile.tiles, evaluation.told.pictures) == (0, 8, 4)
    assert evaluation.rests_on == "all frames of data (3 groups, 4 frames)"
    assert evaluation.warnings[0].startswith("2 frames are not like the product (1 good, 1 defective): the line gives")
    assert "no verdict: 2 of 6 frames (good 1, defective 1), counted in no figure" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Frames without a verdict" in page
    assert "images/b1.png <span>defective: it does not look like the product: brightness 2" in page
    without = evaluate_model(bundle.path, Asked(data))
    assert (len(without.frames), without.implausible) == (6, [])


def test_where_no_frame_shows_the_product_there_is_no_figure(tmp_path: Path, bundle: Bundle) -> None:
    other = fit_plausibility([Appearance((9, 9), Vitals(9, 9, 1), None)]).plausible
    knowing = that_knows(other, bundle, tmp_path / "knowing")
    done = run(knowing.path, "--data", grouped(tmp_path / "data"), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation(tmp_path / "out" / "models" / "knowing")
    assert (len(evaluation.implausible), evaluation.frames, evaluation.truths[0].figures.tile) == (6, [], None)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"c1", "c2"}, ["No frame is defective: nothing is known of misses."]),
        ({"b1", "b2"}, ["No frame is good: 2 defective frames stand in, without the tiles that show a defect."]),
    ],
)
def test_frames_of_one_class_are_a_warning(tmp_path: Path, bundle: Bundle, kept: set[str], says: list[str]) -> None:
    (group,) = {stem[0] for stem in kept}
    warnings = evaluate_model(bundle.path, Asked(grouped(tmp_path / "data"), groups=(group,))).warnings
    assert [warning for warning in warnings if warning.startswith("No frame")] == says


def test_thresholds_from_few_frames_and_frames_that_trained_the_model_are_warnings(
    tmp_path: Path, bundle: Bundle
) -> None:
    loose = msgspec.structs.replace(
        bundle.manifest.calibration, false_reject_per_frame=0.01, frames=4, false_reject_at_most=0.53
    )
    manifest = msgspec.structs.replace(
        bundle.manifest, calibration=loose, provenance={"data": {"data": "data", "groups": {"train": ["a"]}}}
    )
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    told = write_bundle(tmp_path / "told", manifest, files)
    data = grouped(tmp_path / "data")
    all_of_it, only_train = (evaluate_model(told.path, Asked(data, part=part)).warnings for part in ("all", "train"))
    assert all_of_it[0].startswith("2 of the 6 frames are of groups that trained the model")
    assert only_train[0] == "These frames trained the model: the figures say nothing of new parts."
    assert all_of_it[-1] == (
        "Few frames set the thresholds (4): up to 53 % of the good parts may be rejected, where 1 % is wanted."
    )


def test_where_no_frame_is_good_the_tiles_of_defective_ones_that_are_stand_in(tmp_path: Path, bundle: Bundle) -> None:
    """Both have a square in one tile; one has another, which no truth marks, in the other."""
    data = folder(tmp_path / "data", PLACES, PLACES)
    twice = dark_square(dark_square(white_frame((224, 446)), *PLACES["a1"]), 80, 300)
    cv2.imwrite(str(data / "images" / "a1.png"), twice)
    evaluation = evaluate_model(bundle.path, Asked(data))
    threshold = evaluation.calibration.score_threshold
    assert [frame.score >= threshold for frame in evaluation.frames] == [True] * 3
    assert sorted(score >= threshold for score in evaluation.good_stand_ins) == [False, False, True]


def test_an_evaluation_is_left_with_its_pictures_where_a_folder_is_named(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    left = evaluate_model(bundle.path, Asked(data), tmp_path / "out")
    assert read_evaluation(tmp_path / "out") == left
    gallery = left.truths[0].gallery
    assert [one.image for one in gallery if one.kind == "missed"] == [f"{stem}.png" for stem in PLACES]
    assert [(one.kind, one.image) for one in left.gallery if one.kind == "rejected"] == [
        ("rejected", f"images/{stem}.png") for stem in ("a2", "c1", "c2")
    ]
    assert {one.image for one in left.gallery if one.kind == "escaped"} == {f"images/{stem}.png" for stem in PLACES}
    assert all((tmp_path / "out" / one.file).is_file() for one in [*gallery, *left.gallery])
    nowhere = evaluate_model(bundle.path, Asked(data))
    assert (nowhere.truths[0].gallery, nowhere.truths[0].figures) == ([], left.truths[0].figures)
    (tmp_path / "out" / "evaluation.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match=r"evaluation\.json cannot be read .* evaluate again"):
        read_evaluation(tmp_path / "out")


def test_several_models_are_reported_in_a_folder_that_must_be_new(tmp_path: Path, bundle: Bundle) -> None:
    data, out = grouped(tmp_path / "data"), tmp_path / "report"
    models = [Path(shutil.copytree(bundle.path, tmp_path / name / "boards")) for name in ("first", "second")]
    assert run(*models, "--data", tmp_path / "nowhere", "--out", out).returncode == InputError.exit_code
    done = run(*models, "--data", data, "--out", out, "--json")  # the mended command can be given again
    assert done.returncode == 0, done.stderr
    one, other = json.loads(done.stdout)["evaluations"]
    assert one["truths"][0]["figures"] == other["truths"][0]["figures"]
    assert sorted(path.parent.name for path in out.rglob("evaluation.json")) == ["first-boards", "second-boards"]
    assert "the report is in" in done.stderr
    assert "Beside the study" not in (out / "report.html").read_text()
    assert run(bundle.path, "--data", data, "--out", tmp_path / "study", "--study").returncode == 0
    assert "Beside the study" in (tmp_path / "study" / "report.html").read_text()
    assert "--study adds a chapter to the report; name its folder" in run(bundle.path, "--study").stderr
    (tmp_path / "file").write_text("")
    for place, says in (
        (out, "report exists already and is not empty; name a new folder with --out"),
        (tmp_path / "file", "exists already"),
        (tmp_path / "file" / "below", "cannot be written"),
    ):
        assert says in complaint(run(*models, "--data", data, "--out", place))


def test_models_are_called_by_as_much_of_their_paths_as_tells_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/vit", "b/vit", "b/cnn")]
    assert list(names_of(paths).values()) == ["a-vit", "b-vit", "cnn"]
    assert names_of([tmp_path / "run"]) == {tmp_path / "run": "run"}
    with pytest.raises(InputError, match="are one folder; name each model once"):
        names_of([tmp_path / "run", tmp_path / "other" / ".." / "run"])
