"""Tells systemd how the service is (sd_notify(3)); does nothing where systemd did not start it."""

import logging
import os
import socket

logger = logging.getLogger(__name__)

SEND_WITHIN_SECONDS = 0.2


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` or `STATUS=inspecting` to the socket that systemd named.

    One that cannot be sent is logged: a systemd that does not read must not keep a line from inspecting.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_systemd:
        to_systemd.settimeout(SEND_WITHIN_SECONDS)
        try:
            to_systemd.connect(address)
            to_systemd.sendall("\n".join(assignments).encode())
        except OSError as error:
            logger.warning("systemd was not told %s: %s", " ".join(assignments), error)
