"""Stands at the door of a socket that a line has bound: lets in who is allowed, hangs up on who no longer is, and
counts what is refused.
"""

import contextlib
import logging
import threading
import time
from typing import Literal

import zmq

from edge.delivery.security import zap
from edge.delivery.security.access import Access, is_local
from edge.delivery.security.allow_list import Role
from edge.delivery.security.curve import fingerprint
from edge.delivery.security.handshakes import WATCHED, Handshakes
from edge.delivery.sockets import bind, monitor, monitor_event
from edge.util.rate_limited_log import RateLimitedLog
from edge.util.threads import NamedThread

logger = logging.getLogger(__name__)

SocketName = Literal["events", "commands", "journal"]
ROLE_OF: dict[SocketName, Role] = {"events": "listen", "commands": "command", "journal": "follow"}
HANDSHAKE_WITHIN_MS = 3000
"""Who connects and does not say who it is by then is hung up on. Who is not allowed may have to wait as long until it
tries again."""
LOOK_EVERY_SECONDS = 1.0
AS_OF_SECONDS = 0.1
"""Who connects is let in by a list that is no older; many who knock do not have the disk read for each."""
UNBOUND_WITHIN_SECONDS = 5.0
BIND_AGAIN_EVERY_SECONDS = 0.5


class Authenticator:
    """Guards one socket, which is the only one that its context has bound.

    It is made before the socket is bound, and used, by the thread whose the socket is. It answers ZeroMQ's questions
    who may connect in a thread of its own, which ends with the context.

    Args:
        access: who may connect.
        name: which of the line's sockets it is.
        address: what `bind` binds. At a local address anybody may connect.
    Raises:
        AccessError: others could reach the address, and the line has no key.
        ZMQError: the socket is none that can be guarded.
    """

    def __init__(self, socket: zmq.Socket[bytes], access: Access, name: SocketName, address: str) -> None:
        access.require_protected(f"{name}.bind", address)
        self.secured = not is_local(address)
        self._socket, self._access, self._name, self._address = socket, access, name, address
        self._role = ROLE_OF[name]
        self._let_in: set[bytes] = set()
        self._handshakes = Handshakes(lambda reason, detail: access.refusals.note(name, reason, detail))
        self._revoked = threading.Event()
        self._unbound = threading.Event()
        self._bind_at_s: float | None = None
        self._faults = RateLimitedLog(logger)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_WITHIN_MS)
        socket.setsockopt(zmq.IPV6, "[" in address)
        questions = self._protect() if self.secured else None
        self._thread = NamedThread(f"guard {name}", self._watch, monitor(socket, WATCHED | zmq.EVENT_CLOSED), questions)
        self._thread.start()

    def bind(self) -> None:
        """Open the door.

        Raises:
            ZMQError: the address cannot be bound.
        """
        bind(self._socket, self._address)

    def authorizes(self, part: zmq.Frame) -> bool:
        """Whether who sent a message may still send one; refused and counted here if not."""
        if not self.secured:
            return True
        key = _sender(part)
        if self._access.allow_list.allows(self._role, key):
            return True
        self._access.refusals.note(self._name, "revoked", f"a message by {_named(key)}, which is not allowed any more")
        return False

    def tend(self) -> None:
        """Hang up on all if one of them is not allowed any more; called some times a second."""
        if self._revoked.is_set():
            self._revoked.clear()
            logger.info("%s: a key is not allowed any more; hanging up on all, the others come back", self._name)
            self.disconnect_all()
        elif self._bind_at_s is not None and time.monotonic() >= self._bind_at_s:
            self._bind_again()

    def disconnect_all(self) -> None:
        """End all connections at once, and open the door again. Who is allowed comes back by itself.

        What waits to be sent or to be read is let go.
        """
        socket = self._socket
        linger_ms = socket.getsockopt(zmq.LINGER)
        socket.setsockopt(zmq.LINGER, 0)
        self._unbound.clear()
        with contextlib.suppress(zmq.ZMQError):  # it is not bound, since it could not be bound again
            socket.unbind(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
            self._unbound.wait(UNBOUND_WITHIN_SECONDS)
        socket.setsockopt(zmq.LINGER, linger_ms)
        while socket.poll(0):
            socket.recv()
        self._bind_again()

    def join(self) -> None:
        """Wait for the guard's own thread, once the socket is closed and its context ended."""
        self._thread.join()

    def _bind_again(self) -> None:
        try:
            self.bind()
            self._bind_at_s = None
        except zmq.ZMQError as error:
            if self._bind_at_s is None:
                logger.error("%s cannot be bound again (%s); trying on", self._address, error.strerror)
            self._bind_at_s = time.monotonic() + BIND_AGAIN_EVERY_SECONDS

    def _protect(self) -> zmq.Socket[bytes]:
        """Have ZeroMQ encrypt, and ask who may connect; where the questions come."""
        socket, key = self._socket, self._access.key
        assert key is not None
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, self._role.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # else all are let in while nobody answers
        questions: zmq.Socket[bytes] = socket.context.socket(zmq.REP)
        questions.bind(zap.ENDPOINT)
        return questions

    # The guard's own thread.

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
                    self._look()
                except zmq.ContextTerminated:
                    return
                except Exception as error:  # without a guard, nobody could connect any more
                    self._faults.error("%s: its guard failed", self._name, exc_info=error)
        finally:
            for each in (reports, questions):
                if each is not None:
                    each.close(0)

    def _answer(self, questions: zmq.Socket[bytes]) -> None:
        question = questions.recv_multipart()
        answer = zap.answer(question, lambda peer: False)
        try:
            answer = zap.answer(question, self._allows)
        finally:
            questions.send_multipart(answer)

    def _allows(self, peer: zap.Peer) -> bool:
        self._access.allow_list.look(AS_OF_SECONDS)
        if self._access.allow_list.allows(self._role, peer.key):
            self._let_in.add(peer.key)
            return True
        self._handshakes.note_not_allowed()
        self._access.refusals.note(
            self._name, "auth", f"{_named(peer.key)} from {peer.address}, which is not allowed to {self._role}"
        )
        return False

    def _note(self, reports: zmq.Socket[bytes]) -> None:
        event, value = monitor_event(reports.recv_multipart())
        if event == zmq.EVENT_CLOSED:
            self._handshakes.note_all_gone()
            self._unbound.set()
        else:
            self._handshakes.note(event, value)

    def _look(self) -> None:
        self._access.refusals.tend()
        if not self.secured:
            return
        allow_list = self._access.allow_list
        allow_list.look(LOOK_EVERY_SECONDS / 2)
        gone = {key for key in self._let_in if not allow_list.allows(self._role, key)}
        if gone:
            self._let_in -= gone
            self._revoked.set()


def _sender(part: zmq.Frame) -> bytes:
    """The key of who sent a part of a message; empty where ZeroMQ does not say."""
    try:
        key = part.get("User-Id")
    except zmq.ZMQError:
        return b""
    return key.encode() if isinstance(key, str) else b""


def _named(key: bytes) -> str:
    return f"the key with the fingerprint {fingerprint(key)}" if key else "an unknown key"
