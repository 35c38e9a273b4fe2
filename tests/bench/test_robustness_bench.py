"""`heatline bench robustness`: slightly changed frames, in runs on small pictures and in examples by hand."""

import contextlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import heatline.bench.robustness as robustness
from heatline.bench.command import bench as command
from heatline.bench.recipes.metrics import label_defects
from heatline.bench.recipes.sets import DataSet
from heatline.bench.robustness import (
    CHANGES,
    UNCHANGED,
    Change,
    ChangeFigures,
    Comparison,
    Inspected,
    SetResult,
    Settings,
    compare,
    count_figures,
    inspect_frame,
    moved,
    moved_picture,
    read_robustness,
    table,
)
from heatline.edge.bundle import Bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.errors import BenchError, ConfigError
from heatline.edge.inference import open_engine
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.reference.reference import Reference
from tests.edge.boards import board, board_bundle
from tests.small_bundle import TILE, dark_square, white_frame
from tests.train.blobs import draw_blobs

pytestmark = pytest.mark.usefixtures("one_thread")

SHIFTED = "shifted by 10 px"
SMALL = (
    "tiles.tile_px=64", "recipe.steps=12", "recipe.folds=2", "recipe.jitter_px=20", "trainer.precision=32-true",
    "recipe.copies={defective: 1, most: 20}",
)  # fmt: skip


def run(out: Path, *arguments: str) -> str:
    """Run the command on the data set `blobs` next to `out`; return its standard error."""
    sets = out.with_name("sets.yaml")
    sets.write_bytes(msgspec.yaml.encode([DataSet(name="blobs", truth="masks", group="group")]))
    places = {"--data": out.parent, "--sets": sets, "--work": out.with_name("work"), "--out": out}
    options = [str(each) for pair in places.items() for each in pair]
    done = CliRunner().invoke(command, ["robustness", *options, f"features.folder={out.parent}", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.stderr


@pytest.mark.long
def test_a_fold_is_inspected_unchanged_and_changed_by_a_bundle_of_the_others(
    tmp_path: Path, tiny_trunk: tuple[str, str]
) -> None:
    small = (*SMALL, *tiny_trunk)
    draw_blobs(tmp_path / "blobs", per_group=2)  # four groups, one per fold: a good frame and two defective frames each
    out = tmp_path / "found.json"
    log = run(out, *small)
    assert "training without 1 group\n" in log
    assert "3 groups" in log, "the groups of the training"
    found = json.loads(out.read_text())
    (one,) = found["sets"]
    assert (found["bench"], one["set"], one["groups"]) == ("robustness", "blobs", 1)
    changes = {each["change"]: each for each in one["changes"]}
    assert list(changes) == list(CHANGES)
    unchanged = changes[UNCHANGED]
    assert (unchanged["frames"], unchanged["refused"], unchanged["good"], unchanged["defective"]) == (3, 0, 1, 2)
    assert (unchanged["found"], unchanged["hit"], unchanged["iou_median"]) == (2, unchanged["defects"], 1)
    assert 2 <= unchanged["defects"] <= 4, "two discs per frame, which may touch"
    for each in changes.values():
        assert (each["frames"], each["good"] + each["defective"]) == (3, 3 - each["refused"])
    assert changes[SHIFTED]["iou_median"] > 0.5, "regions are compared where they lie in the unchanged frame"
    assert out.with_suffix(".md").read_text() == table(read_robustness(out))
    assert not list((tmp_path / "work").glob("tmp*")), "temporary runs and bundles"

    before = out.read_bytes()
    assert run(out, *small) == "blobs is done\n"
    assert out.read_bytes() == before
    # Other settings are measured again.
    with pytest.raises(BenchError, match="blobs has no fold 4; name one of 0 to 3"):
        run(out, *small, "--fold", "4")
    with pytest.raises(ConfigError, match=r"the bench sets split\.test itself"):
        run(out, "split.test=[a]")


@st.composite
def found_pixels(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw the found pixels of a frame, unchanged and changed; both show at least one that the other shows."""
    sides = draw(st.integers(11, 30)), draw(st.integers(11, 30))
    before, after = (draw(arrays(np.bool_, sides)) for _ in range(2))
    before[0, 0] = after[10, 10] = True
    return before, after


@given(found_pixels(), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_regions_are_compared_pixel_by_pixel_where_both_frames_show_the_same(
    drawn: tuple[NDArray[np.bool_], NDArray[np.bool_]], px: int, seed: int
) -> None:
    found_before, found_after = drawn
    height, width = found_before.shape
    labels, _ = label_defects(np.random.default_rng(seed).random((height, width)) < 0.4)
    before, after = (Inspected("DEFECT", found, "GOOD", False) for found in drawn)
    places = [(y, x) for y in range(height - px) for x in range(width - px)]  # in the unchanged frame
    one = {(y, x) for y, x in places if found_before[y, x]}
    other = {(y, x) for y, x in places if found_after[y + px, x + px]}
    count = len({int(labels[place]) for place in places} - {0})
    hits = [{int(labels[place]) for place in found} - {0} for found in (one, other)]
    found = compare(True, labels, before, after, Change(px=px).motion((height, width)))
    assert found == Comparison(
        True, "DEFECT", "DEFECT", len(one & other) / len(one | other), count, len(hits[0]), len(hits[1]), "GOOD", False
    )


def test_pictures_move_to_the_right_and_down_and_turn_clockwise_with_their_masks() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    for change in CHANGES.values():
        motion = change.motion((20, 24))
        assert change.degrees or np.array_equal(
            moved_picture(rgb, motion)[change.px :, change.px :], rgb[: 20 - change.px, : 24 - change.px]
        )
    assert np.array_equal(moved_picture(rgb, CHANGES[SHIFTED].motion((20, 24)))[9, 10:], rgb[1, :-10]), "mirrored"
    picture, mask = np.zeros((300, 400, 3), np.uint8), np.zeros((300, 400), np.bool_)
    picture[148:153, 340:350], mask[148:153, 340:350] = 255, True  # right of the centre: a turn moves it down
    motion = CHANGES["turned by 1 degrees"].motion(mask.shape)
    bright, masked = (np.argwhere(each) for each in (moved_picture(picture, motion)[..., 0] > 127, moved(mask, motion)))
    assert bright.mean(axis=0) == pytest.approx(masked.mean(axis=0), abs=0.5)
    assert masked.mean(axis=0) == pytest.approx((150 + 145 * np.sin(np.radians(1)), 344.5), abs=0.6)


def test_a_square_in_a_moved_frame_is_found_where_it_moved_to(bundle: Bundle) -> None:
    frame, square = dark_square(white_frame(), 96, 304), np.zeros((500, 700), np.bool_)
    square[96:144, 304:352] = True
    shown = [Appearance((500, 700), ImageStatistics.of(each), None) for each in (frame, white_frame())]
    with contextlib.closing(open_engine("openvino", bundle.path, TILE, threads=1)) as engine:
        inspector = Inspector(bundle.manifest, engine, plausibility=fit_plausibility(shown))
        for change in (CHANGES[UNCHANGED], CHANGES[SHIFTED]):
            motion = change.motion(square.shape)
            place = moved(square, motion)
            seen = inspect_frame(inspector, moved_picture(frame, motion), place)
            assert (seen.verdict, seen.clean, seen.misaligned) == ("DEFECT", "GOOD", False)
            assert (seen.pixels & place).sum() / (seen.pixels | place).sum() > 0.6  # map cells have 16 px
        assert inspect_frame(inspector, frame).clean == "DEFECT", "no mask says that its tiles are defective"
        assert inspect_frame(inspector, white_frame()).verdict == "GOOD"
        assert not inspect_frame(inspector, white_frame()).pixels.any()
        assert inspect_frame(inspector, white_frame() * 0).verdict == "NO_VERDICT"


def test_a_frame_that_cannot_be_aligned_with_its_reference_is_refused_as_misaligned(tmp_path: Path) -> None:
    comparing, reference = board_bundle(tmp_path / "boards.bundle", {"": Reference(board(seed=1))}), Reference(board())
    with contextlib.closing(open_engine("openvino", comparing.path, TILE, threads=1)) as engine:
        inspector = Inspector(comparing.manifest, engine)
        for px, expected in ((10, ("GOOD", False)), (150, ("NO_VERDICT", True))):
            frame = moved_picture(board(), Change(px=px).motion(board().shape[:2]))
            seen = inspect_frame(inspector, frame, reference=reference)
            assert (seen.verdict, seen.misaligned) == expected


def test_figures_count_verdicts_and_changed_verdicts() -> None:
    found = count_figures(
        "darker",
        [
            Comparison(False, "GOOD", "GOOD", None, 0, 0, 0),
            Comparison(False, "GOOD", "DEFECT", None, 0, 0, 0),
            Comparison(False, "DEFECT", "DEFECT", 0.9, 0, 0, 0),  # a good frame: its regions have no figure
            Comparison(False, "DEFECT", "NO_VERDICT", None, 0, 0, 0),
            Comparison(False, "NO_VERDICT", "DEFECT", None, 0, 0, 0),
            Comparison(True, "DEFECT", "DEFECT", 0.8, 3, 3, 2),
            Comparison(True, "DEFECT", "DEFECT", 0.6, 1, 1, 1),
            Comparison(True, "DEFECT", "GOOD", None, 2, 1, 0),
            Comparison(True, "NO_VERDICT", "DEFECT", None, 5, 5, 5),
            Comparison(True, "DEFECT", "NO_VERDICT", None, 7, 7, 7, "GOOD", True),
        ],
    )
    assert found == ChangeFigures(
        change="darker",
        frames=10,
        refused=2,
        good=4,
        rejected=3,
        defective=4,
        found=3,
        became_defect=1,
        became_good=1,
        overlaps=2,
        iou_median=pytest.approx(0.7),
        iou_p5=pytest.approx(0.61),
        defects=6,
        hit_unchanged=5,
        hit=3,
        misaligned=1,
    )


def test_clean_tiles_of_defective_frames_stand_in_for_good_frames() -> None:
    verdicts = (("DEFECT", "GOOD"), ("GOOD", "GOOD"), ("DEFECT", "DEFECT"), ("DEFECT", None), ("NO_VERDICT", "DEFECT"))
    found = count_figures("", [Comparison(True, "DEFECT", after, None, 1, 1, 1, clean) for after, clean in verdicts])  # type: ignore[arg-type]
    assert (found.stand_ins, found.good, found.rejected, found.defective, found.found) == (True, 3, 1, 4, 3)


def test_the_table_has_a_row_per_figure_and_change() -> None:
    none = count_figures("", [])
    compared = [Comparison(True, "DEFECT", "DEFECT", 0.5, 4, 3, 2), Comparison(False, "GOOD", "DEFECT", None, 0, 0, 0)]
    some = count_figures("", compared)
    settings = Settings(seeds=[0], folds=[0], frames=40, overrides=[])
    sets = [
        SetResult(
            set=name,
            truth="masks",
            settings=settings,
            groups=groups,
            changes=[msgspec.structs.replace(figures, change=change) for change in CHANGES],
        )
        for name, groups, figures in (("first", 7, some), ("second", 1, none))
    ]
    assert sets[0].is_of("masks", settings)
    assert not msgspec.structs.replace(sets[0], changes=sets[0].changes[1:]).is_of("masks", settings)
    rows = table(sets).splitlines()
    assert rows[0] == "|  | first | second |"
    assert rows[rows.index("| **IoU of regions, median; 5th percentile** |  |  |") + 2] == (
        "| 20 % brighter | 0.50; 0.50 | - |"
    )
    assert rows[rows.index("| **defects hit (in the same frames, unchanged)** |  |  |") + 1] == (
        "| unchanged | 2 of 4 (3) | - |"
    )
    assert "| 20 % darker | 1, 0 | 0, 0 |" in rows
    assert rows[rows.index("| **good frames rejected** |  |  |") + 1] == "| unchanged | 1 of 1 | - |"
    assert rows[-1] == "| groups left out | 7 | 1 |"


def test_results_with_other_settings_are_retained_with_their_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(one: DataSet, data: Path, work: Path, settings: Settings, *_: object) -> SetResult:
        changes = [msgspec.structs.replace(count_figures("", []), change=change) for change in [*CHANGES][:-1]]
        return SetResult(set=one.name, truth=one.truth, settings=settings, groups=settings.seeds[0], changes=changes)

    monkeypatch.setattr(robustness, "measure", measure)
    out = tmp_path / "found.json"
    for seed, cores in ((7, 2), (5, 4)):
        monkeypatch.setattr(
            "heatline.bench.commands.robustness.machine", lambda cores=cores: {"cores": cores, "flags": "fpu"}
        )
        run(out, "--seed", str(seed))
        assert out.with_suffix(".md").read_text().splitlines()[-1] == f"| groups left out | {seed} |"
    found = json.loads(out.read_text())
    assert [(one["groups"], one["machine"]) for one in found["sets"]] == [(7, {"cores": 2}), (5, {"cores": 4})]

    for one in found["sets"]:  # as in a file of an older version
        del one["machine"]
    out.write_text(json.dumps(found))
    assert [one.machine for one in read_robustness(out)] == [{"cores": 4}, {"cores": 4}]
    assert table(read_robustness(out)).splitlines()[len(CHANGES) + 2] == f"| {[*CHANGES][-1]} | - | - |"


def test_a_result_file_of_another_bench_is_refused(tmp_path: Path) -> None:
    assert read_robustness(tmp_path / "none.json") == []
    (tmp_path / "other.json").write_text('{"bench": "plausibility", "sets": [{"set": "blobs", "seeds": [0]}]}')
    with pytest.raises(BenchError, match="not written by heatline bench robustness"):
        read_robustness(tmp_path / "other.json")
