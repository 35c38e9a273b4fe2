"""From outcomes to messages: every frame's end becomes one event."""

import time
import uuid
from collections.abc import Mapping
from typing import Literal

from edge.bundle import Bundle
from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.messages import AlarmEvent, BundleName, HeatmapPng, Message, State, StatusEvent, Times, VerdictEvent
from edge.frames import Stamp
from edge.heatmap_picture import ColourScale, png
from edge.inference import Engine
from edge.inspection.ledger import Account
from edge.inspection.outcome import Outcome
from edge.inspection.verdict import Judgement, Thresholds
from edge.text import sayable

Heatmaps = Literal["never", "defect", "always"]


class Reporter:
    """Makes the messages of one boot; `seq` counts its verdicts and alarms from 1 without a gap. One thread at a time.

    Args:
        acting: whether ejectors may fire on these events.
        heatmaps: which verdicts carry their heatmap as PNG.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, thresholds: Thresholds, *, acting: bool, heatmaps: Heatmaps = "never"
    ) -> None:
        self.boot_id = uuid.uuid4().hex
        self.last_seq = 0
        self.scale = ColourScale.of(bundle.manifest.calibration, thresholds)
        manifest = bundle.manifest
        self._bundle = BundleName(name=manifest.name, version=manifest.version, digest=bundle.digest)
        self._cell_px = manifest.grid.heatmap_cell_px
        self._engine, self._thresholds = engine, thresholds
        self._acting, self._heatmaps = acting, heatmaps

    def verdict(self, outcome: Outcome) -> Message:
        """The event of a frame's end."""
        self.last_seq += 1
        judgement, unjudged, stamp = outcome.judgement, outcome.unjudged, outcome.stamp
        picture, heatmap = self._heatmap(judgement)
        event = VerdictEvent(
            boot_id=self.boot_id,
            seq=self.last_seq,
            camera=stamp.camera,
            frame_id=stamp.frame_id,
            last_frame_id=stamp.last_frame_id,
            frame_number=stamp.number,
            frames=stamp.frames,
            source=None if stamp.source is None else sayable(stamp.source),
            part_id=stamp.part_id,
            times=_times(stamp),
            frame_hw=judgement.frame_hw if judgement else None,
            verdict=judgement.verdict if judgement else "NO_VERDICT",
            reason=f"{unjudged.kind}.{unjudged.reason}" if unjudged else None,
            detail=sayable(unjudged.detail) if unjudged else None,
            frame_score=judgement.score if judgement else None,
            score_threshold=self._thresholds.score,
            evidence_threshold=self._thresholds.evidence,
            precision=self._engine.precision,
            bundle=self._bundle,
            regions=judgement.regions if judgement else [],
            latency_ms=(time.monotonic_ns() - stamp.captured_monotonic_ns) / 1e6,
            acting=self._acting,
            heatmap=heatmap,
            chunks=dict(stamp.chunks),
        )
        return Message(event, picture)

    def alarm(self, line: str, alarm: CameraAlarm) -> Message:
        """The event of a camera's death or return."""
        self.last_seq += 1
        return Message(
            AlarmEvent(
                boot_id=self.boot_id,
                seq=self.last_seq,
                at_ns=time.time_ns(),
                line=line,
                camera=alarm.camera,
                alarm=alarm.reason,
                detail=alarm.detail,
                active=alarm.active,
                began_at_ns=alarm.began_at_ns,
                acting=self._acting,
            )
        )

    def status(
        self, line: str, state: State, ledger: Mapping[str, Account], cameras: Mapping[str, CameraState]
    ) -> Message:
        """The event that says how the line is."""
        return Message(
            StatusEvent(
                boot_id=self.boot_id,
                at_ns=time.time_ns(),
                line=line,
                state=state,
                last_seq=self.last_seq,
                ledger=dict(ledger),
                cameras=dict(cameras),
                bundle=self._bundle,
                engine=self._engine.name,
                precision=self._engine.precision,
                acting=self._acting,
            )
        )

    def _heatmap(self, judgement: Judgement | None) -> tuple[bytes | None, HeatmapPng | None]:
        if judgement is None or self._heatmaps == "never":
            return None, None
        if self._heatmaps == "defect" and judgement.verdict == "GOOD":
            return None, None
        grey = self.scale.grey(judgement.heatmap)
        height, width = grey.shape
        return png(grey), HeatmapPng(
            hw=(height, width), cell_px=self._cell_px, logit_at_0=self.scale.low, logit_at_255=self.scale.high
        )


def _times(stamp: Stamp) -> Times:
    return Times(
        captured_at_ns=stamp.captured_at_ns,
        captured_monotonic_ns=stamp.captured_monotonic_ns,
        camera_timestamp_ns=stamp.camera_timestamp_ns,
    )
