"""Metrics: what Prometheus reads is what the line reported, and its own tool finds no fault with it."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from heatline.edge.monitor.memory import Memory, describe
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.wire.events import Account, EvidenceState, StatusEvent
from tests.edge.reviewed import review_of
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import Clock, memory_with, page, verdict
from tests.edge.wire_examples import GOLDEN, JOURNAL_STATUS
from tests.needs import need

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"
ROOT = Path(__file__).parents[2]


def a_journal_status() -> StatusEvent:
    assert isinstance(JOURNAL_STATUS.event, StatusEvent)
    return JOURNAL_STATUS.event


def drifted_status() -> StatusEvent:
    event = GOLDEN["status-drift"].event
    assert isinstance(event, StatusEvent)
    return event


def full() -> tuple[Memory, Metrics, Clock]:
    """Metrics with a value for everything."""
    clock = Clock()
    memory = memory_with(clock)
    metrics = Metrics(memory)
    status = a_journal_status()
    ledger = status.ledger | {"side": Account(captured=2, failed={"open": 1}, in_flight=1)}
    evidence = EvidenceState(kept=5, skipped=1, stored=40, size_bytes=1 << 20)
    drift = drifted_status().drift
    memory.add_status(msgspec.structs.replace(status, ledger=ledger, evidence=evidence, drift=drift))
    for number, kind in enumerate(("GOOD", "DEFECT", "DEFECT", "NO_VERDICT"), 1):
        event = verdict(number, clock, kind, latency_ms=240.0)
        memory.add_verdict(event, live=True)
        metrics.add(event)
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


def test_promtool_finds_no_fault_with_the_names_and_units() -> None:
    _, metrics, _ = full()
    promtool("check", "metrics", text=metrics.exposition().decode())


def test_the_lines_own_counts_are_shown() -> None:
    memory, metrics, clock = full()
    found = values(metrics)
    assert found["heatline_up"] == 1
    assert found['heatline_captured_frames_total{camera="top"}'] == 131_080
    assert found['heatline_inspected_frames_total{camera="top"}'] == 131_076
    assert found['heatline_dropped_frames_total{camera="top",reason="lost_by_camera"}'] == 3
    assert found['heatline_in_flight_frames{camera="top"}'] == 0
    assert found['heatline_failed_frames_total{camera="side",reason="open"}'] == 1
    assert (found["heatline_evidence_skipped_pictures_total"], found["heatline_evidence_recording"]) == (1, 1)
    assert found['heatline_handshake_state{state="DEGRADED"}'] == 1
    assert found['heatline_handshake_state{state="READY"}'] == 0
    assert found['heatline_camera_state{camera="side",state="DEAD"}'] == 1
    assert found['heatline_camera_state{camera="side",state="LIVE"}'] == 0
    assert found['heatline_consumer_lag_events{consumer="mes1"}'] == 3
    assert found["heatline_journal_size_bytes"] == 1 << 30
    assert (found["heatline_journal_recording"], found["heatline_acting"]) == (0, 1)
    assert 'heatline_consumer_connected{consumer="mes1"}' in found
    assert found['heatline_refused_messages_total{reason="auth",socket="events"}'] == 3
    assert any(name.startswith("heatline_bundle_info{") and 'name="boards"' in name for name in found)
    assert found['heatline_frames_total{camera="top",reason="",verdict="DEFECT"}'] == 2
    assert found['heatline_reviews_total{camera="top",kind="missed"}'] == 1
    assert found['heatline_reviews_total{camera="top",kind="false_alarm"}'] == 0
    assert found['heatline_latency_seconds_bucket{camera="top",le="0.25"}'] == 4
    assert found['heatline_latency_seconds_sum{camera="top"}'] == pytest.approx(0.96)
    assert found['heatline_frame_score_logits_bucket{camera="top",le="3.0"}'] == 1
    assert found['heatline_newest_frame_age_seconds{camera="top"}'] == 0
    clock.now_s += 4
    memory.listener()
    found = values(metrics)
    assert (found["heatline_up"], found['heatline_handshake_state{state="NOT_READY"}']) == (0, 1)
    assert found['heatline_newest_frame_age_seconds{camera="top"}'] == 4
    moment = "acting", "camera_state", "consumer_connected", "journal_recording", "evidence_recording"
    assert not any(name.startswith(tuple(f"heatline_{each}" for each in moment)) for name in found), (
        "what the line did before it fell silent is not what it does now"
    )


def test_drift_is_shown_relative_to_the_values_to_expect() -> None:
    memory, metrics, clock = full()
    memory.add_status(drifted_status())
    found = values(metrics)
    assert found['heatline_drift{camera="top",measure="brightness"}'] == pytest.approx((96.25 - 120) / (120 - 110.5))
    assert found['heatline_drift{camera="top",measure="match"}'] == pytest.approx((0.75 - 0.875) / (0.875 - 0.5))
    assert found['heatline_drifted{camera="top",measure="brightness"}'] == 1
    assert found['heatline_drifted{camera="top",measure="match"}'] == 0
    promtool("check", "metrics", text=metrics.exposition().decode())
    sentence = "Camera top, compared with the calibration: the pictures are darker (96.2, 110 to 131 expected)."
    assert sentence in describe(memory, "line1")["words"]
    clock.now_s += 4
    memory.listener()
    assert not any(name.startswith("heatline_drift") for name in values(metrics))


def test_frames_without_a_verdict_are_counted_by_their_reason_and_number() -> None:
    metrics = Metrics(Memory())
    metrics.add(verdict(1, kind="NO_VERDICT", reason="dropped.lost_by_camera", frames=7))
    found = values(metrics)
    assert found['heatline_frames_total{camera="top",reason="dropped.lost_by_camera",verdict="NO_VERDICT"}'] == 7
    assert found['heatline_frames_total{camera="top",reason="",verdict="DEFECT"}'] == 0, "present before the first"


def test_a_restart_of_the_line_resets_its_counts_and_no_others() -> None:
    memory, metrics, _ = full()
    own = {name: value for name, value in values(metrics).items() if name.startswith("heatline_frames_total")}
    memory.add_status(a_status(boot_id="another", ledger={"top": Account(captured=1, in_flight=1)}))
    found = values(metrics)
    assert found['heatline_captured_frames_total{camera="top"}'] == 1
    assert {name: value for name, value in found.items() if name.startswith("heatline_frames_total")} == own


def test_a_name_with_any_character_does_not_break_the_format() -> None:
    memory = Memory()
    metrics = Metrics(memory)
    bundle = msgspec.structs.replace(a_status().bundle, name='a"b\\c\nd')
    memory.add_status(a_status(bundle=bundle, product='x"\n'))
    assert 'name="a\\"b\\\\c\\nd"' in metrics.exposition().decode()
    promtool("check", "metrics", text=metrics.exposition().decode())


def test_prometheus_gets_the_metrics_over_http() -> None:
    with page() as served:
        answer = served.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"heatline_up 0.0" in answer.body


def test_the_example_configuration_is_valid_and_the_alert_rules_fire_as_their_tests_say() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", MONITORING / "alerts.yml")
    promtool("test", "rules", MONITORING / "alerts_test.yml")


def test_every_rule_has_a_test_and_is_documented() -> None:
    rules = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert len(rules) >= 6
    tests = (MONITORING / "alerts_test.yml").read_text()
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    assert [rule for rule in rules if f"alertname: {rule}" not in tests or f"`{rule}`" not in documented] == []


def test_rules_dashboard_and_document_name_only_metrics_that_exist() -> None:
    _, metrics, _ = full()
    exist = {re.split(r"[{ ]", line)[0] for line in metrics.exposition().decode().splitlines() if line[0] != "#"}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exist}
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    for text in (*(path.read_text() for path in sorted(MONITORING.iterdir())), documented):
        assert set(re.findall(r"\bheatline_[a-z_]+\b", text)) <= families | exist
    assert [name for name in sorted(families) if f"`{name}`" not in documented] == []


def test_the_dashboard_is_json_with_a_panel_for_each_question() -> None:
    board = msgspec.json.decode((MONITORING / "dashboard.json").read_bytes())
    assert len(board["panels"]) >= 8
    assert all(panel["title"] and panel["targets"] for panel in board["panels"] if panel["type"] != "row")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
