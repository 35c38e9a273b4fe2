"""The shipped bundle, the demo around it, and a defect that is slid across the seam between two tiles."""

import contextlib
import functools
import importlib
import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import heatline
from examples.drawn_boards.boards import draw_board
from examples.drawn_boards.boards.folder import write_boards
from heatline.edge.bundle import Bundle, check_golden, open_bundle
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher
from heatline.edge.inference import EngineKind, open_engine
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.wire.events import Event, VerdictEvent
from tests.train.report_page import Page

REACH_PX = 72
"""How far to both sides of the seam the defect's middle goes."""
NEAR_PX = 64
"""How far from a defect its peak is looked for: farther than it may stray, nearer than other evidence mostly is."""


def slide_defects(bundle: Bundle, defects: int, seed: int, step_px: int) -> Iterator[tuple[int, float, float]]:
    """Slide defects, each across a seam of the bundle's overlap and across one of the defect's own size.

    Yields the overlap; how far, at most, the heatmap's peak near the defect was from its pixels, judged DEFECT or not;
    and at what share of the places no tile reached the score threshold.
    """
    grid = bundle.manifest.grid
    engine, found = open_engine("openvino", bundle.path, grid.tile_px), 0
    for number in count():
        board = draw_board((seed, number), defects=1)
        left, top, right, bottom = board.defects[0].box_xyxy
        (height, width), reach = board.mask.shape, grid.tile_px + REACH_PX
        if not (
            grid.tile_px <= top + bottom < 2 * height - grid.tile_px and 2 * reach < left + right < 2 * (width - reach)
        ):
            continue
        for overlap_px in (grid.overlap_px, max(right - left, bottom - top)):
            inspector = Inspector(bundle.manifest, engine, overlap_px=overlap_px)
            window_px, y = 2 * grid.tile_px - overlap_px, (top + bottom - grid.tile_px) // 2
            logits, off = [], []
            for shift in range(-REACH_PX, REACH_PX + 1, step_px):
                x = (left + right - window_px) // 2 - shift
                window = np.s_[y : y + grid.tile_px, x : x + window_px]
                frame = Frame(Stamp("slide", shift), np.ascontiguousarray(board.image[window]), "RGB8")
                pending = inspector.start(frame)
                judgement = inspector.finish(pending)
                logits.append(judgement.score)
                off.append(_peak_off_px(judgement.heatmap, pending.stitcher, board.mask[window]))
            yield overlap_px, max(off), sum(each < inspector.thresholds.score for each in logits) / len(logits)
        if (found := found + 1) == defects:
            return


def _peak_off_px(heatmap: NDArray[np.float32], stitcher: Stitcher, mask: NDArray[np.bool_]) -> float:
    """How far the heatmap's highest place within `NEAR_PX` of the defect is from its pixels, px."""
    rows, columns = np.nonzero(mask)
    y, x = stitcher.centres_y[:, None], stitcher.centres_x[None, :]
    near = (
        (y >= rows.min() - NEAR_PX) & (y <= rows.max() + NEAR_PX)
        & (x >= columns.min() - NEAR_PX) & (x <= columns.max() + NEAR_PX)
    )  # fmt: skip
    row, column = np.unravel_index(int(np.where(near, heatmap, -np.inf).argmax()), heatmap.shape)
    away = (rows + 0.5 - y[row, 0]) ** 2 + (columns + 0.5 - x[0, column]) ** 2
    return float(np.sqrt(away.min()))


DEMO = Path(__file__).parents[1] / "examples" / "drawn_boards"
BUNDLE = DEMO / "bundle"
MAP_CELL_PX = 8


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_the_shipped_bundle_reproduces_its_golden_tiles(kind: EngineKind) -> None:
    bundle = open_bundle(BUNDLE)
    differences = check_golden(bundle.golden(), open_engine(kind, bundle.path, 224), bundle.manifest)
    assert max(differences.values()) <= 1e-4


def test_the_shipped_bundle_is_small_and_was_trained_on_drawn_boards() -> None:
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 12_000_000
    provenance = open_bundle(BUNDLE).manifest.provenance
    assert provenance["data"]["data"].startswith("boards")
    assert provenance["data"]["truth"] == "masks"
    assert b"stack_trace" not in (BUNDLE / "model.onnx").read_bytes()
    assert "efficientnet-lite0" in provenance["weights"]["source"]


def test_a_board_that_was_lost_in_part_is_never_good(tmp_path: Path) -> None:
    """A flawless board is GOOD; if a twentieth of it is lost or a part covered, it gets no verdict, with the place."""
    write_boards(tmp_path / "boards", 1, seed=78, defects=0)
    height, width = 1250, 1600
    with heatline.open_bundle(BUNDLE) as inspector:
        for file in sorted((tmp_path / "boards" / "images").iterdir()):
            board = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            assert inspector.inspect(board).verdict == "GOOD"
            for share, value in ((0.05, 0), (0.2, 128), (0.3, None)):
                lost = board.copy()
                first = height - round(share * height)
                lost[first:] = lost[first - 1] if value is None else value
                found = inspector.inspect(lost)
                assert (found.verdict, found.reason) == ("NO_VERDICT", "failed.foreign_area"), (share, value)
                boxes = [area.box_xyxy for area in found.event.foreign_areas]
                assert any(abs(box[1] - first) <= 1 and box[2:] == (width, height) for box in boxes)
            labelled = board.copy()
            cv2.rectangle(labelled, (400, 300), (900, 700), (235, 235, 230), -1)
            cv2.putText(labelled, "LOT 4711", (420, 560), cv2.FONT_HERSHEY_SIMPLEX, 3, (20, 20, 20), 6)
            found = inspector.inspect(labelled)
            assert found.verdict != "GOOD"
            assert found.event.foreign_areas
            assert found.verdict == "NO_VERDICT" or f"foreign area: {found.event.foreign_areas[0].why}" in str(found)
            outlined = found.overlay()
            assert (outlined == (255, 176, 0)).all(axis=2).any(), "the area is outlined"


@pytest.mark.parametrize(("defects", "step_px"), [(1, 24), pytest.param(12, 1, marks=pytest.mark.long)])
def test_the_peak_follows_a_defect_across_a_seam(defects: int, step_px: int) -> None:
    slides = list(slide_defects(open_bundle(BUNDLE), defects, seed=7, step_px=step_px))
    assert {overlap_px for overlap_px, _, _ in slides} > {2}
    seen = [off_px for _, off_px, missed_share in slides if missed_share < 1]
    assert len(seen) >= 0.8 * len(slides)  # a defect that the network misses has no peak
    assert max(seen) <= 2 * MAP_CELL_PX


@pytest.mark.parametrize(
    ("boards", "size_hw", "seed"),
    [(3, (560, 800), 4), pytest.param(24, (1250, 1600), 2026, marks=pytest.mark.long)],
)
def test_the_demo_passes_its_checks_and_reports_those_that_fail(
    boards: int,
    size_hw: tuple[int, int],
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line runs once; its events are then compared with other masks, so that checks fail.

    The three small boards are of a seed with which all checks pass: one of their five defects missed would fail one.
    """

    def interrupt(page: Any) -> None:
        assert page.get("").body.startswith(b"<!doctype html>")
        raise KeyboardInterrupt

    monkeypatch.syspath_prepend(DEMO)
    demo = importlib.import_module("demo")
    monkeypatch.setattr(demo, "BOARDS", boards)
    monkeypatch.setattr(demo, "SEED", seed)
    if size_hw != (1250, 1600):  # the bundle takes boards of another size for another product
        monkeypatch.setattr(demo, "LINE", f"{demo.LINE}\n[thresholds]\ncheck_plausibility = false\n")
    monkeypatch.setattr(demo, "write_boards", functools.partial(demo.write_boards, size_hw=size_hw))
    monkeypatch.setattr(demo, "is_at_terminal", lambda: True)
    monkeypatch.setattr(demo.LinePage, "serve", interrupt)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # another process takes as long to start as two boards take to draw
    (tmp_path / "file").touch()
    for out, fails in ((tmp_path / "file" / "x", True), (tmp_path, False)):
        monkeypatch.setattr("sys.argv", ["demo.py", "--out", str(out)])
        if fails:
            with pytest.raises(SystemExit, match="13"):
                demo.main()
            assert "x cannot be made (Not a directory); name another folder with --out" in capsys.readouterr().err
    demo.main()
    output = capsys.readouterr().out
    assert (output.count("passed "), output.count("FAILED")) == (7, 0)
    url = re.search(r"^open (http://127\.0\.0\.1:\d+/) in a browser to see the line at work$", output, re.MULTILINE)
    assert url is not None
    assert f"open {url[1]} to see the page of the line; Ctrl-C ends it" in output
    assert output.endswith(f"heatline view {tmp_path / 'line.toml'}` to see the page of the line again\n")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = Page(page)
    sections = [attributes for tag, attributes in shown.elements if tag == "section"]
    assert len(sections) == boards
    assert sections[0]["data-verdict"] == "DEFECT", "the page begins with a board that has defects"
    counts = re.search(r"of the defects are found: (\d+) of (\d+)", output)
    assert counts is not None
    found, defects = counts.groups()
    assert sum(int(one["data-missed"] or "") for one in sections) == int(defects) - int(found)
    lines = (tmp_path / "received" / "events.jsonl").read_bytes().splitlines()
    received = [msgspec.json.decode(text, type=Event) for text in lines]
    events = [event for event in received if isinstance(event, VerdictEvent)]
    expected = [(Path(event.source).stem, event.verdict) for event in events]
    assert sorted((str(one["id"]), one["data-verdict"]) for one in sections) == sorted(expected)
    assert all(load.startswith("data:image/jpeg;base64,") for load in shown.loads)
    assert re.search(r"region from -?[\d.]+ logits", page), "the legend of the heatmaps has the thresholds"

    for mask in (tmp_path / "boards" / "masks").iterdir():
        cv2.imwrite(str(mask), cv2.flip(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), -1))
    monkeypatch.setattr(demo, "LinePage", lambda _: contextlib.nullcontext(SimpleNamespace(url="")))
    monkeypatch.setattr(demo, "prepare", lambda _: None)
    monkeypatch.setattr(demo, "inspect", lambda *_: (events, received[-1]))
    monkeypatch.setattr(demo, "check_pictures", lambda *_: [])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 13
    output, error = capsys.readouterr()
    assert "FAILED  at least 90 % of the defects" in output
    assert "not every check passed" in error
