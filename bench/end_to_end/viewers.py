"""Programs that look at the page of a line as browsers do, in a process of their own."""

import contextlib
import time
from typing import Any

import msgspec

from heatline.edge.util.process import NamedThread

RETRY_SECONDS = 0.2
OPEN_SECONDS = 60.0
LARGEST_PICTURE = 1 << 24


class Viewers:
    """Viewers of a page: each reads everything, and acknowledges each picture as soon as it has it.

    A browser acknowledges a picture only after it has drawn it, and runs on another machine. So these viewers get more
    pictures than browsers would, and take processor time that browsers would not: it counts against the service.

    Args:
        address: `HOST:PORT` of the page. A viewer connects again whenever its connection ends.
        count: number of viewers.
    """

    def __init__(self, address: str, count: int) -> None:
        self._pictures = [0] * count
        for number in range(count):
            NamedThread(f"viewer {number}", self._view, f"ws://{address}/live", number).start()

    def pictures(self) -> list[int]:
        """Return the number of pictures that each viewer has got."""
        return list(self._pictures)

    def _view(self, url: str, number: int) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        while True:
            with (
                contextlib.suppress(OSError, WebSocketException),
                connect(
                    url,
                    max_size=LARGEST_PICTURE,
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=OPEN_SECONDS,
                ) as page,
            ):
                while True:
                    message: dict[str, Any] = msgspec.json.decode(page.recv())
                    if message["type"] != "picture":
                        continue
                    for _ in ("frame", "heatmap")[: 1 if message["heatmap"] is None else 2]:
                        page.recv()
                    ack = {"type": "ack", "camera": message["camera"], "id": message["id"]}
                    page.send(msgspec.json.encode(ack).decode())
                    self._pictures[number] += 1
            time.sleep(RETRY_SECONDS)
