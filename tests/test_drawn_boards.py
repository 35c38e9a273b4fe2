"""Drawn boards have exact masks and reproducible bytes; folders are written completely or not at all."""

import csv
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from examples.drawn_boards.boards import DEFECT_KINDS, DrawnBoard, draw_board, write_boards
from heatline.edge.errors import InputError

PROGRAM = Path(__file__).parents[1] / "examples" / "drawn_boards" / "draw.py"
SIZE_HW = (640, 800)
SEEDS = range(3)


@cache
def defective(seed: int) -> DrawnBoard:
    return draw_board(seed, size_hw=SIZE_HW)


@cache
def flawless(seed: int) -> DrawnBoard:
    return draw_board(seed, size_hw=SIZE_HW, defects=0)


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads() -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        again = draw_board(0, size_hw=SIZE_HW)
    finally:
        cv2.setNumThreads(threads)
    assert again.image.tobytes() == defective(0).image.tobytes()
    assert again.mask.tobytes() == defective(0).mask.tobytes()
    assert again.defects == defective(0).defects


def test_different_seeds_give_different_boards() -> None:
    boards = [flawless(0), flawless(1), draw_board((0, 1), size_hw=SIZE_HW, defects=0)]
    assert len({board.image.tobytes() for board in boards}) == 3
    assert not any(board.mask.any() or board.defects for board in boards)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_defect_is_one_component_of_the_mask(seed: int) -> None:
    board = defective(seed)
    count, label = cv2.connectedComponents(board.mask.astype(np.uint8), connectivity=8)
    assert count - 1 == len(board.defects)
    found = set()
    for number in range(1, count):
        x, y, width, height = cv2.boundingRect((label == number).astype(np.uint8))
        found.add(((x, y, x + width, y + height), int(np.count_nonzero(label == number))))
    assert found == {(defect.box_xyxy, defect.area_px) for defect in board.defects}


@pytest.mark.parametrize("seed", SEEDS)
def test_defects_have_a_bounded_size_and_a_minimum_distance(seed: int) -> None:
    boxes = [defect.box_xyxy for defect in defective(seed).defects]
    for left, top, right, bottom in boxes:
        assert 20 <= max(right - left, bottom - top) <= 150
        assert left > 0
        assert top > 0
        assert right < SIZE_HW[1]
        assert bottom < SIZE_HW[0]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= 64


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


def test_all_six_kinds_of_defects_occur() -> None:
    assert {defect.kind for seed in SEEDS for defect in defective(seed).defects} == set(DEFECT_KINDS)


def test_a_board_has_the_requested_number_of_defects() -> None:
    assert len(draw_board(2, size_hw=SIZE_HW, defects=1).defects) == 1


def test_invalid_arguments_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="447 x 800 px; expected at least 448"):
        write_boards(tmp_path / "boards", 1, 0, size_hw=(447, 800))
    with pytest.raises(ValueError, match="count is 0"):
        write_boards(tmp_path / "boards", 0, 0)
    with pytest.raises(ValueError, match="defects is -1"):
        write_boards(tmp_path / "boards", 2, 0, size_hw=SIZE_HW, defects=-1)
    assert not list(tmp_path.iterdir())


def test_each_defective_board_of_a_folder_has_the_requested_number_of_defects(tmp_path: Path) -> None:
    table = write_boards(tmp_path / "boards", 2, 5, size_hw=SIZE_HW, defects=6)
    with table.open() as file:
        good, defective = csv.DictReader(file)
    assert (good["label"], defective["label"]) == ("good", "defective")
    assert len(defective["defects"].split()) == 6


def test_a_folder_drawn_without_defects_has_only_flawless_boards(tmp_path: Path) -> None:
    with write_boards(tmp_path / "boards", 2, 5, size_hw=SIZE_HW, defects=0).open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["good", "good"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "boards"
    write_boards(folder, 4, 7, size_hw=(448, 500))
    return folder


def test_labels_agree_with_masks(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["image"] for row in rows] == [f"board_{i:05d}.png" for i in range(4)]
    assert [row["label"] for row in rows] == ["good", "defective", "defective", "good"]
    for row in rows:
        image = cv2.imread(str(folder / "images" / row["image"]), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(folder / "masks" / row["image"]), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert mask is not None
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        count, _ = cv2.connectedComponents(mask, connectivity=8)
        assert count - 1 == len(row["defects"].split())
        assert row["group"] == Path(row["image"]).stem
    drawn = cv2.imread(str(folder / "images" / "board_00001.png"))
    assert drawn is not None
    assert np.array_equal(drawn[..., ::-1], draw_board((7, 1), size_hw=(448, 500)).image)


def test_a_pool_of_processes_draws_the_same_folder(folder: Path, tmp_path: Path) -> None:
    write_boards(tmp_path / "boards", 4, 7, size_hw=(448, 500), workers=2)
    assert contents(tmp_path / "boards") == contents(folder)


def test_an_existing_folder_is_not_changed(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(InputError, match="name a new folder"):
        write_boards(folder, 4, 8, size_hw=(448, 500))
    assert contents(folder) == before


def test_the_program_draws_boards_and_reports_errors_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str) -> tuple[object, str]:
        """Run the program in this process; return its exit code and its standard error."""
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *options])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROGRAM), run_name="__main__")
        return ended.value.code, capsys.readouterr().err

    drawn = subprocess.run(
        [sys.executable, PROGRAM, "boards", "--count", "1", "--seed", "1"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert "boards holds 1 board of seed 1" in drawn.stdout
    image = cv2.imread(str(tmp_path / "boards" / "images" / "board_00000.png"))
    assert image is not None
    assert image.shape == (1250, 1600, 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(PROGRAM.parent)
    assert refused("boards", "--count", "1") == (9, "draw: boards exists; name a new folder\n")
    code, sentence = refused("/proc/boards", "--count", "1")
    assert (code, "draw: /proc/boards cannot be written" in sentence) == (9, True)
    assert len(sentence.splitlines()) == 1
