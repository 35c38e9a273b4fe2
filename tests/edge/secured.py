"""Files of a line that other machines can reach: its key, its allow-lists and its clients' keys."""

import contextlib
import itertools
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from heatline.edge.delivery.auth import Access, ClientKeys, KeyPair, Role, allow, allow_list, make_key_pair

WITHIN_SECONDS = 40.0
"""Bound on waiting, so that a test fails instead of hanging; never a measured time."""
WITHIN_MS = int(WITHIN_SECONDS * 1000)


@dataclass(frozen=True)
class Port:
    """A port to bind at every address of this machine."""

    number: int

    @property
    def bound(self) -> str:
        return f"tcp://*:{self.number}"

    @property
    def local(self) -> str:
        return f"tcp://127.0.0.1:{self.number}"

    @property
    def reached(self) -> str:
        """An address of this machine that is not loopback, if there is one."""
        return f"tcp://{_own_address()}:{self.number}"


def free_port() -> Port:
    """Return a port that is reserved as long as the object lives, as with the fixture `address`."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        port = Port(holder.getsockname()[1])
        weakref.finalize(port, os.close, holder.detach())
        return port


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class Secured:
    """A line's key files and allow-lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "allowed"
        self.line = make_key_pair(folder / "line.key")
        self._numbers = itertools.count()
        for role in ("listen", "follow", "command"):
            (self.allowed / role).mkdir(parents=True)

    def access(self) -> Access:
        """Read the access as a line does at its start."""
        return Access.read(self.folder / "line.key", self.allowed)

    def client(self, *roles: Role) -> ClientKeys:
        """Create a client's keys and allow them for these roles."""
        pair = make_key_pair(self.folder / f"client{next(self._numbers)}.key")
        for role in roles:
            self.allow(pair, role)
        return ClientKeys(pair, self.line.public)

    def allow(self, pair: KeyPair, role: Role) -> None:
        allow(pair.public, self._name(pair), self.allowed, role)

    def revoke(self, pair: KeyPair, role: Role) -> None:
        assert allow_list(self.allowed, role).remove(self._name(pair), "--allowed")

    def _name(self, pair: KeyPair) -> str:
        return f"k{pair.public.hex()[:16]}"


@contextlib.contextmanager
def connected(address: str, kind: int, keys: ClientKeys | None = None) -> Iterator["zmq.Socket[bytes]"]:
    """Yield a connected bare socket."""
    with zmq.Context() as context, context.socket(kind) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RECONNECT_IVL, 20)
        client.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        client.setsockopt(zmq.HANDSHAKE_IVL, 1000)
        if kind == zmq.SUB:
            client.setsockopt(zmq.SUBSCRIBE, b"")
        if keys is not None:
            keys.apply(client)
        client.connect(address)
        yield client


@contextlib.contextmanager
def begun(server: Any) -> Iterator[Any]:
    """Start what has `start` and `close`, and close it at the end."""
    with contextlib.closing(server):
        server.start()
        yield server


def answers(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def until(
    condition: Callable[[], object], description: str = "the condition is true", within_s: float = WITHIN_SECONDS
) -> None:
    """Check a condition until it is true; the bound is generous."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s:.0f} s: {description}"
        time.sleep(0.03)
