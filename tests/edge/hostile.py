"""Hostile traffic: messages that a seed mutates from valid ones, and invalid handshakes."""

import contextlib
import json
import random
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

Parts = list[bytes]
MOST_PARTS = 300
TOO_LONG_BYTES = 70_000
_GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03"
_DEEP = "\x00deep\x00"
_VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    5e-324, float("nan"), float("inf"), "", "x", "verdict", "\x00", "\x1b[2J", "\ud800", "é" * 40, "x" * 65, "x" * 3000,
    [], [[]], [None] * 300, [1, "2", {}], {}, {"type": "trigger"}, {"": {}}, _DEEP,
)  # fmt: skip


class Mutator:
    """Mutates valid messages; a few of the results are still valid.

    Args:
        valid: the frames of each message.
    """

    def __init__(self, seed: int, valid: Sequence[Parts]) -> None:
        self._draw = random.Random(seed)
        self._valid = valid

    def message(self) -> Parts:
        """Return a valid message with up to three changes."""
        parts = list(self._draw.choice(self._valid))
        for _ in range(self._draw.choice((1, 1, 1, 2, 3))):
            if self._draw.random() < 0.2:
                parts = self._other_parts(parts) or [b""]
            else:
                place = self._draw.randrange(len(parts))
                parts[place] = self._changed(parts[place])
        return parts

    def connection(self, socket_type: str) -> bytes:
        """Return all bytes of a TCP connection: a handshake and a message, usually damaged.

        Args:
            socket_type: ZeroMQ's name of the socket's type in a handshake.
        """
        draw = self._draw
        mechanism = draw.choice((b"NULL", b"NULL", b"NULL", b"CURVE", b"PLAIN", b"", draw.randbytes(20)))
        stream = _greeting(draw.choice((0, 1, 1, 9, 255)), mechanism)
        stream += _ready(socket_type, draw.randbytes(draw.choice((0, 5)))) + _message(self.message())
        match draw.randrange(5):
            case 0:
                return draw.randbytes(_size(draw, 600))
            case 1:
                return stream[: draw.randrange(len(stream))]
            case 2:
                return _flipped(draw, stream)
            case 3:
                command = draw.choice((b"\x04PING\xff\xff", b"\x09SUBSCRIBE", b"\xffX", b"", b"\x05ERROR\xff"))
                return stream + _frame(4, command) + draw.randbytes(_size(draw, 100))
        return stream + bytes([draw.choice((2, 3, 6, 7))]) + draw.choice((b"\x7f" + b"\xff" * 7, draw.randbytes(8)))

    def _other_parts(self, parts: Parts) -> Parts:
        draw, place = self._draw, self._draw.randrange(len(parts))
        changes: list[Parts] = [
            [b""] * draw.randrange(1, 4),
            parts[:place] + parts[place + 1 :],
            [*parts[:place], draw.choice([*parts, b""]), *parts[place:]],
            draw.sample(parts, len(parts)),
            [*parts, *[b"x"] * _size(draw, MOST_PARTS)],
        ]
        return draw.choice(changes)

    def _changed(self, part: bytes) -> bytes:
        draw, place = self._draw, self._draw.randrange(len(part) + 1)
        match draw.choice((*["a value"] * 8, "all", "its end", "bits", "its text")):
            case "all":
                return draw.randbytes(TOO_LONG_BYTES if draw.random() < 0.01 else _size(draw, 3000))
            case "its end":
                return part[:place]
            case "bits":
                return _flipped(draw, part)
            case "its text":
                return part[:place] + draw.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0")) + part[place:]
        return self._with_another_value(part)

    def _with_another_value(self, part: bytes) -> bytes:
        """Change or remove a value at any depth of a JSON object, or add its key a second time."""
        draw, found = self._draw, _object(part)
        if not found:
            return part
        if draw.random() < 0.2:
            return part[:-1] + b"," + _text({draw.choice(list(found)): draw.choice(_VALUES)})[1:]
        place: Any = found
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner and draw.random() < 0.7):
                break
            place = inner
        if isinstance(inner, int) and draw.random() < 0.5:
            place[key] = inner + draw.randrange(-3, 4)
        elif draw.random() < 0.2:
            del place[key]
        else:
            place[key] = draw.choice(_VALUES)
        deep = draw.randrange(1, 4000)
        nested = b"[" * deep + b"]" * (deep if draw.random() < 0.5 else 0)
        return _text(found).replace(_text(_DEEP), nested)


class RawClient:
    """Speaks ZMTP without keys, as a socket of some type, and sends what no real socket sends.

    Reconnects when the other side disconnects.
    """

    def __init__(self, port: int, socket_type: str, within_s: float) -> None:
        self._port, self._within_s = port, within_s
        self._hello = _greeting(1, b"NULL") + _ready(socket_type, b"")
        self._connect()

    def send(self, parts: Parts) -> None:
        """Send one message, which a disconnect may lose, and drop what comes back."""
        try:
            self._socket.sendall(_message(parts))
            while select.select([self._socket], [], [], 0)[0]:
                if not self._socket.recv(1 << 16):
                    raise ConnectionResetError
        except ConnectionError:
            self._socket.close()
            self._connect()

    def close(self) -> None:
        """End the connection after the peer has read all of it: a reset would discard what it has not read."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16):
                pass
        self._socket.close()

    def _connect(self) -> None:
        give_up_s = time.monotonic() + self._within_s
        while True:
            self._socket = socket.create_connection(("127.0.0.1", self._port), self._within_s)
            with contextlib.suppress(ConnectionError):
                self._socket.sendall(self._hello)
                received = b""
                while more := self._socket.recv(1 << 16):
                    received += more
                    if b"\x05READY" in received:  # no message may be sent before it
                        return
            self._socket.close()
            assert time.monotonic() < give_up_s, "the server did not accept a handshake"


def send_and_reset(port: int, data: bytes, within_s: float) -> None:
    """Connect over TCP, send bytes and reset. The server may disconnect all clients meanwhile."""
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), within_s) as peer,
    ):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
        peer.sendall(data)


def _size(draw: random.Random, most: int) -> int:
    """Return a random size up to `most`, uniform in its logarithm."""
    return round(most ** draw.random())


def _flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(_size(draw, 8) if data else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _object(part: bytes) -> dict[str, Any]:
    """Return the JSON object in a frame; empty if there is none."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(part)
        if isinstance(found, dict):
            return found
    return {}


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# ZMTP 3.1.


def _greeting(minor: int, mechanism: bytes) -> bytes:
    return _GREETING + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def _ready(socket_type: str, identity: bytes) -> bytes:
    """Return the READY command of a handshake without keys."""
    properties = {b"Socket-Type": socket_type.encode(), b"Identity": identity}
    fields = [bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties.items()]
    return _frame(4, b"\x05READY" + b"".join(fields))


def _message(parts: Parts) -> bytes:
    return b"".join(_frame(int(place + 1 < len(parts)), part) for place, part in enumerate(parts))


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body
