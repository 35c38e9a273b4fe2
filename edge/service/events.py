"""Creates a line's events and passes them to the publisher in order. The publisher numbers, journals and sends them."""

import contextlib
import logging
import operator
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import asdict, astuple, replace

from heatline.edge.cameras.supervisor import CameraAlarm
from heatline.edge.colour import to_rgb
from heatline.edge.config import PartConfig
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.drift import CameraReference, DriftMonitor, DriftSetup, describe_drift
from heatline.edge.errors import DeliveryError
from heatline.edge.heatmap_picture import png as to_png
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.inspector import LineSetup, Outcome, Setup
from heatline.edge.inspection.ledger import Ledger
from heatline.edge.inspection.parts import Part, Parts
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.monitor.pictures import AddMark, AddStep
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import format_count, on_one_line, utf8_safe
from heatline.edge.wire.events import (
    AlarmEvent,
    BundleName,
    Change,
    ChangeEvent,
    CountedEvent,
    Counts,
    DriftEvent,
    DriftReading,
    HeatmapPng,
    JournalEvent,
    Message,
    PartEvent,
    PartVerdict,
    ReviewEvent,
    Screened,
    StatusEvent,
    StepEvent,
    Times,
    VerdictEvent,
)

logger = logging.getLogger(__name__)

NOT_NUMBERED = 0
RESTARTED = "it is compared with the calibration of the setup that is active now"
Emit = Callable[[str, str, DriftReading, str, LineSetup], None]


class Heartbeat:
    """Counts frames and probes that passed all stages, up to the publisher, whose thread alone counts."""

    def __init__(self) -> None:
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Expect output from now on."""
        self._last_ns = time.monotonic_ns()

    def beat(self) -> None:
        """Count one output."""
        self.count += 1
        self._last_ns = time.monotonic_ns()

    def quiet_for_s(self) -> float:
        """Return the seconds since the last beat, or since `begin` before the first beat."""
        return (time.monotonic_ns() - self._last_ns) / 1e9


class ImplausibleLog:
    """Logs frames that do not show the product, or only in part, or not as its reference: a camera's first one at once,
    later ones at most every 10 s. For one thread at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs: defaultdict[str, RateLimitedLog] = defaultdict(lambda: RateLimitedLog(logger, clock))

    def log(self, outcome: Outcome) -> None:
        unjudged, stamp = outcome.unjudged, outcome.stamp
        if unjudged is not None and unjudged.reason in ("implausible", "misaligned", "foreign_area"):
            frame = f"frame {stamp.number}" if stamp.source is None else f"frame {stamp.number} ({stamp.source})"
            words = "camera %s: %s: no verdict, %s"
            self._logs[stamp.camera].error(words, stamp.camera, on_one_line(frame), unjudged.detail)


@dataclass
class _Watch:
    """A camera that is watched by one setup."""

    reference: CameraReference
    monitor: DriftMonitor
    next_at_s: float = float("-inf")


class LineDrift:
    """Watches all cameras of a line, and emits if a measure begins or ceases to drift. One thread calls `add`; any
    thread may call `state`. The clock is monotonic, s.
    """

    def __init__(self, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._watches: dict[str, _Watch | None] = {}
        self._drifts: dict[str, DriftSetup] = {}

    def add(self, outcome: Outcome) -> None:
        """Measure a judged frame if one is due. Its pixels must be there still.

        A frame without a verdict does not count: it does not show the product, or its pixels are missing.
        """
        setup, frame, judgement = outcome.setup, outcome.frame, outcome.judgement
        if setup is None or frame is None or not outcome.is_complete:
            return
        camera = outcome.stamp.camera
        if self._drifts.get(camera) is not setup.drift:
            self._begin(camera, setup)
        if judgement is None:
            return
        watch, now_s = self._watches.get(camera), self._clock()
        if watch is None or now_s < watch.next_at_s:
            return
        watch.next_at_s = now_s + setup.drift.every_s
        try:
            is_clean = judgement.verdict == "GOOD" and not judgement.regions
            good = judgement.measures if is_clean else {}
            values = watch.reference.values(to_rgb(frame.image, frame.pixel_format), judgement.pose, good)
        except Exception:  # a warning must never end inspection
            logger.exception("camera %s: its drift is not watched any more, as a frame could not be measured", camera)
            self._watches = {**self._watches, camera: None}
            return
        settings = setup.cameras.get(camera) if isinstance(setup, Setup) else None
        scale = None if settings is None else settings.scale
        for measure, reading in watch.monitor.add(values):
            self._report(camera, measure, reading, describe_drift(measure, reading, scale), setup)

    def state(self) -> dict[str, dict[str, DriftReading]]:
        """Return the present readings by camera and measure; a camera that is not watched is missing."""
        return {camera: dict(watch.monitor.readings) for camera, watch in self._watches.items() if watch is not None}

    def _begin(self, camera: str, setup: LineSetup) -> None:
        """Compare a camera's frames with another setup's reference from now on."""
        before, self._drifts[camera] = self._watches.get(camera), setup.drift
        if before is not None:
            for measure, reading in before.monitor.readings.items():
                if reading.drifted:
                    over = replace(reading, drifted=False)
                    self._report(camera, measure, over, RESTARTED, setup)
        reference = setup.drift.cameras.get(camera)
        watch = None if reference is None else _Watch(reference, DriftMonitor(reference.expected(), setup.drift.window))
        self._watches = self._watches | {camera: watch}

    def _report(self, camera: str, measure: str, reading: DriftReading, detail: str, setup: LineSetup) -> None:
        logger.log(logging.WARNING if reading.drifted else logging.INFO, "camera %s: %s: %s", camera, measure, detail)
        self._emit(camera, measure, reading, detail, setup)


class EventEmitter:
    """Emits the events of one boot. Any thread.

    Args:
        offer: called with each verdict event and its outcome after the event was passed on, on the thread that reports.
        heartbeat: beats when a verdict or a probe has left the publisher.
        in_flight: records the frames whose events are sent.
    """

    def __init__(
        self,
        line: str,
        boot_id: str,
        publisher: Publisher,
        heartbeat: Heartbeat,
        in_flight: InFlightLog,
        setup: LineSetup,
        offer: Callable[[VerdictEvent, Outcome], None] = lambda _event, _outcome: None,
    ) -> None:
        self.events = 0
        """Number of events emitted, without statuses."""
        self._line, self._boot_id, self._publisher = line, boot_id, publisher
        self._heartbeat, self._in_flight, self._setup = heartbeat, in_flight, setup
        self._offer = offer
        self._implausible = ImplausibleLog()
        self._drift = LineDrift(self.emit_drift)
        self._lock = threading.Lock()
        self._parts: Parts | None = None
        self._screened: Screened | None = None

    def join_parts(self, config: PartConfig, journalled: Sequence[VerdictEvent | PartEvent], *, is_all: bool) -> None:
        """Emit an event for each part from now on, and for those of former boots that have none yet, see
        `Parts.resume`.
        """
        with self._lock:
            self._parts = Parts(config.views, config.within_ms / 1e3, self._emit_part)
            self._parts.resume(journalled, time.monotonic_ns(), time.time_ns(), is_all=is_all)

    def expire_parts(self, *, is_stopping: bool = False) -> bool:
        """Emit the events of parts whose time is over, or of all if no frames will be inspected any more. Return
        whether the line joins parts.
        """
        if self._parts is None:
            return False
        with self._lock:
            if is_stopping:
                self._parts.stop()
            else:
                self._parts.expire(time.monotonic_ns())
        return True

    def emit_outcome(self, outcome: Outcome) -> None:
        """Emit the verdict event of a frame, and what drifts with it."""
        stamp, is_judged = outcome.stamp, outcome.judgement is not None

        def sent() -> None:
            self._in_flight.reported(stamp)
            if is_judged:  # a frame without a verdict does not prove that inspection works
                self._heartbeat.beat()

        with self._lock:
            message = verdict_message(self._boot_id, outcome)
            if self._parts is not None:
                self._parts.expire(time.monotonic_ns())
            self.events += 1
            self._publisher.send(message, sent)
            self._implausible.log(outcome)
            assert isinstance(message.event, VerdictEvent)
            if self._parts is not None:
                self._parts.add(message.event, time.monotonic_ns())
        self._offer(message.event, outcome)
        self._drift.add(outcome)
        if message.event.screened is not None and outcome.setup is self._setup:
            self._add_screened(message.event, message.event.screened, outcome)

    def _add_screened(self, event: VerdictEvent, frame: Screened, outcome: Outcome) -> None:
        """Count a frame's tiles, and emit if the screening stage alone would have made a DEFECT frame GOOD."""
        so_far = self._screened or Screened()
        self._screened = total = Screened(*map(operator.add, astuple(so_far), astuple(frame)))
        if frame.disagreed and event.verdict == "DEFECT" and outcome.setup is not None:
            detail = (
                f"frame {event.frame_number}, which ran whole as an audit, is DEFECT only by tiles that the screening "
                f"stage calls good: look at the frame (so far, {total.disagreed} of {total.audited} audited tiles of "
                "the line); if it shows a defect, export again with such frames, or set engine.screening = false"
            )
            logger.warning("camera %s: %s", event.camera, detail)
            reading = DriftReading(
                value=float(total.disagreed), calibrated=0, low=0, high=0, frames=total.audited, drifted=True
            )
            self.emit_drift(event.camera, "screening", reading, detail, outcome.setup)

    def pass_probe(self) -> None:
        """Pass a probe tile through the publisher like an event. It is not published."""
        self.call_when_sent(self._heartbeat.beat)

    def call_when_sent(self, sent: Callable[[], None]) -> None:
        """Call back, on the publisher's thread, once all events emitted so far are sent."""
        with self._lock:
            self._publisher.probe(sent)

    def emit_alarm(self, alarm: CameraAlarm) -> None:
        """Emit the death or the return of a camera."""
        with self._lock:
            self._emit(
                AlarmEvent,
                camera=alarm.camera,
                alarm=alarm.reason,
                detail=alarm.detail,
                active=alarm.active,
                began_at_ns=alarm.began_at_ns,
                acting=self._setup.acting,
                product=self._setup.product,
            )

    def emit_drift(self, camera: str, measure: str, reading: DriftReading, detail: str, setup: LineSetup) -> None:
        """Emit that a measure of a camera's frames, inspected by a setup, begins or ceases to drift."""
        with self._lock:
            self._emit(
                DriftEvent,
                camera=camera,
                measure=measure,
                active=reading.drifted,
                value=reading.value,
                low=reading.low,
                high=reading.high,
                frames=reading.frames,
                detail=detail,
                bundle=bundle_name(setup),
                product=setup.product,
                acting=setup.acting,
            )

    def emit_unjournalled(self, boot_id: str, missing: Mapping[str, int | None]) -> None:
        """Report events of the previous boot that the journal does not hold: the number of frames by camera; None: an
        unknown number.
        """
        frames = None if None in missing.values() else sum(filter(None, missing.values()))
        how_many = "some frames" if frames is None else format_count(frames, "frame")
        with self._lock:
            self._emit(
                JournalEvent,
                kind="unrecorded",
                detail=f"the previous boot published {how_many} of {', '.join(missing)} in events that are not "
                "in the journal",
                events=frames,
                of_boot=boot_id,
            )

    def emit_user_action(self, action: AddMark | AddStep) -> None:
        """Emit what a person marked or did on the page, unless the line is ending: its sender then gets no event."""
        with self._lock, contextlib.suppress(DeliveryError):
            self._emit(ReviewEvent if isinstance(action, AddMark) else StepEvent, **asdict(action))

    def emit_change(self, change: Change, activate: Callable[[], LineSetup | None] = lambda: None) -> None:
        """Emit a change. `activate` activates another setup and returns it: no frame that this setup inspects has its
        event before.
        """
        with self._lock:
            if (setup := activate()) is not None:
                self._setup, self._screened = setup, None
            self._emit(
                ChangeEvent,
                **asdict(change),
                product=self._setup.product,
                bundle=bundle_name(self._setup),
                acting=self._setup.acting,
            )

    def emit_status(self, ledger: Ledger, last_change: Callable[[], Change | None], **fields: Any) -> None:
        """Emit the line's status with these further fields. Its accounts and its last change are read after all events
        that they cover.
        """
        with self._lock:
            setup = self._setup
            engine = setup.verified.engine if isinstance(setup, Setup) else None
            event = StatusEvent(
                boot_id=self._boot_id,
                at_ns=time.time_ns(),
                line=self._line,
                last_seq=NOT_NUMBERED,
                ledger=ledger.accounts(),
                bundle=bundle_name(setup),
                engine=None if engine is None else engine.name,
                precision=None if engine is None else engine.precision,
                acting=setup.acting,
                product=setup.product,
                pid=os.getpid(),
                last_change=last_change(),
                counts=Counts(),
                drift=self._drift.state(),
                parts=None if self._parts is None else self._parts.account,
                screened=self._screened,
                **fields,
            )
            self._publisher.send(Message(event))

    def _emit_part(self, part: Part, verdict: PartVerdict) -> None:
        product, bundle = part.setups[-1]
        self._emit(
            PartEvent,
            part_id=part.part_id,
            **verdict._asdict(),
            views=[*part.views],  # more may come before it is encoded
            missing=[*part.missing],
            began_at_ns=min(view.captured_at_ns for view in part.views),
            latency_ms=(time.monotonic_ns() - part.first_ns) / 1e6,
            bundle=bundle,
            product=product,
            acting=part.acting,
        )

    def _emit(self, event: Callable[..., CountedEvent], /, **fields: Any) -> None:
        """Emit an event that no frame caused; its number comes later."""
        common = {"boot_id": self._boot_id, "seq": NOT_NUMBERED, "previous_seq": NOT_NUMBERED, "line": self._line}
        self.events += 1
        self._publisher.send(Message(event(**common, **{"at_ns": time.time_ns(), **fields})))


def verdict_message(boot_id: str, outcome: Outcome) -> Message:
    """Return the event of a frame, without its number yet, with the heatmap if the setup sends one."""
    judgement, unjudged, stamp, setup = outcome.judgement, outcome.unjudged, outcome.stamp, outcome.setup
    assert setup is not None
    shown, inspected = outcome.shown, outcome.inspected
    png, heatmap = _heatmap(shown, setup, unjudged is None)
    thresholds = setup.inspector.thresholds if isinstance(setup, Setup) else None
    regions = judgement.regions if judgement else []
    is_tolerated = regions and all(region.tolerated for region in regions)
    event = VerdictEvent(
        boot_id=boot_id,
        seq=NOT_NUMBERED,
        camera=stamp.camera,
        frame_id=stamp.frame_id,
        last_frame_id=stamp.last_frame_id,
        frame_number=stamp.number,
        frames=stamp.frames,
        source=None if stamp.source is None else utf8_safe(stamp.source),
        part_id=stamp.part_id,
        times=Times(
            captured_at_ns=stamp.captured_at_ns,
            captured_monotonic_ns=stamp.captured_monotonic_ns,
            camera_timestamp_ns=stamp.camera_timestamp_ns,
        ),
        frame_hw=inspected.frame_hw if inspected else None,
        verdict=judgement.verdict if judgement else "NO_VERDICT",
        reason=f"{unjudged.kind}.{unjudged.reason}" if unjudged else None,
        detail=utf8_safe(unjudged.detail) if unjudged else "tolerated" if is_tolerated else None,
        frame_score=judgement.score if judgement else None,
        score_threshold=None if thresholds is None else thresholds.score,
        evidence_threshold=None if thresholds is None else thresholds.evidence,
        precision=setup.verified.engine.precision if isinstance(setup, Setup) else None,
        bundle=bundle_name(setup),
        product=setup.product,
        previous_seq=NOT_NUMBERED,
        regions=regions,
        foreign_areas=list(shown.foreign) if shown else [],
        latency_ms=(time.monotonic_ns() - stamp.captured_monotonic_ns) / 1e6,
        acting=setup.acting,
        heatmap=heatmap,
        chunks=dict(stamp.chunks),
        picture=None if outcome.frame is None else f"{boot_id[:8]}-{stamp.camera}-{stamp.number}",
        screened=inspected.screened if inspected else None,
        pose=inspected.pose if inspected else None,
    )
    return Message(event, png)


def bundle_name(setup: LineSetup) -> BundleName | None:
    """Return the bundle of a setup as events name it."""
    if not isinstance(setup, Setup):
        return None
    manifest = setup.bundle.manifest
    return BundleName(name=manifest.name, version=manifest.version, digest=setup.bundle.digest)


def _heatmap(shown: Judgement | None, setup: LineSetup, judged: bool) -> tuple[bytes | None, HeatmapPng | None]:
    if shown is None or not isinstance(setup, Setup) or setup.heatmaps == "never":
        return None, None
    if setup.heatmaps == "defect" and judged and shown.verdict == "GOOD":
        return None, None
    return to_png(setup.scale.grey(shown.heatmap)), setup.describe_png(shown.heatmap)
