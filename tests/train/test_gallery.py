"""The gallery: the choice of pictures and their content."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.train.evaluation.gallery import FRAME_PX, FRAMES, GAP_PX, TRUTH_RGB, FrameGallery, draw_frame
from heatline.train.evaluation.observe import relative_name

pytestmark = pytest.mark.usefixtures("one_thread")

BLANK = np.zeros((2, 2, 3), np.uint8)
GREY = 90


def drawn(hw: tuple[int, int], *, defective: bool, reference: bool = False) -> NDArray[np.uint8]:
    """Draw a grey frame with a hot cell of 10 px at y 20, x 30; a defective frame has a true square."""
    truth = np.zeros(hw, np.bool_)
    truth[20:60, 30:70] = defective
    heatmap = np.full((hw[0] // 10, hw[1] // 10), -1, np.float32)
    heatmap[2, 3] = 4.0
    tiles = TileScores(np.zeros((1, 2), np.int32), np.array([4.0], np.float32), 100)
    judgement = Judgement("GOOD", hw, 4.0, heatmap, [], tiles)
    rgb = np.full((*hw, 3), GREY, np.uint8)
    return draw_frame(rgb, truth, rgb // 2 if reference else None, judgement, 10, ColourScale.around(2.0, -1.0))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=20))
def test_frames_of_the_lowest_and_highest_scores_are_shown(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bool]]
) -> None:
    gallery, folder = FrameGallery(), tmp_path_factory.mktemp("frames")
    for number, (score, defective) in enumerate(seen):
        gallery.add(number, float(score), defective, lambda: BLANK)
    written = gallery.write(folder)
    assert all((folder / file).is_file() for file in written.values())
    for sign, is_bad in ((1, True), (-1, False)):
        worst = sorted(sign * score for score, defective in seen if defective is is_bad)[:FRAMES]
        assert sorted(sign * seen[number][0] for number in written if seen[number][1] is is_bad) == worst


def test_a_frame_that_is_not_shown_is_not_drawn() -> None:
    gallery = FrameGallery()
    for number in range(FRAMES):
        gallery.add(number, float(-number), True, lambda: BLANK)
    gallery.add(FRAMES, 1.0, True, lambda: pytest.fail("drawn"))


def test_a_frame_is_shown_with_its_truth_its_reference_and_under_its_heatmap() -> None:
    tall = drawn((150, 100), defective=True)
    assert tall.shape == (150, 2 * 100 + GAP_PX, 3)
    truth, heat = tall[:, :100], tall[:, -100:]
    outline = (truth == TRUTH_RGB).all(axis=2)
    assert outline[20:60, [30, 69]].all()
    assert not outline[30:50, 40:60].any()
    assert heat[25, 35, 0] > 150
    assert (heat[100:, 60:] == GREY).all(), "as cold as a good frame"
    wide = drawn((100, 150), defective=False)
    assert wide.shape == (2 * 100 + GAP_PX, 150, 3), "wide frames lie one below the other"
    assert not (wide == TRUTH_RGB).all(axis=2).any()
    compared = drawn((150, 100), defective=True, reference=True)
    assert (compared[:, 100 + GAP_PX : 200 + GAP_PX] == GREY // 2).all()
    assert drawn((2 * FRAME_PX, FRAME_PX), defective=False).shape == (FRAME_PX, 2 * (FRAME_PX // 2) + GAP_PX, 3)


def test_a_picture_is_named_by_its_path_also_if_it_is_not_utf8(tmp_path: Path) -> None:
    assert relative_name(tmp_path, tmp_path / "good" / "a.png") == "good/a.png"
    assert relative_name(tmp_path, Path("elsewhere/a.png")) == "a.png"
    assert relative_name(tmp_path, tmp_path / "l\udcefne.png") == "l?ne.png"


def test_pictures_that_cannot_be_written_are_reported_in_one_sentence(tmp_path: Path) -> None:
    gallery = FrameGallery()
    gallery.add(0, 4.0, True, lambda: BLANK)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "pictures").write_text("")
    with pytest.raises(TrainingError, match=r"pictures cannot be made \(File exists\); free disk space") as raised:
        gallery.write(tmp_path / "taken")
    assert "\n" not in str(raised.value)
    (tmp_path / "odd" / "pictures" / "frame-0000.png").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"frame-0000\.png cannot be written \(Is a directory\)"):
        gallery.write(tmp_path / "odd")
