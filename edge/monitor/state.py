"""Describes a line as it is now, for the page, the API and `/readyz`: facts, and sentences for people."""

from datetime import datetime
from statistics import median, quantiles
from typing import Any

import msgspec

from heatline.edge.drift import describe_change, describe_limits
from heatline.edge.monitor.memory import NS, CameraMemory, Memory
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import (
    Account,
    CameraState,
    Consumer,
    Handshake,
    JournalState,
    StatusEvent,
    in_words,
)

SILENT_AFTER_SECONDS = 3.0
"""A line reports its status about once a second."""
STALE_AFTER_PERIODS = 3
STALE_AFTER_SECONDS = 2.0
"""At least."""
RESTART_SHOWN_SECONDS = 60.0
OF_STATUS = "journal", "evidence", "bundle", "product", "acting", "precision"
"""What the page shows as the line reported it last; null: it has not reported."""


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A camera, and its frames."""

    state: str
    """That of its last status; UNKNOWN while the line does not run."""
    detail: str | None
    rate_fps: float
    latency_ms: dict[str, float] | None
    """`median` and `p95` of the time from capture to the hand-over of the verdict, over the last verdicts."""
    newest_age_ms: float | None
    """Time since the capture of its newest frame; null: none came since this page's program started."""
    frame_period_ms: float | None
    stale: bool
    """No frame came for some frame periods: its picture must not look like a new one."""
    ledger: Account | None


def describe(memory: Memory, line: str) -> dict[str, Any]:
    """Describe the line as it is now, as docs/view.md says."""
    with memory.lock:
        status, now_ns = memory.status, memory.clock_ns()
        running = is_running(memory)
        names = dict.fromkeys(
            [*(status.ledger if status else ()), *(status.cameras if status else ()), *memory.cameras]
        )
        cameras = {name: _camera(memory, name, running, now_ns) for name in names}
        return {
            **{name: getattr(status, name, None) for name in OF_STATUS},
            "line": status.line if status else line,
            "running": running,
            "now_ns": memory.wall_ns(),
            "handshake": readiness(memory),
            "cameras": cameras,
            "consumers": status.journal.consumers if status and status.journal else {},
            "drift": status.drift if status and running else {},
            "thresholds": memory.thresholds,
            "words": _words(memory, running, cameras, now_ns),
        }


def is_running(memory: Memory) -> bool:
    """Return whether the line has reported a short time ago, and not that it has stopped."""
    status, heard_ns = memory.status, memory.heard_ns
    if status is None or heard_ns is None or status.state == "STOPPED":
        return False
    return memory.clock_ns() - heard_ns < SILENT_AFTER_SECONDS * NS


def readiness(memory: Memory) -> Handshake:
    """Return whether the line is ready for the next part. One that is not heard is not ready."""
    status = memory.status
    if is_running(memory) and status is not None:
        return status.handshake
    reason = "stopped" if status is not None and status.state == "STOPPED" else "unreachable"
    beat = 0 if status is None else status.handshake.heartbeat
    return Handshake(state="NOT_READY", reason=reason, detail=_why_not_running(memory), heartbeat=beat)


def _why_not_running(memory: Memory) -> str:
    status, heard_ns = memory.status, memory.heard_ns
    if memory.fault is not None:
        return f"No event can come from the line: {memory.fault}."
    if status is None or heard_ns is None:
        return "The line does not run, or has not reported yet: no status came from it."
    if status.state == "STOPPED":
        return f"The line has stopped at {datetime.fromtimestamp(status.at_ns / NS):%H:%M:%S on %Y-%m-%d}."
    silent_s = (memory.clock_ns() - heard_ns) / NS
    return f"Nothing came from the line for {silent_s:.0f} s: it was killed, it hangs, or the connection is gone."


def _camera(memory: Memory, name: str, running: bool, now_ns: int) -> Camera:
    status = memory.status
    known = status.cameras.get(name) if status and running else None
    camera = memory.cameras.get(name, CameraMemory())
    age_ns = None if camera.newest_ns is None else max(0, now_ns - camera.newest_ns)
    period_ns = camera.frame_period_ns
    limit_ns = max(STALE_AFTER_SECONDS * NS, STALE_AFTER_PERIODS * (period_ns or 0))
    latencies = list(camera.latencies_ms)
    return Camera(
        state=known.state if known else "UNKNOWN",
        detail=known.detail or (known.reason and in_words(f"failed.{known.reason}")) if known else None,
        rate_fps=camera.rate_fps(memory.wall_ns()) if running else 0.0,
        latency_ms={"median": median(latencies), "p95": _p95(latencies)} if latencies else None,
        newest_age_ms=None if age_ns is None else age_ns / 1e6,
        frame_period_ms=None if period_ns is None else period_ns / 1e6,
        stale=age_ns is None or age_ns > limit_ns,
        ledger=status.ledger.get(name) if status else None,
    )


def _p95(values: list[float]) -> float:
    return values[0] if len(values) == 1 else quantiles(values, n=20, method="inclusive")[-1]


def _words(memory: Memory, running: bool, cameras: dict[str, Camera], now_ns: int) -> list[str]:
    """Return what a person should know, the most severe first. Dead cameras and full disks are in the handshake."""
    status = memory.status
    words = [] if running else [_why_not_running(memory)]
    if not running and any(camera.newest_age_ms is not None for camera in cameras.values()):
        words.append("The pictures and figures on this page are the last that came.")
    if status is not None and running:
        if status.handshake.state != "READY" and status.handshake.detail is not None:
            words.append(f"{status.handshake.state}: {_sentence(status.handshake.detail)}")
        words += [
            _no_frame(name, cameras[name], state)
            for name, state in status.cameras.items()
            if state.state not in ("DEAD", "ENDED") and cameras[name].stale
        ]
        words += _about_drift(status)
        words += _about_consumers(status)
        if memory.pictures_fault is not None:
            words.append(f"No pictures come from the line: {_sentence(memory.pictures_fault)}")
        if not status.acting:
            words.append("The line is being commissioned: no ejector may act on its verdicts.")
        if memory.restarted_ns is not None and now_ns - memory.restarted_ns < RESTART_SHOWN_SECONDS * NS:
            words.append(f"The line was started again {(now_ns - memory.restarted_ns) / NS:.0f} s ago.")
    return words


def _no_frame(name: str, camera: Camera, state: CameraState) -> str:
    if camera.newest_age_ms is None:
        return f"Camera {name} ({state.state}): no frame came since this page's program started."
    what = "no verdict" if camera.ledger is not None and camera.ledger.in_flight else "no frame"
    return f"Camera {name} ({state.state}): {what} for {camera.newest_age_ms / 1000:.0f} s."


def _about_drift(status: StatusEvent) -> list[str]:
    """Return one sentence per camera that has drifted."""
    words = []
    for name, readings in status.drift.items():
        drifted = [
            f"{describe_change(measure, reading.value, reading.low)} ({reading.value:.3g}, "
            f"{describe_limits(reading.low, reading.high)} expected)"
            for measure, reading in readings.items()
            if reading.drifted
        ]
        if drifted:
            words.append(f"Camera {name}, compared with the calibration: {', '.join(drifted)}.")
    return words


def _about_consumers(status: StatusEvent) -> list[str]:
    journal = status.journal
    away = [] if journal is None else [each for each in journal.consumers.items() if not each[1].connected]
    behind = {name: lag(consumer, journal) for name, consumer in away if journal is not None}
    return [
        f"Consumer {name} is away, and {format_count(count, 'event')} {is_are(count)} stored for it."
        for name, count in behind.items()
        if count
    ]


def lag(consumer: Consumer, journal: JournalState) -> int:
    """Return the number of events in the journal that a consumer has not acknowledged."""
    return max(0, journal.last_seq - max(consumer.acked_seq, journal.first_seq - 1))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
