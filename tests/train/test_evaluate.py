"""A bundle held against known defects, on pictures whose figures can be counted by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edge.bundle import Bundle, write_bundle
from edge.errors import InputError
from edge.geometry import TileGrid
from edge.images import read_rgb
from tests.small_bundle import TILE, answer, dark_square, white_frame
from tests.train.blobs import write_labels
from train.commands.evaluate import evaluate as evaluate_command
from train.evaluate import Evaluation, _Tiles, evaluate_bundle
from train.readers import read_folder

PLACES = {"a1": (80, 80), "b1": (100, 300), "b2": (20, 20)}
"""Of the black squares in the defective ones of `grouped`'s pictures."""


def folder(path: Path, defects: dict[str, tuple[int, int] | None], marked: dict[str, tuple[int, int]]) -> Path:
    """White frames of 224x446 px (two tiles) with a black square each where `defects` says, and masks as `marked`
    says.
    """
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for stem, place in defects.items():
        frame = white_frame((224, 446))
        if place is not None:
            frame = dark_square(frame, *place)
        cv2.imwrite(str(path / "images" / f"{stem}.png"), frame)
        mask = np.zeros((224, 446), np.uint8)
        if stem in marked:
            y, x = marked[stem]
            mask[y : y + 48, x : x + 48] = 255
        cv2.imwrite(str(path / "masks" / f"{stem}.png"), mask)
    return path


def evaluate(path: Path, bundle: Bundle) -> Evaluation:
    read = read_folder(path)
    return evaluate_bundle(bundle, read.truth, read.images)


def grouped(path: Path) -> Path:
    """Six pictures of three groups, named in labels.csv and by the first letter of the file."""
    folder(path, {**PLACES, "a2": None, "c1": None, "c2": None}, PLACES)
    stems = sorted(file.stem for file in (path / "images").iterdir())
    write_labels(path, [(f"{stem}.png", "defective" if stem in PLACES else "good", stem[0]) for stem in stems])
    return path


def taught(path: Path, bundle: Bundle, data: str, **groups: list[str]) -> Bundle:
    """The bundle, as if it had been taught on some data."""
    told = msgspec.structs.replace(bundle.manifest, provenance={"data": {"data": data, "groups": groups}})
    return write_bundle(path, told, {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate_command, [str(argument) for argument in arguments])


def reported(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def enlarged(tile_map: NDArray[np.float32]) -> NDArray[np.float64]:
    """A map enlarged to its tile, one axis after the other."""
    centres = (np.arange(len(tile_map)) + 0.5) * TILE / len(tile_map)
    for _ in range(2):
        rows = [np.interp(np.arange(TILE) + 0.5, centres, row) for row in tile_map]
        tile_map = np.array(rows).T  # type: ignore[assignment]
    return np.asarray(tile_map, np.float64)


def test_what_is_found_where_it_is_scores_full_marks(tmp_path: Path, bundle: Bundle) -> None:
    places = {"a": (80, 80), "b": (100, 300)}
    found = evaluate(folder(tmp_path / "data", {**places, "c": None}, places), bundle)
    assert found.tile is not None
    assert (found.tile.tiles, found.tile.defective) == (6, 2)
    assert found.tile.majority_share == pytest.approx(4 / 6)
    assert found.tile.average_precision == found.tile.auroc == found.tile.accuracy == 1
    assert found.tile.pointing == found.tile.pointing_gated == found.tile.pointing_within_cell == 1
    frame = found.frame
    assert (frame.frames, frame.defects, frame.defects_hit, frame.false_regions) == (3, 2, 2, 0)
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (2, 0, 1, 0)
    assert (frame.average_precision, frame.auroc, frame.unplaced) == (1, 1, 0)
    assert found.study is not None
    assert found.study.pointing == found.study.pointing_gated_at_half == 1


def test_misses_false_regions_escapes_and_rejects_are_counted(tmp_path: Path, bundle: Bundle) -> None:
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    found = evaluate(folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)}), bundle)
    frame = found.frame
    assert (frame.defects, frame.defects_hit, frame.false_regions) == (2, 1, 1)
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (2, 1, 1, 1)
    # Frames: the two black squares score alike and highest, one of them is defective, as is one of one that is white.
    assert frame.average_precision == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)
    assert frame.auroc == pytest.approx((0.5 + 0) / 2)
    assert found.tile is not None
    # Tiles: one defective tile is found, one is not, one good tile looks defective: 4 of 6 are right.
    assert found.tile.accuracy == pytest.approx(4 / 6)
    assert found.tile.pointing_gated == pytest.approx(1 / 2)


def test_average_precision_and_auroc_are_those_of_the_ranking(tmp_path: Path, bundle: Bundle) -> None:
    """Scores by hand: the defective tiles rank first and last of the four that differ."""
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    found = evaluate(folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)}), bundle)
    assert found.tile is not None
    # Two tiles score alike high (one true), four alike low (one true): precision 1/2 at recall 1/2, 2/6 at recall 1.
    assert found.tile.average_precision == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 6)
    # Of the 2 x 4 pairs: the high true one beats 3 and ties 1; the low true one loses 1 and ties 3.
    assert found.tile.auroc == pytest.approx((3 + 0.5 + 3 * 0.5) / 8)


def test_one_class_of_tiles_makes_no_figures(tmp_path: Path, bundle: Bundle) -> None:
    data = folder(tmp_path / "data", {"a": (80, 80), "b": None}, {"a": (80, 80)})
    images = [image for image in read_folder(data).images if not image.defective]
    with pytest.raises(InputError, match="both classes"):
        evaluate_bundle(bundle, "masks", images)


def test_pixels_are_counted_by_the_studys_rule_over_all_tiles(tmp_path: Path, bundle: Bundle) -> None:
    """Frames of several tiles and one smaller than a tile, whose padding does not count; in the oracle, too, only what
    lies in the frame. One black square is harmless and one defect does not show.
    """
    shown = {"seen": (80, 80), "harmless": (90, 150), "unseen": None}
    data = folder(tmp_path / "data", shown, {"seen": (70, 60), "unseen": (10, 10)})
    cv2.imwrite(str(data / "images" / "small.png"), dark_square(white_frame((100, 150)), 40, 40))
    small = np.zeros((100, 150), np.uint8)
    small[30:80, 60:90] = 255
    cv2.imwrite(str(data / "masks" / "small.png"), small)
    found = evaluate(data, bundle).study
    assert found is not None

    hit = false = missed = total = 0
    for picture in (data / "images").iterdir():
        rgb = read_rgb(picture)
        mask = cv2.imread(str(data / "masks" / picture.name), cv2.IMREAD_GRAYSCALE) > 0
        grid = TileGrid((rgb.shape[0], rgb.shape[1]))
        cut = np.empty((len(grid), TILE, TILE, 3), np.uint8)
        grid.cut(rgb, cut)
        for (y, x), logit, tile_map in zip(grid.origins_yx, *answer(cut), strict=True):
            part = mask[y : y + TILE, x : x + TILE]
            large = enlarged(tile_map)
            level = (large - large.min()) / max(large.max() - large.min(), 1e-9) * 255
            positive = ((level > 127) & (logit > 0))[: part.shape[0], : part.shape[1]]
            hit += int((positive & part).sum())
            false += int((positive & ~part).sum())
            missed += int((~positive & part).sum())
            total += part.size
    assert min(hit, false, missed) > 0
    assert total == 3 * 2 * TILE**2 + 100 * 150
    assert (found.true_positive_px, found.false_positive_px, found.false_negative_px) == (hit, false, missed)
    assert found.true_negative_px == total - hit - false - missed
    assert found.f1 == pytest.approx(2 * hit / (2 * hit + false + missed))


def test_the_gates_of_pointing_are_the_bundles_threshold_and_one_half(tmp_path: Path, bundle: Bundle) -> None:
    """A black square's tile has a logit of 100 * (48 / 224)^2 - 2 = 2.6; 30 % of the darkness make -0.6."""
    data = folder(tmp_path / "data", {"black": (80, 80), "grey": (80, 80)}, {"black": (80, 80), "grey": (80, 80)})
    grey = white_frame((224, 446))
    grey[80:128, 80:128] = 178
    cv2.imwrite(str(data / "images" / "grey.png"), grey)
    found = evaluate(data, bundle)
    assert found.tile is not None
    assert found.study is not None
    assert (found.tile.pointing, found.tile.pointing_gated) == (1, 1)  # the bundle's threshold is -1.0
    assert (found.study.pointing, found.study.pointing_gated_at_half) == (1, 0.5)


def test_a_picture_that_does_not_say_where_it_is_defective_counts_as_a_frame_only(
    tmp_path: Path, bundle: Bundle
) -> None:
    data = grouped(tmp_path / "data")
    before = evaluate(data, bundle)
    cv2.imwrite(str(data / "images" / "d1.png"), white_frame((224, 446)))
    cv2.imwrite(str(data / "masks" / "d1.png"), np.zeros((224, 446), np.uint8))
    with (data / "labels.csv").open("a") as file:
        file.write("d1.png,defective,d\n")
    after = evaluate(data, bundle)
    assert (after.tile, after.study) == (before.tile, before.study)
    frame = after.frame
    assert (frame.frames, frame.unplaced) == (before.frame.frames + 1, 1)
    assert (frame.defects, frame.defects_hit, frame.false_regions) == (3, 3, 0)
    assert (frame.defective_frames, frame.escaped_frames) == (4, 1)
    assert before.frame.auroc == 1
    assert frame.auroc == pytest.approx((3 + 0.5) / 4)  # it looks as the three good ones do
    done = run(bundle.path, "--data", data)
    assert "1 of the 7 pictures do not say where they are defective" in done.stderr
    assert "d1" not in done.stdout


def test_pictures_with_labels_only_are_judged_as_frames(tmp_path: Path, bundle: Bundle) -> None:
    for name in ("good/white", "good/dark", "defective/dark", "defective/darker"):
        side = {"white": 0, "dark": 48, "darker": 60}[name.partition("/")[2]]
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / f"{name}.png"), dark_square(white_frame((224, 224)), 50, 50, side))
    found = evaluate(tmp_path / "data", bundle)
    frame = found.frame
    assert (found.truth, found.tile, found.study) == ("labels", None, None)
    assert (frame.frames, frame.unplaced, frame.defects, frame.defects_hit, frame.false_regions) == (
        4, 4, None, None, None,
    )  # fmt: skip
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (2, 0, 2, 1)
    assert frame.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert frame.auroc == pytest.approx((2 + 1.5) / 4)
    done = run(bundle.path, "--data", tmp_path / "data")
    assert done.exit_code == 0
    assert "frames, by labels" in done.stdout
    assert "not known" in done.stdout
    assert "tiles" not in done.stdout


def test_labels_alone_give_the_same_verdicts_as_masks(tmp_path: Path, bundle: Bundle) -> None:
    """Also on pictures larger than a tile."""
    asked = (bundle.path, "--data", grouped(tmp_path / "data"))
    masks, labels = reported(*asked, "--truth", "masks"), reported(*asked, "--truth", "labels")
    assert (labels["truth"], labels["tile"], labels["study"]) == ("labels", None, None)
    unknown = {"unplaced": 6, "defects": None, "defects_hit": None, "false_regions": None}
    assert labels["frame"] == masks["frame"] | unknown


def test_frames_of_one_class_cannot_be_ranked(tmp_path: Path, bundle: Bundle) -> None:
    found = evaluate(folder(tmp_path / "data", {"a": (80, 80)}, {"a": (80, 80)}), bundle)
    assert (found.frame.average_precision, found.frame.auroc) == (None, None)
    assert found.tile is not None
    assert found.tile.auroc == 1


def test_a_part_is_the_groups_that_the_bundle_names(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    told = taught(tmp_path / "told", bundle, "data", train=["a"], val=["c"], test=["b"])
    asked = (told.path, "--data", data)
    assert reported(*asked)["frame"]["frames"] == 6
    assert reported(*asked, "--part", "test") == reported(*asked, "--groups", "b")
    assert reported(*asked, "--part", "test")["frame"]["defective_frames"] == 2
    train = run(*asked, "--part", "train", "--json")
    assert train.stderr == ""  # who asks for them knows
    assert "2 of the 6 pictures are of groups that taught this bundle" in run(*asked).stderr
    by_name = reported(*asked, "--pattern", "^(.)", "--part", "test")
    assert by_name == reported(*asked, "--part", "test")
    assert {"tile", "study", "frame"} < by_name.keys()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--part", "test", "--groups", "a"], "--groups and --part both say which groups"),
        (["--pattern", "(.)", "--group", "group"], "--group and --pattern both say where groups are told"),
        (["--part", "val"], "names no groups as val in its provenance; name groups with --groups"),
        (["--part", "train"], "has 0 of the 1 train groups"),
        (["--part", "test"], "has 1 of the 2 test groups"),
        (["--part", "test", "--pattern", "(x?.)$"], "'b' is missing; groups were looked for in what '(x?.)$' finds"),
        (["--groups", "a,z"], "has no picture of the group 'z'; it has a, b, c"),
        (["--group", "board"], "column 'board' of labels.csv"),
    ],
)
def test_groups_that_cannot_be_had_are_refused_in_one_sentence(
    tmp_path: Path, bundle: Bundle, options: list[str], says: str
) -> None:
    told = taught(tmp_path / "told", bundle, "other", train=["elsewhere"], val=[], test=["b", "z"])
    done = run(told.path, "--data", grouped(tmp_path / "data"), *options)
    assert done.exit_code != 0
    sentence = str(done.exception) if isinstance(done.exception, InputError) else done.stderr
    assert says in sentence
    assert done.stdout == ""


def test_a_bundle_that_tells_nothing_of_its_making_has_no_parts(tmp_path: Path, bundle: Bundle) -> None:
    done = run(bundle.path, "--data", grouped(tmp_path / "data"), "--part", "test")
    assert isinstance(done.exception, InputError)
    assert "names no groups as test" in str(done.exception)


def test_figures_are_shown_for_people(tmp_path: Path, bundle: Bundle) -> None:
    shown = run(bundle.path, "--data", grouped(tmp_path / "data")).stdout
    for expected in ("majority_share", "pixels, by the study's rule", "pointing_gated_at_half", "escaped_frames"):
        assert expected in shown


def test_real_pictures_that_do_not_say_where_they_are_defective_are_left_out(real_data: Path, bundle: Bundle) -> None:
    """Of the magnetic tiles, whole pictures with large masks, good ones, and one whose mask is empty."""
    read = read_folder(real_data / "magnetic_tile", group_column="block")
    unplaced = [image for image in read.images if "exp3_num_45042" in image.path.stem]
    uneven = [image for image in read.images if "Uneven" in image.path.stem and image not in unplaced]
    good = [image for image in read.images if not image.defective]
    found = evaluate_bundle(bundle, read.truth, [*unplaced, *uneven[:2], *good[:2]])
    assert len(unplaced) == found.frame.unplaced == 1
    assert (found.frame.frames, found.frame.defective_frames) == (5, 3)
    assert found.tile is not None
    assert found.tile.defective > 0


@pytest.mark.parametrize(
    ("method", "logit", "pointing"),
    [("rollout-max", -3.0, 1), ("rollout-max", 3.0, 1), ("cam", 3.0, 1), ("cam", -3.0, 0)],
)
def test_a_rollout_peaks_where_the_class_token_looked_whatever_the_logit_is(
    method: str, logit: float, pointing: float
) -> None:
    relevance = np.zeros((1, 4, 4), np.float32)
    relevance[0, 1, 2] = 16
    truth = np.zeros((64, 64), np.bool_)
    truth[16:32, 32:48] = True
    inspected: Any = SimpleNamespace(
        stitcher=SimpleNamespace(grid=TileGrid((64, 64), 64, 2)),
        maps=relevance * logit,
        logits=np.array([logit], np.float32),
    )
    tiles = _Tiles(method)
    tiles.add(inspected, truth)
    assert tiles.study_figures().pointing == pointing
