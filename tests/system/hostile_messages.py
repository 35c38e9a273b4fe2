"""Valid messages for each reading socket of a line, and malformed ones made from them."""

import json
import random
from collections.abc import Mapping
from typing import Any, Literal

SocketName = Literal["events", "commands", "journal"]
Parts = list[bytes]
LONGEST_BYTES = 4096
MOST_PARTS = 6


def valid_messages(camera: str, consumer: str, journal_id: str) -> dict[SocketName, list[Parts]]:
    """Return cheap valid messages for each socket, to compare malformed ones with.

    Args:
        camera: a free-running one, whose triggers are refused.
        consumer: one that follows, and acknowledges that it has no event yet.
    """
    topic = f"verdict.{camera}.NO_VERDICT".encode()
    return {
        "events": [[b"\x01" + topic], [b"\x00" + topic]],  # subscribe and unsubscribe
        "commands": [[_json(_trigger(camera))]],
        "journal": [[_json(_ack(consumer, journal_id))]],
    }


def malformed_messages(draw: random.Random, camera: str, count: int) -> dict[SocketName, list[Parts]]:
    """Return `count` malformed messages for each socket."""
    return {
        "events": [_no_subscription(draw) for _ in range(count)],
        "commands": [_no_request(draw, _trigger(camera)) for _ in range(count)],
        "journal": [_no_request(draw, _ack("nobody", "0" * 32)) for _ in range(count)],
    }


def _trigger(camera: str) -> dict[str, Any]:
    return {"type": "trigger", "schema_version": 2, "request_id": "r", "camera": camera, "part_id": "P-1"}


def _ack(consumer: str, journal_id: str) -> dict[str, Any]:
    return {"type": "ack", "schema_version": 2, "name": consumer, "journal_id": journal_id, "seq": 0}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _no_subscription(draw: random.Random) -> Parts:
    """Return a message that no SUB socket sends: those begin with 0 or 1."""
    parts = [bytes([draw.randrange(2, 256)]) + _noise(draw)]
    while draw.random() < 0.2 and len(parts) < MOST_PARTS:
        parts.append(_noise(draw))
    return parts


def _no_request(draw: random.Random, valid: Mapping[str, Any]) -> Parts:
    """Break a valid request in one of nine ways."""
    whole, version = _json(valid), b'"schema_version":2'
    match draw.randrange(9):
        case 0:  # noise
            return [_noise(draw)]
        case 1:  # cut off
            return [whole[: draw.randrange(len(whole))]]
        case 2:  # bits flipped, in the first byte at least, so that it is no JSON
            return [_flipped(draw, whole)]
        case 3:  # an unknown field
            return [_json({**valid, f"x{draw.randrange(1000)}": draw.random()})]
        case 4:  # a value of another type
            wrong = draw.choice([[], {}, True, 1.5, -1, {"x": [0] * 50}])
            return [_json({**valid, draw.choice(list(valid)): wrong})]
        case 5:  # nested deep
            return [b'{"type":' + b"[" * draw.randrange(1, LONGEST_BYTES)]
        case 6:  # a huge number
            return [whole.replace(version, b'"schema_version":' + b"9" * draw.randrange(20, 1000))]
        case 7:  # no UTF-8
            return [whole.replace(b'"schema_version"', b'"' + b"\xff\xfe" * draw.randrange(1, 20) + b'"')]
        case _:  # too many parts
            return [whole, *(_noise(draw) for _ in range(draw.randrange(2, MOST_PARTS)))]


def _noise(draw: random.Random) -> bytes:
    """Return noise of any length, short ones as likely as long ones."""
    return draw.randbytes(round(LONGEST_BYTES ** draw.random()))


def _flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[0] ^= 1 << draw.randrange(8)
    for _ in range(draw.randrange(8)):
        changed[draw.randrange(1, len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)
