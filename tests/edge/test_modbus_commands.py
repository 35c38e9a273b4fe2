"""The PLC's commands: each is executed once, echoed and reset."""

import contextlib
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bridge.modbus.bridge import Answer, CommandRegisters, Request, execute
from heatline.edge.bridge.modbus.registers import COMMANDS, RESPONSE, Command, Outcome, RegisterBank, register_map
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Announced, Selected, SelectRequest, Triggered, TriggerRequest, refusal
from tests.edge.followed_line import BUNDLE
from tests.edge.modbus_plc import served
from tests.edge.test_modbus_registers import PLACES

DONE = Outcome.DONE, 5


class Registers:
    """The registers of commands, and what would be executed at the line."""

    def __init__(self) -> None:
        self.bank = RegisterBank(register_map(2), "high_first")
        self.executed: list[Request] = []
        self.commands = CommandRegisters(self.bank, PLACES, self.executed.append)

    def write(
        self, code: int, camera: int = 1, product: int = 1, part_id: bytes = b"", length: int | None = None
    ) -> None:
        data = part_id.ljust(64, b"\0")
        words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, 64, 2)]
        length = len(part_id) if length is None else length
        assert self.bank.write(COMMANDS.addresses["command"], [code, camera, product, length, *words])

    def answer(self, answer: Answer = DONE) -> None:
        self.commands.answered(self.executed[-1], answer)

    @property
    def response(self) -> tuple[int, int, int]:
        """Busy, echo, outcome."""
        busy, command, outcome = (self.bank.number(RESPONSE, name) for name in ("busy", "command", "outcome"))
        return busy, command, outcome


@pytest.fixture
def registers() -> Registers:
    return Registers()


def test_a_command_is_executed_once_echoed_and_reset_by_the_plc(registers: Registers) -> None:
    for _ in range(3):  # a PLC writes its registers in each cycle
        registers.write(Command.TRIGGER, camera=2, part_id=b"P-1")
        assert registers.response == (1, 0, 0)
    assert registers.executed == [Request(Command.TRIGGER, 2, 1, "P-1")]
    registers.answer()
    for _ in range(3):
        registers.write(Command.TRIGGER, camera=1, part_id=b"P-2")
        assert registers.response == (0, Command.TRIGGER, Outcome.DONE)
    echo = [registers.bank.number(RESPONSE, name) for name in ("camera", "product", "frame_number")]
    assert echo == [2, 1, 5]
    registers.write(0)
    assert registers.response == (0, 0, 0)
    registers.write(Command.SELECT, product=2)
    assert registers.executed[-1] == Request(Command.SELECT, 1, 2, None)
    assert len(registers.executed) == 2


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ({"code": 77}, Outcome.UNKNOWN_COMMAND),
        ({"code": Command.TRIGGER, "camera": 0}, Outcome.UNKNOWN_CAMERA),
        ({"code": Command.TRIGGER, "camera": 3}, Outcome.UNKNOWN_CAMERA),
        ({"code": Command.SELECT, "product": 0}, Outcome.UNKNOWN_PRODUCT),
        ({"code": Command.TRIGGER, "part_id": b"P", "length": 65}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "part_id": b"P", "length": 2}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "part_id": b"P\n1"}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "part_id": b"\xff"}, Outcome.BAD_PART_ID),
    ],
)
def test_a_wrong_argument_ends_a_command_before_it_reaches_the_line(
    registers: Registers, what: dict[str, Any], outcome: Outcome
) -> None:
    registers.write(**what)
    assert registers.response == (0, what["code"], outcome)
    assert registers.executed == []


def test_a_command_that_follows_another_without_0_is_not_executed(registers: Registers) -> None:
    registers.write(Command.TRIGGER)
    registers.answer()
    for _ in range(3):
        registers.write(Command.SELECT)
    assert registers.response == (0, Command.TRIGGER, Outcome.DONE), "the response is still the first command's"
    assert len(registers.executed) == 1


def test_a_command_written_while_one_that_was_given_up_is_executed_is_refused(registers: Registers) -> None:
    registers.write(Command.TRIGGER, part_id=b"P-1")
    registers.write(0)
    assert registers.response == (1, 0, 0), "still being executed"
    registers.write(Command.TRIGGER, part_id=b"P-2")
    assert registers.response == (1, 0, 0)
    registers.answer((Outcome.NO_REPLY, 0))
    assert registers.response == (0, Command.TRIGGER, Outcome.LINE_BUSY)
    registers.write(0)
    registers.write(Command.TRIGGER, part_id=b"P-3")
    assert [request.part_id for request in registers.executed] == ["P-1", "P-3"]


def test_the_answer_of_a_command_that_was_given_up_is_not_taken_for_the_next(registers: Registers) -> None:
    registers.write(Command.TRIGGER)
    registers.write(0)
    registers.answer()
    assert registers.response == (0, 0, 0)


def test_commands_reach_the_line_and_its_answer_the_plc(address: str, tmp_path: Path) -> None:
    requested: list[object] = []

    def line(request: object, answer: Callable[[Any], object]) -> None:
        requested.append(request)
        match request:
            case TriggerRequest(camera="side"):
                answer(Announced(camera="side", part_id=request.part_id))
            case TriggerRequest(part_id="refused"):
                answer(refusal("camera_dead", "it is not there"))
            case TriggerRequest():
                answer(Triggered(camera="top", part_id=request.part_id, frame_id=7, frame_number=70001))
            case SelectRequest():
                answer(Selected(product=request.product, bundle=BUNDLE))

    at_line = f"ipc://{tmp_path}/commands"
    line_server = CommandServer(at_line, line)
    line_server.start()
    with served(address) as server, contextlib.closing(line_server):
        plc = server.plc()

        def answer_soon(request: Request) -> None:
            answered = functools.partial(execute, (at_line, None), PLACES)
            threading.Thread(target=lambda: server.soon(registers.answered, request, answered(request))).start()

        registers = server.call(CommandRegisters, server.bank, PLACES, answer_soon)

        def run(code: int, **arguments: Any) -> tuple[int, int]:
            plc.command(code, **arguments)
            values = plc.until(RESPONSE, lambda values: values["command"] == code)
            plc.command(0)
            return values["outcome"], values["frame_number"]

        assert run(Command.TRIGGER, camera=1, part_id="P-1") == (Outcome.DONE, 70001)
        assert run(Command.TRIGGER, camera=2) == (Outcome.ANNOUNCED, 0)
        assert run(Command.SELECT, product=2) == (Outcome.DONE, 0)
        assert run(Command.TRIGGER, camera=1, part_id="refused") == (Outcome.LINE_CAMERA_DEAD, 0)
    assert [getattr(each, "part_id", None) for each in requested] == ["P-1", None, None, "refused"]
    assert [getattr(each, "product", None) for each in requested] == [None, None, "4712", None]


def test_a_line_that_takes_no_commands_or_is_not_there_is_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.bridge.modbus.bridge.TRIGGER_WITHIN_SECONDS", 0.05)
    request = Request(Command.TRIGGER, 1, 0, None)
    assert execute(None, PLACES, request) == (Outcome.NO_COMMANDS, 0)
    assert execute((f"ipc://{tmp_path}/nobody", None), PLACES, request) == (Outcome.NO_REPLY, 0)
