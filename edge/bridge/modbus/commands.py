"""Executes the PLC's commands at the line: a code is executed once, echoed with its outcome, and reset by the PLC."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from heatline.edge.bridge.modbus.codes import Command, IdMap, Outcome, refusal
from heatline.edge.bridge.modbus.registers import COMMANDS, PART_ID_CHARACTERS, RESPONSE, RegisterBank
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander
from heatline.edge.errors import AccessError, CommandRefusedError, HeatlineError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.commands import Announced

logger = logging.getLogger(__name__)

TRIGGER_WITHIN_SECONDS, SELECT_WITHIN_SECONDS = 10.0, 60.0
"""As `heatline trigger` and `heatline select`."""


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


class Executor:
    """Sends commands to the line, and waits for its answers.

    Args:
        at_line: the line's `commands.bind`, and the keys for it; None: it takes no commands.
    """

    def __init__(self, at_line: tuple[str, ClientKeys | None] | None, places: IdMap) -> None:
        self._at_line, self._places, self._log = at_line, places, RateLimitedLog(logger)

    def execute(self, request: Request) -> Answer:
        """Execute a command at the line."""
        if self._at_line is None:
            return Answer(Outcome.NO_COMMANDS)
        address, keys = self._at_line
        is_select = request.code == Command.SELECT
        try:
            with Commander(address, SELECT_WITHIN_SECONDS if is_select else TRIGGER_WITHIN_SECONDS, keys) as line:
                if is_select:
                    line.select(self._places.products[request.product - 1])
                    return Answer(Outcome.DONE)
                reply = line.trigger(self._places.cameras[request.camera - 1], request.part_id)
        except HeatlineError as error:
            self._log.error("a command of the PLC failed: %s", error)
            if isinstance(error, CommandRefusedError):
                return Answer(refusal(error.reason))
            return Answer(Outcome.NO_ACCESS if isinstance(error, AccessError) else Outcome.NO_REPLY)
        return Answer(Outcome.ANNOUNCED) if isinstance(reply, Announced) else Answer(Outcome.DONE, reply.frame_number)
