"""Metrics for Prometheus: the line's own counters from its last status, and distributions of what came since the start.

Names and units follow the conventions of Prometheus. docs/monitoring.md describes each.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from heatline.edge import __version__
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.memory import NS, Memory
from heatline.edge.monitor.state import is_running, lag, readiness
from heatline.edge.wire.events import (
    Account,
    CameraState,
    DriftReading,
    EvidenceState,
    HandshakeState,
    JournalState,
    MarkKind,
    ReviewEvent,
    StatusEvent,
    Verdict,
    VerdictEvent,
)

LATENCY_SECONDS = 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
LOGITS = -32, -16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 32
POSE = {
    "x_px": "How far to the right of the reference the newest frame with a verdict shows the part.",
    "y_px": "How far below the reference the newest frame with a verdict shows the part.",
    "degrees": "How far it is turned, clockwise as seen.",
    "confidence": "Share of the places in the newest compared frame that agree with its pose, 0 to 1.",
    "error_px": "Median distance of those places from its pose.",
}
OF_UNRELIABLE = "confidence", "error_px"
"""What counts of the pose of a frame without a verdict."""
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
        self._evidence = _histogram(
            self._registry,
            "frame_evidence_logits",
            "Highest evidence in the heatmap of shown frames, in logits.",
            LOGITS,
        )
        self._reviews = Counter(
            "heatline_reviews",
            "Marks that people gave verdicts, by kind, since this exporter started.",
            ["camera", "kind"],
            registry=self._registry,
        )
        self._poses = {
            name: Gauge(f"heatline_pose_{name}", text, ["camera"], registry=self._registry)
            for name, text in POSE.items()
        }
        self._registry.register(_LineCollector(memory))

    def add_verdict(self, event: VerdictEvent) -> None:
        """Count a verdict that came live."""
        for verdict in get_args(Verdict):
            if verdict != "NO_VERDICT":  # a counter that appears with its first event would hide that event
                self._frames.labels(event.camera, verdict, "")
        self._frames.labels(event.camera, event.verdict, event.reason or "").inc(event.frames)
        self._latency.labels(event.camera).observe(event.latency_ms / 1000)
        if event.frame_score is not None:
            self._score.labels(event.camera).observe(event.frame_score)
        for name, gauge in self._poses.items():
            if event.pose is None and event.reason is None:  # the line has changed to a bundle without a reference
                gauge.remove(event.camera)
            elif event.pose is not None and (event.reason is None or name in OF_UNRELIABLE):
                gauge.labels(event.camera).set(getattr(event.pose, name))

    def add_review(self, event: ReviewEvent) -> None:
        """Count a mark that came live."""
        for kind in get_args(MarkKind):
            self._reviews.labels(event.mark.camera, kind)
        self._reviews.labels(event.mark.camera, event.mark.kind).inc()

    def add_picture(self, picture: HeldPicture) -> None:
        """Count the evidence of a picture."""
        if picture.evidence is not None:
            highest = np.nanmax(picture.evidence.heatmap, initial=-np.inf)
            if np.isfinite(highest):
                self._evidence.labels(picture.event.camera).observe(float(highest))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))


def _histogram(registry: CollectorRegistry, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(f"heatline_{name}", help_text, ["camera"], buckets=tuple(buckets), registry=registry)


class _LineCollector(Collector):
    """Makes metrics from the line's last status when they are requested."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        memory = self._memory
        with memory.lock:
            status = memory.status
            yield InfoMetricFamily(
                "heatline_build", "Versions.", {"version": __version__, "python": platform.python_version()}
            )
            running = is_running(memory)
            yield GaugeMetricFamily("heatline_up", "1 if the line reported a short time ago.", running)
            state = readiness(memory).state
            yield _one_of(
                "heatline_handshake_state", "1 for the state of the handshake.", get_args(HandshakeState), state
            )
            if status is None:
                return
            if running:
                yield from _of_this_moment(status)
            yield from _of_line(status)
            yield from _of_ledger(status.ledger)
            yield from _of_cameras(memory, status)
            if status.journal is not None:
                yield from _of_journal(status.journal)
            if status.evidence is not None:
                yield from _of_evidence(status.evidence)


def _of_this_moment(status: StatusEvent) -> Iterator[Metric]:
    """Make metrics of what the line does now. They would be wrong for a line that does not report."""
    yield GaugeMetricFamily("heatline_acting", "1 if ejectors may act on verdicts.", status.acting)
    states = GaugeMetricFamily("heatline_camera_state", "1 for the state of the camera.", labels=["camera", "state"])
    for name, camera in status.cameras.items():
        for state in CAMERA_STATES:
            states.add_metric([name, state], camera.state == state)
    yield states
    if status.journal is not None:
        stores = status.journal.live_only is None
        yield GaugeMetricFamily("heatline_journal_recording", "1 if events are stored.", stores)
        connected = GaugeMetricFamily(
            "heatline_consumer_connected", "1 if the consumer is connected.", labels=["consumer"]
        )
        for name, consumer in status.journal.consumers.items():
            connected.add_metric([name], consumer.connected)
        yield connected
    drift = GaugeMetricFamily(
        "heatline_drift",
        "Distance of the last frames from the calibration: beyond -1 or 1 they have drifted.",
        labels=["camera", "measure"],
    )
    drifted = GaugeMetricFamily("heatline_drifted", "1 while the measure has drifted.", labels=["camera", "measure"])
    for name, readings in status.drift.items():
        for measure, reading in readings.items():
            drift.add_metric([name, measure], _distance(reading))
            drifted.add_metric([name, measure], reading.drifted)
    yield from (drift, drifted)
    if status.evidence is not None:
        stores = status.evidence.fault is None
        yield GaugeMetricFamily("heatline_evidence_recording", "1 if pictures are stored.", stores)


def _distance(reading: DriftReading) -> float:
    """Return 0 for the median of the calibration, -1 and 1 for the lowest and the highest value to expect."""
    below = reading.value < reading.calibrated
    bound = reading.low if below else reading.high
    if bound is None or bound == reading.calibrated:
        return 0.0
    return (reading.value - reading.calibrated) / abs(bound - reading.calibrated)


def _of_line(status: StatusEvent) -> Iterator[Metric]:
    bundle = status.bundle
    labels = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "product": status.product or "",
        "engine": status.engine,
        "precision": status.precision,
    }
    yield InfoMetricFamily("heatline_bundle", "The active bundle, and how it is computed.", labels)
    yield CounterMetricFamily(
        "heatline_heartbeats",
        "Frames and probes that passed the whole line, since it started.",
        status.handshake.heartbeat,
    )
    refused = CounterMetricFamily(
        "heatline_refused_messages",
        "Refused messages and connections, since the line started.",
        labels=["socket", "reason"],
    )
    for name, count in status.refused.items():
        socket, _, reason = name.partition(".")
        refused.add_metric([socket, reason], count)
    yield refused


def _of_ledger(ledger: Mapping[str, Account]) -> Iterator[Metric]:
    captured = CounterMetricFamily(
        "heatline_captured_frames", "Captured frames, since the line started.", labels=["camera"]
    )
    inspected = CounterMetricFamily(
        "heatline_inspected_frames",
        "Frames with the verdict GOOD or DEFECT, since the line started.",
        labels=["camera"],
    )
    dropped = CounterMetricFamily(
        "heatline_dropped_frames",
        "Frames that were not inspected, since the line started.",
        labels=["camera", "reason"],
    )
    failed = CounterMetricFamily(
        "heatline_failed_frames", "Frames whose inspection failed, since the line started.", labels=["camera", "reason"]
    )
    in_flight = GaugeMetricFamily(
        "heatline_in_flight_frames", "Frames whose verdict is not out yet.", labels=["camera"]
    )
    for camera, account in ledger.items():
        captured.add_metric([camera], account.captured)
        inspected.add_metric([camera], account.inspected)
        in_flight.add_metric([camera], account.in_flight)
        for family, bins in ((dropped, account.dropped), (failed, account.failed)):
            for reason, count in bins.items():
                family.add_metric([camera, reason], count)
    yield from (captured, inspected, dropped, failed, in_flight)


def _of_cameras(memory: Memory, status: StatusEvent) -> Iterator[Metric]:
    openings = CounterMetricFamily(
        "heatline_camera_openings", "Times that the camera was opened, since the line started.", labels=["camera"]
    )
    for name, camera in status.cameras.items():
        openings.add_metric([name], camera.openings)
    ages = GaugeMetricFamily(
        "heatline_newest_frame_age_seconds", "Time since the newest frame was captured.", labels=["camera"]
    )
    for name, known in memory.cameras.items():
        if known.newest_ns is not None:
            ages.add_metric([name], max(0, memory.clock_ns() - known.newest_ns) / NS)
    yield from (openings, ages)


def _of_journal(journal: JournalState) -> Iterator[Metric]:
    yield GaugeMetricFamily("heatline_journal_size_bytes", "Size of the journal.", journal.size_bytes)
    yield CounterMetricFamily(
        "heatline_unjournalled_events", "Events that no journal holds, since the line started.", journal.unjournalled
    )
    yield CounterMetricFamily(
        "heatline_discarded_events",
        "Events that were deleted before every consumer had them, since the line started.",
        journal.discarded,
    )
    lags = GaugeMetricFamily(
        "heatline_consumer_lag_events", "Events that the consumer has not acknowledged.", labels=["consumer"]
    )
    for name, consumer in journal.consumers.items():
        lags.add_metric([name], lag(consumer, journal))
    yield lags


def _of_evidence(evidence: EvidenceState) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "heatline_evidence_kept_pictures", "Stored pictures, since the line started.", evidence.kept
    )
    yield CounterMetricFamily(
        "heatline_evidence_skipped_pictures",
        "Pictures that should have been stored and were not, since the line started.",
        evidence.skipped,
    )
    yield GaugeMetricFamily("heatline_evidence_pictures", "Pictures in the evidence store.", evidence.stored)
    yield GaugeMetricFamily("heatline_evidence_size_bytes", "Size of the evidence store.", evidence.size_bytes)


def _one_of(name: str, help_text: str, states: Iterable[str], now: str) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=["state"])
    for state in states:
        family.add_metric([state], state == now)
    return family
