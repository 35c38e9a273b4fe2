"""Drawn boards have exact masks and reproducible bytes; folders are written completely or not at all."""

import csv
import runpy
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from examples.drawn_boards.boards import DEFECT_KINDS, DrawnBoard, draw_board, write_boards
from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb

PROGRAM = Path(__file__).parents[1] / "examples" / "drawn_boards" / "draw.py"
SIZE_HW = (640, 800)
SEEDS = (2, 4)


@cache
def defective(seed: int) -> DrawnBoard:
    return draw_board(seed, size_hw=SIZE_HW)


@cache
def flawless(seed: int) -> DrawnBoard:
    return draw_board(seed, size_hw=SIZE_HW, defects=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_defect_is_one_component_of_the_mask_of_bounded_size_and_apart_from_the_others(seed: int) -> None:
    board = defective(seed)
    count, label = cv2.connectedComponents(board.mask.astype(np.uint8), connectivity=8)
    assert count - 1 == len(board.defects)
    found = set()
    for number in range(1, count):
        x, y, width, height = cv2.boundingRect((label == number).astype(np.uint8))
        found.add(((x, y, x + width, y + height), int(np.count_nonzero(label == number))))
    assert found == {(defect.box_xyxy, defect.area_px) for defect in board.defects}
    boxes = [defect.box_xyxy for defect in board.defects]
    for at, (left, top, right, bottom) in enumerate(boxes):
        assert 20 <= max(right - left, bottom - top) <= 150
        assert min(left, top, SIZE_HW[1] - right, SIZE_HW[0] - bottom) > 0
        for b in boxes[:at]:
            assert max(left - b[2], b[0] - right, top - b[3], b[1] - bottom) >= 64
    assert {defect.kind for each in SEEDS for defect in defective(each).defects} == set(DEFECT_KINDS)
    assert flawless(2).image.tobytes() != flawless(4).image.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_board_differs_from_its_flawless_twin_only_at_defects(seed: int) -> None:
    board, twin = defective(seed), flawless(seed)
    changed = (board.image != twin.image).any(axis=2)
    # Relief, lens and JPEG blocks spread a change slightly beyond the changed pixels.
    reach = cv2.dilate(board.mask.astype(np.uint8), np.ones((81, 81), np.uint8)) > 0
    assert not (changed & ~reach).any()
    difference = np.abs(board.image.astype(int) - twin.image).max(axis=2)
    for defect in board.defects:
        left, top, right, bottom = defect.box_xyxy
        inside = board.mask[top:bottom, left:right]
        assert np.median(difference[top:bottom, left:right][inside]) >= 8, defect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "boards"
    write_boards(folder, 4, 7, size_hw=(448, 500))
    return folder


def test_labels_agree_with_masks(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["label"] for row in rows] == ["good", "defective", "defective", "good"]
    for row in rows:
        image = read_rgb(folder / "images" / row["image"])
        mask = cv2.imread(str(folder / "masks" / row["image"]), cv2.IMREAD_UNCHANGED)
        assert (mask.shape, set(np.unique(mask)) <= {0, 255}) == (image.shape[:2], True)
        assert cv2.connectedComponents(mask, connectivity=8)[0] - 1 == len(row["defects"].split())
        assert row["group"] == Path(row["image"]).stem
    drawn = read_rgb(folder / "images" / "board_00001.png")
    assert np.array_equal(drawn, draw_board((7, 1), size_hw=(448, 500)).image)


def test_a_pool_of_processes_draws_the_same_folder(folder: Path, tmp_path: Path) -> None:
    write_boards(tmp_path / "boards", 4, 7, size_hw=(448, 500), workers=2)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(InputError, match="name a new folder"):
        write_boards(folder, 4, 8, size_hw=(448, 500))
    for drawn in (folder, tmp_path / "boards"):  # an existing folder is not changed
        assert {path.relative_to(drawn): path.read_bytes() for path in drawn.rglob("*.*")} == before
    with write_boards(tmp_path / "few", 2, 5, size_hw=(448, 500), defects=2).open() as file:
        assert [len(row["defects"].split()) for row in csv.DictReader(file)] == [0, 2]


def test_the_program_draws_boards_and_reports_errors_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(PROGRAM.parent)

    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *options])
        runpy.run_path(str(PROGRAM), run_name="__main__")

    run("boards", "--count", "1", "--seed", "1")
    assert "boards holds 1 board of seed 1" in capsys.readouterr().out
    assert read_rgb(tmp_path / "boards" / "images" / "board_00000.png").shape == (1250, 1600, 3)
    for place, sentence in (
        ("boards", "draw: boards exists; name a new folder\n"),
        ("/proc/boards", "draw: /proc/boards cannot be written"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(place, "--count", "1")
        error = capsys.readouterr().err
        assert (ended.value.code, sentence in error, error.count("\n")) == (9, True, 1)
