"""Looks at a running line again and again: tells how it is, keeps systemd's watchdog fed while inspection goes on, and
sends a probe the whole way where no frame comes.
"""

import time
from collections.abc import Callable, Mapping

from edge.cameras.supervisor import SupervisedCamera
from edge.inspection.ledger import Ledger
from edge.inspection.pipeline import Pipeline
from edge.service.changeover import Changeover
from edge.service.handshake import handshake, in_words, reasons
from edge.service.heartbeat import Heartbeat
from edge.service.losses import Losses
from edge.service.systemd_notify import notify
from edge.service.teller import Teller
from edge.text import format_count
from edge.wire.events import State

STATUS_EVERY_SECONDS = 1.0
PROBE_AFTER_SECONDS = 1.0
MEND_EVERY_SECONDS = 5.0


class Oversight:
    """One thread looks, some 20 times a second."""

    def __init__(
        self,
        teller: Teller,
        heartbeat: Heartbeat,
        ledger: Ledger,
        cameras: Mapping[str, SupervisedCamera],
        pipeline: Pipeline,
        changeover: Changeover,
    ) -> None:
        self._teller, self._heartbeat, self._ledger = teller, heartbeat, ledger
        self._cameras, self._pipeline, self._changeover = cameras, pipeline, changeover
        self.unrecorded: Callable[[], str | None] = lambda: None
        """Says why nobody would know after a crash what was in flight."""
        self.unjournalled: Callable[[], str | None] = lambda: None
        """Says why events are not kept."""
        self.refused: Callable[[], Mapping[str, int]] = dict
        """Counts what the sockets refused."""
        self.mend: Callable[[], None] = lambda: None
        """Tries again what could not be done."""
        self._mend_at = 0.0
        self._stopping = False
        self._losses = Losses()
        self._lossy: list[str] = []
        self._tell_at = 0.0
        self._told: object = None
        self._fed_at = -1

    def look(self, state: State) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._heartbeat.quiet_for_s() > PROBE_AFTER_SECONDS and not self._stopping:
            self._pipeline.probe()
        if now >= self._mend_at and not self._stopping:
            self._mend_at = now + MEND_EVERY_SECONDS
            self.mend()
            self._changeover.remember_again()
        is_due = now >= self._tell_at
        if is_due:
            self._tell_at = now + STATUS_EVERY_SECONDS
        self._lossy = self._losses.look(self._ledger.accounts(), now)
        self._tell(state, only_news=not is_due)

    def begin_to_stop(self) -> None:
        """From now on no new frame is taken."""
        self._stopping = True

    def say_stopped(self) -> None:
        """Who listens must hear that nothing is inspected any more."""
        self._tell("STOPPED")

    def _tell(self, state: State, *, only_news: bool = False) -> None:
        cameras = {name: camera.state() for name, camera in self._cameras.items()}
        setup, last = self._pipeline.setup, self._changeover.last
        beats = self._heartbeat.count
        found = reasons(
            state,
            cameras,
            quiet_for_s=self._heartbeat.quiet_for_s(),
            seen_through=beats > 0,
            stopping=self._stopping,
            changing=self._changeover.changing,
            losses=self._lossy,
            fell_back=None if setup.proven.fell_back is None else setup.proven.computes_in,
            unrecorded=self.unrecorded(),
            unjournalled=self.unjournalled(),
            unremembered=self._changeover.unremembered,
        )
        now = handshake(found, beats)
        news = state, now.state, now.reason, last
        if only_news and news == self._told:
            return
        self._told = news
        self._teller.status(state, self._ledger, cameras, now, lambda: self._changeover.last, self.refused())
        count = self._teller.events
        if self._stopping and state != "STOPPED":
            doing = "finishing the frames in flight"
        else:
            doing = "starting" if now.reason == "starting" else state.lower()
        words = [doing, format_count(count, "event")]
        if setup.product is not None:
            words.append(f"product {setup.product}")
        if why := [reason for reason in found if reason.word not in ("starting", "stopping")]:
            words.append(in_words(why))
        if last is not None and not last.in_force:
            words.append(f"the last {last.change} was refused: {last.detail}")
        fed = []
        if beats != self._fed_at:  # nothing else feeds it
            self._fed_at = beats
            fed = ["WATCHDOG=1"]
        notify(*fed, f"STATUS={now.state}: {', '.join(words)}")
