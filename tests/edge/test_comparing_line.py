"""A line whose bundle compares frames with a reference, and the commands that do without a line."""

import json
from pathlib import Path

import numpy as np
import pytest

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import DriftEvent, VerdictEvent
from tests.command import heatline
from tests.edge.boards import board, board_bundle, moved
from tests.edge.lines import running, write_line_with, write_pictures
from tests.small_bundle import dark_square

BOARD = board()
FRAMES = {
    "1-good.png": moved(BOARD, 9, -6),
    "2-defect.png": dark_square(moved(BOARD, 9, -6), 300, 400),
    "3-too-far.png": moved(BOARD, 150, 0),
    "4-turned.png": BOARD[::-1, ::-1],
    "5-cut.png": BOARD[:, :500],
}
EXPECTED = ["GOOD", "DEFECT", *["failed.misaligned"] * 3]


@pytest.fixture(scope="module")
def comparing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return board_bundle(tmp_path_factory.mktemp("comparing") / "boards.bundle", {"": Reference(BOARD)})


def answered(event: VerdictEvent) -> str:
    return event.reason or event.verdict


def test_a_line_compares_each_frame_and_gives_no_verdict_where_it_cannot(
    tmp_path: Path, comparing: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "top", FRAMES)
    write_pictures(tmp_path / "side", {f"{number}.png": moved(BOARD, 22, 0) for number in range(4)})
    cameras = {
        "top": {"kind": "folder", "path": "top", "size": "any"},
        "side": {"kind": "folder", "path": "side"},
    }
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n\n[drift]\nframes = 5\nevery_s = 0'
    line = write_line_with(tmp_path, comparing.path, address, cameras, tables)
    with running(line, address) as run:
        received = run.until_stopped()
        assert run.exit_code() == 0
    top = [event for event in received.verdicts if event.camera == "top"]
    assert [answered(event) for event in top] == EXPECTED
    for event in top[:2]:
        assert event.pose is not None
        assert (event.pose.x_px, event.pose.y_px, event.pose.degrees) == pytest.approx((9, -6, 0), abs=0.3)
        assert event.pose.confidence > 0.8
    assert top[1].regions[0].box_xyxy[0] <= 424 < top[1].regions[0].box_xyxy[2]
    assert [event.pose is None for event in top[2:]] == [False, False, True], "one of another size has none"
    assert "confidence" in str(top[2].detail)
    assert top[2].frame_hw == (446, 560)
    assert received.last.ledger["top"].failed == {"misaligned": 3}
    assert received.last.handshake.heartbeat > 0, "probes are judged, although they show no product"
    (warning,) = [event for event in received.in_order if isinstance(event, DriftEvent)]
    assert (warning.camera, warning.measure, warning.high) == ("side", "shift_x", 20)


def test_inspect_compares_as_the_line_does(tmp_path: Path, comparing: Bundle) -> None:
    write_pictures(tmp_path / "pictures", FRAMES)
    result = heatline("inspect", comparing.path, tmp_path / "pictures", "--out", tmp_path / "out", "--json")
    assert result.returncode == 9
    events = [json.loads(text) for text in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    assert [event["reason"] or event["verdict"] for event in events] == EXPECTED
    assert events[0]["pose"]["x_px"] == pytest.approx(9, abs=0.3)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2, "a misaligned picture has no heatmap"


def test_a_bundle_without_a_picture_for_a_camera_is_refused_by_line_and_inspect(tmp_path: Path, address: str) -> None:
    write_pictures(tmp_path / "pictures", {"1.png": BOARD})
    none = board_bundle(tmp_path / "none.bundle", {})
    side = board_bundle(tmp_path / "side.bundle", {"side": Reference(BOARD)})
    cameras = {"top": {"kind": "folder", "path": "pictures"}}
    for bundle in (none, side):
        checked = heatline("check", write_line_with(tmp_path, bundle.path, address, cameras))
        assert checked.returncode == 4
        assert "has none for camera top; make one from good frames with heatline bundle set-reference" in checked.stderr
        inspected = heatline("inspect", bundle.path, tmp_path / "pictures", "--out", tmp_path / "out")
        assert inspected.returncode == 4
        of_cameras = " but those of single cameras" if bundle is side else ""
        assert f"has none{of_cameras}; make one from good frames" in inspected.stderr
    for frame, found in ((BOARD, None), (BOARD[::-1, ::-1], "the frame does not show what the reference shows")):
        write_pictures(tmp_path / "pictures", {"1.png": frame})
        checked = heatline("check", write_line_with(tmp_path, side.path, address, {"side": cameras["top"]}), "--json")
        assert checked.returncode == 0, checked.stderr
        first = json.loads(checked.stdout)["cameras"]["side"]
        assert first["implausible"] is None
        assert first["misaligned"] is found or first["misaligned"].startswith(found)


def test_calibration_measures_poses_and_refuses_frames_that_a_line_would_not_judge(
    tmp_path: Path, comparing: Bundle, address: str
) -> None:
    rng = np.random.default_rng(0)
    good = {f"{number:02d}.png": moved(BOARD, number % 3, float(rng.uniform(-1, 1))) for number in range(12)}
    write_pictures(tmp_path / "good", good)
    keep = "calibrate", comparing.path, tmp_path / "good", "--keep-reference"
    made = heatline(*keep, "--to", tmp_path / "new.bundle", "--json")
    assert made.returncode == 0, made.stderr
    reference = json.loads((tmp_path / "new.bundle/manifest.json").read_text())["calibration"]["reference"]
    assert reference["measures"]["shift_x"] == pytest.approx([0, 0, 1, 2, 2], abs=0.3)
    assert reference["measures"]["match"][0] > 0.8
    assert reference["measures"]["turn"][2] == pytest.approx(0, abs=0.05)
    line = write_line_with(tmp_path, comparing.path, address, {"top": {"kind": "folder", "path": "good"}})
    made = heatline("cameras", "calibrate", line, "top", tmp_path / "good", "--to", tmp_path / "top.bundle")
    assert made.returncode == 0, made.stderr
    of_camera = open_bundle(tmp_path / "top.bundle").manifest.calibration.plausible_by_camera["top"].reference
    assert of_camera is not None
    assert of_camera.measures["shift_x"] == reference["measures"]["shift_x"]
    write_pictures(tmp_path / "good", {"99-turned.png": BOARD[::-1, ::-1]})
    refused = heatline(*keep, "--to", tmp_path / "other.bundle")
    assert refused.returncode != 0
    assert "1 of 13 pictures cannot be compared with the reference, first" in refused.stderr
    assert "99-turned.png" in refused.stderr
