"""ZeroMQ addresses: binding one, and which of them this machine alone can reach."""

import contextlib
import errno
import ipaddress
import socket as sockets

import zmq


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind an address that nobody else is bound to.

    For ipc, ZeroMQ would silently take the path away from whoever holds it: ask there first.

    Raises:
        ZMQError: it cannot be bound.
    """
    scheme, _, path = address.partition("://")
    if scheme == "ipc":
        with sockets.socket(sockets.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
            raise zmq.ZMQError(errno.EADDRINUSE)
    socket.bind(address)


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address: `ipc://`, or `tcp://` on loopback."""
    scheme, _, rest = address.partition("://")
    return scheme == "ipc" or (scheme == "tcp" and (_is_loopback(rest.rpartition(":")[0]) or _is_loopback(rest)))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return found in ipaddress.ip_network("127.0.0.0/8") if found.version == 4 else found == ipaddress.IPv6Address("::1")
