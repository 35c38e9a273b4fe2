"""Looks at a running line again and again: tells how it is, keeps systemd's watchdog fed while inspection goes on, and
sends a probe the whole way where no frame comes.
"""

import time

from edge.service.changeover import Changeover
from edge.service.drops import DropMonitor
from edge.service.line import Line
from edge.service.readiness import Condition, Reason, handshake, in_words
from edge.service.systemd import notify
from edge.util.text import format_count
from edge.wire.events import State

STATUS_EVERY_SECONDS = 1.0
PROBE_AFTER_SECONDS = 1.0
WRITE_AGAIN_EVERY_SECONDS = 5.0


class StatusMonitor:
    """One thread looks, some 20 times a second."""

    def __init__(self, line: Line, changeover: Changeover) -> None:
        self._line, self._changeover = line, changeover
        self._stopping = False
        self._drops = DropMonitor()
        self._losses: list[str] = []
        self._tell_at_s = self._write_again_at_s = 0.0
        self._told: object = None
        self._fed_at = -1
        """The heartbeat of which systemd's watchdog has heard."""

    def look(self, state: State) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        if self._line.heartbeat.quiet_for_s() > PROBE_AFTER_SECONDS and not self._stopping:
            self._line.pipeline.probe()
        if now_s >= self._write_again_at_s and not self._stopping:
            self._write_again_at_s = now_s + WRITE_AGAIN_EVERY_SECONDS
            self._line.in_flight.begin_again()
            self._changeover.remember_again()
        is_due = now_s >= self._tell_at_s
        if is_due:
            self._tell_at_s = now_s + STATUS_EVERY_SECONDS
        self._losses = self._drops.look(self._line.ledger.accounts(), now_s)
        self._tell(state, only_news=not is_due)

    def begin_to_stop(self) -> None:
        """From now on no new frame is taken."""
        self._stopping = True

    def say_stopped(self) -> None:
        """Who listens must hear that nothing is inspected any more."""
        self._tell("STOPPED")

    def _tell(self, state: State, *, only_news: bool = False) -> None:
        line, last_change = self._line, self._changeover.last
        beats = line.heartbeat.count
        condition = self._condition(state, beats)
        found = condition.reasons()
        now = handshake(found, beats)
        news = state, now.state, now.reason, last_change
        if only_news and news == self._told:
            return
        self._told = news
        line.events.status(
            state, line.ledger, condition.cameras, now, lambda: self._changeover.last, line.access.refusals.counts()
        )
        fed = []
        if beats != self._fed_at:  # nothing else feeds it
            self._fed_at = beats
            fed = ["WATCHDOG=1"]
        notify(*fed, f"STATUS={now.state}: {self._describe(state, found)}")

    def _condition(self, state: State, beats: int) -> Condition:
        line, verified = self._line, self._line.pipeline.setup.verified
        journal = line.journal.state()
        return Condition(
            state,
            {name: camera.state() for name, camera in line.cameras.items()},
            line.heartbeat.quiet_for_s(),
            seen_through=beats > 0,
            stopping=self._stopping,
            changing=self._changeover.changing,
            losses=self._losses,
            fell_back=None if verified.fell_back is None else verified.computes_in,
            unjournalled=None if journal is None else journal.live_only,
            unrecorded=line.in_flight.fault,
            unremembered=self._changeover.unremembered,
        )

    def _describe(self, state: State, found: list[Reason]) -> str:
        """How the line is, for `systemctl status`."""
        if self._stopping and state != "STOPPED":
            doing = "finishing the frames in flight"
        else:
            doing = "starting" if found and found[0].word == "starting" else state.lower()
        words = [doing, format_count(self._line.events.events, "event")]
        product, last_change = self._line.pipeline.setup.product, self._changeover.last
        if product is not None:
            words.append(f"product {product}")
        if why := [reason for reason in found if reason.word not in ("starting", "stopping")]:
            words.append(in_words(why))
        if last_change is not None and not last_change.applied:
            words.append(f"the last {last_change.change} was refused: {last_change.detail}")
        return ", ".join(words)
