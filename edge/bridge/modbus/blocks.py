"""What the PLC reads: one result after another in the mailbox, the newest verdicts, and the state of the line."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from heatline.edge.bridge.line import TICK_SECONDS, VERDICTS, LineState
from heatline.edge.bridge.modbus.codes import (
    CAMERA_STATES,
    HANDSHAKE_REASONS,
    HANDSHAKE_STATES,
    NO_RESULT,
    NOTHING,
    OTHER,
    Entry,
    EntryKind,
    IdMap,
    entry_of,
    id_bytes,
    lost_entry,
    result_values,
)
from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX, MAP_VERSION, Block, RegisterBank
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap
from heatline.edge.errors import EventsLostError
from heatline.edge.wire.events import Account, StatusEvent, VerdictEvent
from heatline.edge.wire.following import Start

logger = logging.getLogger(__name__)

TOPICS = (VERDICTS, "journal")
STANDS_STILL_AFTER_SECONDS = 5.0
"""A line whose own heartbeat has not moved for so long does not inspect (docs/protocol.md)."""
BEAT_SECONDS = 1.0


class Mailbox:
    """Shows one entry after another, the next one when the one before is acknowledged.

    Only the thread of the server uses it, except `acknowledged`.

    Args:
        acknowledge: `plc`: an entry is shown until the PLC has written its number; `offered`: until the next one comes.
    """

    def __init__(self, bank: RegisterBank, acknowledge: Literal["plc", "offered"]) -> None:
        self._bank, self._acknowledge = bank, acknowledge
        self._shown: Entry | None = None
        self._losses = 0
        self.acknowledged = threading.Event()
        """Set when the shown entry is acknowledged; cleared by who gives the next one."""
        bank.on_write(self._written)

    def show(self, entry: Entry) -> None:
        """Show an entry."""
        self._shown = entry
        if entry.kind in (EntryKind.LOST, EntryKind.UNRECORDED):
            self._losses += 1
            self._bank.put(LINE, {"losses": self._losses})
        self._bank.put(MAILBOX, entry.registers())
        if self._acknowledge == "offered":
            self._finish(entry)
        else:
            self._written()  # a PLC that writes its number in each cycle may know this entry from before a restart

    def _written(self) -> None:
        """Look at what the PLC acknowledges. Any number but that of the shown entry is of an earlier one."""
        entry = self._shown
        if entry is not None and self._bank.number(COMMANDS, "acknowledge") == entry.number:
            self._bank.put(MAILBOX, NOTHING)
            self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        self._shown = None
        self._bank.put(MAILBOX, {"acknowledged": entry.number})
        self.acknowledged.set()


class Feed:
    """Brings the journal's results to the mailbox, one at a time, and acknowledges them to the line.

    It follows as a durable consumer; `run` is for a thread of its own.

    Args:
        address: the line's `journal.bind`.
        name: of the consumer.
        on_server: calls a function in the thread of the server, soon.
        start: where a new name begins.
    """

    def __init__(
        self,
        address: str,
        name: str,
        keys: ClientKeys | None,
        places: IdMap,
        mailbox: Mailbox,
        on_server: Callable[..., object],
        start: Start = "first",
    ) -> None:
        self._consumer, self._start = (address, name, keys), start
        self._places, self._mailbox, self._on_server = places, mailbox, on_server
        self._ended = threading.Event()

    def run(self) -> None:
        """Follow until `end` is called. What was shown and not acknowledged comes again at the next start.

        Raises: as `Follower.receive`, without EventsLostError.
        """
        address, name, keys = self._consumer
        follower = Follower(address, name, topics=TOPICS, start=self._start, timeout_s=TICK_SECONDS, keys=keys)
        with follower as events:
            while not self._ended.is_set():
                entry = self._next(events)
                if entry is not None and not self._is_acknowledged(entry, events):
                    return
            events.acknowledge()

    def end(self) -> None:
        """Make `run` return soon."""
        self._ended.set()

    def _next(self, events: Follower) -> Entry | None:
        try:
            delivered = events.receive()
        except EventsLostError as lost:
            logger.error("%s; the mailbox shows it to the PLC", lost)
            return lost_entry(lost)
        return None if delivered is None else entry_of(delivered, self._places)

    def _is_acknowledged(self, entry: Entry, events: Follower) -> bool:
        """Show an entry, and wait until it is acknowledged; return whether it was before the end."""
        acknowledged = self._mailbox.acknowledged
        acknowledged.clear()
        self._on_server(self._mailbox.show, entry)
        while not acknowledged.wait(TICK_SECONDS) and not self._ended.is_set():
            events.hold()
        return acknowledged.is_set()


class LatestVerdicts:
    """The newest verdict of each camera, for a PLC that acts on it. Only the thread of the server uses it."""

    def __init__(self, bank: RegisterBank, blocks: Sequence[Block], places: IdMap) -> None:
        self._bank, self._places = bank, places
        self._blocks = dict(zip(places.cameras, blocks, strict=True))

    def take(self, live: object) -> None:
        """Show a verdict. If something else came, some were missed, and what is shown may not be the newest."""
        match live:
            case VerdictEvent():
                self.show(live)
            case Gap():
                self.clear(live.topic.split(".")[1])
            case _:
                self.clear()

    def show(self, event: VerdictEvent) -> None:
        """Show the newest verdict of its camera."""
        if block := self._blocks.get(event.camera):
            results = self._bank.number(block, "results") + 1
            self._bank.put(block, {**result_values(event, self._places), "results": results})

    def clear(self, camera: str | None = None) -> None:
        """Show no verdict of a camera, or of all: what was the newest one may not be it any more."""
        for name, block in self._blocks.items():
            if camera in (None, name):
                self._bank.put(block, NO_RESULT)


class StatusBlock:
    """Copies the state of the line and of its cameras, and the heartbeat. Only the thread of the server uses it.

    Args:
        consumer: name of this bridge's consumer.
        clock: monotonic, s.
    """

    def __init__(
        self,
        bank: RegisterBank,
        state: LineState,
        places: IdMap,
        cameras: Sequence[Block],
        latest: LatestVerdicts,
        consumer: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bank, self._state, self._places = bank, state, places
        self._cameras, self._latest, self._consumer, self._clock = cameras, latest, consumer, clock
        self._line_beat: tuple[str, int] | None = None
        self._moved_s = self._beat_s = float("-inf")
        """When the line's heartbeat moved last, and the one here."""
        bank.put(
            LINE,
            {
                "map_version": MAP_VERSION,
                "products": len(places.products),
                "cameras": len(places.cameras),
                "state": HANDSHAKE_STATES["NOT_READY"],
                "state_reason": HANDSHAKE_REASONS["unreachable"],
            },
        )

    def refresh(self) -> None:
        """Copy what is known now. Call it several times a second."""
        status, is_heard, now_s = self._state.status, self._state.is_heard, self._clock()
        handshake = self._state.handshake()
        reason = 0 if handshake.reason is None else HANDSHAKE_REASONS.get(handshake.reason, OTHER)
        values = {"is_heard": int(is_heard), "state": HANDSHAKE_STATES[handshake.state], "state_reason": reason}
        if is_heard and status is not None and self._line_beat != (status.boot_id, status.handshake.heartbeat):
            self._line_beat, self._moved_s = (status.boot_id, status.handshake.heartbeat), now_s
        moves = now_s - self._moved_s < STANDS_STILL_AFTER_SECONDS
        inspects = is_heard and moves and handshake.state != "NOT_READY"
        if inspects and now_s - self._beat_s >= BEAT_SECONDS:
            values["heartbeat"] = self._bank.number(LINE, "heartbeat") % 65535 + 1
            self._beat_s = now_s
        self._bank.put(LINE, values)
        if status is not None:
            self._show(status)
        if not is_heard:
            self._latest.clear()

    def _show(self, status: StatusEvent) -> None:
        journal = status.journal
        consumer = None if journal is None else journal.consumers.get(self._consumer)
        lag = 0 if journal is None or consumer is None else max(0, journal.last_seq - consumer.acked_seq)
        self._bank.put(
            LINE,
            {
                "is_simulated": int(not status.acting),
                "product": self._places.product(status.product),
                "boot_id": id_bytes(status.boot_id),
                "lag": min(lag, 2**32 - 1),
            },
        )
        for name, block in zip(self._places.cameras, self._cameras, strict=True):
            camera, account = status.cameras.get(name), status.ledger.get(name, Account())
            self._bank.put(
                block,
                {
                    "state": 0 if camera is None else CAMERA_STATES.get(camera.state, OTHER),
                    "captured": account.captured,
                    "inspected": account.inspected,
                    "dropped": sum(account.dropped.values()),
                    "failed": sum(account.failed.values()),
                    "in_flight": account.in_flight,
                },
            )
            if camera is None or camera.state == "DEAD":
                self._latest.clear(name)
