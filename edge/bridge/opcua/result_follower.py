"""Follows a line's results on a thread, and passes them to the server's event loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Self

from heatline.edge.bridge.line import VERDICTS
from heatline.edge.bridge.opcua.results import HeldResults
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.errors import EventsLostError
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.following import Delivered

TOPICS = VERDICTS, "journal"
"""Journal events say what the journal itself lacks."""
TICK_SECONDS = 0.1
"""So soon, clients' acknowledgements reach the line."""
EVENTS_AT_ONCE = 100

News = list[Delivered] | EventsLostError


class ResultFollower:
    """The thread. Use it as an asynchronous context.

    Args:
        follower: makes the durable consumer, which keeps its position, in the thread.
        held: says how far results are done.
        take: takes what came, in the event loop.
        on_end: called in the event loop with the error that ended the thread.
    """

    def __init__(
        self,
        follower: Callable[[], Follower],
        held: HeldResults,
        take: Callable[[News], Awaitable[None]],
        on_end: Callable[[BaseException], None],
    ) -> None:
        self._follower, self._held, self._take, self._on_end = follower, held, take, on_end
        self._ended = threading.Event()
        self._thread = NamedThread("opcua results", self._run)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        while self._thread.is_alive():  # the loop must run meanwhile: the thread may wait for it
            await asyncio.sleep(0.01)

    def _run(self) -> None:
        try:
            with self._follower() as events:
                acknowledged: Delivered | None = None
                while not self._ended.is_set():
                    try:
                        news: News = events.receive_batch(EVENTS_AT_ONCE)
                    except EventsLostError as lost:
                        news = lost
                    if news:
                        self._pass_on(news)
                    done = self._held.done_through
                    if done is not None and done is not acknowledged:
                        events.acknowledge(done)
                        if self._held.settled_through is not None:
                            events.settle(self._held.settled_through)
                        acknowledged = done
        except Exception as error:  # also a bug ends the bridge: it must not stand still without a word
            self._loop.call_soon_threadsafe(self._on_end, error)

    def _pass_on(self, news: News) -> None:
        async def take() -> None:
            await self._take(news)

        asyncio.run_coroutine_threadsafe(take(), self._loop).result()
