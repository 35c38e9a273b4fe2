"""ZeroMQ's own heartbeats (ZMTP 3.1): a peer that vanished without a word is noticed, on either side."""

import zmq

EVERY_MS = 1000
GONE_AFTER_MS = 3000


def notice_vanished_peers(socket: zmq.Socket[bytes]) -> None:
    """Have a socket give up a connection on which nothing was heard for `GONE_AFTER_MS`; set before bind or connect.

    ZeroMQ's own thread sends and answers, so a program that is busy is not taken for gone.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, EVERY_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, GONE_AFTER_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, GONE_AFTER_MS)
