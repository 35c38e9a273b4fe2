"""The page's API: figures of a line, why a frame got its verdict, marks of verdicts, and frames to review."""

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import open_bundle
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.monitor import pictures
from heatline.edge.monitor.held_picture import picture_id
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.pictures import Picture
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import BundleName, Pose
from tests.edge.boards import board, board_bundle, moved
from tests.edge.evidences import writer
from tests.edge.lines import write_line
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import (
    NAME,
    NS,
    Answer,
    Clock,
    Page,
    frame,
    line_with_marks,
    marked,
    memory_with,
    next_message,
    next_picture,
    page,
    picture,
    review_of,
    stored,
    verdict,
)
from tests.edge.wire_examples import JOURNAL_STATUS
from tests.small_bundle import bundle_in, dark_square, edit_manifest

JSON = {"Content-Type": "application/json"}
SPECKLED = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image if image.ndim == 2 else image[..., ::-1]  # type: ignore[return-value]


# Figures.


def test_the_state_has_the_lines_own_figures() -> None:
    clock = Clock()
    memory = memory_with(clock)
    memory.add_status(JOURNAL_STATUS.event)  # type: ignore[arg-type]
    for number in range(1, 21):
        clock.now_s += 0.5
        memory.add_verdict(verdict(number, clock, latency_ms=float(number)), live=True)
    with page(memory) as served:
        state = served.get("/api/state").json
    assert (state["running"], state["line"], state["product"]) == (True, "line1", "4711")
    assert state["consumers"]["mes1"]["acked_seq"] == 999_999
    top = state["cameras"]["top"]
    assert (top["frame_period_ms"], top["ledger"]["captured"]) == (500, 131_080)
    assert top["latency_ms"] == {"median": 10.5, "p95": pytest.approx(19.05)}
    assert state["thresholds"] == {"score": 1.5, "evidence": 4.125}


def test_readyz_says_why_not_in_words() -> None:
    clock = Clock()
    memory = memory_with(clock)
    handshake = a_status().handshake
    with page(memory) as served:

        def ready() -> tuple[int, str]:
            answer = served.get("/readyz")
            return answer.status, answer.json["reason"] or answer.json["detail"]

        assert ready() == (503, "unreachable")
        for state, status in (("READY", 200), ("BUSY", 200), ("DEGRADED", 503), ("NOT_READY", 503)):
            now = msgspec.structs.replace(handshake, state=state, reason=None, detail="as it is")
            memory.add_status(a_status(handshake=now))
            assert ready() == (status, "as it is")
        clock.now_s += 5
        assert ready() == (503, "unreachable")
        memory.add_status(a_status(state="STOPPED"))
        assert ready() == (503, "stopped")
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
    assert found["t"] == [clock.wall_ns() // NS - back for back in (4, 3, 2, 1)]
    assert found["rate"] == {"top": [None, 2, None, 1]}
    assert found["latency_ms"]["top"][1] == 15.0


def test_the_scores_of_a_camera_have_their_threshold_and_what_it_is_known_to_miss(tmp_path: Path) -> None:
    missed = [
        {"kind": "Blowhole", "missed": 18, "frames": 18, "by": "class"},
        {"kind": "below 16x16 px", "missed": 3, "frames": 20, "by": "size"},
    ]
    folder = edit_manifest(
        bundle_in(tmp_path / "dark").path, lambda content: content["calibration"].update(missed=missed)
    )
    opened = open_bundle(folder)
    file = write_line(tmp_path, folder, "tcp://127.0.0.1:5555", {"top": f'path = "{tmp_path}"'})
    threshold = opened.manifest.calibration.score_threshold
    memory = memory_with(Clock())
    for number, score in enumerate((0.5, 2.5, -1.0), 1):
        memory.add_verdict(verdict(number, frame_score=score), live=True)
    memory.add_verdict(verdict(4, camera="side", frame_score=9.0), live=True)
    memory.add_verdict(verdict(5, kind="NO_VERDICT", frame_score=None), live=True)
    with page(memory, file=file) as served:

        def told(digest: str, score: float) -> Any:
            name = msgspec.structs.replace(a_status().bundle, digest=digest)
            memory.add_status(a_status(bundle=name, product=None))
            memory.add_verdict(verdict(6, score_threshold=score), live=True)
            return served.get("/api/scores?camera=top").json["missed"]

        found = served.get("/api/scores?camera=top&n=2").json
        assert (found["scores"], found["score_threshold"]) == ([2.5, -1.0], 1.5)
        assert found["verdicts"] == ["DEFECT", "DEFECT"]
        assert told(opened.digest, threshold) == (
            "At the line's limit, whole kinds of defects pass: Blowhole 18 of 18. Missed in the cross-validation of "
            "the training, by class: Blowhole 18 of 18; by size: below 16x16 px 3 of 20."
        )
        assert told(opened.digest, threshold + 1) is None, "the line's file sets another threshold"
        assert told("0" * 64, threshold) is None, "the line runs another bundle than its file names now"


def test_a_wrong_question_is_answered_in_a_sentence(tmp_path: Path) -> None:
    with page(store=EvidenceStore(tmp_path)) as served:
        for query in ("verdicts?limit=0", "history?seconds=9999999999999", "history?seconds=", "scores?n=1"):
            answer = served.get(f"/api/{query}")
            assert (answer.status in (400, 404), "expected" in answer.json["error"]) == (True, True), query
        for name in ("none", "..%2f..%2fetc%2fpasswd", "%00", "x" * 4000, "..", "%C3%A9"):
            assert served.get(f"/api/pictures/{name}").status == 404, name
        assert served.get("/static/../server.py").status == 404
        assert served.request("POST", "/api/state", "", {}).status == 405


# Why.


@pytest.mark.parametrize("is_stored", [False, True], ids=["in memory", "stored"])
def test_a_picture_tells_why(tmp_path: Path, is_stored: bool) -> None:
    memory = Memory()
    if is_stored:
        stored(tmp_path, SPECKLED)
    else:
        memory.add_picture(picture(verdict(1), SPECKLED))
    with page(memory, store=EvidenceStore(tmp_path)) as served:
        path = f"/api/pictures/{NAME}"
        why = served.get(path).json
        assert [row["id"] for row in why["others"]] == ([] if is_stored else [NAME])
        assert why["event"]["frame_number"] == 1
        assert (why["tiles"], why["tile_px"]) == ([{"yx": [0, 32], "logit": 3.25}, {"yx": [0, 0], "logit": -2.0}], 32)
        assert why["cells"][0] == {"xy": [44, 20], "logit": pytest.approx(9.5, abs=0.05)}
        assert len(why["cells"]) == 16
        np.testing.assert_array_equal(decoded(served.get(f"{path}/frame.png").body), SPECKLED)
        for box, part in (("10&y0=20&x1=30&y1=44", SPECKLED[20:44, 10:30]), ("-5&y0=40&x1=999&y1=999", SPECKLED[40:])):
            np.testing.assert_array_equal(decoded(served.get(f"{path}/crop.png?x0={box}").body), part)
        assert decoded(served.get(f"{path}/frame.jpg").body).shape == SPECKLED.shape
        assert decoded(served.get(f"{path}/heatmap.png").body).shape == (6, 8)
        outside = served.get(f"{path}/crop.png?x0=100&y0=0&x1=90&y1=9")
        assert (outside.status, "has no pixel of the frame" in outside.json["error"]) == (400, True)
        assert served.get(f"{path}/crop.png").status == 400


def test_a_grey_frame_that_was_not_judged_has_no_heatmap() -> None:
    memory = Memory()
    memory.add_picture(picture(verdict(1), frame()[..., 0], is_judged=False))
    with page(memory) as served:
        why = served.get(f"/api/pictures/{NAME}").json
        assert (why["heatmap"], why["tiles"], why["cells"], why["tile_px"]) == (None, [], [], None)
        assert "was not judged" in served.get(f"/api/pictures/{NAME}/heatmap.png").json["error"]
        assert decoded(served.get(f"/api/pictures/{NAME}/frame.png").body).ndim == 2


def test_damage_of_the_store_is_a_sentence_and_a_picture_is_shown_without_its_heatmap(tmp_path: Path) -> None:
    stored(tmp_path)
    (heatmap,) = tmp_path.glob("*/*.heatmap.png")
    with page(store=EvidenceStore(tmp_path)) as served:
        heatmap.write_bytes(heatmap.read_bytes()[:40])
        assert served.get(f"/api/pictures/{NAME}").json["heatmap"] is None
        heatmap.unlink()
        assert served.get(f"/api/pictures/{NAME}").json["heatmap"] is None
        (frame_file,) = tmp_path.glob("*/*-1.png")
        frame_file.write_bytes(b"\x89PNG")
        answer = served.get(f"/api/pictures/{NAME}/frame.png")
        assert (answer.status, str(frame_file) in answer.json["error"]) == (500, True)
    (tmp_path / "file").write_bytes(b"")
    with page(store=EvidenceStore(tmp_path / "file")) as served:
        for path in (f"/api/pictures/{NAME}", "/api/review"):
            assert "cannot be read" in served.get(path).json["error"]


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


# Marks.


def mark(served: Page, name: str = NAME, kind: str = "right", by: str = "Anna", at_xy: Any = (), **more: Any) -> Answer:
    body = {"picture": name, "kind": kind, "by": by, "at_xy": at_xy, **more}
    return served.request("POST", "/api/marks", json.dumps(body), JSON)


def memory_of(*kinds: str) -> Memory:
    """A memory of frames with these verdicts, and their pictures."""
    memory = Memory()
    for number, kind in enumerate(kinds, 1):
        memory.add_verdict(marked(number, kind), live=True)
        memory.add_picture(picture(marked(number, kind)))
    return memory


def test_a_mark_is_answered_once_the_line_has_journalled_it_and_sent_to_all_pages(tmp_path: Path) -> None:
    memory = memory_of("DEFECT", "GOOD")
    with (
        line_with_marks(tmp_path, memory) as (socket, came),
        page(memory, line_socket=socket) as served,
        served.live() as one,
        served.live() as other,
    ):
        for viewer in (one, other):
            rows = next_message(viewer, "verdicts")["rows"]
            assert [(row["picture"], row["review"]) for row in rows] == [(NAME, None), ("01234567-top-2", None)]
            next_picture(viewer)
        places = [[3, 4], [63, 47]]
        answer = mark(served, kind="missed", by=" Anna ", at_xy=places)
        assert (answer.status, answer.json["id"]) == (200, came[0].id)
        assert answer.json["seq"] == 2, "the first event says that the journal began"
        review = served.get(f"/api/pictures/{NAME}").json["review"]
        assert (review["kind"], review["truth"], review["by"]) == ("missed", "defective", ["Anna"])
        assert (review["missed_xy"], review["marks"][0]["at_xy"]) == (places, places)
        for viewer in (one, other):
            assert next_message(viewer, "review") == {"type": "review", "id": NAME, "review": review}
        assert [row["review"] for row in served.get("/api/verdicts").json["rows"]] == [review, None]
        assert mark(served, by="Ben").status == mark(served, kind="withdrawn").status == 200
        assert served.get(f"/api/pictures/{NAME}").json["review"]["by"] == ["Ben"]
        again = mark(served, kind="withdrawn")
        assert (again.status, again.json["error"]) == (409, "Anna has no mark of this picture to take back")
    first, event = came[0], marked()
    assert (first.picture, first.camera, first.verdict) == (NAME, "top", "DEFECT")
    assert (first.captured_at_ns, first.bundle) == (event.times.captured_at_ns, event.bundle.digest)
    assert (first.kind, first.by, first.at_xy) == ("missed", "Anna", [(3, 4), (63, 47)])


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "01234567-top-9"}, 404, "was not stored, or is deleted already"),
    ({"name": "../../etc/passwd"}, 404, "there is no picture"),
    ({"name": "01234567-top-3"}, 400, "the frame has no verdict, so there is nothing to mark"),
    ({"name": "01234567-top-2", "kind": "false_alarm"}, 400, "is GOOD, which is not a false alarm; mark it as right"),
    ({"kind": "missed"}, 400, "no position of the missed defect came; name at least one"),
    ({"kind": "missed", "at_xy": [[64, 0]]}, 400, "(64, 0) lies outside the frame, which is 64 px wide"),
    ({"kind": "missed", "at_xy": [[0, 48]]}, 400, "(0, 48) lies outside the frame"),
    ({"kind": "missed", "at_xy": [[-1, 0]]}, 400, "(-1, 0) lies outside the frame"),
    ({"kind": "missed", "at_xy": [[1, 1]] * 65}, 400, "Expected `array` of length <= 64"),
    ({"kind": "right", "at_xy": [[1, 1]]}, 400, "Expected positions for `missed` only"),
    ({"by": "  "}, 400, "the name of the reviewer is empty; say who marks"),
    ({"by": "x" * 65}, 400, "length <= 64 - at `$.by`"),
    ({"by": "Jo\nhn"}, 400, "Expected printable characters"),
    ({"kind": "maybe"}, 400, "this is not a mark"),
    ({"acting": True}, 400, "this is not a mark"),
]
HOSTILE: list[tuple[dict[str, str], str, int, str]] = [
    ({"Origin": "https://attacker.example"}, "{}", 403, "use the line's own page"),
    ({"Origin": "null"}, "{}", 403, "use the line's own page"),
    ({"Host": "attacker.example"}, "{}", 421, "under the name of this PC"),
    ({}, '{"picture":' + "[" * 4000 + "]" * 4000 + "}", 400, "this is not a mark"),
    ({}, "[" * 8192, 400, "this is not a mark"),
    ({}, "", 400, "this is not a mark"),
    ({}, '{"picture":"\\ud800","kind":"right","by":"A"}', 400, "this is not a mark"),
    ({}, " " * 8193, 413, "more than 8192 bytes"),
]


def test_what_cannot_be_marked_is_refused_in_a_sentence_and_never_reaches_the_line(tmp_path: Path) -> None:
    memory = memory_of("DEFECT", "GOOD", "NO_VERDICT")
    with line_with_marks(tmp_path, memory) as (socket, came), page(memory, line_socket=socket) as served:
        for wanted, status, words in REFUSED:
            answer = mark(served, **wanted)
            assert (answer.status, words in answer.json["error"]) == (status, True), (wanted, answer.body)
        for headers, body, status, words in HOSTILE:
            answer = served.request("POST", "/api/marks", body, JSON | headers)
            assert (answer.status, words in answer.json["error"]) == (status, True), (body[:40], answer.body)
        assert served.get("/api/marks").status == 405
        assert came == []
        own = JSON | {"Origin": f"http://127.0.0.1:{served.port}"}
        proper = json.dumps({"picture": NAME, "kind": "right", "by": "Anna"})
        assert (served.request("POST", "/api/marks", proper, own).status, len(came)) == (200, 1)


def test_without_a_line_or_its_journal_nothing_pretends_to_be_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of("DEFECT")

    def refusal(socket: Path) -> str:
        with page(memory, line_socket=socket) as served:
            answer = mark(served)
            assert (answer.status, served.get(f"/api/pictures/{NAME}").json["review"]) == (503, None)
            return str(answer.json["error"])

    assert "check that the line runs" in refusal(tmp_path / "none")
    monkeypatch.setattr(pictures, "JOURNALLED_WITHIN_SECONDS", 0.1)
    with line_with_marks(tmp_path, memory, is_journalled=False) as (socket, _):
        assert "did not journal the mark of picture" in refusal(socket)
        (tmp_path / FILE_NAME).unlink()
        assert "there is no journal" in refusal(socket)


def test_a_picture_that_only_the_page_holds_is_stored_before_its_mark_is_sent(tmp_path: Path) -> None:
    memory, store = memory_of("GOOD", "GOOD"), EvidenceStore(tmp_path / "evidence")
    stored(store.folder, number=3, times=at(3))
    chosen: list[str | None] = []
    there_first: list[int] = []

    def choose(picture: Picture) -> str | None:
        chosen.append(picture.event.picture)
        return None if len(chosen) == 1 else "too many pictures wait"

    with line_with_marks(tmp_path, memory, before=lambda _: there_first.append(len(chosen))) as (socket, _):
        with page(memory, store=store, line_socket=socket, choose=choose) as served:
            answer = mark(served).json
            assert (answer["stored"], answer["detail"], there_first, chosen) == (True, None, [1], [NAME])
            lost = mark(served, "01234567-top-2").json
            assert (lost["seq"], lost["stored"]) == (3, False)
            assert lost["detail"] == "The mark counts, but no training can use the picture: too many pictures wait."
            assert mark(served, "01234567-top-3").json["stored"]
            assert len(chosen) == 2, "it is stored already"
        with page(memory, line_socket=socket) as served:
            assert "add [web] and [evidence] to its file" in mark(served).json["detail"]


# Frames to review.


def at(number: int) -> Any:
    """The time of a capture: each on a day of its own, and a second later."""
    clock = Clock()
    clock.now_s += number * 86401
    return marked(1, clock=clock).times


def queued(served: Page, limit: int = 50) -> tuple[list[int], int]:
    """The frames to review that a page answers with, and the number of all."""
    answer = served.get(f"/api/review?limit={limit}").json
    return [row["frame_number"] for row in answer["rows"]], answer["count"]


def test_the_queue_has_the_newest_first_and_empties(tmp_path: Path) -> None:
    for number, kind in enumerate(("DEFECT", "GOOD", "NO_VERDICT", "DEFECT"), 1):
        stored(tmp_path, number=number, kind=kind, times=at(number))
    known = Memory()
    with page(known, store=EvidenceStore(tmp_path)) as served:
        assert queued(served) == ([4, 2, 1], 3)
        assert queued(served, 1) == ([4], 3)
        known.add_review(review_of(number=4, seq=1))
        stored(tmp_path, number=5, times=at(5))
        assert queued(served) == ([5, 2, 1], 3)
        with writer(tmp_path) as into:  # the recorder reads the mark in the journal
            into.add_marks([review_of(number=4, seq=1)], "journal-1", 1)
        assert queued(served) == ([5, 2, 1], 3)
        (gone,) = tmp_path.glob("*/*-2.png")
        gone.unlink()
        assert queued(served)[0] == [5, 1], "a frame that cannot be shown"
        for seq, number in enumerate((1, 2, 5), 2):
            known.add_review(review_of(number=number, seq=seq))
        assert queued(served) == ([], 0)
        for number in (1, 4):  # the recorder has read a mark of one of them
            known.add_review(review_of(number=number, kind="withdrawn", seq=9 + number))
        assert queued(served) == ([4, 1], 2)


def test_without_a_store_the_defects_in_memory_can_be_reviewed() -> None:
    known = Memory()
    for number, kind in enumerate(("DEFECT", "GOOD", "DEFECT"), 1):
        known.add_picture(picture(marked(number, kind, times=at(number))))
    with page(known) as served:
        assert queued(served) == ([3, 1], 2)
        known.add_review(review_of(number=3))
        assert queued(served) == ([1], 1)
