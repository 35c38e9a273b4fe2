"""From outcomes to messages: every frame's end becomes one event."""

import os
import time
import uuid
from collections.abc import Mapping

from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.to_wire import account_to_wire, camera_to_wire, region_to_wire
from edge.frames import Stamp
from edge.heatmap_picture import png
from edge.inspection.ledger import Account
from edge.inspection.outcome import Outcome
from edge.inspection.setup import Setup
from edge.inspection.verdict import Judgement
from edge.service.aftermath import ToldLiveAlone
from edge.text import format_count, sayable
from edge.wire.events import (
    AlarmEvent,
    BundleName,
    Change,
    ChangeEvent,
    Handshake,
    HeatmapPng,
    JournalEvent,
    Message,
    State,
    StatusEvent,
    Times,
    VerdictEvent,
)

NOT_NUMBERED = 0


class Reporter:
    """Makes the messages of one boot. They have no number yet: that is given as they are kept. One thread at a time."""

    def __init__(self, line: str) -> None:
        self.boot_id = uuid.uuid4().hex
        self.line = line
        self.events = 0
        """How many were made, statuses not counted."""

    def verdict(self, outcome: Outcome) -> Message:
        """The event of a frame's end."""
        self.events += 1
        judgement, unjudged, stamp, setup = outcome.judgement, outcome.unjudged, outcome.stamp, outcome.setup
        assert setup is not None
        picture, heatmap = _heatmap(judgement, setup)
        event = VerdictEvent(
            boot_id=self.boot_id,
            seq=NOT_NUMBERED,
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
            score_threshold=setup.inspector.thresholds.score,
            evidence_threshold=setup.inspector.thresholds.evidence,
            precision=setup.proven.engine.precision,
            bundle=bundle_name(setup),
            product=setup.product,
            regions=[region_to_wire(region) for region in judgement.regions] if judgement else [],
            latency_ms=(time.monotonic_ns() - stamp.captured_monotonic_ns) / 1e6,
            acting=setup.acting,
            heatmap=heatmap,
            chunks=dict(stamp.chunks),
        )
        return Message(event, picture)

    def alarm(self, alarm: CameraAlarm, setup: Setup) -> Message:
        """The event of a camera's death or return."""
        self.events += 1
        return Message(
            AlarmEvent(
                boot_id=self.boot_id,
                seq=NOT_NUMBERED,
                at_ns=time.time_ns(),
                line=self.line,
                camera=alarm.camera,
                alarm=alarm.reason,
                detail=alarm.detail,
                active=alarm.active,
                began_at_ns=alarm.began_at_ns,
                acting=setup.acting,
                product=setup.product,
            )
        )

    def change(self, change: Change, setup: Setup) -> Message:
        """The event of a setup's exchange for another, or of the refusal to."""
        self.events += 1
        return Message(
            ChangeEvent(
                boot_id=self.boot_id,
                seq=NOT_NUMBERED,
                at_ns=change.at_ns,
                line=self.line,
                change=change.change,
                in_force=change.in_force,
                detail=change.detail,
                product=setup.product,
                bundle=bundle_name(setup),
                acting=setup.acting,
            )
        )

    def unrecorded(self, missing: ToldLiveAlone) -> Message:
        """The event of frames that the boot before told of live alone."""
        self.events += 1
        how_many = "some frames" if missing.frames is None else format_count(missing.frames, "frame")
        of = f"{how_many} of {', '.join(missing.cameras)}"
        return Message(
            JournalEvent(
                boot_id=self.boot_id,
                seq=NOT_NUMBERED,
                at_ns=time.time_ns(),
                line=self.line,
                what="unrecorded",
                detail=f"the boot before told of {of} in events that are not in the journal",
                events=missing.frames,
                of_boot=missing.boot_id,
            )
        )

    def status(
        self,
        state: State,
        ledger: Mapping[str, Account],
        cameras: Mapping[str, CameraState],
        setup: Setup,
        handshake: Handshake,
        last_change: Change | None,
        refused: Mapping[str, int],
    ) -> Message:
        """The event that says how the line is."""
        return Message(
            StatusEvent(
                boot_id=self.boot_id,
                at_ns=time.time_ns(),
                line=self.line,
                state=state,
                last_seq=NOT_NUMBERED,
                ledger={camera: account_to_wire(account) for camera, account in ledger.items()},
                cameras={camera: camera_to_wire(state) for camera, state in cameras.items()},
                bundle=bundle_name(setup),
                engine=setup.proven.engine.name,
                precision=setup.proven.engine.precision,
                acting=setup.acting,
                product=setup.product,
                pid=os.getpid(),
                handshake=handshake,
                last_change=last_change,
                refused=dict(refused),
            )
        )


def bundle_name(setup: Setup) -> BundleName:
    """The bundle of a setup, as events name it."""
    manifest = setup.bundle.manifest
    return BundleName(name=manifest.name, version=manifest.version, digest=setup.bundle.digest)


def _heatmap(judgement: Judgement | None, setup: Setup) -> tuple[bytes | None, HeatmapPng | None]:
    if judgement is None or setup.heatmaps == "never":
        return None, None
    if setup.heatmaps == "defect" and judgement.verdict == "GOOD":
        return None, None
    grey = setup.scale.grey(judgement.heatmap)
    height, width = grey.shape
    return png(grey), HeatmapPng(
        hw=(height, width),
        cell_px=setup.bundle.manifest.grid.heatmap_cell_px,
        logit_at_0=setup.scale.low,
        logit_at_255=setup.scale.high,
    )


def _times(stamp: Stamp) -> Times:
    return Times(
        captured_at_ns=stamp.captured_at_ns,
        captured_monotonic_ns=stamp.captured_monotonic_ns,
        camera_timestamp_ns=stamp.camera_timestamp_ns,
    )
