"""Access to a line's sockets: only from this machine, or from anywhere with a key that is allowed."""

import ipaddress
from pathlib import Path
from typing import Self

from heatline.edge.delivery.security.allow_list import AllowList
from heatline.edge.delivery.security.curve import KeyPair, read_key_pair
from heatline.edge.delivery.security.refusals import Refusals
from heatline.edge.errors import AccessError

LINE_KEY = "/etc/heatline/keys/line.key"


class Access:
    """What the authenticators of all of a line's sockets share.

    Args:
        key: the line's key; None: its sockets can be bound at local addresses only.
        allowed: folder of its allow-lists.
    """

    def __init__(self, key: KeyPair | None = None, allowed: Path | None = None) -> None:
        self.key = key
        self.refusals = Refusals()
        self.allow_list = AllowList(allowed, b"" if key is None else key.public)

    @classmethod
    def read(cls, key: Path | None, allowed: Path | None) -> Self:
        """Read the files that a line's configuration names.

        Raises:
            AccessError: a key or a folder cannot be used.
        """
        if key is None:
            return cls()
        access = cls(read_key_pair(key), allowed)
        access.allow_list.require_valid()
        return access

    def require_protected(self, name: str, address: str) -> None:
        """Require that an address is local, or that the line has a key to protect it.

        Args:
            name: the configuration's key of the address.
        Raises:
            AccessError: neither is the case.
        """
        if self.key is None and not is_local(address):
            raise AccessError(unprotected(name, address))


def unprotected(name: str, address: str) -> str:
    """Return a sentence about an address that other machines can reach although the line has no key."""
    return (
        f"{name} is {address!r}, which other machines can reach, and the line has no key to protect it with; make one "
        f'with heatline keys new {LINE_KEY} --owner heatline and set key = "{LINE_KEY}" under [security], or bind an '
        "address that this machine alone can reach, e.g. tcp://127.0.0.1:5556 or ipc:///run/heatline/NAME/socket"
    )


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address: `ipc://`, or `tcp://` on loopback."""
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
