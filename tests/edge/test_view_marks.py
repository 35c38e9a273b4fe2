"""Marks that come to the page's server: journalled by the line, or refused in a sentence, and sent to all pages."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.edge.config import WebConfig
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.monitor import pictures
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.pictures import Picture
from heatline.edge.monitor.store import EvidenceStore
from tests.edge.reviewed import line_with_marks, marked
from tests.edge.test_view_access import TOKEN, token_file
from tests.edge.test_view_api import stored
from tests.edge.view_pages import Answer, Page, next_message, next_picture, page, picture

NAME = "01234567-top-1"
JSON = {"Content-Type": "application/json"}


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
            assert [row["review"] for row in rows] == [None, None]
            next_picture(viewer)
        answer = mark(served, kind="missed", by=" Anna ", at_xy=[[3, 4], [63, 47]])
        assert answer.status == 200
        assert (answer.json["seq"], answer.json["id"]) == (2, came[0].id), "the first event says that the journal began"
        review = served.get(f"/api/pictures/{NAME}").json["review"]
        places = [[3, 4], [63, 47]]
        assert (review["kind"], review["truth"], review["by"]) == ("missed", "defective", ["Anna"])
        assert (review["missed_xy"], review["marks"][0]["at_xy"]) == (places, places)
        for viewer in (one, other):
            assert next_message(viewer, "review") == {"type": "review", "id": NAME, "review": review}
        assert [row["review"] for row in served.get("/api/verdicts").json["rows"]] == [review, None]
        assert served.get(f"/api/pictures/{NAME}").json["review"] == review
        assert mark(served, kind="right", by="Ben").status == 200
        assert served.get(f"/api/pictures/{NAME}").json["review"]["by"] == ["Anna", "Ben"]
        assert mark(served, kind="withdrawn").status == 200
        again = mark(served, kind="withdrawn")
        assert (again.status, again.json["error"]) == (409, "Anna has no mark of this picture to take back")
        assert mark(served, kind="withdrawn", by="Ben").status == 200
        assert served.get(f"/api/pictures/{NAME}").json["review"] is None
    assert (came[0].by, came[0].bundle, came[0].at_xy) == ("Anna", marked().bundle.digest, [(3, 4), (63, 47)])


def test_two_reviewers_at_once_do_not_lose_each_others_marks(tmp_path: Path) -> None:
    memory = memory_of(*["DEFECT"] * 6)
    with line_with_marks(tmp_path, memory) as (socket, came), page(memory, line_socket=socket) as served:

        def review(by: str, kind: str) -> list[int]:
            return [mark(served, f"01234567-top-{number}", kind, by).status for number in range(1, 7)]

        with ThreadPoolExecutor() as both:
            statuses = list(both.map(review, ["Anna", "Ben"], ["right", "false_alarm"]))
        assert statuses == [[200] * 6] * 2
        rows = served.get("/api/verdicts").json["rows"]
    assert len(came) == 12
    assert {each for row in rows for each in [(row["review"]["kind"], *sorted(row["review"]["by"]))]} == {
        (None, "Anna", "Ben")
    }


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        ({"name": "01234567-top-9"}, 404, "was not stored, or is deleted already"),
        ({"name": "../../etc/passwd"}, 404, "there is no picture"),
        ({"name": "01234567-top-3"}, 400, "the frame has no verdict"),
        ({"name": "01234567-top-2", "kind": "false_alarm"}, 400, "is GOOD, which is not a false alarm"),
        ({"kind": "withdrawn", "by": " Anna "}, 409, "Anna has no mark of this picture to take back"),
        ({"kind": "missed"}, 400, "no position of the missed defect came"),
        ({"kind": "missed", "at_xy": [[64, 0]]}, 400, "lies outside the frame, which is 64 px wide"),
        ({"kind": "missed", "at_xy": [[-1, 0]]}, 400, "lies outside the frame"),
        ({"kind": "missed", "at_xy": [[1, 1]] * 65}, 400, "length <= 64"),
        ({"kind": "right", "at_xy": [[1, 1]]}, 400, "Expected positions for `missed` only"),
        ({"by": "  "}, 400, "the name of the reviewer is empty; say who marks"),
        ({"by": "x" * 65}, 400, "length <= 64 - at `$.by`"),
        ({"by": "Jo\nhn"}, 400, "printable characters"),
        ({"kind": "maybe"}, 400, "this is not a mark"),
        ({"at_xy": "here"}, 400, "this is not a mark"),
        ({"acting": True}, 400, "this is not a mark"),
    ],
    ids=str,
)
def test_what_cannot_be_marked_is_refused_in_a_sentence(
    wanted: dict[str, Any], status: int, words: str, tmp_path: Path
) -> None:
    memory = memory_of("DEFECT", "GOOD", "NO_VERDICT")
    with line_with_marks(tmp_path, memory) as (socket, came), page(memory, line_socket=socket) as served:
        answer = mark(served, **wanted)
    assert (answer.status, came) == (status, [])
    assert words in answer.json["error"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        (JSON | {"Origin": "https://attacker.example"}, "{}", 403, "use the line's own page"),
        (JSON | {"Origin": "null"}, "{}", 403, "use the line's own page"),
        (JSON | {"Host": "attacker.example"}, "{}", 421, "under the name of this PC"),
        (JSON, "{" * 8000, 400, "this is not a mark"),
        (JSON, '{"picture":' + "[" * 4000 + "]" * 4000 + "}", 400, "this is not a mark"),
        (JSON, "[" * 8192, 400, "this is not a mark"),
        (JSON, "", 400, "this is not a mark"),
        (JSON, '{"picture":"\\ud800","kind":"right","by":"A"}', 400, "this is not a mark"),
        (JSON, " " * 8193, 413, "more than 8192 bytes"),
        (JSON, "x" * 5_000_000, 413, "more than 8192 bytes"),
    ],
    ids=range(10),
)
def test_hostile_requests_are_refused_and_never_reach_the_line(
    headers: dict[str, str], body: str, status: int, words: str, tmp_path: Path
) -> None:
    memory = memory_of("DEFECT")
    with line_with_marks(tmp_path, memory) as (socket, came), page(memory, line_socket=socket) as served:
        try:
            answer = served.request("POST", "/api/marks", body, headers)
            assert (answer.status, words in answer.json["error"]) == (status, True), answer.body
        except ConnectionError:  # it was answered and closed while it sent
            assert status == 413
        wrong = served.request("GET", "/api/marks", None, {})
        assert (wrong.status, wrong.json["error"]) == (405, "Method Not Allowed")
        own = {"Origin": f"http://127.0.0.1:{served.port}"}
        proper = json.dumps({"picture": NAME, "kind": "right", "by": "Anna"})
        assert came == []
        assert served.request("POST", "/api/marks", proper, JSON | own).status == 200
        assert len(came) == 1


def test_a_mark_needs_the_token_as_all_else(tmp_path: Path) -> None:
    memory = memory_of("DEFECT")
    web = WebConfig(token_file=token_file(tmp_path))
    with (
        line_with_marks(tmp_path, memory) as (socket, came),
        page(memory, web, only_local=False, line_socket=socket) as served,
    ):
        assert mark(served).status == 401
        assert came == []
        proper = json.dumps({"picture": NAME, "kind": "right", "by": "Anna"})
        bearer = JSON | {"Authorization": f"Bearer {TOKEN}"}
        assert served.request("POST", "/api/marks", proper, bearer).status == 200


def test_without_a_line_or_its_journal_nothing_pretends_to_be_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of("DEFECT")
    with page(memory, line_socket=tmp_path / "none") as served:
        stopped = mark(served)
        assert (stopped.status, "check that the line runs" in stopped.json["error"]) == (503, True)
    monkeypatch.setattr(pictures, "JOURNALLED_WITHIN_SECONDS", 0.1)
    with line_with_marks(tmp_path, memory, is_journalled=False) as (socket, _):
        with page(memory, line_socket=socket) as served:
            unknown = mark(served)
            assert (unknown.status, "did not journal the mark of picture" in unknown.json["error"]) == (503, True)
            assert served.get(f"/api/pictures/{NAME}").json["review"] is None
        (tmp_path / FILE_NAME).unlink()
        with page(memory, line_socket=socket) as served:
            none = mark(served)
            assert (none.status, "there is no journal" in none.json["error"]) == (503, True)


def test_a_picture_that_only_the_page_holds_is_stored_before_its_mark_is_sent(tmp_path: Path) -> None:
    memory = memory_of("GOOD", "GOOD")
    chosen: list[str | None] = []
    there_first: list[int] = []

    def choose(picture: Picture) -> str | None:
        chosen.append(picture.event.picture)
        return None if len(chosen) == 1 else "too many pictures wait"

    with (
        line_with_marks(tmp_path, memory, before=lambda _: there_first.append(len(chosen))) as (socket, _),
        page(memory, store=EvidenceStore(tmp_path / "evidence"), line_socket=socket, choose=choose) as served,
    ):
        answer = mark(served).json
        assert (answer["stored"], answer["detail"], there_first, chosen) == (True, None, [1], [NAME])
        lost = mark(served, "01234567-top-2").json
        assert (lost["seq"], lost["stored"]) == (3, False)
        assert lost["detail"] == "The mark counts, but no training can use the picture: too many pictures wait."


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_picture_whose_heatmap_is_damaged_is_shown_without_it_and_can_be_marked(tmp_path: Path, damage: str) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    name = stored(store.folder, np.zeros((48, 64, 3), np.uint8), kind="DEFECT", picture=NAME)
    (heatmap,) = store.folder.glob("*/*.heatmap.png")
    if damage == "gone":
        heatmap.unlink()
    else:
        heatmap.write_bytes(heatmap.read_bytes()[:40])
    memory = Memory()
    with (
        line_with_marks(tmp_path, memory) as (socket, came),
        page(memory, store=store, line_socket=socket) as served,
    ):
        assert served.get(f"/api/pictures/{name}").json["heatmap"] is None
        assert served.get(f"/api/pictures/{name}/frame.jpg").status == 200
        assert mark(served, name).status == 200
    assert len(came) == 1


def test_a_stored_picture_is_not_stored_again_and_without_a_store_the_answer_says_so(tmp_path: Path) -> None:
    memory = Memory()
    store = EvidenceStore(tmp_path / "evidence")
    name = stored(store.folder, np.full((48, 64, 3), 9, np.uint8), picture=NAME)
    memory.add_picture(picture(marked(2)))
    with line_with_marks(tmp_path, memory) as (socket, _):
        with page(memory, store=store, line_socket=socket) as served:
            assert mark(served, name).json["stored"]
        with page(memory, line_socket=socket) as served:
            answer = mark(served, "01234567-top-2").json
            assert (answer["stored"], "add [web] and [evidence] to its file" in answer["detail"]) == (False, True)
