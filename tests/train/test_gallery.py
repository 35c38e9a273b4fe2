"""The gallery: the choice of pictures, their content, and that they do not keep frames in memory."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Calibration
from heatline.edge.errors import TrainingError
from heatline.edge.images import read_rgb
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.train.evaluation.gallery import (
    FRAME_PX,
    GAP_PX,
    TRUTH_RGB,
    FrameGallery,
    FrameView,
    relative_name,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CALIBRATION = Calibration(0.0, 2.0, -1.0, 0.01, 1, "drawn ones")


def frame(name: str, score: float, *, defective: bool, hw: tuple[int, int] = (100, 150)) -> FrameView:
    """Return a grey frame with a hot cell of 10 px at y 20, x 30; a defective frame has a true square."""
    truth = np.zeros(hw, np.bool_)
    truth[20:60, 30:70] = defective
    heatmap = np.full((hw[0] // 10, hw[1] // 10), -1, np.float32)
    heatmap[2, 3] = score
    tiles = TileScores(np.zeros((1, 2), np.int32), np.array([score], np.float32), 100)
    judgement = Judgement("GOOD", hw, score, heatmap, [], tiles)
    return FrameView(Path("data") / name, np.full((*hw, 3), 90, np.uint8), truth, defective, judgement, 10)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_frames_of_the_lowest_and_highest_scores_are_shown_the_worst_first(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bool]]
) -> None:
    gallery = FrameGallery(CALIBRATION, Path("data"), size=3)
    for number, (score, defective) in enumerate(seen):
        gallery.add(frame(f"below/{number}.png", float(score), defective=defective))
    written = gallery.write(tmp_path_factory.mktemp("frames"))
    for kind, sign, is_bad in (("escaped", 1, True), ("rejected", -1, False)):
        expected = sorted(sign * score for score, defective in seen if defective is is_bad)[:3]
        assert [sign * one.logit for one in written if one.kind == kind] == expected
    assert all(seen[int(Path(one.image).stem)][0] == one.logit for one in written)
    assert all(one.image.startswith("below/") for one in written)


def test_a_frame_is_shown_with_its_truth_and_under_its_heatmap(tmp_path: Path) -> None:
    gallery = FrameGallery(CALIBRATION, Path("data"))
    gallery.add(frame("a.png", 4.0, defective=True, hw=(150, 100)))
    gallery.add(frame("b.png", 4.0, defective=False, hw=(100, 150)))
    gallery.add(frame("c.png", 9.0, defective=False, hw=(2 * FRAME_PX, FRAME_PX)))
    a, c, b = (read_rgb(tmp_path / one.file) for one in gallery.write(tmp_path))
    assert a.shape == (150, 2 * 100 + GAP_PX, 3)
    truth, heat = a[:, :100], a[:, -100:]
    outline = (truth == TRUTH_RGB).all(axis=2)
    assert outline[20:60, [30, 69]].all()
    assert not outline[30:50, 40:60].any()
    assert heat[25, 35, 0] > 150
    assert (heat[100:, 60:] == 90).all(), "as cold as a good frame"
    assert b.shape == (2 * 100 + GAP_PX, 150, 3), "wide frames lie one below the other"
    assert not (b == TRUTH_RGB).all(axis=2).any()
    assert c.shape == (FRAME_PX, 2 * (FRAME_PX // 2) + GAP_PX, 3)


def test_a_picture_is_named_by_its_path_also_if_it_is_not_utf8(tmp_path: Path) -> None:
    assert relative_name(tmp_path, tmp_path / "good" / "a.png") == "good/a.png"
    assert relative_name(tmp_path, Path("elsewhere/a.png")) == "a.png"
    assert relative_name(tmp_path, tmp_path / "l\udcefne.png") == "l?ne.png"


def test_pictures_that_cannot_be_written_are_reported_in_one_sentence(tmp_path: Path) -> None:
    gallery = FrameGallery(CALIBRATION, Path("data"))
    gallery.add(frame("a.png", 4.0, defective=True))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "pictures").write_text("")
    with pytest.raises(TrainingError, match=r"pictures cannot be made \(File exists\); free disk space") as raised:
        gallery.write(tmp_path / "taken")
    assert "\n" not in str(raised.value)
    (tmp_path / "odd" / "pictures" / "frame-00-escaped.png").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"frame-00-escaped\.png cannot be written \(Is a directory\)"):
        gallery.write(tmp_path / "odd")
