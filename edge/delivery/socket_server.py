"""A socket that a line has bound, in a thread of its own. Only this thread uses the socket."""

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import zmq

from heatline.edge.delivery.security.access import Access
from heatline.edge.delivery.security.authenticator import Authenticator, SocketName
from heatline.edge.delivery.sockets import cannot_bind
from heatline.edge.errors import DeliveryError
from heatline.edge.util.threads import NamedThread

LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0


class SocketServer(ABC):
    """Binds an address, serves until it is closed, and releases the address.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        access: who may connect, if the address is not local.
    """

    thread_name: ClassVar[str]
    kind: ClassVar[int]
    """ZeroMQ's type of the socket."""
    name: ClassVar[SocketName]
    """Name of the socket among the line's: its table in the configuration."""
    send_high_water_mark: ClassVar[int]
    """Messages queued for a client that does not read."""
    longest_bytes: ClassVar[int]
    """ZeroMQ disconnects a client that sends a longer part, before it takes memory here."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.address = address
        self._access = access or Access()
        self._authenticator: Authenticator | None = None
        self._bound = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._thread = NamedThread(self.thread_name, self._run)

    def start(self) -> None:
        """Bind the address.

        Raises:
            AccessError: other machines can reach the address, and the line has no key.
            DeliveryError: the address cannot be bound.
        """
        self._access.require_protected(f"{self.name}.bind", self.address)
        self._thread.start()
        if not self._bound.wait(START_WITHIN_SECONDS):
            raise DeliveryError(f"{self.address} was not bound within {START_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            self._thread.join()
            raise cannot_bind(f"{self.name}.bind", self.address, self._error) from self._error

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(self.kind)
        try:
            try:
                self._set_up(socket)
                self._authenticator = Authenticator(socket, self._access, self.name, self.address)
                self._authenticator.bind()
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._serve(socket)
        finally:
            socket.close()
            context.term()
            if self._authenticator is not None:
                self._authenticator.join()

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options that must be set before the socket is bound."""
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, self.send_high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, self.longest_bytes)

    @abstractmethod
    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        """Serve until it is closed, then finish."""
