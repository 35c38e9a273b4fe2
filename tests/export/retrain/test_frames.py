"""The marked frames of a line's evidence store, and a retraining that its file starts."""

from pathlib import Path

from heatline.edge.monitor.store import EvidenceStore
from heatline.export.retrain.frames import frames_of_store
from tests.command import complaint, heatline
from tests.edge.evidences import mark, picture, writer
from tests.edge.lines import write_line
from tests.export.retrain.conftest import Trained


def stored(folder: Path) -> Path:
    """A store with a false alarm, a contradiction, an unmarked frame, and a marked frame whose picture is gone."""
    with writer(folder) as into:
        for number in range(1, 5):
            into.write(picture(number))
        into.add_marks([mark(picture(1), "false_alarm", seq=1), mark(picture(2), "false_alarm", seq=2)], "j1", 2)
        into.add_marks([mark(picture(2), "right", "Bob", seq=3), mark(picture(4), "right", seq=4)], "j1", 4)
    (gone,) = folder.rglob("b007b007-top-4.png")
    gone.unlink()
    return folder


def test_marked_frames_come_with_their_review(tmp_path: Path) -> None:
    store = EvidenceStore(stored(tmp_path / "evidence"))
    found = {str(frame.event.picture): frame for frame in frames_of_store(store)}
    assert {name[-1]: (frame.review.kind, frame.review.truth) for name, frame in found.items()} == {
        "1": ("false_alarm", "good"),
        "2": (None, None),
    }
    assert found["b007b007-top-1"].path == store.frame_path("b007b007-top-1", "2026-11-28")


def test_a_lines_file_names_bundle_and_evidence(trained: Trained, tmp_path: Path) -> None:
    """One of its frames can be used, and the bundle does not call it DEFECT."""
    tables = f'[evidence]\nfolder = "{stored(tmp_path / "evidence")}"'
    line = write_line(tmp_path, trained.bundle, "tcp://127.0.0.1:5556", {"top": 'path = "p"'}, tables)
    result = heatline("retrain", line, "--out", tmp_path / "out")
    assert result.returncode == 9
    assert "1 usable frame, with 0 false alarms and 0 missed defects of this bundle" in complaint(result)
    assert "1 marked frame is left out: marks that contradict each other" in complaint(result)
    assert not (tmp_path / "out").exists()
