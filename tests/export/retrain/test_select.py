"""Which marked frames a retraining uses, and how it counts the others."""

from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import pytest

from heatline.edge.errors import InputError
from heatline.edge.wire.events import BundleName
from heatline.export.retrain.frames import digest_pixels, frames_of_folder, select_frames
from tests.export.retrain.marked import good_frame, row_of, write_rows

OWN = BundleName(name="boards", version="1", digest="1" * 64)
OTHER = BundleName(name="lids", version="1", digest="2" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Frames 1 and 2 can be used; 3 shows the same pixels as 2; the others cannot."""
    rows = [
        row_of(1, "DEFECT", OWN, "good", "false_alarm", []),
        row_of(2, "GOOD", OWN, "defective", "missed", [(40, 30)]),
        row_of(3, "GOOD", OWN, "defective", "missed", [(40, 30), (90, 90)]),
        row_of(4, "DEFECT", OTHER, "good", "false_alarm", []),
        row_of(5, "DEFECT", OWN, None, None, []),
        row_of(6, "DEFECT", OWN, "good", "false_alarm", []),
        row_of(7, "DEFECT", OWN, "good", "false_alarm", []),
        msgspec.structs.replace(row_of(8, "DEFECT", OWN, "good", "right", []), review=None),
    ]
    for number, row in enumerate(rows, start=1):
        (tmp_path / row.file).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / row.file), good_frame(2 if number == 3 else number))
    (tmp_path / rows[5].file).unlink()
    cut = tmp_path / rows[6].file
    cut.write_bytes(cut.read_bytes()[:500])
    write_rows(tmp_path, rows)
    return tmp_path


def test_frames_that_cannot_be_used_are_counted(folder: Path) -> None:
    selection = select_frames(frames_of_folder(folder), "boards")
    assert [(frame.truth, frame.missed_xy) for frame in selection.frames] == [
        ("good", ()),
        ("defective", ((40, 30), (90, 90))),
    ]
    assert selection.left_out == (
        "4 marked frames are left out: marks that contradict each other, verdicts of another bundle, or pictures that "
        "are gone or damaged"
    )


def test_the_same_pixels_with_two_truths_are_a_contradiction(tmp_path: Path) -> None:
    rows = [row_of(1, "DEFECT", OWN, "good", "false_alarm", []), row_of(2, "DEFECT", OWN, "defective", "right", [])]
    for row in rows:
        (tmp_path / row.file).parent.mkdir()
        cv2.imwrite(str(tmp_path / row.file), good_frame(1))
    write_rows(tmp_path, rows)
    selection = select_frames(frames_of_folder(tmp_path), "boards")
    assert selection.frames == []
    assert str(selection.left_out).startswith("2 marked frames are left out")
    assert selection.contradictory == {digest_pixels(good_frame(1)[..., ::-1])}


def test_frames_on_which_reviewers_contradict_each_other_are_named_by_their_pixels(folder: Path) -> None:
    """A former retraining may have trained on one of them."""
    assert select_frames(frames_of_folder(folder), "boards").contradictory == {digest_pixels(good_frame(5)[..., ::-1])}


def test_frames_of_one_part_are_one_group(folder: Path) -> None:
    marked = frames_of_folder(folder)[:2]
    of_part = [replace(frame, event=msgspec.structs.replace(frame.event, part_id="P7")) for frame in marked]
    assert {frame.group for frame in select_frames(of_part, "boards").frames} == {"reviewed:part P7"}
    assert len({frame.group for frame in select_frames(marked, "boards").frames}) == 2


def test_a_picture_is_known_by_its_pixels(tmp_path: Path) -> None:
    pixels = good_frame(1)
    assert digest_pixels(pixels) == digest_pixels(pixels.copy())
    assert digest_pixels(pixels) != digest_pixels(pixels.reshape(200, 150, 3))
    assert digest_pixels(pixels) != digest_pixels(good_frame(2))


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a folder that heatline evidence export --reviewed wrote"):
        frames_of_folder(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="has no readable list of exported frames"):
        frames_of_folder(tmp_path)
