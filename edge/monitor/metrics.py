"""Metrics for Prometheus: the line's own counters from its last status, and distributions of what came since the start.

Names and units follow the conventions of Prometheus. docs/monitoring.md describes each.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from heatline.edge import __version__
from heatline.edge.monitor.held_picture import HeldPicture
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
        for name, gauge in self._poses.items():
            if event.pose is None and event.reason is None:  # the line has changed to a bundle without a reference
                gauge.remove(event.camera)
            elif event.pose is not None and (event.reason is None or name in OF_UNRELIABLE):
                gauge.labels(event.camera).set(getattr(event.pose, name))

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


Samples = Iterable[tuple[Sequence[str], float]]
"""Values of labels, and the value of the metric."""


class _Family(NamedTuple):
    """A metric of the line's last status."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[StatusEvent], Samples]
    counts: bool = False
    """Since the line started."""
    is_of_now: bool = False
    """It would be wrong for a line that does not report."""

    def made(self, status: StatusEvent) -> Metric:
        """Return the metric with its values."""
        name = f"heatline_{self.name}"
        family = (CounterMetricFamily if self.counts else GaugeMetricFamily)(name, self.help, labels=self.labels)
        for labels, value in self.samples(status):
            family.add_metric(labels, value)
        return family


CAMERA, CONSUMER, DRIFT = ("camera",), ("consumer",), ("camera", "measure")
_FAMILIES = (
    _Family("acting", "1 if ejectors may act on verdicts.", (), lambda s: [((), s.acting)], is_of_now=True),
    _Family(
        "camera_state",
        "1 for the state of the camera.",
        ("camera", "state"),
        lambda s: [
            ((name, each), camera.state == each) for name, camera in s.cameras.items() for each in CAMERA_STATES
        ],
        is_of_now=True,
    ),
    _Family(
        "journal_recording",
        "1 if events are stored.",
        (),
        lambda s: [((), s.journal.live_only is None)] if s.journal else [],
        is_of_now=True,
    ),
    _Family(
        "consumer_connected",
        "1 if the consumer is connected.",
        CONSUMER,
        lambda s: [((name,), each.connected) for name, each in s.journal.consumers.items()] if s.journal else [],
        is_of_now=True,
    ),
    _Family(
        "drift",
        "Distance of the last frames from the calibration: beyond -1 or 1 they have drifted.",
        DRIFT,
        lambda s: [((name, each), _distance(of)) for name, drift in s.drift.items() for each, of in drift.items()],
        is_of_now=True,
    ),
    _Family(
        "drifted",
        "1 while the measure has drifted.",
        DRIFT,
        lambda s: [((name, each), of.drifted) for name, drift in s.drift.items() for each, of in drift.items()],
        is_of_now=True,
    ),
    _Family(
        "evidence_recording",
        "1 if pictures are stored.",
        (),
        lambda s: [((), s.evidence.fault is None)] if s.evidence else [],
        is_of_now=True,
    ),
    _Family(
        "heartbeats",
        "Frames and probes that passed the whole line, since it started.",
        (),
        lambda s: [((), s.handshake.heartbeat)],
        counts=True,
    ),
    _Family(
        "refused_messages",
        "Refused messages and connections, since the line started.",
        ("socket", "reason"),
        lambda s: [(name.partition(".")[::2], count) for name, count in s.refused.items()],
        counts=True,
    ),
    _Family(
        "captured_frames",
        "Captured frames, since the line started.",
        CAMERA,
        lambda s: [((name,), account.captured) for name, account in s.ledger.items()],
        counts=True,
    ),
    _Family(
        "inspected_frames",
        "Frames with the verdict GOOD or DEFECT, since the line started.",
        CAMERA,
        lambda s: [((name,), account.inspected) for name, account in s.ledger.items()],
        counts=True,
    ),
    _Family(
        "dropped_frames",
        "Frames that were not inspected, since the line started.",
        ("camera", "reason"),
        lambda s: [((name, why), count) for name, each in s.ledger.items() for why, count in each.dropped.items()],
        counts=True,
    ),
    _Family(
        "failed_frames",
        "Frames whose inspection failed, since the line started.",
        ("camera", "reason"),
        lambda s: [((name, why), count) for name, each in s.ledger.items() for why, count in each.failed.items()],
        counts=True,
    ),
    _Family(
        "in_flight_frames",
        "Frames whose verdict is not out yet.",
        CAMERA,
        lambda s: [((name,), account.in_flight) for name, account in s.ledger.items()],
    ),
    _Family(
        "camera_openings",
        "Times that the camera was opened, since the line started.",
        CAMERA,
        lambda s: [((name,), camera.openings) for name, camera in s.cameras.items()],
        counts=True,
    ),
    _Family(
        "journal_size_bytes", "Size of the journal.", (), lambda s: [((), s.journal.size_bytes)] if s.journal else []
    ),
    _Family(
        "unjournalled_events",
        "Events that no journal holds, since the line started.",
        (),
        lambda s: [((), s.journal.unjournalled)] if s.journal else [],
        counts=True,
    ),
    _Family(
        "discarded_events",
        "Events that were deleted before every consumer had them, since the line started.",
        (),
        lambda s: [((), s.journal.discarded)] if s.journal else [],
        counts=True,
    ),
    _Family(
        "consumer_lag_events",
        "Events that the consumer has not acknowledged.",
        CONSUMER,
        lambda s: [((name,), lag(each, s.journal)) for name, each in s.journal.consumers.items()] if s.journal else [],
    ),
    _Family(
        "evidence_kept_pictures",
        "Stored pictures, since the line started.",
        (),
        lambda s: [((), s.evidence.kept)] if s.evidence else [],
        counts=True,
    ),
    _Family(
        "evidence_skipped_pictures",
        "Pictures that should have been stored and were not, since the line started.",
        (),
        lambda s: [((), s.evidence.skipped)] if s.evidence else [],
        counts=True,
    ),
    _Family(
        "evidence_pictures",
        "Pictures in the evidence store.",
        (),
        lambda s: [((), s.evidence.stored)] if s.evidence else [],
    ),
    _Family(
        "evidence_size_bytes",
        "Size of the evidence store.",
        (),
        lambda s: [((), s.evidence.size_bytes)] if s.evidence else [],
    ),
)


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
                "name": status.bundle.name,
                "version": status.bundle.version,
                "digest": status.bundle.digest,
                "product": status.product or "",
                "engine": status.engine,
                "precision": status.precision,
            }
            yield InfoMetricFamily("heatline_bundle", "The active bundle, and how it is computed.", bundle)
            for family in _FAMILIES:
                if running or not family.is_of_now:
                    yield family.made(status)
            ages = GaugeMetricFamily(
                "heatline_newest_frame_age_seconds", "Time since the newest frame was captured.", labels=["camera"]
            )
            for name, camera in memory.cameras.items():
                if camera.newest_ns is not None:
                    ages.add_metric([name], max(0, memory.clock_ns() - camera.newest_ns) / NS)
            yield ages


def _distance(reading: DriftReading) -> float:
    """Return 0 for the median of the calibration, -1 and 1 for the lowest and the highest value to expect."""
    below = reading.value < reading.calibrated
    bound = reading.low if below else reading.high
    if bound is None or bound == reading.calibrated:
        return 0.0
    return (reading.value - reading.calibrated) / abs(bound - reading.calibrated)
