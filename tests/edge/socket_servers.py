"""The three sockets that a line binds, each with its server, and a check that a client is served."""

import contextlib
from pathlib import Path

import zmq

from heatline.edge.delivery.auth import Access, SocketName
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Triggered
from heatline.edge.wire.following import FollowRequest
from heatline.edge.wire.requests import to_bytes
from tests.edge.followed_line import FollowedLine
from tests.edge.status_only_line import StatusOnlyLine, a_status


class Events:
    kind = zmq.SUB

    def __init__(self, address: str, access: Access, _: Path) -> None:
        line = StatusOnlyLine(address, a_status(), access)
        line.start()
        self.close = line.close

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        while client.poll(0):  # drop earlier messages
            client.recv_multipart()
        return bool(client.poll(within_ms))


class Commands:
    kind = zmq.DEALER

    def __init__(self, address: str, access: Access, _: Path) -> None:
        reply = Triggered(camera="top", frame_id=1, frame_number=1)
        server = CommandServer(address, lambda _, answer: answer(reply), access)
        server.start()
        self.close = server.close

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        return _replies(client, b'{"type":"trigger","schema_version":2,"camera":"top"}', within_ms)


class Follow:
    kind = zmq.DEALER

    def __init__(self, address: str, access: Access, folder: Path) -> None:
        self.line = FollowedLine(folder / "journal", address, access=access)
        self.close = self.line.close

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        return _replies(client, to_bytes(FollowRequest(name="anybody", client="c")), within_ms)


def _replies(client: "zmq.Socket[bytes]", request: bytes, within_ms: int) -> bool:
    while client.poll(0):
        client.recv_multipart()
    with contextlib.suppress(zmq.Again):
        client.send(request, zmq.NOBLOCK)
    return bool(client.poll(within_ms))


SOCKET_SERVERS: dict[SocketName, type[Events] | type[Commands] | type[Follow]] = {
    "events": Events,
    "commands": Commands,
    "journal": Follow,
}
