"""Watches a running line: publishes its status, feeds systemd's watchdog while inspection works, and sends a probe tile
through all stages while no frame comes.
"""

import time

from heatline.edge.service.changeover import Changeover
from heatline.edge.service.drops import DropMonitor
from heatline.edge.service.line import Line
from heatline.edge.service.readiness import Condition, Reason, describe_reasons, make_handshake
from heatline.edge.util.systemd import notify
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import EvidenceState, State, WebState

STATUS_EVERY_SECONDS = 1.0
PROBE_AFTER_SECONDS = 1.0
RETRY_WRITING_EVERY_SECONDS = 5.0


class StatusMonitor:
    """Watches a line. One thread calls `update`, about 20 times a second."""

    def __init__(self, line: Line, changeover: Changeover) -> None:
        self._line, self._changeover = line, changeover
        self._stopping = False
        self._drops = DropMonitor()
        self._losses: list[str] = []
        self._report_at_s = self._retry_writing_at_s = 0.0
        self._reported: object = None
        self._fed_at = -1
        """The heartbeat at which systemd's watchdog was last fed."""
        self.waits_for_s: float | None = None
        """How long the line waits for a first subscriber now; None: it does not wait."""

    def update(self, state: State) -> None:
        """Send a probe, retry failed writes, and publish the status, as far as each is due."""
        now_s = time.monotonic()
        if self._line.heartbeat.quiet_for_s() > PROBE_AFTER_SECONDS and not self._stopping:
            self._line.pipeline.probe()
        if now_s >= self._retry_writing_at_s and not self._stopping:
            self._retry_writing_at_s = now_s + RETRY_WRITING_EVERY_SECONDS
            self._line.in_flight.retry()
            self._changeover.retry_storing_product()
        is_due = now_s >= self._report_at_s
        if is_due:
            self._report_at_s = now_s + STATUS_EVERY_SECONDS
        self._losses = self._drops.update(self._line.ledger.accounts(), now_s)
        self._report(state, only_if_changed=not is_due)

    def begin_stopping(self) -> None:
        """Report from now on that the line takes no new frames."""
        self._stopping = True

    def report_stopped(self) -> None:
        """Report that nothing is inspected any more."""
        self._report("STOPPED")

    def _report(self, state: State, *, only_if_changed: bool = False) -> None:
        line, last_change = self._line, self._changeover.last
        beats, evidence, web = line.heartbeat.count, line.sidecar.evidence(), line.sidecar.web()
        condition = self._condition(state, beats, evidence)
        reasons = condition.reasons()
        handshake = make_handshake(reasons, beats)
        summary = state, handshake.state, handshake.reason, last_change
        if only_if_changed and summary == self._reported:
            return
        self._reported = summary
        line.events.emit_status(
            state,
            line.ledger,
            condition.cameras,
            handshake,
            lambda: self._changeover.last,
            line.access.refusals.counts(),
            evidence,
            web,
            line.drift.state(),
        )
        watchdog = []
        if beats != self._fed_at:  # only inspection feeds the watchdog
            self._fed_at = beats
            watchdog = ["WATCHDOG=1"]
        notify(*watchdog, f"STATUS={handshake.state}: {self._describe(state, reasons, web)}")

    def _condition(self, state: State, beats: int, evidence: EvidenceState | None) -> Condition:
        line, verified = self._line, self._line.ledger.setup.verified
        journal = line.journal.state()
        return Condition(
            state,
            {name: camera.state() for name, camera in line.cameras.items()},
            line.heartbeat.quiet_for_s(),
            has_output=beats > 0,
            waits_for_s=self.waits_for_s,
            stopping=self._stopping,
            changing=self._changeover.changing,
            losses=self._losses,
            fell_back=None if verified.fell_back is None else verified.computes_in,
            not_journalled=None if journal is None else journal.live_only,
            in_flight_not_logged=line.in_flight.fault,
            product_not_stored=self._changeover.product_not_stored,
            evidence_not_stored=None if evidence is None else evidence.fault,
        )

    def _describe(self, state: State, reasons: list[Reason], web: WebState | None) -> str:
        """Describe the line's condition for `systemctl status`."""
        if self._stopping and state != "STOPPED":
            activity = "finishing the frames in flight"
        else:
            activity = "starting" if reasons and reasons[0].code == "starting" else state.lower()
        parts = [activity, format_count(self._line.events.events, "event")]
        product, last_change = self._line.ledger.setup.product, self._changeover.last
        if product is not None:
            parts.append(f"product {product}")
        if faults := [reason for reason in reasons if reason.code not in ("starting", "stopping")]:
            parts.append(describe_reasons(faults))
        if web is not None and web.fault is not None:
            parts.append(web.fault)
        if last_change is not None and not last_change.applied:
            parts.append(f"the last {last_change.change} was refused: {last_change.detail}")
        return ", ".join(parts)
