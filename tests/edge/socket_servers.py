"""The three sockets that a line binds, each with its server, and a check that a client is served."""

import contextlib
from pathlib import Path

import zmq

from heatline.edge.delivery.auth import Access, SocketName
from heatline.edge.delivery.follow import Consumers, FollowServer
from heatline.edge.delivery.journal import Journal, Record
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Triggered
from heatline.edge.wire.following import FollowRequest
from heatline.edge.wire.requests import to_bytes
from tests.edge.followed_line import GOOD, event
from tests.edge.status_only_line import StatusOnlyLine, a_status


class Events:
    kind = zmq.SUB

    def __init__(self, address: str, access: Access, _: Path) -> None:
        self._line = StatusOnlyLine(address, a_status(), access)
        self._line.start()

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        while client.poll(0):  # drop earlier messages
            client.recv_multipart()
        return bool(client.poll(within_ms))

    def close(self) -> None:
        self._line.close()


class Commands:
    kind = zmq.DEALER

    def __init__(self, address: str, access: Access, _: Path) -> None:
        self._server = CommandServer(
            address, lambda _, answer: answer(Triggered(camera="top", frame_id=1, frame_number=1)), access
        )
        self._server.start()

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        return _replies(client, b'{"type":"trigger","schema_version":2,"camera":"top"}', within_ms)

    def close(self) -> None:
        self._server.close()


class Follow:
    kind = zmq.DEALER

    def __init__(self, address: str, access: Access, folder: Path) -> None:
        self.journal = Journal.open(folder / "journal", "line1")
        self._consumers = Consumers(folder / "journal")
        self._server = FollowServer(address, folder / "journal", self._consumers, access=access)
        self._server.start()

    def fill(self, count: int) -> str:
        """Journal a number of events with heatmaps; return the journal's id."""
        journal_id = self.journal.contents.journal_id
        headers = [to_bytes(event(seq, GOOD, journal_id)) for seq in range(1, count + 1)]
        self.journal.append([Record(seq, seq, GOOD, header, b"png") for seq, header in enumerate(headers, 1)], {})
        self._server.wake()
        return journal_id

    def serves(self, client: "zmq.Socket[bytes]", within_ms: int) -> bool:
        return _replies(client, to_bytes(FollowRequest(name="anybody", client="c")), within_ms)

    def close(self) -> None:
        self._server.close()
        self._consumers.write()
        self.journal.close()


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
