"""What the page remembers of a line, how it reads it, the words that tell it, and the metrics that show it."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bridge.modbus.registers import RESULT_REASONS
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.monitor.collector import Collector
from heatline.edge.monitor.held_picture import PictureMemory
from heatline.edge.monitor.marks import combine
from heatline.edge.monitor.memory import ROWS, Memory, describe, row_of
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.wire.events import Account, CameraState, DriftReading, EvidenceState, Message, StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.journals import good, make_writer
from tests.edge.secured import until
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import NAME, Clock, frame, memory_with, page, picture, review_of, verdict
from tests.edge.wire_examples import GOLDEN, JOURNAL_STATUS
from tests.needs import need

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"


def ready(**what: object) -> StatusEvent:
    """A status of a line that is READY, with the camera `top`."""
    status = a_status()
    handshake = msgspec.structs.replace(status.handshake, state="READY", reason=None, detail=None)
    live = CameraState(state="LIVE", since_at_ns=1)
    keys = {"handshake": handshake, "cameras": {"top": live}, "journal": None, "acting": True, "state": "RUNNING"}
    return msgspec.structs.replace(status, **(keys | what))


def running(clock: Clock, period_s: float = 0.1) -> Memory:
    """The memory of a line that gives verdicts."""
    memory = memory_with(clock)
    for number in range(1, 31):
        clock.now_s += period_s
        memory.add_verdict(verdict(number, clock), live=True)
    memory.add_status(ready())
    return memory


def state_of(memory: Memory) -> dict[str, Any]:
    return describe(memory, "line1")


# Words.


def test_a_line_that_works_needs_no_words_and_a_late_frame_makes_its_picture_stale() -> None:
    clock = Clock()
    memory = running(clock)
    state = state_of(memory)
    assert (state["running"], state["handshake"].state, state["words"]) == (True, "READY", [])
    top = state["cameras"]["top"]
    assert (top["state"], top["stale"], top["newest_age_ms"]) == ("LIVE", False, 0)
    assert (top["frame_period_ms"], top["rate_fps"]) == (pytest.approx(100), pytest.approx(10.0, abs=1.0))
    clock.now_s += 1.9
    memory.add_verdict(verdict(31, clock, "NO_VERDICT", reason="dropped.overload"), live=True)  # no new picture
    assert not state_of(memory)["cameras"]["top"]["stale"]
    clock.now_s += 0.2
    memory.add_status(ready())
    state = state_of(memory)
    assert (state["cameras"]["top"]["stale"], state["words"]) == (True, ["Camera top (LIVE): no frame for 2 s."])


def test_a_slow_camera_is_stale_only_after_three_of_its_periods() -> None:
    clock = Clock()
    memory = running(clock, period_s=10)
    clock.now_s += 29
    assert not state_of(memory)["cameras"]["top"]["stale"]
    clock.now_s += 2
    assert state_of(memory)["cameras"]["top"]["stale"]


def test_a_line_that_falls_silent_or_stops_does_not_look_alive() -> None:
    clock = Clock()
    memory = running(clock)
    clock.now_s += 4
    state = state_of(memory)
    top = state["cameras"]["top"]
    assert (state["running"], state["handshake"].state) == (False, "NOT_READY")
    assert state["words"][0].startswith("Nothing came from the line for 4 s: it was killed, it hangs")
    assert state["words"][1] == "The pictures and figures on this page are the last that came."
    assert (top["state"], top["rate_fps"], top["stale"]) == ("UNKNOWN", 0, True)
    memory.add_status(ready(state="STOPPED"))
    assert state_of(memory)["words"][0].startswith("The line has stopped at ")
    memory.add_status(ready(boot_id="another"))
    state = state_of(memory)
    assert (state["running"], state["words"]) == (True, ["Camera top (LIVE): no frame for 4 s."])
    never = Memory(cameras=["top", "side"])
    for camera in ("side", "top"):
        never.add_verdict(verdict(1, camera=camera), live=False)
    state = state_of(never)
    assert state["words"] == ["The line does not run, or has not reported yet: no status came from it."]
    assert list(state["cameras"]) == ["top", "side"], "as in the line's file"
    top = state["cameras"]["top"]
    assert (top["newest_age_ms"], top["stale"]) == (None, True), "a verdict of the journal is not a new frame"


def test_reasons_faults_and_drift_are_plain_words_and_what_matters_most_comes_first() -> None:
    for reason in RESULT_REASONS:
        detail = row_of(verdict(kind="NO_VERDICT", reason=reason, detail=None))["detail"]
        assert not re.search("[._]", str(detail)), detail
    memory = running(Clock())
    memory.add_status(ready(cameras={"top": CameraState(state="DEAD", reason="silent", since_at_ns=1)}))
    assert state_of(memory)["cameras"]["top"]["detail"] == "no frames come"
    shift = DriftReading(value=36.0, calibrated=0.0, low=-3.0, high=3.0, frames=30, drifted=True)
    memory.add_status(ready(drift={"top": {"shift_x": shift}}))
    assert state_of(memory)["words"] == [
        "Camera top, compared with the calibration: the part lies further right (36, -3 to 3 expected)."
    ]
    memory.pictures_fault = "the line refuses"
    memory.add_status(msgspec.structs.replace(JOURNAL_STATUS.event, acting=False))  # type: ignore[arg-type]
    words = state_of(memory)["words"]
    begins = (
        "DEGRADED: camera side is dead",
        "Consumer mes1 is away, and 3 events are stored for it.",
        "No pictures come from the line: the line refuses.",
        "The line is being commissioned",
    )
    assert all(word.startswith(begin) for word, begin in zip(words, begins, strict=True)), words


# What is remembered.


def test_rows_and_news_are_bounded_and_a_reader_gets_each_once() -> None:
    memory = Memory()
    cursor = memory.now
    for number in range(1, ROWS + 101):
        memory.add_verdict(verdict(number), live=True)
    news, after = memory.news_after(cursor)
    assert [row["frame_number"] for row in news] == list(range(101, ROWS + 101))
    memory.add_review(review_of(number=ROWS + 100))
    (changed,), after = memory.news_after(after)
    assert (changed["type"], changed["id"]) == ("review", f"01234567-top-{ROWS + 100}")
    assert memory.news_after(after) == ([], after)
    assert len(memory.rows(10 * ROWS)) == ROWS


def test_pictures_are_bounded_by_number_and_by_bytes_and_are_copies() -> None:
    image = frame(10)
    held = picture(verdict(), image)
    image[:] = 99
    np.testing.assert_array_equal(held.image, frame(10))
    pictures = PictureMemory(per_camera=5, most_bytes=10 * held.size_bytes)
    for number in range(1, 10):
        for camera in ("top", "side", "back"):
            pictures.add(picture(verdict(number, camera=camera)))
    assert [each.event.frame_number for each in pictures.newest()] == [9, 9, 9]
    assert len(pictures.all()) == 10
    large = picture(verdict(10), frame(1, (480, 640)))
    pictures.add(large)
    assert pictures.newest()[0] is large, "one that is too large alone is still shown"
    assert len(pictures.newest()) == 3
    few = PictureMemory(per_camera=5)
    for number in range(1, 10):
        few.add(picture(verdict(number)))
    assert few.all().keys() == {f"01234567-top-{number}" for number in range(5, 10)}


MARKS = st.lists(
    st.tuples(
        st.sampled_from(["Anna", "Ben"]),
        st.sampled_from(["right", "false_alarm", "missed", "withdrawn"]),
        st.sampled_from([1, 2]),
    ),
    max_size=8,
)


@given(MARKS, st.randoms(use_true_random=False))
def test_marks_in_any_order_and_twice_make_the_reviews_of_the_journal(marks: Any, order: Any) -> None:
    journal = [review_of(by, kind, number, seq) for seq, (by, kind, number) in enumerate(marks, 1)]
    came = journal + journal[:2] + [review_of(journal_id=None)]  # no journal holds this one, so it does not count
    order.shuffle(came)
    found = Memory()
    for event in came:
        found.add_review(event)
    for name in (NAME, "01234567-top-2"):
        assert found.review_of(name) == combine(journal).get(name)


def test_stored_reviews_count_until_a_mark_comes_and_the_last_marked_pictures_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("heatline.edge.monitor.memory.MOST_PICTURES", 3)
    found, former = Memory(), combine([review_of("Anna", seq=1), review_of("Ben", "false_alarm", seq=2)])[NAME]
    assert found.review_of(NAME, former) == former
    found.add_review(review_of("Anna", seq=7))
    state = found.review_of(NAME, former)
    assert state is not None
    assert (state.by, state.kind) == (["Anna"], "right")
    found.add_review(review_of("Anna", "withdrawn", seq=8))
    assert found.review_of(NAME, former) is None
    for number in range(2, 7):
        found.add_review(review_of(number=number, seq=10 + number))
    counting = [name for name, is_reviewed in found.marked().items() if is_reviewed]
    assert sorted(counting) == [f"01234567-top-{number}" for number in (4, 5, 6)]


# What is read of a line.


@contextlib.contextmanager
def collecting(folder: Path, address: str) -> Iterator[tuple[Memory, Metrics, Publisher]]:
    """A page that reads the journal in a folder, and a line that publishes."""
    memory, publisher = Memory(), Publisher(address)
    metrics = Metrics(memory)
    publisher.start()
    try:
        with Collector(
            memory, metrics, address=address, keys=None, journal=folder / "journal.db", pictures=folder / "no-pictures"
        ):
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            yield memory, metrics, publisher
    finally:
        publisher.close()


def numbers(memory: Memory) -> list[int]:
    return [row["frame_number"] for row in memory.rows(100)]


def published(messages: list[Message], topic: str = "verdict.") -> list[Message]:
    return [message for message in messages if message.event.topic.startswith(topic)]


def test_verdicts_and_marks_that_did_not_come_live_are_read_in_the_journal_each_once(
    tmp_path: Path, address: str
) -> None:
    with contextlib.closing(make_writer(tmp_path)) as writer:
        reviews = [Message(review_of(by, number=number)) for number in (1, 2, 3) for by in ("Anna", "Ben")]
        held = published(writer.commit([good(number=1), good(number=2), *reviews[:2]]))
        with collecting(tmp_path, address) as (memory, metrics, publisher):

            def reviewers() -> list[list[str]]:
                found = [memory.review_of(f"01234567-top-{number}") for number in (1, 2, 3)]
                return [each.by if each else [] for each in found]

            until(lambda: numbers(memory) == [1, 2] and reviewers()[0] == ["Anna", "Ben"])
            publisher.send(held[1])  # it has read this already
            publisher.send(published(writer.commit([good(number=3)]))[0])
            until(lambda: 3 in numbers(memory))
            publisher.send(published(writer.commit([good(number=4), good(number=5), good(number=6)]))[2])
            until(lambda: 6 in numbers(memory))
            publisher.send(published(writer.commit(reviews[2:]), "review")[-1])
            until(lambda: reviewers() == [["Anna", "Ben"]] * 3)
            assert numbers(memory) == [1, 2, 3, 4, 5, 6]
            assert 'heatline_reviews_total{camera="top",kind="right"} 4.0' in metrics.exposition().decode()
            until(lambda: "check that the line runs" in str(memory.pictures_fault))


def test_a_journal_that_is_made_or_replaced_meanwhile_is_read_from_its_beginning(tmp_path: Path, address: str) -> None:
    with collecting(tmp_path, address) as (memory, _, publisher):
        with contextlib.closing(make_writer(tmp_path)) as writer:
            publisher.send(published(writer.commit([good(number=number) for number in (1, 2, 3)]))[2])
            until(lambda: numbers(memory) == [1, 2, 3])
        (tmp_path / "other").mkdir()
        with contextlib.closing(make_writer(tmp_path / "other")) as other:
            publisher.send(published(other.commit([good(number=11)]))[0])
            until(lambda: 11 in numbers(memory))


# Metrics.


def full() -> tuple[Memory, Metrics, Clock]:
    """Metrics with a value for everything."""
    clock = Clock()
    memory = memory_with(clock)
    metrics = Metrics(memory)
    status, drifted = JOURNAL_STATUS.event, GOLDEN["status-drift"].event
    assert isinstance(status, StatusEvent)
    assert isinstance(drifted, StatusEvent)
    ledger = status.ledger | {"side": Account(captured=2, failed={"open": 1}, in_flight=1)}
    evidence = EvidenceState(kept=5, skipped=1, stored=40, size_bytes=1 << 20)
    memory.add_status(msgspec.structs.replace(status, ledger=ledger, evidence=evidence, drift=drifted.drift))
    for number, kind in enumerate(("GOOD", "DEFECT", "DEFECT", "NO_VERDICT"), 1):
        event = verdict(number, clock, kind, latency_ms=240.0)
        memory.add_verdict(event, live=True)
        metrics.add(event)
    metrics.add(verdict(5, kind="NO_VERDICT", reason="dropped.lost_by_camera", frames=7, latency_ms=40.0))
    metrics.add(review_of(kind="missed"))
    return memory, metrics, clock


def values(metrics: Metrics) -> dict[str, float]:
    """Return each series with its value."""
    lines = metrics.exposition().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Run Prometheus' own tool, which must find no fault."""
    result = subprocess.run(
        [need("prometheus"), *arguments], input=text, text=True, capture_output=True, check=False, timeout=60
    )
    assert (result.returncode, result.stderr.strip()) == (0, ""), result.stdout + result.stderr


SHOWN = {
    "heatline_up": 1,
    'heatline_captured_frames_total{camera="top"}': 131_080,
    'heatline_inspected_frames_total{camera="top"}': 131_076,
    'heatline_dropped_frames_total{camera="top",reason="lost_by_camera"}': 3,
    'heatline_in_flight_frames{camera="top"}': 0,
    'heatline_failed_frames_total{camera="side",reason="open"}': 1,
    "heatline_evidence_skipped_pictures_total": 1,
    "heatline_evidence_recording": 1,
    'heatline_handshake_state{state="DEGRADED"}': 1,
    'heatline_handshake_state{state="READY"}': 0,
    'heatline_camera_state{camera="side",state="DEAD"}': 1,
    'heatline_camera_state{camera="side",state="LIVE"}': 0,
    'heatline_consumer_lag_events{consumer="mes1"}': 3,
    "heatline_journal_size_bytes": 1 << 30,
    "heatline_journal_recording": 0,
    "heatline_acting": 1,
    'heatline_refused_messages_total{reason="auth",socket="events"}': 3,
    'heatline_frames_total{camera="top",reason="",verdict="DEFECT"}': 2,
    'heatline_frames_total{camera="top",reason="dropped.lost_by_camera",verdict="NO_VERDICT"}': 7,
    'heatline_reviews_total{camera="top",kind="missed"}': 1,
    'heatline_reviews_total{camera="top",kind="false_alarm"}': 0,
    'heatline_latency_seconds_bucket{camera="top",le="0.25"}': 5,
    'heatline_latency_seconds_sum{camera="top"}': pytest.approx(1.0),
    'heatline_frame_score_logits_bucket{camera="top",le="3.0"}': 1,
    'heatline_newest_frame_age_seconds{camera="top"}': 0,
    'heatline_drift{camera="top",measure="brightness"}': pytest.approx((96.25 - 120) / (120 - 110.5)),
    'heatline_drift{camera="top",measure="match"}': pytest.approx((0.75 - 0.875) / (0.875 - 0.5)),
    'heatline_drifted{camera="top",measure="brightness"}': 1,
    'heatline_drifted{camera="top",measure="match"}': 0,
}
OF_NOW = "acting", "camera_state", "consumer_connected", "journal_recording", "evidence_recording", "drift"


def test_the_lines_own_counts_are_shown_and_what_it_does_now_only_while_it_reports() -> None:
    memory, metrics, clock = full()
    found = values(metrics)
    assert {name: found[name] for name in SHOWN} == SHOWN
    own = {name: value for name, value in found.items() if name.startswith("heatline_frames_total")}
    clock.now_s += 4
    memory.listener()
    found = values(metrics)
    assert (found["heatline_up"], found['heatline_handshake_state{state="NOT_READY"}']) == (0, 1)
    assert found['heatline_newest_frame_age_seconds{camera="top"}'] == 4
    assert not any(name.startswith(tuple(f"heatline_{each}" for each in OF_NOW)) for name in found)
    memory.add_status(a_status(boot_id="another", ledger={"top": Account(captured=1, in_flight=1)}))
    found = values(metrics)
    assert found['heatline_captured_frames_total{camera="top"}'] == 1
    assert {name: found[name] for name in own} == own, "a restart of the line resets its own counts only"


def test_promtool_finds_no_fault_with_the_metrics_whatever_they_name() -> None:
    memory, metrics, _ = full()
    promtool("check", "metrics", text=metrics.exposition().decode())
    bundle = msgspec.structs.replace(a_status().bundle, name='a"b\\c\nd')
    memory.add_status(a_status(bundle=bundle, product='x"\n'))
    with page(memory) as served:
        answer = served.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    promtool("check", "metrics", text=answer.body.decode())
    assert 'name="a\\"b\\\\c\\nd"' in metrics.exposition().decode()


def test_promtool_accepts_the_example_and_its_alerts_fire_as_their_tests_say() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", MONITORING / "alerts.yml")
    promtool("test", "rules", MONITORING / "alerts_test.yml")


def test_rules_dashboard_and_document_name_only_metrics_that_exist_and_every_rule_has_a_test() -> None:
    _, metrics, _ = full()
    exist = {re.split(r"[{ ]", line)[0] for line in metrics.exposition().decode().splitlines() if line[0] != "#"}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exist}
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    for text in (*(path.read_text() for path in sorted(MONITORING.iterdir())), documented):
        assert set(re.findall(r"\bheatline_[a-z_]+\b", text)) <= families | exist
    assert [name for name in sorted(families) if f"`{name}`" not in documented] == []
    rules = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    tests = (MONITORING / "alerts_test.yml").read_text()
    assert len(rules) >= 6
    assert [rule for rule in rules if f"alertname: {rule}" not in tests or f"`{rule}`" not in documented] == []
    board = msgspec.json.decode((MONITORING / "dashboard.json").read_bytes())
    assert all(panel["title"] and panel["targets"] for panel in board["panels"] if panel["type"] != "row")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 8
