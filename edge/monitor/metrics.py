"""Metrics for Prometheus: the line's own counters from its last status, and distributions of what came since the start.

Names and units follow the conventions of Prometheus. docs/monitoring.md describes each.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from heatline.edge import __version__
from heatline.edge.monitor.memory import NS, Memory, is_running, lag, readiness
from heatline.edge.wire.events import (
    Account,
    CameraState,
    Consumer,
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


class _Family(NamedTuple):
    """A metric of the line's last status."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[StatusEvent], Samples]

    def made(self, status: StatusEvent) -> Metric:
        """Return the metric with its values; one that ends in `_total` is a counter."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(f"heatline_{self.name}", self.help, labels=self.labels)
        for labels, value in self.samples(status):
            family.add_metric(labels, value)
        return family


def _distance(reading: DriftReading) -> float:
    """Return 0 for the median of the calibration, -1 and 1 for the lowest and the highest value to expect."""
    below = reading.value < reading.calibrated
    bound = reading.low if below else reading.high
    if bound is None or bound == reading.calibrated:
        return 0.0
    return (reading.value - reading.calibrated) / abs(bound - reading.calibrated)


def _of_journal(value: Callable[[JournalState], float]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [] if status.journal is None else [((), value(status.journal))]


def _of_consumers(value: Callable[[Consumer, JournalState], float]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [
        ((name,), value(each, journal))
        for journal in [status.journal]
        if journal is not None
        for name, each in journal.consumers.items()
    ]


def _of_evidence(value: Callable[[EvidenceState], float]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [] if status.evidence is None else [((), value(status.evidence))]


def _of_frames(value: Callable[[Account], float]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [((name,), value(account)) for name, account in status.ledger.items()]


def _of_reasons(counts: Callable[[Account], Mapping[str, int]]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [
        ((name, reason), count) for name, each in status.ledger.items() for reason, count in counts(each).items()
    ]


def _of_drift(value: Callable[[DriftReading], float]) -> Callable[[StatusEvent], Samples]:
    return lambda status: [
        ((name, measure), value(reading))
        for name, readings in status.drift.items()
        for measure, reading in readings.items()
    ]


def _states(status: StatusEvent) -> Samples:
    return [((name, each), of.state == each) for name, of in status.cameras.items() for each in CAMERA_STATES]


NONE, CAMERA, REASON, CONSUMER, DRIFT = (), ("camera",), ("camera", "reason"), ("consumer",), ("camera", "measure")
_OF_NOW = (
    _Family("acting", "1 if ejectors may act on verdicts.", NONE, lambda s: [((), s.acting)]),
    _Family("camera_state", "1 for the state of the camera.", ("camera", "state"), _states),
    _Family("journal_recording", "1 if events are stored.", NONE, _of_journal(lambda j: j.live_only is None)),
    _Family("consumer_connected", "1 if it is connected.", CONSUMER, _of_consumers(lambda each, _: each.connected)),
    _Family("drift", "Distance from the calibration: beyond -1 or 1 it has drifted.", DRIFT, _of_drift(_distance)),
    _Family("drifted", "1 while the measure has drifted.", DRIFT, _of_drift(lambda reading: reading.drifted)),
    _Family("evidence_recording", "1 if pictures are stored.", NONE, _of_evidence(lambda e: e.fault is None)),
)
"""They would be wrong for a line that does not report."""
_LAST = (
    _Family("heartbeats_total", "Frames and probes that passed.", NONE, lambda s: [((), s.handshake.heartbeat)]),
    _Family(
        "refused_messages_total",
        "Refused messages and connections.",
        ("socket", "reason"),
        lambda s: [(name.partition(".")[::2], count) for name, count in s.refused.items()],
    ),
    _Family("captured_frames_total", "Captured frames.", CAMERA, _of_frames(lambda a: a.captured)),
    _Family("inspected_frames_total", "Frames with GOOD or DEFECT.", CAMERA, _of_frames(lambda a: a.inspected)),
    _Family("dropped_frames_total", "Frames that were not inspected.", REASON, _of_reasons(lambda a: a.dropped)),
    _Family("failed_frames_total", "Frames whose inspection failed.", REASON, _of_reasons(lambda a: a.failed)),
    _Family("in_flight_frames", "Frames whose verdict is not out yet.", CAMERA, _of_frames(lambda a: a.in_flight)),
    _Family(
        "camera_openings_total",
        "Times that the camera was opened.",
        CAMERA,
        lambda s: [((name,), camera.openings) for name, camera in s.cameras.items()],
    ),
    _Family("journal_size_bytes", "Size of the journal.", NONE, _of_journal(lambda j: j.size_bytes)),
    _Family("unjournalled_events_total", "Events that no journal holds.", NONE, _of_journal(lambda j: j.unjournalled)),
    _Family(
        "discarded_events_total", "Deleted before all consumers had them.", NONE, _of_journal(lambda j: j.discarded)
    ),
    _Family("consumer_lag_events", "Events that it has not acknowledged.", CONSUMER, _of_consumers(lag)),
    _Family("evidence_kept_pictures_total", "Stored pictures.", NONE, _of_evidence(lambda e: e.kept)),
    _Family("evidence_skipped_pictures_total", "Pictures not stored.", NONE, _of_evidence(lambda e: e.skipped)),
    _Family("evidence_pictures", "Pictures in the evidence store.", NONE, _of_evidence(lambda e: e.stored)),
    _Family("evidence_size_bytes", "Size of the evidence store.", NONE, _of_evidence(lambda e: e.size_bytes)),
)
"""Of the last status; those that end in `_total` count since the line started."""


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
            for family in [*_LAST, *(_OF_NOW if running else ())]:
                yield family.made(status)
            ages = GaugeMetricFamily(
                "heatline_newest_frame_age_seconds", "Time since the newest frame was captured.", labels=["camera"]
            )
            for name, camera in memory.cameras.items():
                if camera.newest_ns is not None:
                    ages.add_metric([name], max(0, memory.clock_ns() - camera.newest_ns) / NS)
            yield ages
