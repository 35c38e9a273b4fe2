"""Sends a line messages at a steady rate, on every socket that reads, and takes the replies. A process of its own.

    python -m bench.delivery.sender ORDERS      ORDERS: an Orders, in JSON

Says `ready` once it is connected, and what it sent when its standard input ends.
"""

import random
import select
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Literal

import msgspec
import zmq

from bench.delivery.hostile_messages import Parts, SocketName, malformed_messages, valid_messages

TICK_S = 0.005
POOL = 5000
"""Malformed messages per socket, sent again and again."""
CONSUMER = "bench-sender"
FOLLOWED_WITHIN_MS = 10_000

What = Literal["valid", "malformed", "nothing"]


class Orders(msgspec.Struct, frozen=True):
    """What to send where."""

    what: What
    per_s: float
    """On each socket."""
    seed: int
    camera: str
    addresses: dict[SocketName, str]


class Sent(msgspec.Struct, frozen=True):
    """What was sent, and came back."""

    messages: dict[SocketName, int]
    replies: dict[str, int]
    """By socket and kind: the reply's type, of a refusal its reason."""


def main() -> None:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    with zmq.Context() as context:
        sockets = {name: _connected(context, name, address) for name, address in orders.addresses.items()}
        messages = _messages(orders, sockets["journal"])
        print("ready", flush=True)
        sent = _send(orders, sockets, messages)
        for socket in sockets.values():
            socket.close(linger=0)
    print(msgspec.json.encode(sent).decode(), flush=True)


def _connected(context: "zmq.Context[zmq.Socket[bytes]]", name: SocketName, address: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.XSUB if name == "events" else zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.connect(address)
    return socket


def _messages(orders: Orders, journal: "zmq.Socket[bytes]") -> dict[SocketName, list[Parts]]:
    if orders.what == "malformed":
        return malformed_messages(random.Random(orders.seed), orders.camera, POOL)
    journal.send_json({"type": "follow", "schema_version": 1, "name": CONSUMER, "client": "one", "window": 1})
    if not journal.poll(FOLLOWED_WITHIN_MS):
        raise SystemExit("the line does not answer a consumer")
    following = msgspec.json.decode(journal.recv_multipart()[0])
    return valid_messages(orders.camera, CONSUMER, following["journal_id"])


def _send(
    orders: Orders, sockets: "dict[SocketName, zmq.Socket[bytes]]", messages: dict[SocketName, list[Parts]]
) -> Sent:
    """Until standard input ends."""
    pools = {name: cycle(each) for name, each in messages.items()}
    count: Counter[SocketName] = Counter()
    replies: Counter[str] = Counter()
    began_s = time.monotonic()
    while not select.select([sys.stdin], [], [], TICK_S)[0]:
        due = int((time.monotonic() - began_s) * orders.per_s) if orders.what != "nothing" else 0
        for name, socket in sockets.items():
            while count[name] < due:
                socket.send_multipart(next(pools[name]))
                count[name] += 1
            while socket.poll(0):
                replies[_kind(name, socket.recv_multipart())] += 1
    return Sent(dict(count), dict(replies))


def _kind(name: SocketName, parts: Parts) -> str:
    if name == "events":
        return "events"
    said = msgspec.json.decode(parts[0])
    return f"{name} {said.get('reason') or said['type']}"


if __name__ == "__main__":
    main()
