"""The Modbus bridge as a process: the server, and a thread each for results, live verdicts, the state and commands."""

import asyncio
import logging
import signal
from collections.abc import Callable

from heatline.edge.bridge.line import LineState, load_with_table
from heatline.edge.bridge.modbus.bank import RegisterBank
from heatline.edge.bridge.modbus.commands import CommandRegisters, Executor
from heatline.edge.bridge.modbus.feed import Feed
from heatline.edge.bridge.modbus.live import LatestVerdicts, LiveVerdicts
from heatline.edge.bridge.modbus.mailbox import Mailbox
from heatline.edge.bridge.modbus.panel import StatusBlock
from heatline.edge.bridge.modbus.registers import camera_block, register_map
from heatline.edge.bridge.modbus.results import IdMap
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config import LineConfig
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.target import KeyFiles, endpoint_of
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
END_WITHIN_SECONDS = 1.2
"""A command that the line does not answer must not delay the end."""


def run_bridge(line: str) -> None:
    """Serve a line over Modbus TCP until SIGTERM or Ctrl-C.

    Raises:
        AccessError: the line does not authorize this bridge.
        ConfigError: the line's file cannot be used.
        SupersededError: a newer bridge follows under this name.
        DeliveryError: the bridge cannot listen, or the line refuses for another reason that is final.
        MessageError: what came is not of a line that this version understands.
    """
    config = load_with_table(line, "modbus")
    assert config.modbus is not None
    asyncio.run(_serve(line, config, config.modbus))


async def _serve(line: str, config: LineConfig, modbus: ModbusConfig) -> None:
    places, blocks = IdMap.of(config), register_map(len(config.cameras))
    cameras = [camera_block(place + 1) for place in range(len(config.cameras))]
    events_at, events_keys = endpoint_of(line, "events", KeyFiles())
    journal_at, journal_keys = endpoint_of(line, "journal", KeyFiles())
    commands_at, commands_keys = (
        (None, None) if config.commands.bind is None else endpoint_of(line, "commands", KeyFiles())
    )

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    bank = RegisterBank(blocks, modbus.word_order)
    latest, mailbox = LatestVerdicts(bank, cameras, places), Mailbox(bank, modbus.acknowledge)
    executor = Executor(
        commands_at,
        commands_keys,
        places,
        lambda request, answer: loop.call_soon_threadsafe(registers.answered, request, answer),
    )
    registers = CommandRegisters(bank, places, executor.execute)
    feed = Feed(journal_at, modbus.name, journal_keys, places, mailbox, loop.call_soon_threadsafe, modbus.start)
    live = LiveVerdicts(events_at, events_keys, latest, loop.call_soon_threadsafe)
    threads = [
        NamedThread(name, _reporting(run, ended))
        for name, run in (("results", feed.run), ("live verdicts", live.run), ("commands", executor.run))
    ]

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, None)
    server = ModbusServer(bank, modbus)
    with LineState(events_at, events_keys) as state:
        panel = StatusBlock(bank, state, places, cameras, latest, modbus.name)
        await server.start()
        for thread in threads:
            thread.start()
        notify("READY=1", f"STATUS=serving Modbus TCP on {modbus.listen}")
        logger.info("Modbus TCP on %s, results of %s as consumer %s", modbus.listen, journal_at, modbus.name)
        try:
            while not ended.done():
                panel.refresh()
                notify("WATCHDOG=1")
                await asyncio.wait([ended], timeout=REFRESH_SECONDS)
        finally:
            notify("STOPPING=1")
            await server.close()
            for part in (feed, live, executor):
                part.end()
            # In threads of their own: they may still call this loop.
            await asyncio.gather(*(asyncio.to_thread(thread.join, END_WITHIN_SECONDS) for thread in threads))
    ended.result()


def _reporting(run: Callable[[], None], ended: "asyncio.Future[None]") -> Callable[[], None]:
    """Return a function that runs another one, and ends the bridge with its error."""
    loop = ended.get_loop()

    def reporting() -> None:
        try:
            run()
        except BaseException as error:
            loop.call_soon_threadsafe(_end, ended, error)

    return reporting


def _end(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
