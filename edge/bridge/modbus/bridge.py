"""The Modbus bridge as a process: the server, a thread each for results and live events, and one for each command."""

import asyncio
import logging
import threading

from heatline.edge.bridge.line import TICK_SECONDS, LineState, end_by_signals, in_thread, load_with_table, serve
from heatline.edge.bridge.modbus.blocks import (
    TOPICS,
    CommandRegisters,
    LatestVerdicts,
    Mailbox,
    Request,
    StatusBlock,
    execute,
    feed,
)
from heatline.edge.bridge.modbus.registers import IdMap, RegisterBank, camera_block, register_map
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config import LineConfig
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.delivery.follower import Follower
from heatline.edge.target import KeyFiles, endpoint_of

logger = logging.getLogger(__name__)


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
    events, journal = (endpoint_of(line, name, KeyFiles()) for name in ("events", "journal"))
    commands = None if config.commands.bind is None else endpoint_of(line, "commands", KeyFiles())
    latest, mailbox = LatestVerdicts(bank, cameras, places), Mailbox(bank, modbus.acknowledge)
    loop, executing = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def answer(request: Request) -> None:
        registers.answered(request, await in_thread("modbus command", lambda: execute(commands, places, request)))

    def begin(request: Request) -> None:
        executing.add(task := loop.create_task(answer(request)))
        task.add_done_callback(executing.discard)

    def follow(is_over: threading.Event) -> None:
        address, keys = journal
        with Follower(
            address, modbus.name, topics=TOPICS, start=modbus.start, timeout_s=TICK_SECONDS, keys=keys
        ) as results:
            feed(results, places, mailbox, loop.call_soon_threadsafe, is_over)

    registers = CommandRegisters(bank, places, begin)
    ended: asyncio.Future[None] = loop.create_future()
    end_by_signals(ended)
    with LineState(*events, on_live=lambda live: loop.call_soon_threadsafe(latest.take, live)) as state:
        status, server = StatusBlock(bank, state, places, cameras, latest, modbus.name), ModbusServer(bank, modbus)
        await server.start()
        logger.info("Modbus TCP on %s, results of %s as consumer %s", modbus.listen, journal[0], modbus.name)
        try:
            await serve(ended, follow, status.refresh, f"Modbus TCP on {modbus.listen}")
        finally:
            await server.close()
