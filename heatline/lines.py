"""Receive a line's events, ask for its status, and send it a trigger.

An address is where the line binds its events, its journal or its command socket, e.g. tcp://192.168.1.5:5556. A line on
another machine may require keys: `key` is the file of your private key, and `line_key` that of the line's public key
(docs/security.md).
"""

import os
from collections.abc import Iterable
from pathlib import Path

import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander, require_authorized
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Subscriber, next_status
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.wire.commands import Announced, Triggered
from heatline.edge.wire.events import StatusEvent
from heatline.edge.wire.following import Start

KeyFile = str | os.PathLike[str] | None


def subscribe(
    address: str,
    *,
    topics: Iterable[str] = ("",),
    timeout_s: float | None = None,
    key: KeyFile = None,
    line_key: KeyFile = None,
) -> Subscriber:
    """Subscribe to a line's live events.

    The iterator yields messages, and between them notices of what was missed: `Gap`, `NewBoot`, `LineLost`.

        with heatline.subscribe("tcp://127.0.0.1:5556", topics=["verdict."]) as events:
            for received in events:
                if isinstance(received, heatline.Message):
                    print(received.event)

    Args:
        address: the line's `events.bind`.
        topics: prefixes, e.g. `verdict.top.DEFECT`; default: all.
        timeout_s: seconds without a message after which the iteration ends. None: never.
    Raises:
        DeliveryError: the address is not valid.
        AccessError: a key cannot be used, or the line does not authorize this client.
    """
    keys = _read_keys(key, line_key)
    require_authorized(address, keys, zmq.SUB)
    return Subscriber(address, topics=topics, timeout_s=timeout_s, keys=keys)


def follow(
    address: str,
    name: str,
    *,
    topics: Iterable[str] = ("",),
    heatmaps: bool = False,
    start: Start = "first",
    timeout_s: float | None = None,
    key: KeyFile = None,
    line_key: KeyFile = None,
) -> Follower:
    """Get every event of a line's journal, in order, as a durable consumer: none is lost while this program is down.

    An event is acknowledged when the next one is requested. An event that was not acknowledged is delivered again, with
    the same `key`, to the next follower of that name.

        with heatline.follow("tcp://127.0.0.1:5558", "mes1") as events:
            for delivered in events:
                store(delivered.key, delivered.event)

    Args:
        address: the line's `journal.bind`.
        name: name of the consumer, under which the line stores its position.
        topics: prefixes, e.g. `verdict.top.DEFECT`; default: all.
        heatmaps: whether events come with their heatmaps, as PNG in `delivered.png`.
        start: where a new name begins: with the `first` event in the journal, or with the `next` one.
        timeout_s: seconds without an event after which the iteration ends. None: never.
    Raises:
        DeliveryError: the address is not valid, or, from the iteration, the line refuses the name.
        AccessError: a key cannot be used, or, from the iteration, the line does not authorize this client.
        EventsLostError: from the iteration: events were deleted. Iterate again to continue after them.
    """
    return Follower(
        address,
        name,
        topics=topics,
        heatmaps=heatmaps,
        start=start,
        timeout_s=timeout_s,
        keys=_read_keys(key, line_key),
    )


def status(address: str, *, timeout_s: float = 3.0, key: KeyFile = None, line_key: KeyFile = None) -> StatusEvent:
    """Return the status of a line.

        print(heatline.status("tcp://127.0.0.1:5556").handshake)

    Args:
        address: the line's `events.bind`.
        timeout_s: how long to wait for the status, which the line sends about once a second.
    Raises:
        DeliveryError: no status came in time: nothing is inspected, or the address is wrong.
        AccessError: a key cannot be used, or the line does not authorize this client.
    """
    keys = _read_keys(key, line_key)
    event = next_status(address, timeout_s, keys)
    if event is None:
        require_authorized(address, keys, zmq.SUB)
        raise DeliveryError(
            f"no status came from {address} within {timeout_s:g} s; is the line running, and is this its events.bind?"
        )
    return event


def trigger(
    address: str,
    camera: str,
    part_id: str | None = None,
    *,
    timeout_s: float = 10.0,
    key: KeyFile = None,
    line_key: KeyFile = None,
) -> Triggered | Announced:
    """Have a camera take a frame now, and name the part that it shows.

        frame = heatline.trigger("tcp://127.0.0.1:5557", "top", part_id="P-1")

    Args:
        address: the line's `commands.bind`.
        part_id: 1 to 64 printable characters; the frame's events carry it.
        timeout_s: how long to wait for the reply.
    Returns:
        `Triggered` with the frame's number, or `Announced`: the part id waits for the camera's hardware trigger.
    Raises:
        CommandRefusedError: the line refuses the trigger; the message says why.
        DeliveryError: no line is there, or no reply came in time.
        AccessError: a key cannot be used, or the line does not authorize this client.
    """
    with Commander(address, timeout_s, _read_keys(key, line_key)) as line:
        return line.trigger(camera, part_id)


def _read_keys(key: KeyFile, line_key: KeyFile) -> ClientKeys | None:
    if key is None and line_key is None:
        return None
    if key is None or line_key is None:
        raise AccessError(
            "key and line_key go together: name the files of your private key and of the line's public key"
        )
    return ClientKeys.read(Path(key), Path(line_key))
