"""The screening stage: what it clears, what runs all the same, and that a DEFECT frame is inspected whole."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.bundle.golden import GoldenTilesError
from heatline.edge.bundle.manifest import SCREENING_GRAPH, CameraPlausible, Plausible, Screening
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.bundle.store import open_screening
from heatline.edge.cli.bundle_formatting import describe_screening
from heatline.edge.config import load_config
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.heatmap_picture import CLEARED, ColourScale
from heatline.edge.inference import Engine, open_engine
from heatline.edge.inference.engine import (
    OPENVINO_GRAPH,
    OPENVINO_WEIGHTS,
    Done,
    Failed,
    Fill,
    ReducingEngine,
    weights_of,
)
from heatline.edge.inspection.inspector import Inspector, Setup, one_ahead
from heatline.edge.inspection.screening import AUDITED_EVERY, TRIED_EVERY, ScreeningStage
from heatline.edge.service.changeover import prepare
from heatline.edge.wire.events import DriftEvent, StatusEvent, VerdictEvent
from tests.command import heatline, successful
from tests.edge.lines import running, write_line, write_pictures
from tests.small_bundle import BIAS, CELLS, GAIN, TILE, answer, contents_of, golden_tiles, graph, manifest, to_openvino

SIDE = 3
"""Tiles along a side of the frames here, which do not overlap."""
SCORE = -1.0
SEEN = TILE // 2


def stated(clear_below: float, gain: float = GAIN) -> Screening:
    size = (1, 10_000)
    plausible = Plausible(1, size, size, (0.0, 255.0), (0.0, None), (0.0, None), None)
    golden = reduced_answer(golden_tiles().tiles, gain).max(axis=(1, 2)).tolist()
    return Screening(clear_below, SCORE, 9, 0.1, 3, 0.6, 0.9, SEEN, (CELLS // 2, CELLS // 2), golden, plausible)


def reduced_answer(tiles: NDArray[np.uint8], gain: float = GAIN) -> NDArray[np.float32]:
    """The maps of a graph as the bundle's own for tiles of half their side, whose px are the rounded means of 2x2."""
    halves = np.floor(tiles.reshape(len(tiles), SEEN, 2, SEEN, 2, 3).mean(axis=(2, 4)) + 0.5)
    dark = 1 - halves.mean(axis=3) / 255
    return np.asarray(dark.reshape(len(tiles), 7, 16, 7, 16).mean(axis=(2, 4)) * gain - BIAS, np.float32)


def screened_bundle(
    path: Path, clear_below: float, gain: float = GAIN, cameras: Sequence[str] = (), **changes: list[float]
) -> Bundle:
    """The small bundle, whose small graph is its whole one, but for the gain, with changes of what is stated.

    Args:
        cameras: those that were calibrated alone.
    """
    small = to_openvino(graph(gain))
    files = contents_of() | {
        SCREENING_GRAPH: small[OPENVINO_GRAPH],
        weights_of(SCREENING_GRAPH): small[OPENVINO_WEIGHTS],
    }
    screening = msgspec.structs.replace(stated(clear_below, gain), **changes)
    alone = {camera: CameraPlausible(screening.plausible, [], []) for camera in cameras}
    calibration = msgspec.structs.replace(manifest().calibration, plausible_by_camera=alone)
    return write_bundle(path, msgspec.structs.replace(manifest(), screening=screening, calibration=calibration), files)


def frame_with(squares: list[int], number: int = 1) -> Frame:
    """White tiles, each with a dark square of this side."""
    image = np.full((SIDE * TILE, SIDE * TILE, 3), 255, np.uint8)
    for tile, side in enumerate(squares):
        y, x = (each * TILE + 10 for each in divmod(tile, SIDE))
        image[y : y + side, x : x + side] = 0
    return Frame(Stamp("top", number), image, "RGB8")


@pytest.fixture(scope="module")
def inspectors(bundle: Bundle) -> Iterator[tuple[Inspector, ScreeningStage, Inspector]]:
    """One without a stage, and one with a stage of its own small engine."""
    engines: list[Engine] = [open_engine("openvino", bundle.path, TILE, threads=1) for _ in range(2)]
    engines.append(ReducingEngine(open_engine("openvino", bundle.path, SEEN, threads=1), TILE))
    stage = ScreeningStage(stated(0.0), engines[2], TILE)
    yield (
        Inspector(bundle.manifest, engines[0], overlap_px=0),
        stage,
        Inspector(bundle.manifest, engines[1], overlap_px=0, screening=stage),
    )
    for engine in engines:
        engine.close()


def tiles_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all cells of each tile are in a mask of a heatmap."""
    cells = mask.shape[0] // SIDE
    return mask.reshape(SIDE, cells, SIDE, cells).all(axis=(1, 3)).ravel()


@given(
    frames=st.lists(st.lists(st.integers(0, 90), min_size=9, max_size=9), min_size=1, max_size=4),
    limit=st.floats(-3, 99),
)
def test_cleared_tiles_are_no_answer_and_a_defect_frame_is_inspected_whole(
    inspectors: tuple[Inspector, ScreeningStage, Inspector], frames: list[list[int]], limit: float
) -> None:
    plain, stage, screening = inspectors
    fresh = ScreeningStage(stated(limit), stage.engine, TILE)
    screening.screening = fresh
    pictures = [frame_with(squares, number) for number, squares in enumerate(frames, 1)]
    pendings = one_ahead(screening.start(picture) for picture in pictures)
    for picture, pending in zip(pictures, pendings, strict=True):
        judgement, expected = screening.finish(pending), plain.finish(plain.start(picture))
        tiles = pending.stitcher.grid.tiles(picture.image)  # type: ignore[arg-type]
        logits, _ = answer(tiles)
        assert pending.small is not None
        peaks = pending.small.maps.max(axis=(1, 2))
        np.testing.assert_allclose(peaks, reduced_answer(tiles).max(axis=(1, 2)), atol=1e-3)
        good = peaks < limit
        good[peaks.argmax()] = False
        found, cleared = judgement.screened, tiles_of(judgement.heatmap == CLEARED)
        assert found is not None
        seen = good.sum() if found.cleared else found.audited
        assert (found.tiles, found.cleared, found.cleared + found.audited) == (9, cleared.sum(), seen)
        assert not (cleared & ~good).any()
        assert np.array_equal(judgement.tiles.logits, expected.tiles.logits[~cleared])
        whole = set() if found.cleared else {"score", "evidence"}
        assert judgement.measures.keys() == whole | (set() if found.audited else {"cleared"})
        reached = logits.astype(np.float64) >= SCORE
        assert judgement.verdict == ("DEFECT" if reached[~cleared].any() else "GOOD")
        known = judgement.heatmap != CLEARED
        np.testing.assert_allclose(judgement.heatmap[known], expected.heatmap[known], atol=1e-4)
        assert np.array_equal(np.repeat(np.repeat(cleared.reshape(3, 3), 56, 0), 56, 1), ~known), "whole tiles"
        if judgement.verdict == "DEFECT":
            seen_by_itself = bool((reached & ~good).any())
            assert (found.cleared, found.disagreed) == (0, 0 if seen_by_itself else reached.sum())
            assert not (seen_by_itself and found.audited)
            assert judgement.regions == expected.regions


def test_a_stage_that_clears_nothing_is_tried_only_now_and_then(
    inspectors: tuple[Inspector, ScreeningStage, Inspector],
) -> None:
    stage = ScreeningStage(stated(0.0), inspectors[1].engine, TILE)
    used = []
    for _ in range(200):
        used.append(stage.pays("top"))
        if used[-1]:
            stage.note("top", cleared=0.0)
        else:
            stage.note_good("top")
    assert used[:3] == [True] * 3
    assert sum(used[-3 * TRIED_EVERY :]) == 3
    assert stage.pays("side")
    assert any(stage.pays("top") for _ in range(TRIED_EVERY))
    stage.note("top", cleared=0.9)
    assert stage.pays("top"), "a good frame is enough"
    audits = [not stage.choose_cleared("top", np.ones(3, np.bool_)).any() for _ in range(2 * AUDITED_EVERY)]
    assert audits.count(True) == 2


def test_defective_frames_alone_do_not_pay_for_the_stage(
    inspectors: tuple[Inspector, ScreeningStage, Inspector],
) -> None:
    _, stage, screening = inspectors
    screening.screening = ScreeningStage(stated(0.0), stage.engine, TILE)
    shown = [True] * 3 * TRIED_EVERY + [False] * 2
    pendings = one_ahead(screening.start(frame_with([80 * defective] * 9)) for defective in shown)
    judged = [screening.finish(pending) for pending in pendings]
    assert [each.verdict == "DEFECT" for each in judged] == shown
    used = [each.screened is not None for each in judged]
    assert not any(used[TRIED_EVERY:-1])
    assert screening.finish(screening.start(frame_with([0] * 9))).screened is not None, "the last one was good"


def test_a_frame_that_ran_whole_is_checked_as_without_a_stage(
    inspectors: tuple[Inspector, ScreeningStage, Inspector], openvino: Engine
) -> None:
    fresh = ScreeningStage(stated(0.0), inspectors[1].engine, TILE)
    dark = Plausibility(msgspec.structs.replace(stated(0.0).plausible, brightness=(0.0, 1.0)))
    screening = Inspector(manifest(), openvino, overlap_px=0, plausibility=dark, screening=fresh)
    good, defective = (screening.finish(screening.start(frame_with([side] * 9))) for side in (0, 80))
    assert good.screened is not None
    assert defective.screened is not None
    assert (good.verdict, good.implausible, defective.verdict) == ("GOOD", None, "DEFECT")
    assert "brightness" in (defective.implausible or "")


class FailingEngine(ReducingEngine):
    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        failed(EngineError("it is gone"))


def test_if_the_small_graph_fails_each_frame_is_inspected_whole(
    inspectors: tuple[Inspector, ScreeningStage, Inspector], caplog: pytest.LogCaptureFixture
) -> None:
    plain, stage, screening = inspectors
    screening.screening = ScreeningStage(stated(99.0), FailingEngine(stage.engine, TILE), TILE)
    for number in range(1, 4):
        frame = frame_with([0, 60, *[0] * 7], number)
        found, expected = (inspector.finish(inspector.start(frame)) for inspector in (screening, plain))
        assert (found.verdict, found.screened) == ("DEFECT", None)
        np.testing.assert_allclose(found.heatmap, expected.heatmap, atol=1e-4)
    assert caplog.text.count("every tile runs in full from now on, as the screening stage failed") == 1


def test_cleared_cells_are_a_grey_of_their_own_in_the_picture_of_a_heatmap() -> None:
    heatmap = np.array([[np.nan, CLEARED, -5.0, 5.0]], np.float32)
    scale = ColourScale(-5.0, 5.0)
    assert scale.grey(heatmap).tolist() == [[0, 1, 2, 255]]
    assert scale.grey(heatmap[:, 2:]).tolist() == [[0, 255]], "as without a stage"
    np.testing.assert_array_equal(scale.logits(scale.grey(heatmap), 1)[0, [0, 1, 3]], [np.nan, CLEARED, 5.0])


def test_a_small_graph_that_answers_otherwise_here_is_not_used(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_screening(screened_bundle(tmp_path / "good", 0.0)).close()
    bundle = screened_bundle(tmp_path / "other", 0.0, golden=[1.0] * 4)
    with pytest.raises(GoldenTilesError, match=r"the screening stage of .* gives .*; set engine.screening = false"):
        open_screening(bundle)
    path = write_line(tmp_path, bundle.path, address, {"top": f'path = "{tmp_path}"'})
    verified = prepare(load_config(path)).verified
    assert (verified is not None and verified.screening) is None
    assert "every tile runs in full: on this machine the screening stage" in caplog.text


def test_a_line_says_that_a_camera_calibrated_alone_is_inspected_whole(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = screened_bundle(tmp_path / "bundle", 0.0, cameras=["top"])
    path = write_line(tmp_path, bundle.path, address, {"top": f'path = "{tmp_path}"'})
    setup = prepare(load_config(path)).setup
    assert isinstance(setup, Setup)
    assert setup.inspector.start(frame_with([0])).small is None
    assert "every tile of camera top runs in full, as it was calibrated alone" in caplog.text


def test_its_bounds_are_given_for_the_thresholds_that_it_is_used_with() -> None:
    assert describe_screening(stated(0.0), SCORE) == (
        f"sees tiles at {SEEN} px; clears 90 % of good frames' tiles; changes none of 3 held-out DEFECT frames, of new "
        "ones at most 60 %; misses none of 9 held-out defects that the whole graph finds, of new ones at most 10 % (95 "
        "% confidence)"
    )
    unused = describe_screening(stated(0.0), SCORE - 0.1)
    assert unused.startswith("every tile runs in full: the score threshold is -1.1, and the bundle's ")


def test_a_bundle_that_lacks_its_small_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"lists no screening\.xml, which it must have"):
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest(), screening=stated(0.0)), contents_of())


def test_a_line_counts_cleared_tiles_and_reports_a_defect_that_the_stage_calls_good(
    tmp_path: Path, address: str
) -> None:
    """Its stage calls all but the lightest tile good, so only an audit finds the dark ones."""
    bundle = screened_bundle(tmp_path / "bundle", 1e6, -GAIN)
    pictures = [frame_with([0, *[60] * 8]), frame_with([0] * 9)]
    folder = write_pictures(tmp_path / "pictures", {f"{at}.png": each.image for at, each in enumerate(pictures)})
    tables = "[tiles]\noverlap_px = 0"
    path = write_line(tmp_path, bundle.path, address, {"top": f'path = "{folder}"\nrate_fps = 50\nloop = true'}, tables)
    with running(path, address) as run:
        drift = run.until(lambda event: isinstance(event, DriftEvent))
        assert (drift.measure, drift.active, drift.camera) == ("screening", True, "top")
        status = run.until(lambda event: isinstance(event, StatusEvent) and event.screened is not None)
        seen = run.received.verdicts
        good, defect = (next(e for e in seen if e.verdict == verdict) for verdict in ("GOOD", "DEFECT"))
        assert sum(msgspec.structs.astuple(good.screened)[1:]) == 8
        assert (defect.screened.cleared, defect.screened.disagreed) == (0, 8)
        of_all = status.screened
        shown = r"screened [\d.]+ % of \d+ screened tiles cleared; (\d+) of (\d+) audited ones reached the score th"
        described = re.search(shown, " ".join(successful(heatline("status", path)).stdout.split()))
        assert described
        assert of_all.disagreed <= int(described[1]) <= int(described[2])
        assert "screened cameras top" in " ".join(successful(heatline("check", path)).stdout.split())
        assert (of_all.tiles % 9, of_all.disagreed % 8, of_all.audited >= of_all.disagreed >= 8) == (0, 0, True)
        assert ", clearing surely good tiles" in run.process.log()
        path.write_text(path.read_text() + "\n[engine]\nscreening = false\n")
        assert run.reload().applied
        run.until(lambda event: isinstance(event, VerdictEvent) and event.screened is None)
        path.write_text(path.read_text().replace("screening = false", "") + f"\n[thresholds]\nscore = {SCORE - 0.5}\n")
        assert run.reload().applied
        run.until(lambda event: isinstance(event, VerdictEvent) and event.screened is None)
        assert "every tile runs in full: the score threshold is -1.5," in run.process.log()
