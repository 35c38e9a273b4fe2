"""Sends messages to each reading socket of a line at a steady rate, and counts the replies."""

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from types import TracebackType
from typing import Literal, Self

import msgspec
import zmq

from heatline.edge.errors import BenchError
from tests.system.hostile_messages import Parts, SocketName, malformed_messages, valid_messages

TICK_S = 0.005
POOL = 5000
"""Malformed messages per socket, which are sent repeatedly."""
CONSUMER = "bench-sender"
FOLLOWED_WITHIN_MS = 10_000

What = Literal["valid", "malformed", "nothing"]


class Sender:
    """Sender that connects on creation, and sends in a thread for the duration of the `with` block.

    Args:
        per_s: messages per second on each socket.
        camera: of the line.
        addresses: of the sockets that read.
    Raises:
        BenchError: the line does not answer a consumer.
    """

    def __init__(self, what: What, per_s: float, seed: int, camera: str, addresses: Mapping[SocketName, str]) -> None:
        self.sent: Counter[SocketName] = Counter()
        self.replies: Counter[str] = Counter()
        """By socket and kind: the reply's type, or the reason of a refusal."""
        self._per_s = 0.0 if what == "nothing" else per_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = {name: self._connected(name, address) for name, address in addresses.items()}
        if what == "malformed":
            messages = malformed_messages(random.Random(seed), camera, POOL)
        else:
            messages = valid_messages(camera, CONSUMER, self._journal_id())
        self._pools = {name: cycle(each) for name, each in messages.items()}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def _connected(self, name: SocketName, address: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.XSUB if name == "events" else zmq.DEALER)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        return socket

    def _journal_id(self) -> str:
        journal = self._sockets["journal"]
        journal.send_json({"type": "follow", "schema_version": 2, "name": CONSUMER, "client": "one", "window": 1})
        if not journal.poll(FOLLOWED_WITHIN_MS):
            raise BenchError("the line does not answer a consumer")
        following = msgspec.json.decode(journal.recv_multipart()[0])
        return str(following["journal_id"])

    def _run(self) -> None:
        began_s = time.monotonic()
        while not self._ending.wait(TICK_S):
            due = int((time.monotonic() - began_s) * self._per_s)
            for name, socket in self._sockets.items():
                while self.sent[name] < due:
                    socket.send_multipart(next(self._pools[name]))
                    self.sent[name] += 1
                while socket.poll(0):
                    self.replies[_kind(name, socket.recv_multipart())] += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._context.destroy()


def _kind(name: SocketName, parts: Parts) -> str:
    if name == "events":
        return "events"
    said = msgspec.json.decode(parts[0])
    return f"{name} {said.get('reason') or said['type']}"
