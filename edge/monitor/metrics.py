"""Metrics for Prometheus: the line's own counters from its last status, and distributions of what came since the start.

Names and units follow the conventions of Prometheus. docs/monitoring.md describes each.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Metrics:
    """All metrics of one line. The collector's threads write, any thread may read."""

    def __init__(self, memory: Memory) -> None:
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
        self._registry.register(_LineCollector(memory))

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


def _histogram(registry: CollectorRegistry, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(f"heatline_{name}", help_text, ["camera"], buckets=tuple(buckets), registry=registry)


Samples = Iterable[tuple[Sequence[str], float]]
"""Values of labels, and the value of the metric."""
NONE, CAMERA, REASON, CONSUMER, DRIFT = (), ("camera",), ("camera", "reason"), ("consumer",), ("camera", "measure")
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "heartbeats_total": ("Frames and probes that passed.", NONE),
    "refused_messages_total": ("Refused messages and connections.", ("socket", "reason")),
    "captured_frames_total": ("Captured frames.", CAMERA),
    "inspected_frames_total": ("Frames with GOOD or DEFECT.", CAMERA),
    "dropped_frames_total": ("Frames that were not inspected.", REASON),
    "failed_frames_total": ("Frames whose inspection failed.", REASON),
    "in_flight_frames": ("Frames whose verdict is not out yet.", CAMERA),
    "camera_openings_total": ("Times that the camera was opened.", CAMERA),
    "journal_size_bytes": ("Size of the journal.", NONE),
    "unjournalled_events_total": ("Events that no journal holds.", NONE),
    "discarded_events_total": ("Deleted before all consumers had them.", NONE),
    "consumer_lag_events": ("Events that it has not acknowledged.", CONSUMER),
    "parts_announced_total": ("Parts of which a picture came.", NONE),
    "parts_judged_total": ("Parts with GOOD or DEFECT.", NONE),
    "parts_no_verdict_total": ("Parts without verdict.", NONE),
    "parts_open": ("Parts that wait for pictures.", NONE),
    "evidence_kept_pictures_total": ("Stored pictures.", NONE),
    "evidence_skipped_pictures_total": ("Pictures not stored.", NONE),
    "evidence_pictures": ("Pictures in the evidence store.", NONE),
    "evidence_size_bytes": ("Size of the evidence store.", NONE),
    "acting": ("1 if ejectors may act on verdicts.", NONE),
    "camera_state": ("1 for the state of the camera.", ("camera", "state")),
    "journal_recording": ("1 if events are stored.", NONE),
    "consumer_connected": ("1 if it is connected.", CONSUMER),
    "drift": ("Distance from the calibration: beyond -1 or 1 it has drifted.", DRIFT),
    "drifted": ("1 while the measure has drifted.", DRIFT),
    "evidence_recording": ("1 if pictures are stored.", NONE),
}
"""Of the last status: help and labels. Those that end in `_total` count since the line started."""
OF_NOW = frozenset(
    {
        "acting",
        "camera_state",
        "journal_recording",
        "consumer_connected",
        "drift",
        "drifted",
        "evidence_recording",
    }
)
"""They would be wrong for a line that does not report."""


def _samples(status: StatusEvent) -> dict[str, Samples]:
    """Return the samples of a status by the names of `FAMILIES`; what the line does not have is missing."""
    ledger, cameras, journal, evidence = status.ledger, status.cameras, status.journal, status.evidence
    drift = [((name, measure), each) for name, of in status.drift.items() for measure, each in of.items()]
    found: dict[str, Samples] = {
        "heartbeats_total": [((), status.handshake.heartbeat)],
        "refused_messages_total": [(name.partition(".")[::2], count) for name, count in status.refused.items()],
        "captured_frames_total": [((name,), each.captured) for name, each in ledger.items()],
        "inspected_frames_total": [((name,), each.inspected) for name, each in ledger.items()],
        "dropped_frames_total": [((name, why), n) for name, each in ledger.items() for why, n in each.dropped.items()],
        "failed_frames_total": [((name, why), n) for name, each in ledger.items() for why, n in each.failed.items()],
        "in_flight_frames": [((name,), each.in_flight) for name, each in ledger.items()],
        "camera_openings_total": [((name,), each.openings) for name, each in cameras.items()],
        "acting": [((), status.acting)],
        "camera_state": [((name, each), of.state == each) for name, of in cameras.items() for each in CAMERA_STATES],
        "drift": [(labels, _distance(reading)) for labels, reading in drift],
        "drifted": [(labels, reading.drifted) for labels, reading in drift],
    }
    if journal is not None:
        found |= {
            "journal_size_bytes": [((), journal.size_bytes)],
            "unjournalled_events_total": [((), journal.unjournalled)],
            "discarded_events_total": [((), journal.discarded)],
            "consumer_lag_events": [((name,), lag(each, journal)) for name, each in journal.consumers.items()],
            "journal_recording": [((), journal.live_only is None)],
            "consumer_connected": [((name,), each.connected) for name, each in journal.consumers.items()],
        }
    if (parts := status.parts) is not None:
        found |= {
            "parts_announced_total": [((), parts.announced)],
            "parts_judged_total": [((), parts.judged)],
            "parts_no_verdict_total": [((), parts.no_verdict)],
            "parts_open": [((), parts.open)],
        }
    if evidence is not None:
        found |= {
            "evidence_kept_pictures_total": [((), evidence.kept)],
            "evidence_skipped_pictures_total": [((), evidence.skipped)],
            "evidence_pictures": [((), evidence.stored)],
            "evidence_size_bytes": [((), evidence.size_bytes)],
            "evidence_recording": [((), evidence.fault is None)],
        }
    return found


def _distance(reading: DriftReading) -> float:
    """Return 0 for the median of the calibration, -1 and 1 for the lowest and the highest value to expect."""
    below = reading.value < reading.calibrated
    bound = reading.low if below else reading.high
    if bound is None or bound == reading.calibrated:
        return 0.0
    return (reading.value - reading.calibrated) / abs(bound - reading.calibrated)


class _LineCollector(Collector):
    """Makes metrics from the line's last status when they are requested."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
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
            samples = _samples(status)
            for name, (text, labels) in FAMILIES.items():
                if running or name not in OF_NOW:
                    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                    family = kind(f"heatline_{name}", text, labels=labels)
                    for values, value in samples.get(name, ()):
                        family.add_metric(values, value)
                    yield family
            ages = GaugeMetricFamily(
                "heatline_newest_frame_age_seconds", "Time since the newest frame was captured.", labels=["camera"]
            )
            for name, camera in memory.cameras.items():
                if camera.newest_ns is not None:
                    ages.add_metric([name], max(0, memory.clock_ns() - camera.newest_ns) / NS)
            yield ages
