"""The bench of drift: it notices changes in order, by a bundle whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from heatline.bench import drift
from heatline.bench.drift import CHANGES, Views, changed, measure, table
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.inference import open_engine
from tests.edge.lines import write_pictures
from tests.edge.test_drift import noisy
from tests.edge.test_drift_line import calibrated, view
from tests.small_bundle import TILE


def pictures(folder: Path, count: int) -> list[Path]:
    write_pictures(folder, {f"{seed:02d}.png": noisy(view(), 100 + seed) for seed in range(count)})
    return sorted(folder.iterdir())


def test_each_change_is_warned_of_before_good_frames_are_rejected(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine("openvino", bundle.path, TILE)
    for name, value in {"STEPS": 60, "ORDERS": 5, "WINDOW": 6}.items():
        monkeypatch.setattr(drift, name, value)
    found = measure(calibrated(tmp_path / "own.bundle", engine), pictures(tmp_path / "good", 12), 0, lambda line: None)
    engine.close()
    assert (found.frames, found.good, found.orders, found.orders_with_warning) == (12, 12, 5, 0)
    dimmed, blurred, shifted = found.gradual
    assert dimmed.warning_frame is not None
    assert dimmed.false_reject_frame is not None
    assert dimmed.warning_frame < dimmed.false_reject_frame
    assert dimmed.warning_at == pytest.approx(1 - 0.5 * dimmed.warning_frame / 60)
    assert blurred.warning_at is not None
    assert (shifted.measure in ("shift_x", "shift_y"), shifted.no_verdict_at) == (True, None)
    assert found.sudden[2].warning_after == 3, "half of a window of 6"
    text = table(found)
    assert f"{dimmed.warning_at:.3g} (frame {dimmed.warning_frame}, {dimmed.measure})" in text
    assert "| warning after |" in text


def test_a_shift_moves_the_frame_over_a_larger_picture_and_mirrors_others() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 80, 3), np.uint8)
    views = Views([picture], (40, 50))
    assert (views.see(0) == picture[10:50, 15:65]).all()
    assert (views.see(0, "shifted part", 7.0, rng) == picture[3:43, 8:58]).all()
    too_far = views.see(0, "shifted part", 11.0, rng)
    assert (too_far[11:, 11:] == picture[10:39, 15:54]).all()
    assert (Views([picture], None).see(0, "shifted part", 3.0, rng)[3:, 3:] == picture[:-3, :-3]).all()


def test_a_bundle_without_a_reference_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="does not say what to compare frames with"):
        measure(bundle, pictures(tmp_path / "good", 1), 0, lambda line: None)


def test_a_change_begins_with_the_unchanged_picture_and_alters_it_later() -> None:
    for change in CHANGES:
        begin, end = (
            changed(change.name, view(), value, np.random.default_rng(0)) for value in (change.begin, change.end)
        )
        assert (begin == view()).all()
        assert (end != view()).any()
        assert (end.shape, end.dtype) == (view().shape, np.uint8)
