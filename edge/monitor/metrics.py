"""Metrics for Prometheus: the line's own counters from its last status, and distributions of what came since the start.

Names and units follow the conventions of Prometheus. docs/monitoring.md describes each.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from heatline.edge import __version__
from heatline.edge.monitor.memory import NS, Memory, is_running, lag, readiness
from heatline.edge.wire.events import (
    CameraState,
    DriftReading,
    HandshakeState,
    MarkKind,
    ReviewEvent,
    StatusEvent,
    Verdict,
    VerdictEvent,
)

LATENCY_SECONDS = 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
LOGITS = -32, -16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 32
disable_created_metrics()  # type: ignore[no-untyped-call]  # nothing reads these series
CAMERA_STATES: tuple[str, ...] = get_args(CameraState.__annotations__["state"])


class Metrics(Collector):
    """All metrics of one line. The collector's threads write, any thread may read."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._registry = CollectorRegistry()
        self._frames = Counter(
            "heatline_frames",
            "Frames by verdict, and by reason where there is no verdict, since this exporter started.",
            ["camera", "verdict", "reason"],
            registry=self._registry,
        )
        self._latency = _histogram(
            self._registry, "latency_seconds", "Time from capture to the hand-over of the verdict.", LATENCY_SECONDS
        )
        self._score = _histogram(self._registry, "frame_score_logits", "Score of frames, in logits.", LOGITS)
        self._reviews = Counter(
            "heatline_reviews",
            "Marks that people gave verdicts, by kind, since this exporter started.",
            ["camera", "kind"],
            registry=self._registry,
        )
        self._registry.register(self)

    def add(self, event: VerdictEvent | ReviewEvent) -> None:
        """Count a verdict, or a person's mark."""
        if isinstance(event, ReviewEvent):
            for kind in get_args(MarkKind):
                self._reviews.labels(event.mark.camera, kind)
            self._reviews.labels(event.mark.camera, event.mark.kind).inc()
            return
        for verdict in get_args(Verdict):
            if verdict != "NO_VERDICT":  # a counter that appears with its first event would hide that event
                self._frames.labels(event.camera, verdict, "")
        self._frames.labels(event.camera, event.verdict, event.reason or "").inc(event.frames)
        self._latency.labels(event.camera).observe(event.latency_ms / 1000)
        if event.frame_score is not None:
            self._score.labels(event.camera).observe(event.frame_score)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Metric]:
        """Make metrics from the line's last status."""
        memory = self._memory
        with memory.lock:
            status, running, state = memory.status, is_running(memory), readiness(memory).state
            build = {"version": __version__, "python": platform.python_version()}
            yield InfoMetricFamily("heatline_build", "Versions.", build)
            yield GaugeMetricFamily("heatline_up", "1 if the line reported a short time ago.", running)
            handshake = GaugeMetricFamily(
                "heatline_handshake_state", "1 for the state of the handshake.", labels=["state"]
            )
            for each in get_args(HandshakeState):
                handshake.add_metric([each], each == state)
            yield handshake
            if status is None:
                return
            bundle = {
                **{name: getattr(status.bundle, name, "") for name in ("name", "version", "digest")},
                "product": status.product or "",
                "engine": status.engine or "",
                "precision": status.precision or "",
            }
            yield InfoMetricFamily("heatline_bundle", "The active bundle, and how it is computed.", bundle)
            for name, text, labels, samples in _families_of(status, is_running=running):
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                family = kind(f"heatline_{name}", text, labels=labels)
                for values, value in samples:
                    family.add_metric(values, value)
                yield family
            ages = GaugeMetricFamily(
                "heatline_newest_frame_age_seconds", "Time since the newest frame was captured.", labels=["camera"]
            )
            for name, camera in memory.cameras.items():
                if camera.newest_ns is not None:
                    ages.add_metric([name], max(0, memory.clock_ns() - camera.newest_ns) / NS)
            yield ages


def _histogram(registry: CollectorRegistry, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(f"heatline_{name}", help_text, ["camera"], buckets=tuple(buckets), registry=registry)


Family = tuple[str, str, tuple[str, ...], Iterable[tuple[Sequence[str], float]]]
"""Name, help and labels of a metric, and for values of its labels, the value of the metric. One whose name ends in
`_total` counts since the line started; without samples, the line does not have it."""
NONE, CAMERA, REASON, CONSUMER, DRIFT = (), ("camera",), ("camera", "reason"), ("consumer",), ("camera", "measure")


def _families_of(status: StatusEvent, *, is_running: bool) -> list[Family]:
    """Return the metrics of a status; of a line that does not report any more, those that still hold."""
    ledger, cameras = status.ledger.items(), status.cameras.items()
    dropped = [((name, why), count) for name, each in ledger for why, count in each.dropped.items()]
    failed = [((name, why), count) for name, each in ledger for why, count in each.failed.items()]
    refused = [(name.partition(".")[::2], count) for name, count in status.refused.items()]
    # Empty: the line has none.
    journals = [] if status.journal is None else [status.journal]
    parts = [] if status.parts is None else [status.parts]
    stores = [] if status.evidence is None else [status.evidence]
    drift = [((name, measure), each) for name, of in status.drift.items() for measure, each in of.items()]
    connected = [((name,), each.connected) for journal in journals for name, each in journal.consumers.items()]
    states = [((name, each), of.state == each) for name, of in cameras for each in CAMERA_STATES]
    distances = [(labels, _distance(reading)) for labels, reading in drift]
    lags = [((name,), lag(each, journal)) for journal in journals for name, each in journal.consumers.items()]
    lasting: list[Family] = [
        ("heartbeats_total", "Frames and probes that passed.", NONE, [((), status.handshake.heartbeat)]),
        ("refused_messages_total", "Refused messages and connections.", ("socket", "reason"), refused),
        ("captured_frames_total", "Captured frames.", CAMERA, [((name,), each.captured) for name, each in ledger]),
        (
            "inspected_frames_total",
            "Frames with GOOD or DEFECT.",
            CAMERA,
            [((name,), each.inspected) for name, each in ledger],
        ),
        ("dropped_frames_total", "Frames that were not inspected.", REASON, dropped),
        ("failed_frames_total", "Frames whose inspection failed.", REASON, failed),
        (
            "in_flight_frames",
            "Frames whose verdict is not out yet.",
            CAMERA,
            [((name,), each.in_flight) for name, each in ledger],
        ),
        (
            "camera_openings_total",
            "Times that the camera was opened.",
            CAMERA,
            [((name,), each.openings) for name, each in cameras],
        ),
        ("journal_size_bytes", "Size of the journal.", NONE, [((), each.size_bytes) for each in journals]),
        (
            "unjournalled_events_total",
            "Events that no journal holds.",
            NONE,
            [((), each.unjournalled) for each in journals],
        ),
        (
            "discarded_events_total",
            "Deleted before all consumers had them.",
            NONE,
            [((), each.discarded) for each in journals],
        ),
        ("consumer_lag_events", "Events that it has not acknowledged.", CONSUMER, lags),
        ("parts_announced_total", "Parts of which a picture came.", NONE, [((), each.announced) for each in parts]),
        ("parts_judged_total", "Parts with GOOD or DEFECT.", NONE, [((), each.judged) for each in parts]),
        ("parts_no_verdict_total", "Parts without verdict.", NONE, [((), each.no_verdict) for each in parts]),
        ("parts_open", "Parts that wait for pictures.", NONE, [((), each.open) for each in parts]),
        ("evidence_kept_pictures_total", "Stored pictures.", NONE, [((), each.kept) for each in stores]),
        ("evidence_skipped_pictures_total", "Pictures not stored.", NONE, [((), each.skipped) for each in stores]),
        ("evidence_pictures", "Pictures in the evidence store.", NONE, [((), each.stored) for each in stores]),
        ("evidence_size_bytes", "Size of the evidence store.", NONE, [((), each.size_bytes) for each in stores]),
    ]
    present: list[Family] = [
        ("acting", "1 if ejectors may act on verdicts.", NONE, [((), status.acting)]),
        ("camera_state", "1 for the state of the camera.", ("camera", "state"), states),
        ("journal_recording", "1 if events are stored.", NONE, [((), each.live_only is None) for each in journals]),
        ("consumer_connected", "1 if it is connected.", CONSUMER, connected),
        ("drift", "Distance from the calibration: beyond -1 or 1 it has drifted.", DRIFT, distances),
        ("drifted", "1 while the measure has drifted.", DRIFT, [(labels, each.drifted) for labels, each in drift]),
        ("evidence_recording", "1 if pictures are stored.", NONE, [((), each.fault is None) for each in stores]),
    ]
    return lasting + present if is_running else lasting


def _distance(reading: DriftReading) -> float:
    """Return 0 for the median of the calibration, -1 and 1 for the lowest and the highest value to expect."""
    below = reading.value < reading.calibrated
    bound = reading.low if below else reading.high
    if bound is None or bound == reading.calibrated:
        return 0.0
    return (reading.value - reading.calibrated) / abs(bound - reading.calibrated)
