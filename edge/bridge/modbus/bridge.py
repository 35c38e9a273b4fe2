"""The Modbus bridge as a process: the server, a thread each for results and live events, and one for each command."""

import asyncio
import logging
import signal

from heatline.edge.bridge.line import LineState, in_thread, load_with_table
from heatline.edge.bridge.modbus.blocks import (
    CommandRegisters,
    Executor,
    Feed,
    LatestVerdicts,
    Mailbox,
    Request,
    StatusBlock,
)
from heatline.edge.bridge.modbus.codes import IdMap
from heatline.edge.bridge.modbus.registers import RegisterBank, camera_block, register_map
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config import LineConfig
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.target import KeyFiles, endpoint_of
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
END_WITHIN_SECONDS = 1.2


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
    places, cameras = IdMap.of(config), [camera_block(place + 1) for place in range(len(config.cameras))]
    bank = RegisterBank(register_map(len(cameras)), modbus.word_order)
    events, (journal_at, journal_keys) = (endpoint_of(line, name, KeyFiles()) for name in ("events", "journal"))
    commands = None if config.commands.bind is None else endpoint_of(line, "commands", KeyFiles())
    latest, mailbox = LatestVerdicts(bank, cameras, places), Mailbox(bank, modbus.acknowledge)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    executor, executing = Executor(commands, places), set[asyncio.Task[None]]()

    async def execute(request: Request) -> None:
        registers.answered(request, await in_thread("modbus command", lambda: executor.execute(request)))

    def begin(request: Request) -> None:
        executing.add(task := loop.create_task(execute(request)))
        task.add_done_callback(executing.discard)

    registers = CommandRegisters(bank, places, begin)
    feed = Feed(journal_at, modbus.name, journal_keys, places, mailbox, loop.call_soon_threadsafe, modbus.start)

    def follow() -> None:
        try:
            feed.run()
        except BaseException as error:
            loop.call_soon_threadsafe(_end, ended, error)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, None)
    server, following = ModbusServer(bank, modbus), NamedThread("results", follow)
    with LineState(*events, on_live=lambda live: loop.call_soon_threadsafe(latest.take, live)) as state:
        status = StatusBlock(bank, state, places, cameras, latest, modbus.name)
        await server.start()
        following.start()
        notify("READY=1", f"STATUS=serving Modbus TCP on {modbus.listen}")
        logger.info("Modbus TCP on %s, results of %s as consumer %s", modbus.listen, journal_at, modbus.name)
        try:
            while not ended.done():
                status.refresh()
                notify("WATCHDOG=1")
                await asyncio.wait([ended], timeout=REFRESH_SECONDS)
        finally:
            notify("STOPPING=1")
            await server.close()
            feed.end()
            await asyncio.to_thread(following.join, END_WITHIN_SECONDS)  # it may still call this loop
    ended.result()


def _end(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
