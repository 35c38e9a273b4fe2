"""What the PLC reads and writes: results one after another in the mailbox, the newest verdicts, the state of the line,
and commands, which are executed once, echoed with their outcome, and reset by the PLC.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from heatline.edge.bridge.line import TICK_SECONDS, VERDICTS, LineState
from heatline.edge.bridge.modbus.registers import (
    CAMERA_STATES,
    COMMANDS,
    HANDSHAKE_REASONS,
    HANDSHAKE_STATES,
    LINE,
    MAILBOX,
    MAP_VERSION,
    NO_RESULT,
    NOTHING,
    OTHER,
    PART_ID_CHARACTERS,
    RESPONSE,
    Block,
    Command,
    Entry,
    EntryKind,
    IdMap,
    Outcome,
    RegisterBank,
    entry_of,
    id_bytes,
    lost_entry,
    refusal,
    result_values,
)
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap
from heatline.edge.errors import AccessError, CommandRefusedError, EventsLostError, HeatlineError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.commands import Announced
from heatline.edge.wire.events import Account, StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)
_failed_commands = RateLimitedLog(logger)

TOPICS = (VERDICTS, "journal")
STANDS_STILL_AFTER_SECONDS = 5.0
"""A line whose own heartbeat has not moved for so long does not inspect (docs/protocol.md)."""
BEAT_SECONDS = 1.0
TRIGGER_WITHIN_SECONDS, SELECT_WITHIN_SECONDS = 10.0, 60.0
"""As `heatline trigger` and `heatline select`."""


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


def feed(
    events: Follower,
    places: IdMap,
    mailbox: Mailbox,
    on_server: Callable[..., object],
    is_over: threading.Event,
) -> None:
    """Bring the journal's results to the mailbox, one at a time, and acknowledge them to the line, until the end.

    What was shown and not acknowledged comes again at the next start.

    Args:
        on_server: calls a function in the thread of the server, soon.
    Raises: as `Follower.receive`, without EventsLostError.
    """
    while not is_over.is_set():
        try:
            delivered = events.receive()
            entry = None if delivered is None else entry_of(delivered, places)
        except EventsLostError as lost:
            logger.error("%s; the mailbox shows it to the PLC", lost)
            entry = lost_entry(lost)
        if entry is None:
            continue
        mailbox.acknowledged.clear()
        on_server(mailbox.show, entry)
        while not mailbox.acknowledged.wait(TICK_SECONDS):
            if is_over.is_set():
                return
            events.hold()
    events.acknowledge()


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

    async def refresh(self) -> None:
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


@dataclass(frozen=True)
class Request:
    """A command with its arguments, as they were when the PLC wrote it."""

    code: int
    camera: int
    product: int
    part_id: str | None
    """None: there is none. Empty: the registers do not hold one of that length."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    outcome: Outcome
    frame_number: int = 0


class CommandRegisters:
    """The registers of commands and responses. Only the thread of the server uses it.

    Args:
        execute: begins to execute a trigger or a selection, whose answer is given to `answered`.
    """

    def __init__(self, bank: RegisterBank, places: IdMap, execute: Callable[[Request], object]) -> None:
        self._bank, self._places, self._execute = bank, places, execute
        self._executing: Request | None = None
        self._is_reset = True
        """Whether the PLC has written 0 since it wrote the last command."""
        self._refused_code = 0
        """A code that followed another one without 0, and was reported."""
        bank.on_write(self._written)

    def _written(self) -> None:
        code = self._bank.number(COMMANDS, "command")
        if code == Command.NONE:
            self._is_reset, self._refused_code = True, 0
            self._bank.put(RESPONSE, {"command": 0, "outcome": 0})
        elif self._is_reset and self._executing is None:
            self._is_reset = False
            self._begin(self._request(code))
        elif self._executing is None and code not in (self._bank.number(RESPONSE, "command"), self._refused_code):
            self._refused_code = code
            self._count_error(code, Outcome.NOT_RESET)

    def _request(self, code: int) -> Request:
        bank = self._bank
        length, text = bank.number(COMMANDS, "part_id_length"), bank.value(COMMANDS, "part_id")
        assert isinstance(text, str)
        fits = length <= PART_ID_CHARACTERS and text[:length].isascii() and text[:length].isprintable()
        part_id = text[:length] if fits else ""
        camera, product = bank.number(COMMANDS, "camera"), bank.number(COMMANDS, "product")
        return Request(code, camera, product, part_id if length else None)

    def _begin(self, request: Request) -> None:
        if (outcome := self._outcome_at_once(request)) is not None:
            self._respond(request, Answer(outcome))
            return
        self._executing = request
        self._bank.put(RESPONSE, {"busy": 1, "command": 0, "outcome": 0})
        self._execute(request)

    def _outcome_at_once(self, request: Request) -> Outcome | None:
        """Return how a command ends that does not reach the line; None: it is to be executed there."""
        match request.code:
            case Command.ACKNOWLEDGE_ERROR:
                self._bank.put(RESPONSE, {"first_error": 0, "first_error_command": 0, "errors": 0})
                return Outcome.DONE
            case Command.TRIGGER:
                if not 1 <= request.camera <= len(self._places.cameras):
                    return Outcome.UNKNOWN_CAMERA
                return Outcome.BAD_PART_ID if request.part_id == "" else None
            case Command.SELECT:
                is_known = 1 <= request.product <= len(self._places.products)
                return None if is_known else Outcome.UNKNOWN_PRODUCT
        return Outcome.UNKNOWN_COMMAND

    def answered(self, request: Request, answer: Answer) -> None:
        """Give the answer of a command that was executed.

        If the PLC has given it up by writing 0, only a failure is counted. A command that it wrote since then is not
        executed: it would be late, and a trigger would show another part.
        """
        self._executing = None
        code = self._bank.number(COMMANDS, "command")
        if not self._is_reset:
            self._respond(request, answer)
            return
        self._bank.put(RESPONSE, {"busy": 0})
        if answer.outcome >= Outcome.UNKNOWN_COMMAND:
            self._count_error(request.code, answer.outcome)
        if code != Command.NONE:
            self._is_reset = False
            self._respond(self._request(code), Answer(Outcome.LINE_BUSY))

    def _respond(self, request: Request, answer: Answer) -> None:
        self._bank.put(
            RESPONSE,
            {
                "busy": 0,
                "command": request.code,
                "outcome": answer.outcome,
                "camera": request.camera,
                "product": request.product,
                "frame_number": answer.frame_number,
            },
        )
        if answer.outcome >= Outcome.UNKNOWN_COMMAND:
            self._count_error(request.code, answer.outcome)

    def _count_error(self, code: int, outcome: Outcome) -> None:
        values = {"errors": min(self._bank.number(RESPONSE, "errors") + 1, 65535)}
        if not self._bank.number(RESPONSE, "first_error"):
            values |= {"first_error": outcome, "first_error_command": code}
        self._bank.put(RESPONSE, values)


def execute(at_line: tuple[str, ClientKeys | None] | None, places: IdMap, request: Request) -> Answer:
    """Send a command to the line, and wait for its answer.

    Args:
        at_line: the line's `commands.bind`, and the keys for it; None: it takes no commands.
    """
    if at_line is None:
        return Answer(Outcome.NO_COMMANDS)
    is_select = request.code == Command.SELECT
    timeout_s = SELECT_WITHIN_SECONDS if is_select else TRIGGER_WITHIN_SECONDS
    try:
        with Commander(at_line[0], timeout_s, at_line[1]) as line:
            if is_select:
                line.select(places.products[request.product - 1])
                return Answer(Outcome.DONE)
            reply = line.trigger(places.cameras[request.camera - 1], request.part_id)
    except HeatlineError as error:
        _failed_commands.error("a command of the PLC failed: %s", error)
        if isinstance(error, CommandRefusedError):
            return Answer(refusal(error.reason))
        return Answer(Outcome.NO_ACCESS if isinstance(error, AccessError) else Outcome.NO_REPLY)
    return Answer(Outcome.ANNOUNCED) if isinstance(reply, Announced) else Answer(Outcome.DONE, reply.frame_number)
