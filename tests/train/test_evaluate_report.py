"""Selection of pictures, warnings, and the files of an evaluation."""

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import pytest

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.manifest import Plausible
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.errors import InputError
from heatline.edge.images import digest_picture
from heatline.train.commands.evaluate import _unique_names as unique_names
from heatline.train.evaluation.evaluate import evaluate_model
from heatline.train.evaluation.result import read_evaluation
from tests.command import complaint, heatline
from tests.small_bundle import dark_square, white_frame
from tests.train.placed_squares import grouped, many_groups, reported, run, with_training_groups


def test_a_part_selects_the_groups_that_the_bundle_names(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped(tmp_path / "data")
    trained = with_training_groups(tmp_path / "trained", bundle, data, train=["a"], val=["c"], test=["b"])
    arguments = (trained.path, "--data", data)
    test, by_default = reported(*arguments, "--part", "test"), reported(*arguments)
    assert test == by_default
    assert (test["subject"]["part"], test["subject"]["groups"], test["subject"]["pictures"]) == ("test", ["b"], 2)
    assert test["figures"]["frame.defective_frames"] == 2
    assert reported(*arguments, "--part", "all")["subject"]["pictures"] == 6
    assert "The model was trained on these frames" in run(*arguments, "--part", "train").stderr
    warning = f"{trained.path}: The model was trained on the groups of at least 2 of the 6 frames: the figures are "
    assert warning in run(*arguments, "--part", "all").stderr
    monkeypatch.chdir(data)
    assert reported(trained.path, "--data", ".")["subject"]["part"] == "test"  # the folder's name is resolved
    other = with_training_groups(tmp_path / "other", bundle, None, train=["a"], val=["c"], test=["b"])
    done = run(other.path, "--data", data, "--json")  # trained on a folder of another name: no test groups, no warning
    assert "was trained on" not in done.stderr
    assert json.loads(done.stdout)["evaluations"][0]["subject"]["part"] == "all"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "val"], "names no groups as val; choose --part all"),
        (["--part", "test"], "'z' is missing; groups were read from "),
        (["--truth", "boxes"], "has no truth 'boxes'; it has masks, labels"),
    ],
)
def test_groups_that_do_not_exist_are_refused_in_one_sentence(
    tmp_path: Path, bundle: Bundle, options: list[str], message: str
) -> None:
    trained = with_training_groups(tmp_path / "trained", bundle, None, train=["elsewhere"], val=[], test=["b", "z"])
    done = run(trained.path, "--data", grouped(tmp_path / "data"), *options)
    assert done.returncode in (2, InputError.exit_code)
    assert message in (done.stderr if done.returncode == 2 else complaint(done))
    assert done.stdout == ""


def test_a_wrong_model_or_folder_is_refused_in_one_sentence(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "empty").mkdir()
    for path, what in (tmp_path / "empty", "is neither a run nor a bundle"), (tmp_path / "nowhere", "does not exist"):
        with pytest.raises(InputError, match=f"{what}; name a folder that `heatline train`"):
            evaluate_model(path, tmp_path)
    (tmp_path / "empty" / "config.yaml").touch()
    with pytest.raises(InputError, match=r"empty is not finished; .*: heatline train out=.*empty resume=true"):
        evaluate_model(tmp_path / "empty", tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist"):
        evaluate_model(bundle.path, tmp_path / "nowhere")
    with pytest.raises(InputError, match="does not record the folder of its pictures; name a folder with --data"):
        evaluate_model(bundle.path, part="all")


def test_rates_of_ten_groups_or_more_have_intervals(tmp_path: Path, bundle: Bundle) -> None:
    arguments = (bundle.path, "--data", many_groups(tmp_path / "data"))
    evaluation = reported(*arguments)
    low, high = evaluation["intervals"]["frame.escape_rate"]
    assert 0 <= low < evaluation["figures"]["frame.escape_rate"] == 2 / 8 < high <= 0.7
    assert evaluation["intervals"].keys() >= {"tile.average_precision", "study.f1", "line.recall"}
    assert "frame.false_reject_rate" not in evaluation["intervals"], (
        "none of four good frames is rejected in any resample"
    )
    printed = run(*arguments)
    assert f"defective frames missed  2 of 8 25.0 % [{100 * low:.1f}, {100 * high:.1f}]" in printed.stdout
    assert "good frames rejected     0 of 4 0.0 %\n" in printed.stdout
    assert "--out FOLDER writes a report with all figures" in printed.stderr
    assert evaluation["rests_on"] == "all frames of data (12 groups, 12 frames)"
    assert evaluation["warnings"] == []


def test_every_frame_is_stored_with_its_name_and_the_lines_answer(tmp_path: Path, bundle: Bundle) -> None:
    """The figures count the same frames."""
    evaluation = evaluate_model(bundle.path, grouped(tmp_path / "data"))
    frames, threshold = evaluation.frames, evaluation.calibration.score_threshold
    assert [frame.image for frame in frames] == [f"images/{stem}.png" for stem in ("a1", "a2", "b1", "b2", "c1", "c2")]
    assert [frame.group for frame in frames] == ["a", "a", "b", "b", "c", "c"]
    assert [frame.defective for frame in frames] == [True, False, True, True, False, False]
    assert [frame.defects for frame in frames] == [1, 0, 1, 1, 0, 0]
    assert [frame.score >= threshold for frame in frames] == [frame.defective for frame in frames]
    assert sum(frame.hit or 0 for frame in frames) == evaluation.figures["frame.defects_hit"]
    assert sum(frame.false_regions or 0 for frame in frames) == evaluation.figures["frame.false_regions"]
    assert evaluation.warnings == ["Too few groups: 3. With at least 10, the report gives intervals of its figures."]


def with_appearance(plausible: Plausible, bundle: Bundle, path: Path) -> Bundle:
    """Copy the bundle with the appearance of its product."""
    calibration = msgspec.structs.replace(bundle.manifest.calibration, plausible=plausible)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(path, msgspec.structs.replace(bundle.manifest, calibration=calibration), files)


def test_frames_that_do_not_show_the_product_count_in_no_figure(tmp_path: Path, bundle: Bundle) -> None:
    """Two frames are black: a good and a defective one. The line gives them no verdict."""
    data = grouped(tmp_path / "data")
    white = white_frame((224, 446))
    seen = [Appearance((224, 446), ImageStatistics.of(frame), None) for frame in (white, dark_square(white, 80, 80))]
    knowing = with_appearance(fit_plausibility(seen).plausible, bundle, tmp_path / "knowing")
    for stem in ("a2", "b1"):
        cv2.imwrite(str(data / "images" / f"{stem}.png"), white // 100)
    done = run(knowing.path, "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation(tmp_path / "out" / "models" / "knowing")
    refused = [(frame.image, frame.group, frame.defective) for frame in evaluation.implausible]
    assert refused == [("images/a2.png", "a", False), ("images/b1.png", "b", True)]
    assert all("brightness 2, expected" in frame.why for frame in evaluation.implausible)
    assert [frame.image for frame in evaluation.frames] == [f"images/{stem}.png" for stem in ("a1", "b2", "c1", "c2")]
    names = "frame.frames", "frame.good_frames", "frame.defective_frames", "frame.rejected_frames", "tile.tiles"
    assert [evaluation.figures[name] for name in names] == [4, 2, 2, 0, 8]
    assert evaluation.subject.pictures == 4
    assert evaluation.rests_on == "all frames of data (3 groups, 4 frames)"
    assert evaluation.warnings[0].startswith("2 frames are not like the product (1 good, 1 defective): the line gives")
    assert f"{knowing.path}: {evaluation.warnings[0]}" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Frames without a verdict" in page
    assert "images/<wbr>b1.png <span>defective: it does not look like the product: brightness 2" in page
    without = evaluate_model(bundle.path, data)
    assert (len(without.frames), without.implausible) == (6, [])


def test_there_are_no_figures_if_no_frame_shows_the_product(tmp_path: Path, bundle: Bundle) -> None:
    other = fit_plausibility([Appearance((9, 9), ImageStatistics(9, 9, 1, 1), None)]).plausible
    knowing = with_appearance(other, bundle, tmp_path / "knowing")
    done = run(knowing.path, "--data", grouped(tmp_path / "data"), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation(tmp_path / "out" / "models" / "knowing")
    assert (len(evaluation.implausible), evaluation.frames, evaluation.figures["frame.frames"]) == (6, [], 0)


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        ({"c1", "c2"}, ["No frame is defective: the rate of misses is not known."]),
        ({"b1", "b2"}, ["No frame is good: the rate of false rejects is not known."]),
    ],
)
def test_frames_of_one_class_cause_a_warning(
    tmp_path: Path, bundle: Bundle, stems: set[str], message: list[str]
) -> None:
    (group,) = {stem[0] for stem in stems}
    trained = with_training_groups(tmp_path / "trained", bundle, None, train=["z"], test=[group])
    warnings = evaluate_model(trained.path, grouped(tmp_path / "data"), part="test").warnings
    assert [warning for warning in warnings if warning.startswith("No frame")] == message


def test_few_calibration_frames_and_training_frames_cause_warnings(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    trained = with_training_groups(tmp_path / "trained", bundle, data, train=["a"])
    loose = msgspec.structs.replace(
        bundle.manifest.calibration, false_reject_per_frame=0.01, frames=4, false_reject_at_most=0.53
    )
    manifest = msgspec.structs.replace(trained.manifest, calibration=loose)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    trained = write_bundle(tmp_path / "loose", manifest, files)
    of_all, of_training = (evaluate_model(trained.path, data, part=part).warnings for part in ("all", "train"))
    assert of_all[0].startswith("The model was trained on the groups of at least 2 of the 6 frames")
    assert of_training[0].startswith("The model was trained on these frames: ")
    assert of_all[-1] == (
        "Few frames set the thresholds (4): up to 53 % of the good parts may be rejected, where 1 % is wanted."
    )


def test_no_rate_is_told_of_good_frames_that_set_the_threshold(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    trained = with_training_groups(tmp_path / "trained", bundle, data, train=["a"], val=["c"], test=["b"])
    printed = run(trained.path, "--data", data, "--part", "all", "--out", tmp_path / "out").stdout
    assert "good frames rejected     0 of 3 not a rate" in printed
    assert read_evaluation(tmp_path / "out" / "models" / "trained").figures["frame.false_reject_rate"] is None
    assert "| 0 of 3 not a rate |" in (tmp_path / "out" / "tables.md").read_text()
    assert "not a rate: these frames set the threshold" in (tmp_path / "out" / "report.html").read_text()
    (warning,) = [each for each in reported(trained.path, "--data", data, "--part", "val")["warnings"] if "set" in each]
    assert warning.startswith("2 of the good frames, or others of their groups, set the threshold: how many")


def test_copies_of_training_pictures_are_recognised_whatever_their_groups(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    digest = digest_picture(sorted((data / "images").iterdir())[0])
    provenance = {"data": {"data": "other", "groups": {"train": ["another name"]}, "digests": [digest]}}
    manifest = msgspec.structs.replace(bundle.manifest, provenance=provenance)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    trained = write_bundle(tmp_path / "trained", manifest, files)
    warnings = evaluate_model(trained.path, data).warnings
    assert warnings[0].startswith("The model was trained on the groups of at least 2 of the 6 frames")


def test_an_evaluation_is_written_with_its_gallery_into_a_folder(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    evaluation = evaluate_model(bundle.path, data, folder=tmp_path / "out")
    assert read_evaluation(tmp_path / "out") == evaluation
    assert all((tmp_path / "out" / str(frame.picture)).is_file() for frame in evaluation.frames)
    unwritten = evaluate_model(bundle.path, data)
    assert ({frame.picture for frame in unwritten.frames}, unwritten.figures) == ({None}, evaluation.figures)
    other = (tmp_path / "out" / "evaluation.json").read_text().replace('"schema": 6', '"schema": 5')
    for content, message in (
        ('{"schema": 6}', r"evaluation\.json cannot be read .* evaluate again"),
        (other, r"evaluation\.json has schema 5, this version reads 6; evaluate again"),
    ):
        (tmp_path / "out" / "evaluation.json").write_text(content)
        with pytest.raises(InputError, match=message):
            read_evaluation(tmp_path / "out")


def test_several_models_are_reported_in_a_new_folder(tmp_path: Path, bundle: Bundle) -> None:
    data, out = grouped(tmp_path / "data"), tmp_path / "report"
    models = [Path(shutil.copytree(bundle.path, tmp_path / name / "boards")) for name in ("first", "second")]
    assert run(*models, "--data", tmp_path / "nowhere", "--out", out).returncode == InputError.exit_code
    done = run(*models, "--data", data, "--out", out, "--json")  # a corrected command can be given again
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["evaluations"]
    assert first["figures"] == second["figures"]
    assert sorted(path.parent.name for path in out.rglob("evaluation.json")) == ["first-boards", "second-boards"]
    assert "the report is in" in done.stderr
    assert "Comparison with the study" not in (out / "report.html").read_text()
    assert run(bundle.path, "--data", data, "--out", tmp_path / "study", "--study").returncode == 0
    assert "Comparison with the study" in (tmp_path / "study" / "report.html").read_text()
    assert "--study adds a chapter to the report; name the report's folder" in run(bundle.path, "--study").stderr
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "empty").stat().st_ino
    assert heatline("evaluate", bundle.path, "--data", data, "--out", ".", cwd=tmp_path / "empty").returncode == 0
    assert (tmp_path / "empty").stat().st_ino == before, "the working directory is still the same"
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["models", "report.html", "tables.md"]
    (tmp_path / "file").write_text("")
    for place, message in (
        (out, "report exists already and is not empty; name a new folder with --out"),
        (tmp_path / "file", "exists already"),
        (tmp_path / "file" / "below", "cannot be made (Not a directory)"),
    ):
        assert message in complaint(run(*models, "--data", data, "--out", place))


def test_models_are_named_by_the_shortest_unique_end_of_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/vit", "b/vit", "b/cnn")]
    assert list(unique_names(paths).values()) == ["a-vit", "b-vit", "b-cnn"]
    assert unique_names([tmp_path / "run"]) == {tmp_path / "run": "run"}
    with pytest.raises(InputError, match="are one folder; name each model once"):
        unique_names([tmp_path / "run", tmp_path / "other" / ".." / "run"])
