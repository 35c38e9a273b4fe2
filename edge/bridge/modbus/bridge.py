"""What the PLC reads and writes: results one after another in the mailbox, the newest verdicts, the state of the line,
and commands, which are executed once, echoed with their outcome, and reset by the PLC.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from heatline.edge.bridge.line import (
    PART,
    RESULTS,
    TICK_SECONDS,
    LineState,
    in_thread,
    load_with_table,
    places_of,
    result_of,
    serve,
    set_by_signals,
    state_of,
)
from heatline.edge.bridge.modbus import registers
from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX, RESPONSE, Command, IdMap, Outcome
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config import LineConfig
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap
from heatline.edge.errors import AccessError, CommandRefusedError, EventsLostError, HeatlineError
from heatline.edge.target import KeyFiles, endpoint_of
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.commands import Announced
from heatline.edge.wire.events import PartEvent, StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)
_failed_commands = RateLimitedLog(logger)

TOPICS = (*RESULTS, "journal")
TRIGGER_WITHIN_SECONDS, SELECT_WITHIN_SECONDS = 10.0, 60.0
"""As `heatline trigger` and `heatline select`."""
Answer = tuple[Outcome, int]
"""How a command ended, and the number of the frame that was triggered; 0: there is none."""


class Mailbox:
    """Shows one entry after another, each until the PLC has written its number.

    Only the thread of the server uses it, except `acknowledged`.
    """

    def __init__(self, bank: registers.RegisterBank) -> None:
        self._bank = bank
        self._shown: registers.Entry | None = None
        self._losses = 0
        self.acknowledged = threading.Event()
        """Set when the shown entry is acknowledged; cleared by who gives the next one."""
        bank.on_write(self._written)

    def show(self, entry: registers.Entry) -> None:
        """Show an entry."""
        self._shown = entry
        if entry.kind in (registers.EntryKind.LOST, registers.EntryKind.UNRECORDED):
            self._losses += 1
            self._bank.put(LINE, {"losses": self._losses})
        self._bank.put(MAILBOX, entry.registers())
        self._written()  # a PLC that writes its number in each cycle may know this entry from before a restart

    def _written(self) -> None:
        """Look at what the PLC acknowledges. Any number but that of the shown entry is of an earlier one."""
        entry = self._shown
        if entry is not None and self._bank.number(COMMANDS, "acknowledge") == entry.number:
            self._shown = None
            self._bank.put(MAILBOX, {**registers.NOTHING, "acknowledged": entry.number})
            self.acknowledged.set()


def feed(
    events: Follower, places: IdMap, mailbox: Mailbox, on_server: Callable[..., object], is_over: threading.Event
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
            entry = None if delivered is None else registers.entry_of(delivered, places)
        except EventsLostError as lost:
            logger.error("%s; the mailbox shows it to the PLC", lost)
            values = {"lost_after": lost.after_seq}
            entry = registers.Entry(registers.EntryKind.LOST, lost.journal_id, lost.through_seq, values)
        if entry is None:
            continue
        mailbox.acknowledged.clear()
        on_server(mailbox.show, entry)
        while not mailbox.acknowledged.wait(TICK_SECONDS):
            if is_over.is_set():
                return
            events.hold()
    events.acknowledge()


class LineBlocks:
    """The state of the line and of its cameras, and the newest verdict of each camera, for a PLC that acts on it. Only
    the thread of the server uses it.
    """

    def __init__(self, bank: registers.RegisterBank, places: IdMap) -> None:
        self._bank, self._places = bank, places
        self._cameras = {name: registers.camera_block(place) for place, name in enumerate(places.cameras, 1)}
        known = {"map_version": registers.MAP_VERSION, "products": len(places.products), "cameras": places.triggered}
        bank.put(LINE, known)

    def take(self, live: object) -> None:
        """Show a verdict. If something else came, some were missed, and what is shown may not be the newest."""
        match live:
            case VerdictEvent() | PartEvent():
                result = result_of(live)
                if result is not None and (block := self._cameras.get(result.camera)):
                    results = self._bank.number(block, "results") + 1
                    self._bank.put(block, {**registers.result_values(result, self._places), "results": results})
            case Gap():
                kind, camera, *_ = live.topic.split(".")
                self.clear(PART if kind == PART else camera)
            case _:
                self.clear()

    def clear(self, camera: str | None = None) -> None:
        """Show no verdict of a camera, or of all: what was the newest one may not be it any more."""
        for name, block in self._cameras.items():
            if camera in (None, name):
                self._bank.put(block, registers.NO_RESULT)

    async def refresh(self, line: LineState) -> None:
        """Copy what is known now. Call it several times a second."""
        status, is_heard, handshake = line.status, line.is_heard, line.handshake()
        reason = 0 if handshake.reason is None else registers.HANDSHAKE_REASONS.get(handshake.reason, registers.OTHER)
        state = registers.HANDSHAKE_STATES[handshake.state]
        self._bank.put(LINE, {"is_heard": int(is_heard), "state": state, "state_reason": reason})
        if status is not None:
            self._show(status)
        if not is_heard:
            self.clear()

    def _show(self, status: StatusEvent) -> None:
        self._bank.put(
            LINE,
            {
                "heartbeat": status.handshake.heartbeat % 65535 + 1,  # 0: the line was never heard
                "is_simulated": int(not status.acting),
                "product": registers.place_of(status.product, self._places.products),
                "boot_id": registers.id_bytes(status.boot_id),
            },
        )
        for name, block in self._cameras.items():
            camera, account = state_of(status, name)
            self._bank.put(
                block,
                {
                    "state": 0 if camera is None else registers.CAMERA_STATES.get(camera.state, registers.OTHER),
                    "captured": account.captured,
                    "inspected": account.inspected,
                    "dropped": sum(account.dropped.values()),
                    "failed": sum(account.failed.values()),
                    "in_flight": account.in_flight,
                },
            )
            if camera is None or camera.state == "DEAD":
                self.clear(name)


@dataclass(frozen=True)
class Request:
    """A command with its arguments, as they were when the PLC wrote it."""

    code: int
    camera: int
    product: int
    part_id: str | None
    """None: there is none. Empty: the registers do not hold one of that length."""


class CommandRegisters:
    """The registers of commands and responses. Only the thread of the server uses it.

    `execute` begins to execute a trigger or a selection, whose answer is given to `answered`.
    """

    def __init__(self, bank: registers.RegisterBank, places: IdMap, execute: Callable[[Request], object]) -> None:
        self._bank, self._places, self._execute = bank, places, execute
        self._is_executing = False
        self._is_reset = True
        """Whether the PLC has written 0 since it wrote the last command."""
        bank.on_write(self._written)

    def _written(self) -> None:
        code = self._bank.number(COMMANDS, "command")
        if code == Command.NONE:
            self._is_reset = True
            self._bank.put(RESPONSE, {"command": 0, "outcome": 0})
        elif self._is_reset and not self._is_executing:
            self._is_reset = False
            request = self._request(code)
            outcome = self._outcome_at_once(request)
            if outcome is not None:
                self._respond(request, (outcome, 0))
                return
            self._is_executing = True
            self._bank.put(RESPONSE, {"busy": 1, "command": 0, "outcome": 0})
            self._execute(request)

    def _request(self, code: int) -> Request:
        bank = self._bank
        length, text = bank.number(COMMANDS, "part_id_length"), bank.data(COMMANDS, "part_id").decode("latin-1")
        fits = length <= registers.PART_ID_CHARACTERS and text[:length].isascii() and text[:length].isprintable()
        part_id = text[:length] if fits else ""
        camera, product = bank.number(COMMANDS, "camera"), bank.number(COMMANDS, "product")
        return Request(code, camera, product, part_id if length else None)

    def _outcome_at_once(self, request: Request) -> Outcome | None:
        """Return how a command ends that does not reach the line; None: it is to be executed there."""
        match request.code:
            case Command.TRIGGER:
                if not 1 <= request.camera <= self._places.triggered:
                    return Outcome.UNKNOWN_CAMERA
                return Outcome.BAD_PART_ID if request.part_id == "" else None
            case Command.SELECT:
                is_known = 1 <= request.product <= len(self._places.products)
                return None if is_known else Outcome.UNKNOWN_PRODUCT
        return Outcome.UNKNOWN_COMMAND

    def answered(self, request: Request, answer: Answer) -> None:
        """Give the answer of a command that was executed, unless the PLC has given it up by writing 0.

        A command that it wrote since then is not executed: it would be late, and a trigger would show another part.
        """
        self._is_executing = False
        if self._is_reset:
            code = self._bank.number(COMMANDS, "command")
            if code == Command.NONE:
                self._bank.put(RESPONSE, {"busy": 0})
                return
            self._is_reset = False
            request, answer = self._request(code), (Outcome.LINE_BUSY, 0)
        self._respond(request, answer)

    def _respond(self, request: Request, answer: Answer) -> None:
        outcome, frame_number = answer
        self._bank.put(
            RESPONSE,
            {
                "busy": 0,
                "command": request.code,
                "outcome": outcome,
                "camera": request.camera,
                "product": request.product,
                "frame_number": frame_number,
            },
        )


def execute(at_line: tuple[str, ClientKeys | None] | None, places: IdMap, request: Request) -> Answer:
    """Send a command to the line, and wait for its answer.

    Args:
        at_line: the line's `commands.bind`, and the keys for it; None: it takes no commands.
    """
    if at_line is None:
        return Outcome.NO_COMMANDS, 0
    is_select = request.code == Command.SELECT
    timeout_s = SELECT_WITHIN_SECONDS if is_select else TRIGGER_WITHIN_SECONDS
    try:
        with Commander(at_line[0], timeout_s, at_line[1]) as line:
            if is_select:
                line.select(places.products[request.product - 1])
                return Outcome.DONE, 0
            reply = line.trigger(places.cameras[request.camera - 1], request.part_id)
    except HeatlineError as error:
        _failed_commands.error("a command of the PLC failed: %s", error)
        if isinstance(error, CommandRefusedError):
            return registers.refusal(error.reason), 0
        return Outcome.NO_ACCESS if isinstance(error, AccessError) else Outcome.NO_REPLY, 0
    return (Outcome.ANNOUNCED, 0) if isinstance(reply, Announced) else (Outcome.DONE, reply.frame_number)


def run_bridge(line: str) -> None:
    """Serve a line over Modbus TCP until SIGTERM or Ctrl-C.

    Raises: as `Follower.receive`, and
        ConfigError: the line's file has no table `[modbus]`, or cannot be used.
        DeliveryError: the bridge cannot listen.
    """
    config = load_with_table(line, "modbus")
    assert config.modbus is not None
    asyncio.run(_serve(line, config, config.modbus))


async def _serve(line: str, config: LineConfig, modbus: ModbusConfig) -> None:
    places = IdMap(places_of(config), [each.name for each in config.products])
    bank = registers.RegisterBank(registers.register_map(len(places.cameras)), modbus.word_order)
    events, journal = (endpoint_of(line, name, KeyFiles()) for name in ("events", "journal"))
    at_line = None if config.commands.bind is None else endpoint_of(line, "commands", KeyFiles())
    blocks, mailbox = LineBlocks(bank, places), Mailbox(bank)
    loop, executing = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def answer(request: Request) -> None:
        requests.answered(request, await in_thread("modbus command", lambda: execute(at_line, places, request)))

    def begin(request: Request) -> None:
        executing.add(task := loop.create_task(answer(request)))
        task.add_done_callback(executing.discard)

    def follow(is_over: threading.Event) -> None:
        address, keys = journal
        with Follower(
            address, modbus.name, topics=TOPICS, start=modbus.start, timeout_s=TICK_SECONDS, keys=keys
        ) as results:
            feed(results, places, mailbox, loop.call_soon_threadsafe, is_over)

    requests, is_over = CommandRegisters(bank, places, begin), set_by_signals()
    with LineState(*events, on_live=lambda live: loop.call_soon_threadsafe(blocks.take, live)) as state:
        server = ModbusServer(bank, modbus)
        await server.start()
        logger.info("Modbus TCP on %s, results of %s as consumer %s", modbus.listen, journal[0], modbus.name)
        try:
            await serve(is_over, follow, lambda: blocks.refresh(state), f"Modbus TCP on {modbus.listen}")
        finally:
            await server.close()
