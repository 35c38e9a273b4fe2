"""The bench of the MQTT bridge times every event through a real journal, bridge and broker."""

import json
from pathlib import Path

import msgspec

from heatline.bench.mqtt_bridge import Found, measure_bridge
from tests.needs import need

ROOT = Path(__file__).parents[2]


def test_every_event_is_timed_at_the_subscriber_and_at_a_consumer_without_bridge() -> None:
    need("mosquitto")
    found = measure_bridge(rate=100, seconds=0.3, backlog=500)
    assert 0 < found.events <= 31
    assert found.backlog_events == 500
    assert found.duplicates >= 0
    assert 0 < found.to_consumer_ms.median <= found.to_consumer_ms.p99 <= found.to_consumer_ms.highest
    assert 0 < found.to_subscriber_ms.median <= found.to_subscriber_ms.p99 <= found.to_subscriber_ms.highest
    assert found.payload_bytes > 500


def test_the_documented_figures_are_those_of_the_result() -> None:
    name = "bench/results/bridges/mqtt.json"
    report = json.loads((ROOT / name).read_text())
    found = msgspec.convert({key: report[key] for key in Found.__struct_fields__}, Found)
    section = (ROOT / "docs" / "plant-mqtt.md").read_text().partition("## Figures")[2]
    assert f"<!-- figures: {name} -->" in section
    for figure in (
        f"{found.rate:.0f} events a second",
        f"{found.added_ms.median:.1f} ms",
        f"{found.added_ms.p99:.0f} ms",
        f"{found.to_subscriber_ms.p99:.0f} ms",
        f"{found.backlog_rate:,.0f} events a second",
    ):
        assert figure in section, figure
