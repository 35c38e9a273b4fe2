"""Hostile traffic: messages that a seed mutates from valid ones, and invalid handshakes."""

import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import Sequence
from typing import Any

Parts = list[bytes]
MOST_PARTS = 300
TOO_LONG_BYTES = 70_000
_GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03"
"""Of ZMTP 3, without its minor version."""
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|[^",\[\]{}]+')
_KEY = re.compile(rb'"[^"]*"(?=:)')
_VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    5e-324, float("nan"), float("inf"), "", "x", "verdict", "\x00", "\x1b[2J", "\ud800", "é" * 40, "x" * 65, "x" * 3000,
    [], [[]], [None] * 300, [1, "2", {}], {}, {"type": "trigger"}, {"": {}},
)  # fmt: skip


class Mutator:
    """Mutates valid messages; a few of the results are still valid. `valid`: the frames of each message."""

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
        """Return all bytes of a TCP connection: a handshake and a message, usually damaged. `socket_type`: ZeroMQ's
        name of the socket's type in a handshake."""
        draw, mechanism = self._draw, self._draw.choice((b"NULL", b"NULL", b"NULL", b"CURVE", b"PLAIN", b""))
        stream = _GREETING + bytes([draw.choice((0, 1, 9, 255))]) + mechanism.ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type.encode()
        stream += _frame(4, ready) + b"".join(_frame(0, part) for part in self.message())
        match draw.randrange(4):
            case 0:
                return draw.randbytes(_size(draw, 600))
            case 1:
                return stream[: draw.randrange(len(stream))]
            case 2:
                return _flipped(draw, stream)
        return stream + bytes([draw.choice((2, 3, 4, 6, 7))]) + draw.choice((b"\x7f" + b"\xff" * 7, draw.randbytes(8)))

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
        """Change a value at any depth of a JSON message, or add a key a second time."""
        draw, places = self._draw, [at for at, byte in enumerate(part) if byte in b":[,"]
        if not places:
            return part
        place, deep = draw.choice(places) + 1, draw.randrange(1, 4000)
        rest = part[place:]
        value = _VALUE.match(rest)
        nested = b"[" * deep + b"]" * (deep if draw.random() < 0.5 else 0)
        other = draw.choice([*map(_text, _VALUES), nested])
        if draw.random() < 0.2:
            return part[:-1] + b"," + draw.choice(_KEY.findall(part) or [b'""']) + b":" + other + part[-1:]
        return part[:place] + other + rest[value.end() if value else 0 :]


def send_and_reset(port: int, data: bytes, within_s: float) -> None:
    """Connect over TCP, send bytes and reset. The server may disconnect all clients meanwhile."""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), within_s) as peer:
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


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body
