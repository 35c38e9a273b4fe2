"""Watches a running line: whether it is ready for the next part, and if not, why. docs/protocol.md says how a PLC must
react. Publishes the status, feeds systemd's watchdog while inspection works, and sends a probe tile through all stages
while no frame comes.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from heatline.edge.inspection.inspector import IS_COLLECTED, Setup
from heatline.edge.service.changeover import Changeover
from heatline.edge.service.line import Line
from heatline.edge.util.systemd import notify
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import COLLECTING, Account, CameraState, Handshake, HandshakeState, State, in_words

logger = logging.getLogger(__name__)

STALLED_AFTER_SECONDS = 5.0
"""The line is stalled if the last stage had no output for so long."""
STATUS_EVERY_SECONDS = 1.0
PROBE_AFTER_SECONDS = 1.0
WINDOW_SECONDS = 10.0
BEGINS_BELOW = 0.9
"""A camera loses frames once a smaller share of its frames is inspected."""
ENDS_AT = 0.98
"""It no longer loses frames from this share on. With one limit for both, losses would begin and end all the time."""

REASONS: Mapping[str, HandshakeState] = {
    "starting": "NOT_READY",
    "stopping": "NOT_READY",
    "stalled": "NOT_READY",
    "no_camera": "NOT_READY",
    "collecting": "NOT_READY",
    "changing": "BUSY",
    "camera_dead": "DEGRADED",
    "frames_lost": "DEGRADED",
    "precision": "DEGRADED",
    "unjournalled": "DEGRADED",
    "in_flight_not_logged": "DEGRADED",
    "product_not_stored": "DEGRADED",
    "evidence_not_stored": "DEGRADED",
    "pictures_not_kept": "DEGRADED",
}
"""Why a line is not READY, the most severe first."""


class Reason(NamedTuple):
    code: str
    """One of `REASONS`."""
    sentence: str


def find_reasons(
    state: State,
    cameras: Mapping[str, CameraState],
    quiet_for_s: float,
    *,
    has_output: bool = True,
    waits_for_s: float | None = None,
    stopping: bool = False,
    changing: str | None = None,
    losses: Sequence[str] = (),
    faults: Mapping[str, str | None] = {},
) -> list[Reason]:
    """Return all reasons why a line is not READY, the most severe first.

    Args:
        quiet_for_s: since the last output of the last stage.
        has_output: whether anything has passed all stages yet.
        waits_for_s: how long the line waits for a first subscriber; None: it does not wait.
        changing: a description of what is being prepared.
        losses: one sentence per camera whose frames are not inspected.
        faults: by further reasons, what is wrong; None: nothing.
    """
    found = [Reason(code, fault) for code, fault in faults.items() if fault is not None]
    found += [Reason("frames_lost", sentence) for sentence in losses]
    if state == "STARTING" or (state == "RUNNING" and not has_output):
        waiting = ""
        if waits_for_s is not None:
            waiting = f", and waits up to {waits_for_s:g} s for a subscriber (events.wait_for_subscriber_s)"
        found.append(Reason("starting", f"the line is starting{waiting}"))
    if state == "STOPPED" or stopping:
        found.append(Reason("stopping", "the line has stopped" if state == "STOPPED" else "the line is stopping"))
    if quiet_for_s > STALLED_AFTER_SECONDS:
        found.append(Reason("stalled", f"the inspection had no output for {int(quiet_for_s)} s"))
    if changing is not None:
        found.append(Reason("changing", f"{changing} is being prepared"))
    dead = {name: camera.reason for name, camera in cameras.items() if camera.reason is not None}
    found += [
        Reason("camera_dead", f"camera {name} is dead: {in_words(f'failed.{why}')}") for name, why in dead.items()
    ]
    # During a change, it is expected that cameras are opened.
    opening = [name for name, camera in cameras.items() if camera.state == "OPENING" and changing is None]
    found += [Reason("camera_dead", f"camera {name} is being opened") for name in opening]
    gone = [name for name, camera in cameras.items() if camera.state in ("DEAD", "ENDED")]
    if len(opening) + len(gone) == len(cameras) and any(camera.state != "ENDED" for camera in cameras.values()):
        found.append(Reason("no_camera", "no camera is available"))
    return [reason for code in REASONS for reason in found if reason.code == code]


def make_handshake(reasons: Sequence[Reason], heartbeat: int) -> Handshake:
    """Return the handshake for these reasons. The first, most severe one decides its state."""
    code = reasons[0].code if reasons else None
    state = "READY" if code is None else REASONS[code]
    return Handshake(state=state, reason=code, detail=_join(reasons) or None, heartbeat=heartbeat)


def _join(reasons: Sequence[Reason]) -> str:
    return ", ".join(reason.sentence for reason in reasons)


class DropMonitor:
    """Watches the accounts of a line's frames. Logs when a camera's losses begin and when they end."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, Account]]] = deque()
        self._dropping: set[str] = set()

    def update(self, accounts: Mapping[str, Account], now_s: float) -> list[str]:
        """Add the accounts at a monotonic time. Return one sentence per camera that lost frames in the last 10 s."""
        self._samples.append((now_s, accounts))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - WINDOW_SECONDS:
            self._samples.popleft()
        before = self._samples[0][1]
        losses = []
        for camera, account in accounts.items():
            required_share = ENDS_AT if camera in self._dropping else BEGINS_BELOW
            sentence = _describe_losses(before[camera], account, required_share)
            if sentence is not None:
                losses.append(f"camera {camera}: {sentence}")
            if (sentence is not None) != (camera in self._dropping):
                self._dropping ^= {camera}
                level = logging.INFO if sentence is None else logging.WARNING
                logger.log(level, "camera %s: %s", camera, sentence or "its frames are inspected again")
        return losses


def _describe_losses(before: Account, now: Account, required_share: float) -> str | None:
    inspected, lost = now.inspected - before.inspected, Counter[str]()
    for kind in ("dropped", "failed"):
        lost.update({f"{kind}.{reason}": count for reason, count in getattr(now, kind).items()})
        lost.subtract({f"{kind}.{reason}": count for reason, count in getattr(before, kind).items()})
    ended = inspected + lost.total()
    if inspected >= required_share * ended or lost[COLLECTING]:  # a line that collects has a reason of its own
        return None
    (reason, _), *_ = lost.most_common(1)
    return f"{inspected} of {format_count(ended, 'frame')} inspected: {in_words(reason)}"


class StatusMonitor:
    """Watches a line. One thread calls `update`, about 20 times a second."""

    def __init__(self, line: Line, changeover: Changeover) -> None:
        self._line, self._changeover = line, changeover
        self.is_stopping = False
        """Whether the line takes no new frames any more."""
        self._drops = DropMonitor()
        self._report_at_s = 0.0
        self._reported: object = None
        self._fed_at = -1
        """The heartbeat at which systemd's watchdog was last fed."""
        self.waits_for_s: float | None = None
        """How long the line waits for a first subscriber now; None: it does not wait."""

    def update(self, state: State) -> None:
        """Send a probe, retry failed writes, and publish the status, as far as each is due."""
        now_s = time.monotonic()
        if self._line.heartbeat.quiet_for_s() > PROBE_AFTER_SECONDS and not self.is_stopping:
            self._line.pipeline.probe()
        is_due = now_s >= self._report_at_s
        if is_due:
            self._report_at_s = now_s + STATUS_EVERY_SECONDS
            if not self.is_stopping:
                self._line.in_flight.retry()
                self._changeover.retry_storing_product()
        line, changeover, setup = self._line, self._changeover, self._line.ledger.setup
        verified = setup.verified if isinstance(setup, Setup) else None
        beats, journal = line.heartbeat.count, line.journal.state()
        evidence, web, collect = line.sidecar.evidence(), line.sidecar.web(), line.sidecar.collect()
        shadow = line.shadow.state()
        cameras = {name: camera.state() for name, camera in line.cameras.items()}
        reasons = find_reasons(
            state,
            cameras,
            line.heartbeat.quiet_for_s(),
            has_output=beats > 0,
            waits_for_s=self.waits_for_s,
            stopping=self.is_stopping,
            changing=changeover.changing,
            losses=self._drops.update(self._line.ledger.accounts(), now_s),
            faults={
                "collecting": None if verified else IS_COLLECTED.detail,
                "precision": f"the line computes in {verified.computes_in}"
                if verified and verified.fell_back
                else None,
                "unjournalled": None if journal is None else journal.live_only,
                "in_flight_not_logged": line.in_flight.fault,
                "product_not_stored": changeover.memory.fault,
                "evidence_not_stored": None if evidence is None else evidence.fault,
                "pictures_not_kept": collect.fault if collect and not verified else None,
            },
        )
        handshake = make_handshake(reasons, beats)
        summary = state, handshake.state, handshake.reason, changeover.last
        if not is_due and summary == self._reported:
            return
        self._reported = summary
        line.events.emit_status(
            line.ledger,
            lambda: changeover.last,
            state=state,
            cameras=cameras,
            handshake=handshake,
            refused=line.access.refusals.counts(),
            evidence=evidence,
            web=web,
            collect=collect,
            shadow=shadow,
        )
        watchdog = ["WATCHDOG=1"] if beats != self._fed_at else []  # only inspection feeds the watchdog
        self._fed_at = beats
        described = self._describe(state, reasons, [each.fault for each in (web, shadow) if each is not None])
        notify(*watchdog, f"STATUS={handshake.state}: {described}")

    def _describe(self, state: State, reasons: Sequence[Reason], faults: Sequence[str | None]) -> str:
        """Describe the line's condition for `systemctl status`."""
        activity = "starting" if reasons and reasons[0].code == "starting" else state.lower()
        if self.is_stopping and state != "STOPPED":
            activity = "finishing the frames in flight"
        product, last = self._line.ledger.setup.product, self._changeover.last
        parts = [
            activity,
            format_count(self._line.events.events, "event"),
            product and f"product {product}",
            _join([reason for reason in reasons if reason.code not in ("starting", "stopping")]),
            *faults,
            f"the last {last.change} was refused: {last.detail}" if last is not None and not last.applied else None,
        ]
        return ", ".join(filter(None, parts))
