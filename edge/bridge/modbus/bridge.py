"""What the PLC reads and writes: results one after another in the mailbox, the newest verdicts, the state of the line,
and commands, which are executed once, echoed with their outcome, and reset by the PLC.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from heatline.edge.bridge.line import PART, RESULTS, TICK_SECONDS, Line, result_of, serve, state_of
from heatline.edge.bridge.modbus import registers
from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX, RESPONSE, Command, EntryKind, IdMap, Outcome
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap
from heatline.edge.errors import AccessError, CommandRefusedError, EventsLostError, HeatlineError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.commands import Announced, Selected, Triggered

logger = logging.getLogger(__name__)
_failed_commands = RateLimitedLog(logger)

TRIGGER_WITHIN_SECONDS, SELECT_WITHIN_SECONDS = 10.0, 60.0
"""As `heatline trigger` and `heatline select`."""


class Mailbox:
    """Shows one entry after another, each until the PLC has written its number.

    Only the thread of the server uses it, except `acknowledged`.
    """

    def __init__(self, bank: registers.RegisterBank) -> None:
        self._bank = bank
        self.acknowledged = threading.Event()
        """Set when the shown entry is acknowledged; cleared by who gives the next one."""
        bank.on_write.append(self._written)

    def show(self, entry: registers.Values) -> None:
        """Show an entry."""
        if entry["kind"] in (EntryKind.LOST, EntryKind.UNRECORDED):
            self._bank.put(LINE, {"losses": self._bank.number(LINE, "losses") + 1})
        self._bank.put(MAILBOX, entry)
        self._written()  # a PLC that writes its number in each cycle may know this entry from before a restart

    def _written(self) -> None:
        """Look at what the PLC acknowledges. Any number but that of the shown entry is of an earlier one."""
        number = self._bank.number(MAILBOX, "number")
        if number and self._bank.number(COMMANDS, "acknowledge") == number:
            self._bank.put(MAILBOX, {**registers.NOTHING, "acknowledged": number})
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
            entry = registers.entry(EntryKind.LOST, lost.journal_id, lost.through_seq, values)
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
        if isinstance(live, Gap):
            self.clear(live.topic.partition(".")[2].rpartition(".")[0] or PART)
        elif (result := result_of(live)) is None:
            self.clear()
        elif block := self._cameras.get(result.camera):
            results = self._bank.number(block, "results") + 1
            self._bank.put(block, {**registers.result_values(result, self._places), "results": results})

    def clear(self, camera: str | None = None) -> None:
        """Show no verdict of a camera, or of all: what was the newest one may not be it any more."""
        for name, block in self._cameras.items():
            if camera in (None, name):
                self._bank.put(block, registers.NO_RESULT)

    async def refresh(self, line: Line) -> None:
        """Copy what is known now. Call it several times a second."""
        status, is_heard, handshake = line.status, line.is_heard, line.handshake()
        reason = 0 if handshake.reason is None else registers.HANDSHAKE_REASONS.get(handshake.reason, registers.OTHER)
        state = registers.HANDSHAKE_STATES[handshake.state]
        self._bank.put(LINE, {"is_heard": int(is_heard), "state": state, "state_reason": reason})
        if not is_heard:
            self.clear()
        if status is None:
            return
        self._bank.put(
            LINE,
            {
                "heartbeat": status.handshake.heartbeat % 65535 + 1,  # 0: the line was never heard
                "is_simulated": int(not status.acting),
                "product": registers.place_of(status.product, self._places.products),
                "boot_id": bytes.fromhex(status.boot_id),
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


class CommandRegisters:
    """Executes commands at the line, one at a time. Only the thread of the server uses it."""

    def __init__(self, bank: registers.RegisterBank, places: IdMap, line: Line) -> None:
        self._bank, self._places, self._line = bank, places, line
        self._is_executing = False
        self._is_reset = True
        """Whether the PLC has written 0 since it wrote the last command."""
        bank.on_write.append(self._written)

    def _written(self) -> None:
        echo = self._echo()
        if echo["command"] == Command.NONE:
            self._is_reset = True
            self._bank.put(RESPONSE, {"command": 0, "outcome": 0})
        elif self._is_reset and not self._is_executing:
            self._is_reset, self._is_executing = False, True
            self._bank.put(RESPONSE, {"busy": 1, "command": 0, "outcome": 0})
            self._task = asyncio.create_task(self._execute(echo, self._part_id()))

    def _echo(self) -> dict[str, int]:
        """Return the command and its numbers, as they are now, for the response."""
        return {name: self._bank.number(COMMANDS, name) for name in ("command", "camera", "product")}

    def _part_id(self) -> str | None:
        """Return the part id, as it is now; None: there is none. Empty: the registers do not hold one."""
        length = self._bank.number(COMMANDS, "part_id_length")
        part_id = self._bank.data(COMMANDS, "part_id")[:length].decode("latin-1")
        fits = len(part_id) == length and part_id.isascii() and part_id.isprintable()
        return None if length == 0 else part_id if fits else ""

    async def _execute(self, echo: dict[str, int], part_id: str | None) -> None:
        outcome, frame_number = await self._outcome(echo, part_id)
        self._is_executing = False
        if self._is_reset:
            # The PLC has given it up by writing 0. A command that it wrote since then is not executed: it would be
            # late, and a trigger would show another part.
            echo, frame_number = self._echo(), 0
            self._is_reset = echo["command"] == Command.NONE
            outcome = Outcome.NONE if self._is_reset else Outcome.LINE_BUSY
        self._bank.put(RESPONSE, {"busy": 0, **echo, "outcome": outcome, "frame_number": frame_number})

    async def _outcome(self, echo: dict[str, int], part_id: str | None) -> tuple[Outcome, int]:
        """Execute a command; return how it ended, and the number of the frame that was triggered; 0: there is none."""
        line, cameras, products = self._line, self._places.cameras, self._places.products
        camera, product = echo["camera"], echo["product"]
        reply: Triggered | Announced | Selected | HeatlineError | None
        match echo["command"]:
            case Command.TRIGGER:
                if not 1 <= camera <= self._places.triggered:
                    return Outcome.UNKNOWN_CAMERA, 0
                if part_id == "":
                    return Outcome.BAD_PART_ID, 0
                reply = await line.command(TRIGGER_WITHIN_SECONDS, lambda to: to.trigger(cameras[camera - 1], part_id))
            case Command.SELECT:
                if not 1 <= product <= len(products):
                    return Outcome.UNKNOWN_PRODUCT, 0
                reply = await line.command(SELECT_WITHIN_SECONDS, lambda to: to.select(products[product - 1]))
            case _:
                return Outcome.UNKNOWN_COMMAND, 0
        if isinstance(reply, HeatlineError):
            _failed_commands.error("a command of the PLC failed: %s", reply)
        match reply:
            case None:
                return Outcome.NO_COMMANDS, 0
            case CommandRefusedError():
                return registers.refusal(reply.reason), 0
            case HeatlineError():
                return Outcome.NO_ACCESS if isinstance(reply, AccessError) else Outcome.NO_REPLY, 0
            case Announced():
                return Outcome.ANNOUNCED, 0
        return Outcome.DONE, reply.frame_number if isinstance(reply, Triggered) else 0


def run_bridge(line: str) -> None:
    """Serve a line over Modbus TCP until SIGTERM or Ctrl-C.

    Raises: as `Follower.receive`, and
        ConfigError: the line's file has no table `[modbus]`, or cannot be used.
        DeliveryError: the bridge cannot listen.
    """
    asyncio.run(_serve(Line(line, "modbus")))


async def _serve(line: Line) -> None:
    config: ModbusConfig = line.table
    places = IdMap(line.places, [each.name for each in line.config.products])
    bank = registers.RegisterBank(registers.register_map(len(places.cameras)), config.word_order)
    blocks, mailbox, loop = LineBlocks(bank, places), Mailbox(bank), asyncio.get_running_loop()
    CommandRegisters(bank, places, line)
    line.on_live = lambda live: loop.call_soon_threadsafe(blocks.take, live)

    def follow(is_over: threading.Event) -> None:
        with line.follower(topics=(*RESULTS, "journal")) as events:
            feed(events, places, mailbox, loop.call_soon_threadsafe, is_over)

    with line:
        server = ModbusServer(bank, config)
        await server.start()
        logger.info("Modbus TCP on %s, results of %s as consumer %s", config.listen, line.journal[0], config.name)
        try:
            await serve(follow, lambda: blocks.refresh(line), f"Modbus TCP on {config.listen}")
        finally:
            await server.close()
