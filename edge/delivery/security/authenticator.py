"""Authorizes the clients of a socket that a line has bound, disconnects clients that are no longer allowed, and counts
refusals.
"""

import contextlib
import logging
import os
import socket as sockets
import threading
import time
from typing import Literal

import zmq
from zmq.utils import z85

from heatline.edge.delivery.security.access import Access, is_local
from heatline.edge.delivery.security.allow_list import Role
from heatline.edge.delivery.security.curve import fingerprint
from heatline.edge.delivery.sockets import bind, monitor, monitor_event
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.threads import NamedThread

logger = logging.getLogger(__name__)

SocketName = Literal["events", "commands", "journal"]
ROLE_OF: dict[SocketName, Role] = {"events": "listen", "commands": "command", "journal": "follow"}
HANDSHAKE_WITHIN_MS = 3000
"""A client that does not complete its handshake within this time is disconnected. A client that is not allowed may have
to wait as long before it can try again."""
LOOK_EVERY_SECONDS = 1.0
AS_OF_SECONDS = 0.1
"""Age of the allow-list for a new connection, so that many connections do not read the disk each."""
UNBOUND_WITHIN_SECONDS = 5.0
BIND_AGAIN_EVERY_SECONDS = 0.5
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
REPORTED = zmq.EVENT_ACCEPTED | FAILURES | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
UNKNOWN = "an unknown address"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
"""Address of the authentication requests in each context: ZAP 1.0 (https://rfc.zeromq.org/spec/27)."""
ALLOWED, NOT_ALLOWED = (b"200", b"OK"), (b"300", b"not allowed")
"""300 and not 400: ZeroMQ disconnects the client, which tries again by itself. After 400 it would stop for ever, and a
key that is allowed a minute later would stay out."""


class Authenticator:
    """Authorizes the clients of one socket, which must be the only one that its context has bound.

    The thread that owns the socket creates the authenticator before the socket is bound, and uses it. A thread of the
    authenticator's own answers ZeroMQ's authentication requests (ZAP); it ends with the context.

    Args:
        access: the keys that may connect.
        name: name of the socket among the line's.
        address: address that `bind` binds. At a local address, every client may connect.
    Raises:
        AccessError: other machines can reach the address, and the line has no key.
        ZMQError: ZeroMQ cannot authenticate on this socket.
    """

    def __init__(self, socket: zmq.Socket[bytes], access: Access, name: SocketName, address: str) -> None:
        access.require_protected(f"{name}.bind", address)
        self.secured = not is_local(address)
        self._socket, self._access, self._name, self._address = socket, access, name, address
        self._role = ROLE_OF[name]
        self._authorized: set[bytes] = set()
        self._addresses: dict[int, str] = {}
        """Address by descriptor, of each open connection."""
        self._failed: tuple[int, int] | None = None
        """Failure of the handshake of the connection that ends next."""
        self._revoked = threading.Event()
        self._unbound = threading.Event()
        self._bind_at_s: float | None = None
        self._faults = RateLimitedLog(logger)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_WITHIN_MS)
        questions = self._protect() if self.secured else None
        self._thread = NamedThread(f"auth {name}", self._watch, monitor(socket, REPORTED), questions)
        self._thread.start()

    def bind(self) -> None:
        """Bind the address.

        Raises:
            ZMQError: the address cannot be bound.
        """
        bind(self._socket, self._address)

    def authorizes(self, part: zmq.Frame) -> bool:
        """Return whether the sender of a message is still allowed. If not, count a refusal."""
        if not self.secured:
            return True
        key = _sender(part)
        if self._access.allow_list.allows(self._role, key):
            return True
        self._access.refusals.note(self._name, "revoked", f"a message by {_named(key)}, which is not allowed any more")
        return False

    def tick(self) -> None:
        """Disconnect all clients if one of them is no longer allowed. Called a few times a second."""
        if self._revoked.is_set():
            self._revoked.clear()
            logger.info(
                "%s: a key is not allowed any more; all clients are disconnected, the others reconnect", self._name
            )
            self.disconnect_all()
        elif self._bind_at_s is not None and time.monotonic() >= self._bind_at_s:
            self._bind_again()

    def disconnect_all(self) -> None:
        """End all connections at once, and bind again. Clients that are allowed reconnect by themselves.

        Messages that wait to be sent or read are dropped.
        """
        socket = self._socket
        linger_ms = socket.getsockopt(zmq.LINGER)
        socket.setsockopt(zmq.LINGER, 0)
        self._unbound.clear()
        with contextlib.suppress(zmq.ZMQError):  # it is not bound, because an earlier attempt to bind again failed
            socket.unbind(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
            self._unbound.wait(UNBOUND_WITHIN_SECONDS)
        socket.setsockopt(zmq.LINGER, linger_ms)
        while socket.poll(0):
            socket.recv()
        self._bind_again()

    def join(self) -> None:
        """Wait for the authenticator's thread, after the socket is closed and its context is terminated."""
        self._thread.join()

    def _bind_again(self) -> None:
        try:
            self.bind()
            self._bind_at_s = None
        except zmq.ZMQError as error:
            if self._bind_at_s is None:
                logger.error("%s cannot be bound again (%s); trying again", self._address, error.strerror)
            self._bind_at_s = time.monotonic() + BIND_AGAIN_EVERY_SECONDS

    def _protect(self) -> zmq.Socket[bytes]:
        """Make ZeroMQ encrypt and ask who may connect; return the socket of its ZAP requests."""
        socket, key = self._socket, self._access.key
        assert key is not None
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, self._role.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # otherwise everybody is authorized while nobody answers
        questions: zmq.Socket[bytes] = socket.context.socket(zmq.REP)
        questions.bind(ZAP_ENDPOINT)
        return questions

    # The authenticator's thread.

    def _watch(self, reports: zmq.Socket[bytes], questions: zmq.Socket[bytes] | None) -> None:
        poller = zmq.Poller()
        for each in (reports, questions):
            if each is not None:
                poller.register(each, zmq.POLLIN)
        try:
            while True:
                try:
                    ready = dict(poller.poll(round(LOOK_EVERY_SECONDS * 1000)))
                    if questions is not None and questions in ready:
                        self._answer(questions)
                    if reports in ready:
                        self._note(reports)
                    self._check_revoked()
                except zmq.ContextTerminated:
                    return
                except Exception as error:  # without this thread, nobody could connect any more
                    self._faults.error("%s: its authenticator failed", self._name, exc_info=error)
        finally:
            for each in (reports, questions):
                if each is not None:
                    each.close(0)

    def _answer(self, questions: zmq.Socket[bytes]) -> None:
        version, request_id, _domain, address, _identity, _mechanism, client = questions.recv_multipart()
        key, status = z85.encode(client), NOT_ALLOWED
        try:
            if self._allows(key, address.decode()):
                status = ALLOWED
        finally:
            user_id = key if status is ALLOWED else b""
            questions.send_multipart([version, request_id, *status, user_id, b""])

    def _allows(self, key: bytes, address: str) -> bool:
        self._access.allow_list.refresh(AS_OF_SECONDS)
        if self._access.allow_list.allows(self._role, key):
            self._authorized.add(key)
            return True
        self._access.refusals.note(
            self._name, "auth", f"{_named(key)} from {address}, which is not allowed to {self._role}"
        )
        return False

    def _note(self, reports: zmq.Socket[bytes]) -> None:
        event, value = monitor_event(reports.recv_multipart())
        match event:
            case zmq.EVENT_CLOSED:
                self._addresses.clear()
                self._unbound.set()
            case zmq.EVENT_ACCEPTED:
                self._addresses[value] = _peer_address(value)
            case zmq.EVENT_DISCONNECTED:
                address, failed = self._addresses.pop(value, UNKNOWN), self._failed
                self._failed = None
                if failed is not None:
                    self._note_failure(address, *failed)
            case _:
                self._failed = event, value

    def _note_failure(self, address: str, event: int, value: int) -> None:
        note, client = self._access.refusals.note, f"a connection from {address}"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            note(self._name, "protocol", f"{client} failed its handshake; does it use a key, none, or another line's?")
        else:
            note(self._name, "handshake", f"{client} ended before its handshake was complete ({os.strerror(value)})")

    def _check_revoked(self) -> None:
        self._access.refusals.tick()
        if not self.secured:
            return
        allow_list = self._access.allow_list
        allow_list.refresh(LOOK_EVERY_SECONDS / 2)
        revoked = {key for key in self._authorized if not allow_list.allows(self._role, key)}
        if revoked:
            self._authorized -= revoked
            self._revoked.set()


def _peer_address(descriptor: int) -> str:
    """Return the address of the peer of one of ZeroMQ's connections, which may have ended already."""
    try:
        connection = sockets.socket(fileno=descriptor)
    except OSError:
        return UNKNOWN
    try:
        peer = connection.getpeername()
    except OSError:
        return UNKNOWN
    finally:
        connection.detach()  # ZeroMQ still owns the descriptor
    return str(peer[0]) if isinstance(peer, tuple) else "this machine"


def _sender(part: zmq.Frame) -> bytes:
    """Return the key of the sender of a part; empty if ZeroMQ does not know it."""
    try:
        key = part.get("User-Id")
    except zmq.ZMQError:
        return b""
    return key.encode() if isinstance(key, str) else b""


def _named(key: bytes) -> str:
    return f"the key with the fingerprint {fingerprint(key)}" if key else "an unknown key"
