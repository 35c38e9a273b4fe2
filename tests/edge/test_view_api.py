"""The page's API: state, verdicts, history, scores, and why a frame got its verdict, from memory and from the store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import open_bundle
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.held_picture import picture_id
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.pictures import Evidence, Picture
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import BundleName, Pose
from tests.edge.boards import board, board_bundle, moved
from tests.edge.evidences import ALL, writer
from tests.edge.lines import write_line
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import NS, Clock, frame, memory_with, next_message, page, picture, verdict
from tests.edge.wire_examples import JOURNAL_STATUS
from tests.small_bundle import bundle_in, dark_square, edit_manifest


def decoded(data: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image if image.ndim == 2 else image[..., ::-1]  # type: ignore[return-value]


def speckled(hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)


def test_the_state_has_the_lines_own_figures() -> None:
    clock = Clock()
    memory = memory_with(clock)
    status = JOURNAL_STATUS.event
    memory.add_status(status)  # type: ignore[arg-type]
    for number in range(1, 21):
        clock.now_s += 0.5
        memory.add_verdict(verdict(number, clock, latency_ms=float(number)), live=True)
    with page(memory) as served:
        state = served.get("/api/state").json
    assert (state["running"], state["line"], state["product"]) == (True, "line1", "4711")
    assert state["consumers"]["mes1"]["acked_seq"] == 999_999
    top = state["cameras"]["top"]
    assert top["frame_period_ms"] == 500
    assert top["latency_ms"] == {"median": 10.5, "p95": pytest.approx(19.05)}
    assert top["ledger"]["captured"] == 131_080
    assert state["thresholds"] == {"score": 1.5, "evidence": 4.125}


def test_readyz_says_why_not_in_words() -> None:
    clock = Clock()
    memory = memory_with(clock)
    handshake = a_status().handshake
    with page(memory) as served:
        never = served.get("/readyz")
        assert (never.status, never.json["state"], never.json["reason"]) == (503, "NOT_READY", "unreachable")
        for state, status in (("READY", 200), ("BUSY", 200), ("DEGRADED", 503), ("NOT_READY", 503)):
            memory.add_status(a_status(handshake=msgspec.structs.replace(handshake, state=state, detail="as it is")))
            answer = served.get("/readyz")
            assert (answer.status, answer.json["state"], answer.json["detail"]) == (status, state, "as it is")
        clock.now_s += 5
        silent = served.get("/readyz")
        assert silent.status == 503
        assert silent.json["detail"].startswith("Nothing came from the line for 5 s")
        memory.add_status(a_status(state="STOPPED"))
        assert served.get("/readyz").json["reason"] == "stopped"
        assert served.get("/healthz").status == 200


def test_the_history_has_a_value_for_each_second() -> None:
    clock = Clock()
    memory = memory_with(clock)
    for step, latency in ((0.0, 10.0), (0.2, 20.0), (2.0, 40.0)):
        clock.now_s += step
        memory.add_verdict(verdict(1, clock, latency_ms=latency), live=True)
    memory.add_verdict(verdict(2, clock, "NO_VERDICT"), live=True)
    clock.now_s += 1
    with page(memory) as served:
        found = served.get("/api/history?seconds=4").json
        assert served.get("/api/history").json["t"][-1] == clock.wall_ns() // NS - 1
    assert found["t"] == [clock.wall_ns() // NS - back for back in (4, 3, 2, 1)]
    assert found["rate"] == {"top": [None, 2, None, 1]}
    assert found["latency_ms"]["top"][1] == 15.0


def test_the_scores_of_a_camera_have_their_threshold() -> None:
    memory = Memory()
    for number, score in enumerate((0.5, 2.5, -1.0), 1):
        memory.add_verdict(verdict(number, frame_score=score), live=True)
    memory.add_verdict(verdict(4, camera="side", frame_score=9.0), live=True)
    memory.add_verdict(verdict(5, kind="NO_VERDICT", frame_score=None), live=True)
    with page(memory) as served:
        found = served.get("/api/scores?camera=top&n=2").json
        assert (found["scores"], found["score_threshold"]) == ([2.5, -1.0], 1.5)
        assert found["verdicts"] == ["DEFECT", "DEFECT"]
        unknown = served.get("/api/scores?camera=none")
    assert (unknown.status, "expected one of top, side" in unknown.json["error"]) == (404, True)


def test_the_scores_tell_which_known_defects_the_bundles_own_threshold_misses(tmp_path: Path) -> None:
    folder = bundle_in(tmp_path / "dark").path
    missed = [
        {"kind": "Blowhole", "missed": 18, "frames": 18, "by": "class"},
        {"kind": "below 16x16 px", "missed": 3, "frames": 20, "by": "size"},
    ]
    opened = open_bundle(edit_manifest(folder, lambda content: content["calibration"].update(missed=missed)))
    file = write_line(tmp_path, folder, "tcp://127.0.0.1:5555", {"top": f'path = "{tmp_path}"'})
    threshold = opened.manifest.calibration.score_threshold
    clock = Clock()
    memory = memory_with(clock)
    with page(memory, file=file) as served:

        def told(digest: str, score: float) -> Any:
            name = msgspec.structs.replace(a_status().bundle, digest=digest)
            memory.add_status(a_status(bundle=name, product=None))
            memory.add_verdict(verdict(1, clock, score_threshold=score), live=True)
            return served.get("/api/scores?camera=top").json["missed"]

        (folder / "model.onnx").unlink()  # only the manifest is read
        assert told(opened.digest, threshold) == (
            "At the line's limit, whole kinds of defects pass: Blowhole 18 of 18. Missed in the cross-validation of "
            "the training, by class: Blowhole 18 of 18; by size: below 16x16 px 3 of 20."
        )
        assert told(opened.digest, threshold + 1) is None, "the line's file sets another threshold"
        assert told("0" * 64, threshold) is None, "the line runs another bundle than its file names now"
        file.unlink()
        assert told(opened.digest, threshold) is not None, "the manifest is read once"


@pytest.mark.parametrize(
    "query",
    ["verdicts?limit=0", "verdicts?limit=x", "history?seconds=99999999999999999999", "history?seconds=", "scores?n=1"],
)
def test_a_wrong_question_is_answered_in_a_sentence(query: str) -> None:
    with page() as served:
        answer = served.get(f"/api/{query}")
    assert answer.status in (400, 404)
    assert "expected" in answer.json["error"]


def test_a_picture_in_memory_tells_why() -> None:
    memory = Memory()
    image = speckled()
    memory.add_picture(picture(verdict(1), image))
    name = "01234567-top-1"
    with page(memory) as served:
        why = served.get(f"/api/pictures/{name}").json
        assert [row["id"] for row in why["others"]] == [name]
        assert why["event"]["frame_number"] == 1
        assert why["tiles"] == [{"yx": [0, 32], "logit": 3.25}, {"yx": [0, 0], "logit": -2.0}]
        assert why["tile_px"] == 32
        assert why["cells"][0] == {"xy": [44, 20], "logit": 9.5}
        assert len(why["cells"]) == 16
        np.testing.assert_array_equal(decoded(served.get(f"/api/pictures/{name}/frame.png").body), image)
        crop = served.get(f"/api/pictures/{name}/crop.png?x0=10&y0=20&x1=30&y1=44").body
        np.testing.assert_array_equal(decoded(crop), image[20:44, 10:30])
        beyond = served.get(f"/api/pictures/{name}/crop.png?x0=-5&y0=40&x1=999&y1=999").body
        np.testing.assert_array_equal(decoded(beyond), image[40:, :])
        assert decoded(served.get(f"/api/pictures/{name}/frame.jpg").body).shape == image.shape
        assert decoded(served.get(f"/api/pictures/{name}/heatmap.png").body).shape == (6, 8)
        outside = served.get(f"/api/pictures/{name}/crop.png?x0=100&y0=0&x1=90&y1=9")
        assert (outside.status, "has no pixel of the frame" in outside.json["error"]) == (400, True)
        assert served.get(f"/api/pictures/{name}/crop.png").status == 400


def test_a_grey_frame_without_evidence_has_no_heatmap() -> None:
    memory = Memory()
    held = picture(verdict(1), frame()[..., 0])
    held.evidence = None
    memory.add_picture(held)
    with page(memory) as served:
        why = served.get(f"/api/pictures/{held.id}").json
        assert (why["heatmap"], why["tiles"], why["cells"], why["tile_px"]) == (None, [], [], None)
        assert "was not judged" in served.get(f"/api/pictures/{held.id}/heatmap.png").json["error"]
        assert decoded(served.get(f"/api/pictures/{held.id}/frame.png").body).ndim == 2


@pytest.mark.parametrize("name", ["none", "..%2f..%2fetc%2fpasswd", "%00", "x" * 4000, "..", "é"])
def test_a_picture_that_does_not_exist_is_answered_in_a_sentence(name: str, tmp_path: Path) -> None:
    with page(store=EvidenceStore(tmp_path)) as served:
        answer = served.get(f"/api/pictures/{name.replace('é', '%C3%A9')}")
        assert answer.status == 404
        assert served.get("/healthz").status == 200


def stored(folder: Path, image: NDArray[np.uint8], **what: Any) -> str:
    """Store a picture as the recorder does; return its id."""
    event = verdict(1, **what)
    name = f"01234567-top-{event.frame_number}"
    heatmap = np.full((6, 8), -2.0, np.float32)
    heatmap[2, 5] = 10.25
    tiles = TileScores(np.array([[0, 0], [0, 32]], np.int32), np.array([-2.0, 3.25], np.float32), 32)
    evidence = Evidence(heatmap, 8, (-2.0, 10.25), tiles)
    with writer(folder, replace(ALL, keep_s=1e9)) as into:
        into.write(Picture(msgspec.structs.replace(event, picture=name), image, evidence))
    return name


def test_a_stored_picture_tells_why_too(tmp_path: Path) -> None:
    image = speckled()
    name = stored(tmp_path, image)
    with page(store=EvidenceStore(tmp_path)) as served:
        why = served.get(f"/api/pictures/{name}").json
        assert why["cells"][0] == {"xy": [44, 20], "logit": pytest.approx(10.25)}
        assert why["tiles"][0] == {"yx": [0, 32], "logit": 3.25}
        np.testing.assert_array_equal(decoded(served.get(f"/api/pictures/{name}/frame.png").body), image)
        crop = served.get(f"/api/pictures/{name}/crop.png?x0=10&y0=20&x1=30&y1=44").body
        np.testing.assert_array_equal(decoded(crop), image[20:44, 10:30])


def test_a_damaged_store_is_reported_in_a_sentence(tmp_path: Path) -> None:
    name = stored(tmp_path, speckled())
    (frame_file,) = tmp_path.glob("*/*-1.png")
    frame_file.write_bytes(b"\x89PNG")
    with page(store=EvidenceStore(tmp_path)) as served:
        answer = served.get(f"/api/pictures/{name}/frame.png")
        assert (answer.status, str(frame_file) in answer.json["error"]) == (500, True)
    (tmp_path / "file").write_bytes(b"")
    with page(store=EvidenceStore(tmp_path / "file")) as served:
        assert "cannot be read" in served.get(f"/api/pictures/{name}").json["error"]


def test_the_page_and_its_files_are_served() -> None:
    with page() as served:
        assert served.get("/").headers["content-type"].startswith("text/html")
        assert served.get("/static/index.html").status == 200
        assert served.get("/static/../server.py").status == 404
        assert served.request("POST", "/api/state", "", {}).status == 405


def test_rows_name_their_pictures(tmp_path: Path) -> None:
    memory = Memory()
    name = stored(tmp_path, speckled())
    memory.add_verdict(verdict(1, picture=name), live=True)
    memory.add_verdict(verdict(2, picture="01234567-top-2"), live=True)
    memory.add_verdict(verdict(3, picture="01234567-top-3"), live=True)
    memory.add_picture(picture(verdict(3)))
    memory.add_verdict(verdict(4), live=True)
    with page(memory, store=EvidenceStore(tmp_path)) as served:
        rows = served.get("/api/verdicts").json["rows"]
        assert [row["picture"] for row in rows] == [name, "01234567-top-2", "01234567-top-3", None]
        with served.live() as viewer:
            assert next_message(viewer, "verdicts")["rows"] == rows


def test_a_frame_is_shown_with_its_reference_where_it_shows_the_part(tmp_path: Path) -> None:
    rgb = board()
    bundle = board_bundle(tmp_path / "boards.bundle", {"": Reference(rgb)})
    line = write_line(tmp_path, bundle.path, "tcp://127.0.0.1:1", {"top": 'path = "x"'})
    seen = dark_square(moved(rgb, 12, -7), 200, 300)
    pose = Pose(x_px=12.0, y_px=-7.0, degrees=0.0, confidence=1.0, error_px=0.0)
    named = BundleName(name="darkness", version="1", digest=bundle.digest)
    events = {
        "compared": verdict(1, bundle=named, pose=pose, product=None),
        "misaligned": verdict(2, kind="NO_VERDICT", product=None, bundle=named, pose=pose, reason="failed.misaligned"),
        "not compared": verdict(3, bundle=named),
        "of another bundle": verdict(4, pose=pose),
    }
    memory = memory_with(Clock())
    for event in events.values():
        memory.add_picture(picture(event, seen))
    with page(memory, file=line) as served:
        paths = {name: f"/api/pictures/{picture_id(event)}" for name, event in events.items()}
        assert [served.get(path).json["has_reference"] for path in paths.values()] == [True, True, False, False]
        box = "x0=20&y0=20&x1=420&y1=400"
        shown = decoded(served.get(f"{paths['compared']}/reference.png?{box}").body)
        assert (shown == moved(rgb, 12, -7)[20:400, 20:420]).all()
        difference = decoded(served.get(f"{paths['compared']}/difference.png?{box}").body)
        assert difference[180:228, 280:328].mean() > 100, "the square"
        difference[178:230, 278:330] = 0
        assert difference.mean() < 1
        whole = decoded(served.get(f"{paths['compared']}/reference.jpg").body)
        assert whole.shape == rgb.shape
        assert abs(whole[440:, :12].astype(int) - seen[440:, :12]).mean() < 3, "what the reference does not show"
        unmoved = decoded(served.get(f"{paths['misaligned']}/reference.png?{box}").body)
        assert (unmoved == rgb[20:400, 20:420]).all()
        for name in ("not compared", "of another bundle"):
            answer = served.get(f"{paths[name]}/difference.png?{box}")
            assert (answer.status, "has no reference that can be shown" in answer.json["error"]) == (404, True)
        assert served.get(f"{paths['compared']}/reference.png?x0=1").status == 400
